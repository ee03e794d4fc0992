"""The cells of a grid beside the data, networks and machine that are there: what each would do, and its key."""

import hashlib
import json
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from hyperrule.backbones.describe import describe_backbone
from hyperrule.backbones.info import BackboneInfo
from hyperrule.benchmark.grid import HELD_OUT, Cell, DataSet, Grid, ProbeMethod
from hyperrule.benchmark.ledger import FORMAT, Line
from hyperrule.benchmark.subsets import check_shots
from hyperrule.data import Source
from hyperrule.errors import RecipeError, UserError
from hyperrule.planning.machine import Machine, this_machine
from hyperrule.planning.plan import Plan
from hyperrule.planning.planner import make_plan
from hyperrule.progress import Reporter
from hyperrule.recipe import Recipe, make_recipe
from hyperrule.recipe_data import source_of

MICRO_BATCH = 32  # of networks with batch norm, which sees it: not what memory is free for, which changes


@dataclass(frozen=True)
class Planned:
    """A cell, what it is measured with, and the plan of its training; of a probe, the plan says only which images and
    how large. `l2` are what a probe chooses from."""

    cell: Cell
    plan: Plan
    source: Source
    l2: tuple[float, ...]

    @cached_property
    def key(self) -> str:
        """SHA-256 of everything that can change the result."""
        plan = self.plan
        identity = {
            "format": FORMAT,
            "method": self.cell.method,
            "shots": self.cell.shots,
            "seed": self.cell.seed,
            "data": plan.dataset.sha256,
            "classes": plan.class_names,
            "test": plan.test_split.value,
            "weights": plan.backbone.sha256 or plan.backbone.name,
            "architecture": plan.backbone.architecture,
            "input range": plan.backbone.input_range,
            "size": plan.evaluation_size.value,
            "versions": plan.versions,
            **({"l2": self.l2} if self.cell.method == "probe" else self._training()),
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def _training(self) -> dict[str, object]:
        decided = {name: value.model_dump(mode="json")["value"] for name, value in self.plan.decisions.items()}
        return {
            "budget": self.plan.recipe.budget,
            **{name: value for name, value in decided.items() if name not in self.plan.how},
        }

    @property
    def estimated_seconds(self) -> float | None:
        """Of its own; None where that cannot be told, and 0 for a probe, whose time is that of features."""
        if self.cell.method == "probe":
            return 0.0
        parts = self.plan.estimate.training_seconds, self.plan.estimate.evaluation_seconds
        return None if None in parts else sum(part for part in parts if part is not None)

    def done(self, top1: float, examples: int, trained_on: int, seconds: float, l2: float | None = None) -> Line:
        return self._line("done", seconds).model_copy(
            update={"top1": top1, "examples": examples, "trained_on": trained_on, "l2": l2}
        )

    def failed(self, error: str, seconds: float = 0.0) -> Line:
        return self._line("failed", seconds).model_copy(update={"error": " ".join(error.split())})

    def _line(self, status: str, seconds: float) -> Line:
        plan = self.plan
        names = ("batch", "base_learning_rate", "precision", "resize", "random_crop", "random_flip", "mixup")
        settings = {"steps": plan.steps, **{name: plan.decisions[name].value for name in names}}
        return Line.model_validate(
            {
                **self.cell.model_dump(),
                "key": self.key,
                "status": status,
                "size": plan.evaluation_size.value,
                "seconds": round(seconds, 3),
                "data_sha256": plan.dataset.sha256,
                "weights_sha256": plan.backbone.sha256,
                "versions": plan.versions,
                "settings": {} if self.cell.method == "probe" else {**settings, "budget": plan.recipe.budget},
            }
        )


def planned_cells(
    grid: Grid, cells: Iterable[Cell], reporter: Reporter, *, fetch: bool = True, jobs: int = 1
) -> list[Planned]:
    """The cells with their plans, for one of `jobs` processes that share the machine's memory. Every data set is read
    once; weights that are missing are downloaded with `fetch`.

    Raises UserError if one of them cannot be done as asked: no such data set or backbone, no test split, more shots
    than a class has images.
    """
    wanted = list(cells)
    names = dict.fromkeys(cell.dataset for cell in wanted)
    sources = {name: _opened(grid, name, (cell for cell in wanted if cell.dataset == name), reporter) for name in names}
    backbones = {
        name: describe_backbone(name, reporter, fetch=fetch) for name in dict.fromkeys(cell.backbone for cell in wanted)
    }
    machine = _shared_machine(jobs)
    return [_planned(grid, cell, sources[cell.dataset], backbones[cell.backbone], machine) for cell in wanted]


def as_done_here(planned: Sequence[Planned], jobs: int) -> list[Planned]:
    """Cells that may have been planned on another machine, cut up as this one's devices and memory want it, of which
    `jobs` processes have a share each; what is learned stays.

    Raises UserError if this machine has other versions of what can change a result.
    """
    machine = _shared_machine(jobs)
    first = planned[0].plan
    if (machine.devices, machine.memory) == (first.machine.devices, first.machine.memory):
        return list(planned)
    here = [make_plan(one.plan.recipe, one.source, one.plan.backbone, machine) for one in planned]
    if here[0].versions != first.versions:
        ours, theirs = (
            ", ".join(f"{name} {version}" for name, version in plan.versions.items()) for plan in (here[0], first)
        )
        raise UserError(f"{socket.gethostname()} has {ours}; the grid was planned with {theirs}. Install the same.")
    return [
        replace(one, plan=one.plan.model_copy(update={name: getattr(plan, name) for name in ("machine", *plan.how)}))
        for one, plan in zip(planned, here, strict=True)
    ]


def _shared_machine(jobs: int) -> Machine:
    """This one with the memory that each of so many processes has."""
    machine = this_machine()
    return machine.model_copy(update={"available_memory": machine.available_memory // jobs})


def _planned(grid: Grid, cell: Cell, source: Source, backbone: BackboneInfo, machine: Machine) -> Planned:
    recipe, method = grid.recipe(cell), grid.methods.asked[cell.method]
    if backbone.as_it_is is not None and backbone.as_it_is.keeps_statistics and recipe.micro_batch is None:
        recipe = recipe.model_copy(update={"micro_batch": MICRO_BATCH})
    candidates = method.l2 if isinstance(method, ProbeMethod) else ()
    plan = make_plan(recipe, source, backbone, machine)
    return Planned(cell, plan, source, candidates if cell.l2 is None else (cell.l2,))


def _opened(grid: Grid, name: str, cells: Iterable[Cell], reporter: Reporter) -> Source:
    asked = grid.datasets[name]
    source = source_of(make_recipe(asked.recipe, Recipe), reporter)
    _check_test_split(name, asked, source)
    for shots in dict.fromkeys(cell.shots for cell in cells):
        check_shots(name, source.info, shots)
    return source


def _check_test_split(name: str, asked: DataSet, source: Source) -> None:
    """Raises RecipeError unless it is clear which images are the test."""
    splits = source.listing.splits
    held_out = len(splits) <= 1
    if "test" in splits and asked.test == HELD_OUT:
        raise RecipeError(f"datasets.{name} has a test split of its own: leave out test: held-out.")
    if "test" not in splits and not held_out:
        raise RecipeError(
            f"datasets.{name} has no test split, only {', '.join(splits)}. "
            "Say which of them is the test, with test_split: NAME."
        )
    if held_out and asked.test != HELD_OUT:
        raise RecipeError(
            f"datasets.{name} has no test split. Say test: held-out to test on a fifth of each class, "
            "which is then not trained on."
        )
