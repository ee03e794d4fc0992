"""Grids of few-shot measurements: measured, planned, and how far they are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hyperrule.errors import RecipeError, UserError
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter

if TYPE_CHECKING:
    from hyperrule.benchmark.folder import BenchFolder
    from hyperrule.benchmark.grid import Grid
    from hyperrule.benchmark.outlook import Outlook, Status
    from hyperrule.benchmark.run_grid import Bench

MOST_JOBS = 256


def bench(
    grid: str | Path,
    *,
    out: str | Path | None = None,
    jobs: int = 1,
    retry_failed: bool = False,
    datasets: Mapping[str, str | Path] | None = None,
    engine: str = "local",
    address: str | None = None,
    quiet: bool = False,
) -> Bench:
    """Measure every cell of a grid that the ledger in `out`, by default runs/bench/NAME, has no line of.

    `grid` is a YAML file or a shipped one ("bench/digits"), and `datasets` says where its data sets lie, by their names
    there. `jobs` processes share the machine. With the engine "ray" they share each machine of the cluster at
    `address`, "auto" or "HOST:PORT", which all see `out`, the data and the cache under the same paths; without an
    address, Ray starts here. A cell that fails is a line with its reason, and is measured again with `retry_failed`; a
    process that is at work on the same ledger is left its cells. Raises UserError, with nothing written, if the grid
    cannot be measured as asked; Interrupted at a signal, with all that is finished in the ledger.
    """
    if isinstance(jobs, bool) or not 1 <= jobs <= MOST_JOBS:
        raise RecipeError(f"jobs must be from 1 to {MOST_JOBS}. Received: {jobs!r}")
    with os_errors_as(UserError, "a path cannot be used"):
        from hyperrule.benchmark.run_grid import run_grid, started

        asked, folder = _bench(grid, out, datasets)
        with started(engine, address) as run:
            return run_grid(asked, folder, run, jobs, retry_failed, Reporter(quiet))


def plan_bench(
    grid: str | Path,
    *,
    out: str | Path | None = None,
    retry_failed: bool = False,
    datasets: Mapping[str, str | Path] | None = None,
    quiet: bool = False,
) -> Outlook:
    """What `bench` would do: its cells, which of them are done, and the time of the others. Raises UserError."""
    with os_errors_as(UserError, "a path cannot be used"):
        from hyperrule.benchmark.run_grid import plan_grid

        return plan_grid(*_bench(grid, out, datasets), retry_failed, Reporter(quiet))


def bench_status(grid: str | Path, *, out: str | Path | None = None) -> Status:
    """How far `bench` is, at once: from the grid and the ledger alone. Raises UserError."""
    with os_errors_as(UserError, "a path cannot be used"):
        from hyperrule.benchmark.outlook import status

        asked, folder = _bench(grid, out, None)
        return status(folder, asked)


def _bench(
    grid: str | Path, out: str | Path | None, datasets: Mapping[str, str | Path] | None
) -> tuple[Grid, BenchFolder]:
    from hyperrule.benchmark.folder import BenchFolder
    from hyperrule.benchmark.grid import grid_name, read_grid

    name = os.path.expanduser(grid)
    places = {dataset: os.fspath(place) for dataset, place in (datasets or {}).items()}
    folder = Path("runs", "bench", grid_name(name)) if out is None else Path(os.path.expanduser(out))
    return read_grid(name, places), BenchFolder(folder)
