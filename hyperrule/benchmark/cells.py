"""Prepares the cells of a grid for data, backbones and machine: the plan of each cell, its subset, and its key.

The training images of a data set are balanced, nested subsets, the same for every backbone and method.
"""

import hashlib
import json
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from hyperrule.backbones.info import BackboneInfo
from hyperrule.benchmark.grid import Cell, Grid, ProbeMethod
from hyperrule.benchmark.ledger import FORMAT, Line, Shots
from hyperrule.benchmark.opening import Absent, is_here, open_all
from hyperrule.data.images import Examples, Indices
from hyperrule.data.selection import few_shot
from hyperrule.data.source import Source
from hyperrule.errors import UserError
from hyperrule.evaluation.features import PREPROCESSING
from hyperrule.planning.finetune import make_plan
from hyperrule.planning.finetune_plan import Plan
from hyperrule.planning.machine.machine import Machine, this_machine
from hyperrule.planning.planner import installed_versions
from hyperrule.support.files import atomic_write
from hyperrule.support.progress import Reporter

MICRO_BATCH = 32  # for networks with batch norm, whose result depends on it: free memory must not decide it


@dataclass(frozen=True)
class PreparedCell:
    """A cell with its data and the plan of its training; of a probe's plan, only images and resolution count.

    `l2` holds the values from which a probe chooses.
    """

    cell: Cell
    plan: Plan
    source: Source
    l2: tuple[float, ...]

    @property
    def is_here(self) -> bool:
        """Whether the weights are on this machine. Before they are downloaded, `key` is not the final one."""
        return is_here(self.plan.backbone)

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
            **(self._probe() if self.cell.method == "probe" else self._training()),
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def _probe(self) -> dict[str, object]:
        return {"l2": sorted(self.l2), "preprocessing": PREPROCESSING}

    def _training(self) -> dict[str, object]:
        decided = {name: value.model_dump(mode="json")["value"] for name, value in self.plan.decisions.items()}
        return {
            "budget": self.plan.recipe.budget,
            **{name: value for name, value in decided.items() if name not in self.plan.execution_fields},
        }

    @property
    def estimated_seconds(self) -> float | None:
        """The cell's own time, None if unknown; 0 for a probe, whose time is spent on shared features."""
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
        names = ("batch", "base_lr", "precision", "resize", "random_crop", "random_flip", "mixup")
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


@dataclass(frozen=True)
class PlannedGrid:
    """All cells of a grid: `planned` if data set and backbone could be opened, else in `absent` with the reason.

    `to_fetch` describes backbones whose facts are known but whose weights are not on this machine.
    """

    cells: list[Cell]
    planned: list[PreparedCell]
    absent: dict[Cell, str]
    to_fetch: list[str]


def planned_cells(
    grid: Grid, cells: Iterable[Cell], reporter: Reporter, *, fetch: bool = True, jobs: int = 1
) -> PlannedGrid:
    """Plan the cells, for one of `jobs` processes that share the machine's memory.

    Every data set is read once. With `fetch`, missing data and weights are downloaded. Raises UserError for mistakes of
    the grid: an unknown backbone or path, no test split, more shots than a class has images.
    """
    wanted = list(cells)
    sources, backbones = open_all(grid, wanted, reporter, fetch)
    machine = _shared_machine(jobs)
    planned: list[PreparedCell] = []
    absent: dict[Cell, str] = {}
    for cell in wanted:
        source, backbone = sources[cell.dataset], backbones[cell.backbone]
        if isinstance(source, Absent):
            absent[cell] = source.reason
        elif isinstance(backbone, Absent):
            absent[cell] = backbone.reason
        else:
            planned.append(_planned(grid, cell, source, backbone, machine))
    facts = [one for one in backbones.values() if isinstance(one, BackboneInfo) and not is_here(one)]
    return PlannedGrid(wanted, planned, absent, [f"backbone {one.name}: {' '.join(one.notes)}" for one in facts])


def as_done_here(planned: Sequence[PreparedCell], jobs: int) -> list[PreparedCell]:
    """Return the cells with execution (such as micro-batches) fitted to this machine, shared by `jobs` processes.

    They may have been planned on another machine; what is learned stays the same. Raises UserError if this machine has
    other versions of software that can change a result.
    """
    machine, versions = _shared_machine(jobs), installed_versions()
    first = planned[0].plan
    if versions != first.versions:  # checked on equal machines, too
        ours, theirs = (
            ", ".join(f"{name} {version}" for name, version in known.items()) for known in (versions, first.versions)
        )
        raise UserError(
            f"{socket.gethostname()} has {ours}; the grid was planned with {theirs}. Install the same versions."
        )
    if (machine.devices, machine.memory) == (first.machine.devices, first.machine.memory):
        return list(planned)
    here = [make_plan(one.plan.recipe, one.source, one.plan.backbone, machine) for one in planned]
    return [
        replace(
            one,
            plan=one.plan.model_copy(
                update={name: getattr(plan, name) for name in ("machine", *plan.execution_fields)}
            ),
        )
        for one, plan in zip(planned, here, strict=True)
    ]


def _shared_machine(jobs: int) -> Machine:
    """Return this machine with the memory that is left for each of `jobs` processes."""
    machine = this_machine()
    return machine.model_copy(update={"available_memory": machine.available_memory // jobs})


def _planned(grid: Grid, cell: Cell, source: Source, backbone: BackboneInfo, machine: Machine) -> PreparedCell:
    recipe, method = grid.recipe(cell), grid.methods.asked[cell.method]
    if backbone.opaque is not None and backbone.opaque.keeps_statistics and recipe.micro_batch is None:
        recipe = recipe.model_copy(update={"micro_batch": MICRO_BATCH})
    candidates = method.l2 if isinstance(method, ProbeMethod) else ()
    plan = make_plan(recipe, source, backbone, machine)
    return PreparedCell(cell, plan, source, candidates if cell.l2 is None else (cell.l2,))


def subset(training: Examples, class_names: tuple[str, ...], shots: Shots, seed: int) -> Indices:
    """Return the indices, ascending int64 [n], of `shots` images of every class, or of all images.

    Subsets of a seed are nested: fewer shots are a part of more. `training` is `Source.examples("train")`; a
    fine-tuning with this seed and `examples_per_class` uses the same images. Raises DataError if a class has too few.
    """
    if shots == "full":
        return np.arange(len(training))
    return few_shot(training.labels, class_names, shots, seed)


def list_file(folder: Path, dataset: str, shots: Shots, seed: int) -> Path:
    """Return the file of a subset, DATASET-SHOTS-SEED.txt.

    >>> list_file(Path("subsets"), "cifar10", 5, 0).as_posix()
    'subsets/cifar10-5-0.txt'
    """
    return folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', dataset)}-{shots}-{seed}.txt"


def write_list(file: Path, chosen: Examples) -> None:
    """Write the ids of the images, one a line, in the order of `chosen`. Raises RunError if that fails."""
    with atomic_write(file) as partial:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text("".join(f"{identity}\n" for identity in chosen.ids), encoding="utf-8")
