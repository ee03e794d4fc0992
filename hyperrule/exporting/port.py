"""Ports a BiT from any form to the two that other programs read: BiT's public .npz, and a TF2 Hub module.

TensorFlow is imported only to read or write a SavedModel.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from hyperrule.backbones.bit.architecture import Architecture
from hyperrule.backbones.bit.checkpoints import StoredArrays, head_classes, write_arrays
from hyperrule.backbones.describe import UnknownInputRange, describe_backbone
from hyperrule.backbones.info import BIT_RANGE, BackboneInfo, InputRange, parse_input_range
from hyperrule.errors import BackboneError, RunError, UserError
from hyperrule.support.files import os_errors_as, staged_output
from hyperrule.support.progress import Reporter, silent_native_stderr
from hyperrule.support.wording import listed

NPZ = ".npz"
RANGES: tuple[InputRange, ...] = ((0, 1), (-1, 1))  # google/bit's modules take the first, sayakpaul's the second


class PortedBackbone(BaseModel):
    """What `port` wrote; `os.fspath` returns its path.

    `classes` is the number of classes of the head written with it, None without one. Images have pixels in
    `input_range`. `size` is in bytes. `difference` is the largest difference of what was written, read back, from the
    source: between arrays, or between outputs for photographs relative to the largest output.
    """

    model_config = ConfigDict(frozen=True)

    path: Path
    form: Literal["npz", "SavedModel"]
    source: str
    architecture: str
    parameters: int
    features: int
    classes: int | None
    input_range: InputRange
    size: int
    difference: float

    def __fspath__(self) -> str:
        return str(self.path)


def port_backbone(
    source: str, target: Path, asked: InputRange | str | None, classifier: bool, reporter: Reporter
) -> PortedBackbone:
    """Write the BiT `source` (see `describe_backbone`) to `target`, as a .npz or else as a folder with a SavedModel.

    A .npz includes the source's head, if it has one. A SavedModel returns features, or with `classifier` the head's
    logits; it takes images in the range `asked`, by default [0, 1]. Raises UserError if the request cannot be met,
    RunError if the target cannot be written or disagrees with the source; neither leaves anything behind.
    """
    form: Literal["npz", "SavedModel"] = "npz" if target.suffix == NPZ else "SavedModel"
    input_range = _checked_range(form, asked)
    if form == "npz" and classifier:
        raise UserError("--classifier is for SavedModels: a .npz has the source's head anyway. Leave it out.")
    with staged_output(target) as staging:
        info, architecture = _described(source, reporter)
        wanted = info.path is not None and (form == "npz" or classifier)
        classes = head_classes(Path(info.path or ""), info.features) if wanted else None
        if classifier and classes is None:
            raise BackboneError(
                f"{source} has no head, so there are no logits. Leave out --classifier to write its features."
            )
        reporter.say(f"Porting {info.name}: {architecture}, {info.parameters / 1e6:.1f} M parameters ...")
        with _arrays(info, architecture) as arrays, os_errors_as(RunError, f"cannot write {target}"):
            if form == "npz":
                difference = _write_npz(arrays, staging)
            else:
                with silent_native_stderr():
                    from hyperrule.exporting.bit_module import write_module
                difference = write_module(arrays, architecture, classifier, input_range, staging, reporter)
        size = sum(path.stat().st_size for path in (staging, *staging.rglob("*")) if path.is_file())
    return PortedBackbone(
        path=target,
        form=form,
        source=info.origin,
        architecture=str(architecture),
        parameters=info.parameters,
        features=info.features,
        classes=classes,
        input_range=input_range,
        size=size,
        difference=difference,
    )


def _checked_range(form: str, asked: InputRange | str | None) -> InputRange:
    if form == "npz":
        if asked is not None:
            raise UserError("--input-range is for SavedModels: every BiT .npz takes images in [-1, 1]. Leave it out.")
        return BIT_RANGE
    try:
        received: InputRange = parse_input_range(asked) or RANGES[0]
    except ValueError:
        received = (0, 0)
    if received not in RANGES:
        raise UserError(f"--input-range must be 0,1 or -1,1. Received: {asked}")
    return received


def _described(source: str, reporter: Reporter) -> tuple[BackboneInfo, Architecture]:
    try:
        info = describe_backbone(source, reporter)
        why = info.notes[1:]
    except UnknownInputRange as error:  # it is not a BiT: its range does not matter here
        info, why = None, (error.failed_proof,) if error.failed_proof else ()
    if info is None or info.network is None:
        raise BackboneError(
            f"only a BiT can be ported, and {source} is not a BiT{''.join(f'; {text}' for text in why)}."
        )
    return info, info.network


@contextmanager
def _arrays(info: BackboneInfo, architecture: Architecture) -> Iterator[Mapping[str, npt.NDArray[np.float32]]]:
    """Provide all arrays of the source, each read on access; random ones are made."""
    if info.path is not None:
        with StoredArrays(Path(info.path)) as arrays:
            yield arrays
    else:
        with silent_native_stderr():
            from hyperrule.exporting.bit_module import random_arrays
        yield random_arrays(architecture)


def _write_npz(arrays: Mapping[str, npt.NDArray[np.float32]], path: Path) -> float:
    """Write the arrays and read them back. Returns the difference, which is 0; raises RunError for any other."""
    write_arrays(path, arrays)
    with StoredArrays(path) as written:
        wrong = [name for name, array in arrays.items() if not np.array_equal(written[name], array, equal_nan=True)]
    if wrong:
        raise RunError(f"arrays, read back, differ from what was written: {listed(wrong)}. Check the disk.")
    return 0.0
