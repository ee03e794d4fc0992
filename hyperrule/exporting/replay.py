"""Checks that an export, run in a fresh process by its runtime alone, agrees with the evaluation."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyperrule.data.images import Examples
from hyperrule.data.pipeline import evaluation_batches
from hyperrule.errors import RunError
from hyperrule.exporting.parity import Parity
from hyperrule.prediction import runtimes
from hyperrule.prediction.formats import FORMATS, Card, FormatName, Quantize, Tolerance
from hyperrule.support.limits import usable_cores

EXAMPLES = 256
BATCH = 32
Floats = npt.NDArray[np.float32]


def check_parity(
    model: Path,
    name: FormatName,
    quantize: Quantize,
    card: Card,
    examples: Examples,
    probabilities: Floats,
    tolerance: Tolerance,
) -> Parity:
    """Run up to 256 test images, evenly spread, through the export, and compare with the evaluation.

    `examples` are the test images with their labels, `probabilities` the evaluation's for them, float32 [N, classes].
    Raises RunError if the export does not run, or differs by more than `tolerance`.
    """
    chosen = np.unique(np.linspace(0, len(examples) - 1, min(EXAMPLES, len(examples))).astype(int))
    expected, examples = probabilities[chosen], examples.take(chosen)
    answers = _replayed(model, FORMATS[name].runtime, name == "saved_model", examples, card.size)
    found = answers["probabilities"]
    parity = Parity(
        format=name,
        quantize=quantize,
        path=str(model),
        bytes=size_of(model),
        examples=len(chosen),
        top1_agreement=float(np.mean(found.argmax(axis=1) == expected.argmax(axis=1))),
        largest_difference=float(np.abs(found - expected).max()),
        accuracy_before=float(np.mean(expected.argmax(axis=1) == examples.labels)),
        accuracy_after=float(np.mean(found.argmax(axis=1) == examples.labels)),
        latency_ms_1=round(float(answers["latency_ms"]), 3),
        images_per_second_32=round(float(answers["images_per_second"]), 1),
    )
    if tuple(answers["class_names"].tolist()) != card.class_names:
        raise RunError(f"the exported {name} has other class names than the run. Please report this.")
    # NaN compares as false.
    if not parity.largest_difference <= tolerance.difference or parity.top1_agreement < tolerance.agreement:
        raise RunError(
            f"the exported {name} disagrees with the evaluation on {parity.examples} test images: "
            f"{parity.top1_agreement:.1%} get the same label (at least {tolerance.agreement:.1%} must), probabilities "
            f"differ by up to {parity.largest_difference:.2g} (at most {tolerance.difference:g}), accuracy "
            f"{parity.accuracy_before:.1%} became {parity.accuracy_after:.1%}. "
            + ("Please report this." if quantize == "none" else "Quantize less, or accept it with --min-agreement.")
        )
    return parity


def size_of(model: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    return sum(path.stat().st_size for path in (model, *model.rglob("*")) if path.is_file())


def _replayed(model: Path, runtime: str, encoded: bool, examples: Examples, size: int) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as scratch:
        images, output = Path(scratch, "images" if encoded else "images.npy"), Path(scratch, "answers.npz")
        if encoded:
            images.mkdir()
            for index, content in enumerate(examples.encoded()):
                (images / f"{index:04d}").write_bytes(content)
        else:
            _write_pixels(images, examples, size)
        # -P and an own folder: the script imports installed packages only, and nothing of hyperrule.
        command = [sys.executable, "-P", str(Path(runtimes.__file__).absolute()), runtime]
        finished = subprocess.run(
            [*command, str(model.resolve()), str(images), str(usable_cores()), str(output)],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "CUDA_VISIBLE_DEVICES": "-1",
                "KERAS_BACKEND": "tensorflow",
            },
            cwd=scratch,
            check=False,
        )
        if finished.returncode != 0:
            reason = (finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"])[-1]
            raise RunError(f"the exported model does not run in a fresh process: {reason[:500]}")
        with np.load(output) as answers:
            return dict(answers)


def _write_pixels(file: Path, examples: Examples, size: int) -> None:
    """Write the network's input to a .npy: float32 [N, size, size, 3] in [0, 1]."""
    pixels = np.lib.format.open_memmap(file, "w+", np.float32, (len(examples), size, size, 3))
    start = 0
    for batch in evaluation_batches(examples, 1, size, BATCH):
        part = batch.images.numpy()[: len(examples) - start]
        pixels[start : start + len(part)] = part
        start += len(part)
    pixels.flush()
