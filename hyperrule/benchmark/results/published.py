"""Sets the results of a benchmark beside published results of BiT (published.yaml), and says if they are comparable."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from hyperrule import rule
from hyperrule.backbones.zoo import find
from hyperrule.benchmark.ledger import Line, Method, Shots
from hyperrule.benchmark.results.summary import Summary
from hyperrule.support.wording import number

LIKE_ALL = 0.97  # fraction of the training images that counts as "full": the public code holds out 2 % of CIFAR
RESIZE = {  # the rule's resize for each of its crops
    one.crop: one.resize for one in (rule.resolution(1, 1), rule.resolution(96, 96), rule.resolution(96, 96, "paper"))
}


class DataSet(BaseModel):
    """A data set of published figures: its names, numbers of images, and the side in pixels that the network saw."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    classes: int | None = None
    train: int | None = None
    test: int | None = None
    size: int | None = None


class Figures(BaseModel):
    """Lowest, median and highest top-1 in percent; only the median if no more was published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: float | None = Field(None, ge=0, le=100)
    median: float = Field(ge=0, le=100)
    max: float | None = Field(None, ge=0, le=100)


class Table(BaseModel):
    """Figures of one source, by backbone, data set and shots; each is over at least `runs` runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    where: str
    method: Method
    batch: int
    learning_rate: float
    runs: int
    figures: dict[str, dict[str, dict[Shots, Figures]]]

    @field_validator("figures", mode="before")
    @classmethod
    def _spelled_out(cls, figures: dict[str, dict[str, dict[Shots, Any]]]) -> Any:
        return {
            backbone: {
                dataset: {shots: _figures(found) for shots, found in by_shots.items()}
                for dataset, by_shots in by_dataset.items()
            }
            for backbone, by_dataset in figures.items()
        }


class Literature(BaseModel):
    """The content of published.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_sets: dict[str, DataSet]
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Published:
    """One published figure with its table, data set, backbone and shots."""

    table: Table
    data: DataSet
    dataset: str
    backbone: str
    shots: Shots
    figures: Figures


@dataclass(frozen=True)
class Beside:
    """A summary and a published figure of the same data set and shots; `reasons` say why they are not comparable."""

    summary: Summary
    published: Published
    reasons: tuple[str, ...]

    @property
    def difference(self) -> float:
        """Our median minus the published one, in percentage points."""
        return 100 * self.summary.median - self.published.figures.median

    @property
    def comparable(self) -> bool:
        return not self.reasons


@cache
def literature() -> Literature:
    text = files("hyperrule.benchmark.results").joinpath("published.yaml").read_text(encoding="utf-8")
    return Literature.model_validate(yaml.safe_load(text))


def beside_published(summaries: Sequence[Summary]) -> list[Beside]:
    """Pair every summary with a result with all published figures of its backbone, data set and shots.

    If there is none of its backbone, it is paired with the first figure of its data set and shots.
    """
    every = list(_published(literature()))
    found = []
    for summary in summaries:
        group, newest = summary.group, summary.newest
        if newest is None:
            continue
        same = [one for one in every if is_called(one, group.dataset) and one.shots == group.shots]
        for one in [one for one in same if one.backbone == _released(group.backbone)] or same[:1]:
            found.append(Beside(summary, one, tuple(_reasons(summary, newest, one))))
    return found


def is_called(published: Published, name: str) -> bool:
    """Whether the name, path or address of a data set is that of the published one.

    >>> cifar = next(_published(literature()))
    >>> [is_called(cifar, name) for name in ("CIFAR-10", "tfds:cifar10:3.0.2", "data/cifar10.tar.gz", "cifar10small")]
    [True, True, True, False]
    """
    last = re.sub(r"^(tfds|hf):", "", name).rstrip("/").split("/")[-1]
    plain = re.sub(r"(:[\d.*]+|\.tar\.gz|\.\w+)$", "", last)
    return _letters(plain) in {_letters(known) for known in (published.dataset, *published.data.names)}


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _released(backbone: str) -> str:
    """Return the backbone's name in published.yaml: that of its .npz file, even for the hub module."""
    released = find(backbone)
    return backbone if released is None else released.name.replace("google/bit/", "bit-")


def _published(known: Literature) -> Iterator[Published]:
    for table in known.tables:
        for backbone, by_dataset in table.figures.items():
            for dataset, by_shots in by_dataset.items():
                for shots, figures in by_shots.items():
                    yield Published(table, known.data_sets[dataset], dataset, backbone, shots, figures)


def _reasons(summary: Summary, newest: Line, published: Published) -> Iterator[str]:
    """Yield what differs, the most important first."""
    group, data, table = summary.group, published.data, published.table
    if _released(group.backbone) != published.backbone:
        yield "other backbone weights"
    if group.method != table.method:
        yield f"not by {table.method}"
    if data.size is not None and newest.size != data.size:
        yield f"{newest.size} px, not {data.size}"
    if newest.examples is not None and data.test is not None and newest.examples != data.test:
        yield f"{number(newest.examples, 'test image')}, not {data.test:,}"
    trained_on, wanted = newest.trained_on, _training_images(published)
    if wanted is None:
        yield "number of training images not published"
    elif trained_on is not None and not LIKE_ALL * wanted <= trained_on <= wanted:
        yield f"{number(trained_on, 'training image')}, not {wanted:,}"
    if len(summary.top1) < table.runs:
        yield f"{number(len(summary.top1), 'subset')}, not {table.runs}"
    if group.method == table.method:
        yield from _other_training(newest, table)


def _training_images(published: Published) -> int | None:
    data = published.data
    if published.shots == "full" or data.classes is None:
        return data.train
    return published.shots * data.classes


def _other_training(line: Line, table: Table) -> Iterator[str]:
    """Yield the known settings of a line that differ from the rule's."""
    settings, images = line.settings, line.trained_on or 1
    usual = {
        "batch": table.batch,
        "base_lr": table.learning_rate,
        "steps": rule.schedule(images).steps,
        "mixup": rule.mixup_alpha(images),
    }
    if line.size in RESIZE:
        usual["resize"] = RESIZE[line.size]
    for name, value in usual.items():
        if (asked := settings.get(name, value)) != value:
            yield f"{name.replace('_', ' ')} {asked}, not {value}"
    for name in ("random_crop", "random_flip"):
        if settings.get(name) is False:
            yield f"without {name.replace('_', ' ')}"
    if settings.get("budget") is not None:
        yield "fewer steps, to fit a time budget"


def _figures(found: Any) -> Any:
    """Return the fields of `Figures` for [min, median, max], or for the median alone."""
    return dict(zip(("min", "median", "max"), found, strict=True)) if isinstance(found, list) else {"median": found}
