"""Opens the data sets and backbones of a grid.

A mistake in the grid is an error. A data set or backbone that is named correctly, but is not available, only makes its
own cells absent.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperrule.backbones.describe import describe_backbone, is_backbone
from hyperrule.backbones.fetch import hub
from hyperrule.backbones.info import BackboneInfo
from hyperrule.backbones.zoo import find
from hyperrule.benchmark.grid import HELD_OUT, Cell, DataSet, Grid
from hyperrule.benchmark.ledger import Shots
from hyperrule.data.listing import DatasetInfo
from hyperrule.data.open import source_of
from hyperrule.data.source import Source
from hyperrule.data.sources.kinds import kind_of
from hyperrule.data.sources.vtab import TASKS
from hyperrule.errors import BackboneError, DataError, RecipeError
from hyperrule.recipe import Recipe, make_recipe
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import listed


@dataclass(frozen=True)
class Absent:
    """A data set or backbone that is not available, with the reason in one line."""

    reason: str


def open_all(
    grid: Grid, cells: Sequence[Cell], reporter: Reporter, fetch: bool
) -> tuple[dict[str, Source | Absent], dict[str, BackboneInfo | Absent]]:
    """Open the data sets and backbones of the cells; return each by name.

    With `fetch`, missing ones are downloaded, after all that are on this machine have been checked. Raises UserError
    for mistakes of the grid.
    """
    datasets = {name: grid.datasets[name] for name in dict.fromkeys(cell.dataset for cell in cells)}
    for name, asked in datasets.items():
        _check_place(name, asked)

    def open_one(name: str, fetch: bool) -> Source | Absent:
        shots = dict.fromkeys(cell.shots for cell in cells if cell.dataset == name)
        return open_dataset(name, datasets[name], shots, reporter, fetch)

    names = dict.fromkeys(cell.backbone for cell in cells)
    backbones = {name: open_backbone(name, reporter, fetch=False) for name in names}
    sources = {name: open_one(name, fetch=False) for name in datasets}
    if fetch:
        for name in names:
            if not is_here(backbones[name]):
                backbones[name] = open_backbone(name, reporter, fetch=True)
        for name, asked in datasets.items():
            if isinstance(sources[name], Absent) and kind_of(asked.dataset).fetches:
                sources[name] = open_one(name, fetch=True)
    return sources, backbones


def open_dataset(name: str, asked: DataSet, shots: Iterable[Shots], reporter: Reporter, fetch: bool) -> Source | Absent:
    """Open the data set and read the facts of every image. With `fetch`, a missing data set is downloaded.

    Raises UserError for mistakes of the grid: an option that does not apply, no test split, more shots than a class has
    images.
    """
    try:
        source = _listed(asked, reporter, fetch)
    except DataError as error:
        if _is_mistake_of_grid(asked, reporter):
            raise
        return Absent(f"data set {name}: {error}")
    _check_splits(name, asked, source)
    try:
        with os_errors_as(DataError, f"cannot read {asked.dataset}"):
            info = source.info
    except DataError as error:
        return Absent(f"data set {name}: {error}")
    for number in shots:
        check_shots(name, info, number)
    return source


def open_backbone(name: str, reporter: Reporter, fetch: bool) -> BackboneInfo | Absent:
    """Return the facts of the backbone. With `fetch`, missing weights are downloaded.

    Raises BackboneError if no such backbone exists.
    """
    released, handle = find(name), hub.as_handle(name)
    here = is_backbone(Path(os.path.expanduser(name)))
    if not fetch and not here and released is None and handle is not None and hub.cached(handle) is None:
        return Absent(f"backbone {name}: not downloaded yet")
    try:
        return describe_backbone(name, reporter, fetch=fetch)
    except BackboneError as error:
        there_is_one = here or handle is not None or (released is not None and released.source.kind != "bring")
        if not there_is_one:
            raise
        return Absent(f"backbone {name}: {error}")


def is_here(backbone: BackboneInfo | Absent) -> bool:
    """Whether the weights are on this machine: the zoo has facts of backbones that are not downloaded yet."""
    return isinstance(backbone, BackboneInfo) and (backbone.path is not None or backbone.kind == "random")


def _check_place(name: str, asked: DataSet) -> None:
    """Raises UserError if the data set is a path that does not exist, or if its `data_dir` does not exist."""
    kind_of(asked.dataset)
    if asked.data_dir is not None and not os.path.isdir(asked.data_dir):
        raise RecipeError(f"datasets.{name}.data_dir: {asked.data_dir} is not a folder.")


def _listed(asked: DataSet, reporter: Reporter, fetch: bool) -> Source:
    with os_errors_as(DataError, f"cannot read {asked.dataset}"):
        return source_of(make_recipe(asked.recipe, Recipe), reporter, fetch)


def _is_mistake_of_grid(asked: DataSet, reporter: Reporter) -> bool:
    """Whether the grid is at fault: it names an unknown task of VTAB-1k, or the data set opens without its options."""
    if asked.dataset.startswith("vtab:"):
        return asked.dataset.removeprefix("vtab:").removesuffix("@choose") not in TASKS
    plain = DataSet(dataset=asked.dataset, data_dir=asked.data_dir if kind_of(asked.dataset).fetches else None)
    if plain.recipe == asked.recipe:
        return False
    try:
        _listed(plain, reporter, fetch=False)
    except DataError:
        return False
    return True


def _check_splits(name: str, asked: DataSet, source: Source) -> None:
    """Raises RecipeError unless it is clear which images are for training and which for the test."""
    splits = source.listing.splits
    held_out = len(splits) <= 1
    if splits and "train" not in splits:
        raise RecipeError(f"datasets.{name} has no training split, only {', '.join(splits)}. Set train_split: NAME.")
    if "test" in splits and asked.test == HELD_OUT:
        raise RecipeError(f"datasets.{name} has its own test split: leave out test: held-out.")
    if "test" not in splits and not held_out:
        raise RecipeError(
            f"datasets.{name} has no test split, only {', '.join(splits)}. Set test_split: NAME to one of them."
        )
    if held_out and asked.test != HELD_OUT:
        raise RecipeError(
            f"datasets.{name} has no test split. Set test: held-out to hold out a fifth of each class for the test."
        )


def check_shots(name: str, info: DatasetInfo, shots: Shots) -> None:
    """Raises RecipeError, naming the classes, if some have fewer training images than `shots`."""
    per_class = info.splits["train"].per_class
    if shots == "full" or shots <= min(per_class):
        return
    lacking = (f"{one!r} ({count})" for one, count in zip(info.class_names, per_class, strict=True) if count < shots)
    raise RecipeError(
        f"shots: {shots} is more than these classes of {name} have for training: {listed(lacking)}. "
        f"Choose at most {min(per_class)}, or full."
    )
