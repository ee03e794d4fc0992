"""Does the export, in a fresh process with TensorFlow alone, say what the evaluation said?"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from hyperrule.data import Examples
from hyperrule.errors import RunError

EXAMPLES = 64
TOLERANCE = 1e-4  # probabilities of the same float32 network, batched differently
GPU_TOLERANCE = 1e-2  # evaluated with TF32 convolutions, replayed on the CPU


class Parity(BaseModel):
    """Agreement of exported and evaluated predictions on `examples` test images."""

    model_config = ConfigDict(frozen=True)

    examples: int
    top1_agreement: float
    largest_difference: float


def check_parity(
    saved_model: Path,
    examples: Examples,
    probabilities: npt.NDArray[np.float32],
    class_names: tuple[str, ...],
    tolerance: float = TOLERANCE,
) -> Parity:
    """Replay up to 64 test images, evenly spread, through the export. Raises RunError if it disagrees."""
    chosen = np.unique(np.linspace(0, len(examples) - 1, min(EXAMPLES, len(examples))).astype(int))
    expected = probabilities[chosen]
    answers, labels = _replayed(saved_model, examples.take(chosen))
    parity = Parity(
        examples=len(chosen),
        top1_agreement=float(np.mean(answers.argmax(axis=1) == expected.argmax(axis=1))),
        largest_difference=float(np.abs(answers - expected).max()),
    )
    named = [class_names[best] for best in answers.argmax(axis=1)]
    if parity.largest_difference > tolerance or named != labels:
        raise RunError(
            f"the exported model disagrees with the evaluation on {parity.examples} test images: probabilities differ "
            f"by up to {parity.largest_difference:.2g}, allowed are {tolerance:g}. Please report this."
        )
    return parity


def _replayed(saved_model: Path, examples: Examples) -> tuple[npt.NDArray[np.float32], list[str]]:
    with tempfile.TemporaryDirectory() as scratch:
        images, output = Path(scratch, "images"), Path(scratch, "answers.npz")
        images.mkdir()
        for index, content in enumerate(examples.encoded()):
            (images / f"{index:04d}").write_bytes(content)
        # -P and a folder of its own: the script imports what is installed, and of hyperrule it names nothing.
        command = [
            sys.executable,
            "-P",
            str(Path(__file__).with_name("replay.py")),
            str(saved_model.resolve()),
            str(images),
            str(output),
        ]
        quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        finished = subprocess.run(command, capture_output=True, text=True, env=quiet, cwd=scratch, check=False)
        if finished.returncode != 0:
            raise RunError(f"the exported model does not run in a fresh process: {finished.stderr.strip()[-500:]}")
        with np.load(output) as answers:
            return answers["probabilities"], answers["labels"].tolist()
