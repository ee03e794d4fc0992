"""Reads finished runs and writes their pages and cards: at the end of a run, and for `hyperrule report`."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperrule.errors import Interrupted, RecipeError, RunFolderError
from hyperrule.reporting.distilled import DistilledRun
from hyperrule.reporting.finetuned import FinetunedRun
from hyperrule.reporting.finished_run import FinishedRun
from hyperrule.reporting.model_card import model_card
from hyperrule.reporting.page import GENERATOR, render_comparison, render_report
from hyperrule.run_folder import RunFolder
from hyperrule.support.files import write_text
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import one_line, resume_command

DEFAULT = Path("report.html")
KINDS: dict[str, type[FinishedRun]] = {"finetune": FinetunedRun, "distill": DistilledRun}
HEAD = 4_000  # bytes at the beginning of a page that contain the name of its generator


@dataclass(frozen=True)
class ReportFiles:
    """A page that was written; `os.fspath` gives its path.

    `card` is the model card written with it, if any. `headlines` has each run's result in one line, by path.
    """

    page: Path
    card: Path | None
    headlines: dict[str, str]

    def __fspath__(self) -> str:
        return str(self.page)


def make_report(folders: Sequence[RunFolder], out: Path | None) -> ReportFiles:
    """Write the report of one run, or of several; see `hyperrule.report`."""
    if not folders:
        raise RecipeError("report takes at least one run folder. Received: none")
    paths = [folder.path for folder in folders]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise RecipeError(f"report takes each run once. Received twice: {twice[0]}")
    target = DEFAULT if out is None and len(folders) > 1 else out
    if target is not None:
        check_replaceable(target)
    for folder in folders:
        _check_finished(folder)
    runs = [read_run(folder) for folder in folders]
    page = render_report(runs[0]) if len(runs) == 1 else render_comparison(runs)
    headlines = {str(run.folder.path): run.headline for run in runs}
    if target is not None:
        write_text(target, page)
        return ReportFiles(target, None, headlines)
    (folder,), (run,) = folders, runs
    card = model_card(run)
    with folder.locked():
        folder.write(folder.report_file, page)
        folder.write(folder.card_file, card)
    return ReportFiles(folder.report_file, folder.card_file, headlines)


def read_run(folder: RunFolder) -> FinishedRun:
    """Read a finished run of any kind.

    Raises RunFolderError if the folder is no run or has another format, or if one of its files is missing or damaged.
    """
    return KINDS[folder.read_plan().job].read(folder)


def write_report(folder: RunFolder) -> None:
    """Write report.html. Raises RunFolderError if a file is missing or damaged, RunError if it cannot be written."""
    folder.write(folder.report_file, render_report(read_run(folder)))


def write_card(folder: RunFolder) -> None:
    """Write model_card.md. Raises RunFolderError if a file is missing or damaged, RunError if it cannot be written."""
    folder.write(folder.card_file, model_card(read_run(folder)))


def check_replaceable(file: Path) -> None:
    """Raises RecipeError unless there is no such file yet, or one that `hyperrule report` made."""
    if file.is_dir():
        raise RecipeError(f"--out {file} is a folder. Name a file in it.")
    if not file.parent.is_dir():
        raise RecipeError(f"--out {file} cannot be written: there is no folder {file.parent}.")
    if not os.access(file.parent, os.W_OK):
        raise RecipeError(f"--out {file} cannot be written: no permission to write in {file.parent}.")
    if not file.exists():
        return
    with file.open("rb") as stream:
        if f'content="{GENERATOR} '.encode() not in stream.read(HEAD):
            raise RecipeError(f"{file} exists, and was not written by hyperrule report. Use another --out.")


def _check_finished(folder: RunFolder) -> None:
    if not folder.finished:
        folder.read_plan()  # raises a clearer error if the folder is no run at all
        raise RunFolderError(f"{folder.path} is an unfinished run. Finish it first: {resume_command(folder.path)}")


def finish_run(run: RunFolder, reporter: Reporter, keep: Callable[[], None] = lambda: None) -> None:
    """Write report and card, and delete the checkpoints. `keep` first stores what only the report needs.

    If the report fails, a warning is printed and the run still finishes.

    Raises RunError, with the run resumable, if the card cannot be written.
    """
    try:
        keep()
        write_report(run)
    except Interrupted:
        raise
    except Exception as error:  # of any kind: hours of training must not depend on a page
        reporter.say(f"Warning: {run.report_file} could not be written ({one_line(error)}).")
    write_card(run)
    shutil.rmtree(run.checkpoints, ignore_errors=True)  # only now: the run stays resumable until the card is written
