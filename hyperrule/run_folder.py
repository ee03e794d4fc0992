"""The run folder: what a training leaves, and the interface between its stages.

plan.json            what runs, with reasons; written first
metrics.jsonl        one line a step and an evaluation
tensorboard/         the same as event files, where they were asked for
checkpoints/         step-*.npz: weights and what the optimizer keeps, while the run is unfinished
weights.npz          the trained network in BiT's public format
eval.json            figures over all test examples; of a distillation, over those held out
predictions.parquet  one row each of these; for a distillation, the label is the teacher's
pictures.parquet     of a fine-tuning: small pictures of samples and mistakes, for the report
export/              the classifier to deploy, saved_model/1 first; parity.json: each compared with eval
report.html          the result for people, on one page
model_card.md        the same for whoever gets the model; written last, so its presence means "finished"

Checkpoints of a run: one .npz a time, written whole or not at all, the last two kept.
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
from typing import Any

from pydantic import ValidationError

from hyperrule.backbones.bit.checkpoints import State, read_arrays, write_arrays
from hyperrule.backbones.describe import CARD, is_finished
from hyperrule.errors import BackboneError, RunError, RunFolderError
from hyperrule.planning.distill import DistillPlan
from hyperrule.planning.finetune import Plan
from hyperrule.planning.training_plan import FORMAT, TrainingPlan
from hyperrule.support.files import os_errors_as, whole_file
from hyperrule.support.wording import resume_command

FINETUNE_ALONE = 4  # the format before there were other jobs; else it is the same


class RunFolder:
    """`resume` is what to type to go on with an unfinished run."""

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
        self.saved_model = self.export / "saved_model" / "1"  # as TensorFlow Serving wants it
        self.parity_file = self.export / "parity.json"
        self.pictures_file = path / "pictures.parquet"
        self.report_file = path / "report.html"
        self.card_file = path / CARD

    @property
    def finished(self) -> bool:
        return is_finished(self.path)

    def create(self, plan: TrainingPlan) -> None:
        """Make the folder and write its plan, in one moment. Raises RunFolderError if it is not empty."""
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
        """Hold the folder within the block. Raises RunFolderError if another process has it."""
        # A file of its own, never replaced, and open for writing: network file systems ask for that.
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

    def read_plan(self) -> Plan | DistillPlan:
        """The stored plan. Raises RunFolderError if there is none or it is of another format."""
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
            kind = DistillPlan if stored["job"] == "distill" else Plan
            return kind.model_validate(stored)
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise RunFolderError(f"{self.plan_file} is damaged: {' '.join(str(error).split())[:200]}") from None

    def read_temperature(self) -> float:
        """By which the logits are divided for calibrated probabilities; 1 where that was never fitted. Raises
        RunFolderError if eval.json is damaged."""
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
        """All whole lines; a last one that was cut short is left out."""
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
        """Forget what was logged after `step` steps were done, for a run that resumes there."""
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        self.write(self.metrics_file, "".join(json.dumps(line) + "\n" for line in kept))


def _umask() -> int:
    """What the user takes away from the permissions of new files; mkdtemp takes away everything of others."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_free(path: Path) -> None:
    """Raises RunFolderError unless the path is free, or an empty folder, in a place we can write."""
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
    """runs/NAME, or runs/NAME-2 and so on where that is taken."""
    last = Path(os.path.expanduser(dataset)).resolve().name
    name = re.sub(r"[^\w.-]+", "-", last.removeprefix("tfds:").removeprefix("hf:")).strip("-.") or "run"
    candidates = (Path("runs", name if number == 1 else f"{name}-{number}") for number in range(1, 10**6))
    return next(path for path in candidates if not path.exists())


KEPT = 2


def save_checkpoint(folder: Path, step: int, arrays: State, resume: str) -> Path:
    """Write the state after `step` steps. Raises RunError, older checkpoints untouched, if it cannot; the error tells
    people to go on with `resume`."""
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


def latest_checkpoint(folder: Path, say: Callable[[str], None] = lambda line: None) -> tuple[int, State] | None:
    """Step and state of the newest checkpoint that can be read, or None; `say` hears of those passed over."""
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
