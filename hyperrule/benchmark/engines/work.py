"""Executes one task of a benchmark in its own process, and writes the ledger.

    python -m hyperrule.benchmark.engines.work FOLDER ASSIGNMENT

ASSIGNMENT is an `Assignment` as JSON. A cell that another process is measuring, or has finished, is skipped. A cell
that fails is recorded with its reason, and the exit code is still 0.
"""

import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from hyperrule.benchmark.cells import PreparedCell, as_done_here
from hyperrule.benchmark.engines.handover import read_planned
from hyperrule.benchmark.engines.probing import Probing
from hyperrule.benchmark.engines.tasks import Assignment, Task
from hyperrule.benchmark.folder import BenchFolder
from hyperrule.benchmark.ledger import LOOKED_AT, Line, claim
from hyperrule.errors import HyperruleError, Interrupted
from hyperrule.support.progress import Reporter, silent_native_stderr

Measure = Callable[[PreparedCell], Line]


def work(
    folder: BenchFolder,
    planned: list[PreparedCell],
    retry_failed: bool,
    reporter: Reporter,
    patience: float = LOOKED_AT,
) -> None:
    """Measure every missing cell of a task. Raises Interrupted at a signal."""
    is_probe = planned[0].cell.method == "probe"
    measure = _probe(planned, reporter) if is_probe else _training(folder, reporter)
    again = failed(folder.read()) if retry_failed else {}
    for one in planned:
        with claim(folder.claims, one.key, str(one.cell), patience) as mine:
            if mine and is_missing(one.key, folder.read(), again):
                folder.add(_measured(one, measure))
                folder.keep_figures(one.key)


def failed(lines: Mapping[str, Line]) -> dict[str, Line]:
    return {key: line for key, line in lines.items() if line.status == "failed"}


def is_missing(key: str, lines: Mapping[str, Line], again: Mapping[str, Line]) -> bool:
    """Whether a cell must be measured: it has no line, or still the failed line that `again` repeats."""
    return key not in lines or lines[key] == again.get(key)


def _measured(planned: PreparedCell, measure: Measure) -> Line:
    start = time.monotonic()
    try:
        return measure(planned)
    except Interrupted:
        raise
    except HyperruleError as error:
        return planned.failed(str(error), time.monotonic() - start)
    except Exception as error:  # of any kind: the other cells must still be measured
        traceback.print_exc()
        return planned.failed(f"{type(error).__name__}: {error}", time.monotonic() - start)


def _probe(planned: list[PreparedCell], reporter: Reporter) -> Measure:
    """Return a function that measures probes; features are extracted at its first call."""

    @cache
    def probing() -> Probing:
        return Probing(planned[0], [one.cell for one in planned], reporter)

    return lambda one: probing().measure(one)


def _training(folder: BenchFolder, reporter: Reporter) -> Measure:
    def measure(planned: PreparedCell) -> Line:
        with silent_native_stderr():
            from hyperrule.benchmark.engines import trained
        return trained.measure(planned, folder.run(planned.key), reporter)

    return measure


def main(arguments: list[str]) -> int:
    folder, assignment = BenchFolder(Path(arguments[0])), Assignment.model_validate_json(arguments[1])
    try:
        planned = [one for one in read_planned(assignment.planned) if Task.of(one.cell) == assignment.task]
        work(folder, as_done_here(planned, assignment.jobs), assignment.retry_failed, Reporter(), assignment.patience)
    except Interrupted as stopped:
        return stopped.exit_code
    except HyperruleError as error:
        print(f"hyperrule: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
