"""The run folder: the files of a training, through which its stages pass on their results.

plan.json            all values of the run, with reasons; written first
metrics.jsonl        one line for each step and each evaluation
tensorboard/         the same as event files, with --tensorboard
checkpoints/         step-*.npz: weights and optimizer state, while the run is unfinished; the last two are kept
weights.npz          the trained network in BiT's public format
eval.json            figures over all test examples (distillation: over the held-out images)
predictions.parquet  one row for each of these examples (distillation: the label is the teacher's)
pictures.parquet     fine-tuning only: small pictures of samples and mistakes, for the report
export/              the classifier to deploy: saved_model/1, then others; parity.json compares each with eval.json
report.html          the result for people, on one page
model_card.md        the result for users of the model; written last, so its presence means "finished"

Checkpoints are written whole or not at all.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import ValidationError

from hyperrule.backbones.bit.checkpoints import State, read_arrays, write_arrays
from hyperrule.backbones.describe import CARD, is_finished
from hyperrule.errors import BackboneError, RunError, RunFolderError
from hyperrule.planning.distill import DistillPlan
from hyperrule.planning.finetune_plan import Plan
from hyperrule.planning.machine.cluster import this_cluster
from hyperrule.planning.training_plan import FORMAT, TrainingPlan
from hyperrule.support.files import atomic_write, os_errors_as, try_file_lock, write_text
from hyperrule.support.wording import one_line, resume_command

P = TypeVar("P", bound=TrainingPlan)
RUNS = Path("runs")  # where new ones go, if nothing else is said
KEPT = 2  # checkpoints


class RunFolder:
    """A run folder. `resume` is the command that continues an unfinished run."""

    def __init__(self, path: Path, resume: str | None = None) -> None:
        self.path = path
        self._held = False  # the lock, by this object
        self.resume = resume or resume_command(path)
        self.plan_file = path / "plan.json"
        self.lock_file = path / ".lock"
        self.metrics_file = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.start_file = self.checkpoints / "start.npz"  # the network of step 0, where it may be the result
        self.weights_file = path / "weights.npz"
        self.eval_file = path / "eval.json"
        self.predictions_file = path / "predictions.parquet"
        self.export = path / "export"
        self.saved_model = self.export / "saved_model" / "1"  # TensorFlow Serving's layout
        self.parity_file = self.export / "parity.json"
        self.pictures_file = path / "pictures.parquet"
        self.report_file = path / "report.html"
        self.card_file = path / CARD

    @property
    def finished(self) -> bool:
        return is_finished(self.path)

    def create(self, plan: TrainingPlan) -> None:
        """Write the plan into the folder, which makes it a run. Raises RunFolderError if it is not free."""
        check_free(self.path)
        with os_errors_as(RunFolderError, f"--out {self.path} cannot be made"):
            self.path.mkdir(parents=True, exist_ok=True)
        self.write(self.plan_file, plan.model_dump_json(indent=2) + "\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder within the block; blocks may be nested. Raises RunFolderError if another process has locked
        it."""
        if self._held:
            yield
            return
        with ExitStack() as held:
            with os_errors_as(RunFolderError, f"{self.path} cannot be locked"):
                lock = held.enter_context(try_file_lock(self.lock_file))
            # One that was removed belongs to a folder that was reserved and given back in this moment.
            if lock is None or not _same(lock, self.lock_file):
                raise RunFolderError(f"{self.path} is in use: another process is working on this run.")
            self._held = True
            _locks.add(lock)
            try:
                yield
            finally:
                self._held = False
                _locks.remove(lock)

    def read_plan(self) -> TrainingPlan:
        """Return the stored plan. Raises RunFolderError if there is none, or one of another format."""
        if not self.plan_file.is_file():
            raise RunFolderError(
                f"{self.path} is no run folder: it has no plan.json. Give the folder that finetune or distill printed."
            )
        try:
            stored = json.loads(self.plan_file.read_text(encoding="utf-8"))
            if stored["format"] != FORMAT:
                raise RunFolderError(
                    f"{self.plan_file} has format {stored['format']}; this version reads {FORMAT}. "
                    "Continue the run with the version that started it."
                )
            kind: type[TrainingPlan] = DistillPlan if stored["job"] == "distill" else Plan
            return kind.model_validate(stored)
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise RunFolderError(f"{self.plan_file} is damaged: {one_line(error)}") from None

    def read_plan_of(self, kind: type[P]) -> P:
        """Return the stored plan. Raises RunFolderError as `read_plan` does, and if the plan is of another kind."""
        plan = self.read_plan()
        if not isinstance(plan, kind):
            raise RunFolderError(f"{self.path} holds a {plan.KIND}, not a {kind.KIND}.")
        return plan

    def read_temperature(self) -> float:
        """Return the temperature, by which logits are divided for calibrated probabilities; 1 if none was fitted.

        Raises RunFolderError if eval.json is damaged.
        """
        if not self.eval_file.exists():
            return 1.0
        try:
            calibration = json.loads(self.eval_file.read_text(encoding="utf-8")).get("calibration")
            return 1.0 if calibration is None else float(calibration["temperature"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(f"{self.eval_file} is damaged: {one_line(error)}") from None

    def write(self, file: Path, text: str) -> None:
        """Write a file of the run whole or not at all."""
        write_text(file, text)

    def append_metrics(self, line: dict[str, Any]) -> None:
        with os_errors_as(RunError, f"cannot write {self.metrics_file}"), self.metrics_file.open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return all lines; a last line that was cut short is left out."""
        if not self.metrics_file.exists():
            return []
        lines = []
        for text in self.metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
        return lines

    def rewind_metrics(self, step: int) -> None:
        """Delete the lines of all steps after `step`, where a run resumes."""
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        self.write(self.metrics_file, "".join(json.dumps(line) + "\n" for line in kept))


def _same(stream: IO[str], file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    except FileNotFoundError:
        return False


_locks: set[IO[str]] = set()


def _let_go() -> None:
    """In a fork: those that decode images outlive this process if it is killed, and would hold its run."""
    for lock in _locks:
        lock.close()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def reserved(run: RunFolder | None, name: str = "run") -> Iterator[RunFolder]:
    """A folder for a new run, that of `run` or a free one called after `name`, made at once and held within the block.
    Where no run was begun in it, it goes again, and so do folders above it that were made.

    Of several workers, the chief alone has one. Raises RunFolderError if it is not free, or another process has it.
    """
    if not this_cluster().chief:
        yield run or RunFolder(next(_candidates(name)))
        return
    if run is not None and run._held:
        yield run
        return
    made: list[Path] = []
    if run is None:
        run = RunFolder(_make_free_folder(name, made))
    else:
        check_free(run.path)
        _make_folder(run.path, made)
    try:
        with run.locked():
            try:
                check_free(run.path)  # another process may have had it
                yield run
            finally:
                with suppress(OSError):
                    if os.listdir(run.path) == [run.lock_file.name]:
                        run.lock_file.unlink()
    finally:
        with suppress(OSError):  # not empty, or of another process that has begun
            for folder in made:
                folder.rmdir()


def _make_folder(path: Path, made: list[Path]) -> None:
    """An empty one is taken: it may be a mount point."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    with os_errors_as(RunFolderError, f"--out {path} cannot be made"):
        path.mkdir(parents=True, exist_ok=True)
    made += missing


def _make_free_folder(name: str, made: list[Path]) -> Path:
    _make_folder(RUNS, made)
    for path in _candidates(name):
        with os_errors_as(RunFolderError, f"{path} cannot be made"), suppress(FileExistsError):
            path.mkdir()
            made.insert(0, path)
            return path
    raise AssertionError("there are endless names")


def _candidates(name: str) -> Iterator[Path]:
    """runs/NAME, or runs/NAME-2 and so on where that is taken."""
    last = Path(os.path.expanduser(name)).resolve().name
    stem = re.sub(r"[^\w.-]+", "-", last.removeprefix("tfds:").removeprefix("hf:")).strip("-.") or "run"
    return (RUNS / (stem if number == 1 else f"{stem}-{number}") for number in count(1))


def check_free(path: Path) -> None:
    """Raise RunFolderError unless the path is free or an empty folder, and its parent is writable.

    A lock file may lie there: another process holds it, or was killed before it began.
    """
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"--out {path} is a file. Choose a folder that does not exist yet.")
    if path.is_dir() and set(os.listdir(path)) - {RunFolder(path).lock_file.name}:
        if (path / "plan.json").exists():
            if RunFolder(path).finished:
                raise RunFolderError(f"--out {path} holds another run (finished). Choose another folder.")
            raise RunFolderError(
                f"--out {path} holds another run (unfinished). Choose another folder, or continue it: "
                + resume_command(path)
            )
        raise RunFolderError(f"--out {path} is not empty. Choose a folder that does not exist yet.")
    parent = next(folder for folder in [path, *path.absolute().parents] if folder.exists())
    if not parent.is_dir():
        raise RunFolderError(f"--out {path}: {parent} is a file. Choose a folder that does not exist yet.")
    if not os.access(parent, os.W_OK):
        raise RunFolderError(f"--out {path}: no permission to write in {parent}.")


def save_checkpoint(folder: Path, step: int, arrays: State, resume: str) -> Path:
    """Write the state after `step` steps, and delete all checkpoints but the last two.

    If writing fails, raises RunError, which names the command `resume`, and keeps older checkpoints.
    """
    with os_errors_as(RunError, f"cannot write {folder}"):
        folder.mkdir(exist_ok=True)
    target = folder / f"step-{step:08d}.npz"
    try:
        with atomic_write(target) as partial:
            write_arrays(partial, arrays)
    except RunError as error:
        kept = f"Earlier checkpoints are kept; continue with: {resume}"
        raise RunError(f"{error} {kept}") from None
    for old in _checkpoints(folder)[:-KEPT]:
        old.unlink()
    return target


def latest_checkpoint(folder: Path, say: Callable[[str], None] = lambda line: None) -> tuple[int, State] | None:
    """Return step and state of the newest readable checkpoint, or None; `say` reports damaged ones."""
    for path in reversed(_checkpoints(folder)):
        try:
            return _step_of(path), read_arrays(path)
        except BackboneError as error:
            say(f"Passing over a damaged checkpoint: {error}")
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*.npz") if re.fullmatch(r"step-\d{8,}", path.stem)), key=_step_of)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("step-"))
