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

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from hyperrule.backbones.bit.checkpoints import Arrays, read_arrays, write_arrays
from hyperrule.backbones.describe import CARD, is_finished
from hyperrule.errors import BackboneError, RunError, RunFolderError
from hyperrule.planning.distill import DistillPlan
from hyperrule.planning.finetune import Plan
from hyperrule.planning.training_plan import FORMAT, TrainingPlan
from hyperrule.support.files import os_errors_as, whole_file
from hyperrule.support.wording import resume_command

P = TypeVar("P", bound=TrainingPlan)
FINETUNE_ALONE = 4  # the format when finetune was the only job; otherwise like FORMAT
KEPT = 2  # checkpoints


class RunFolder:
    """A run folder. `resume` is the command that continues an unfinished run."""

    def __init__(self, path: Path, resume: str | None = None) -> None:
        self.path = path
        self.resume = resume or resume_command(path)
        self.plan_file = path / "plan.json"
        self.lock_file = path / ".lock"
        self.metrics_file = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
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
        """Create the folder with its plan in one atomic step. Raises RunFolderError if it is not empty."""
        check_free(self.path)
        text = plan.model_dump_json(indent=2) + "\n"
        if self.path.exists():  # empty, and perhaps a mount point
            self.write(self.plan_file, text)
            return
        with os_errors_as(RunFolderError, f"--out {self.path} cannot be made"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
            staging.chmod(0o777 & ~_umask())
            try:
                (staging / self.plan_file.name).write_text(text, encoding="utf-8")
                os.rename(staging, self.path)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder within the block. Raises RunFolderError if another process has locked it."""
        # A separate file, never replaced, and open for writing: network file systems need that.
        with ExitStack() as held:
            with os_errors_as(RunFolderError, f"{self.path} cannot be locked"):
                lock = held.enter_context(self.lock_file.open("a"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise RunFolderError(f"{self.path} is in use: another process is working on this run.") from None
            try:
                yield
            finally:
                if self.finished:  # nobody resumes it
                    self.lock_file.unlink(missing_ok=True)

    def read_plan(self) -> TrainingPlan:
        """Return the stored plan. Raises RunFolderError if there is none, or one of another format."""
        if not self.plan_file.is_file():
            raise RunFolderError(
                f"{self.path} is no run folder: it has no plan.json. Give the folder that finetune or distill printed."
            )
        try:
            stored = json.loads(self.plan_file.read_text(encoding="utf-8"))
            if stored["format"] == FINETUNE_ALONE:
                stored |= {"format": FORMAT, "job": "finetune"}
            if stored["format"] != FORMAT:
                raise RunFolderError(
                    f"{self.plan_file} has format {stored['format']}; this version reads {FORMAT}. "
                    "Continue the run with the version that started it."
                )
            kind: type[TrainingPlan] = DistillPlan if stored["job"] == "distill" else Plan
            return kind.model_validate(stored)
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise RunFolderError(f"{self.plan_file} is damaged: {' '.join(str(error).split())[:200]}") from None

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
            raise RunFolderError(f"{self.eval_file} is damaged: {' '.join(str(error).split())[:200]}") from None

    def write(self, file: Path, text: str) -> None:
        """Write a file of the run whole or not at all."""
        with whole_file(file) as partial:
            partial.write_text(text, encoding="utf-8")

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


def _umask() -> int:
    """Return the process's umask; mkdtemp ignores it and makes private folders."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_free(path: Path) -> None:
    """Raise RunFolderError unless the path is free or an empty folder, and its parent is writable."""
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"--out {path} is a file. Choose a folder that does not exist yet.")
    if path.is_dir() and any(path.iterdir()):
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


def free_run_folder(dataset: str) -> Path:
    """Return runs/NAME, NAME from the data set, or runs/NAME-2 and so on if that exists."""
    last = Path(os.path.expanduser(dataset)).resolve().name
    name = re.sub(r"[^\w.-]+", "-", last.removeprefix("tfds:").removeprefix("hf:")).strip("-.") or "run"
    candidates = (Path("runs", name if number == 1 else f"{name}-{number}") for number in range(1, 10**6))
    return next(path for path in candidates if not path.exists())


def save_checkpoint(folder: Path, step: int, arrays: Arrays, resume: str) -> Path:
    """Write the state after `step` steps, and delete all checkpoints but the last two.

    If writing fails, raises RunError, which names the command `resume`, and keeps older checkpoints.
    """
    with os_errors_as(RunError, f"cannot write {folder}"):
        folder.mkdir(exist_ok=True)
    target = folder / f"step-{step:08d}.npz"
    try:
        with whole_file(target) as partial:
            write_arrays(partial, arrays)
    except RunError as error:
        kept = f"Earlier checkpoints are kept; continue with: {resume}"
        raise RunError(f"{error} {kept}") from None
    for old in _checkpoints(folder)[:-KEPT]:
        old.unlink()
    return target


def latest_checkpoint(folder: Path, say: Callable[[str], None] = lambda line: None) -> tuple[int, Arrays] | None:
    """Return step and state of the newest readable checkpoint, or None; `say` reports damaged ones."""
    for path in reversed(_checkpoints(folder)):
        try:
            return int(path.stem.removeprefix("step-")), read_arrays(path)
        except BackboneError as error:
            say(f"Passing over a damaged checkpoint: {error}")
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*.npz") if re.fullmatch(r"step-\d{8}", path.stem))
