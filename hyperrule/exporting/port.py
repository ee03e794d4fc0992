"""A BiT from any form to the two that others read: the public .npz, and a TF2 Hub module. No TensorFlow, unless
it is needed."""

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
from hyperrule.support.files import os_errors_as, taking_its_place
from hyperrule.support.progress import Reporter, silent_native_stderr
from hyperrule.support.wording import listed

NPZ = ".npz"
RANGES: tuple[InputRange, ...] = ((0, 1), (-1, 1))  # google/bit's modules take the first, sayakpaul's the second


class PortedBackbone(BaseModel):
    """What `port` wrote; `os.fspath` gives its path.

    `classes` are those of the head that came along, None without. The module's, or .npz's, images have
    pixels in `input_range`. `size` is in bytes. `difference` is the largest one between what was written, read
    again, and the source: of arrays, or of outputs for photographs as a part of the largest.
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
    """Write the BiT that `source` is, as `describe_backbone` takes it, to `target`: a .npz with the source's head
    if it has one, or else a folder with a SavedModel of features, or, with `classifier`, of the head's logits.

    Raises UserError if the request cannot be met, RunError if the target cannot be written or does not agree with
    the source; neither leaves anything behind.
    """
    form: Literal["npz", "SavedModel"] = "npz" if target.suffix == NPZ else "SavedModel"
    input_range = _checked_range(form, asked)
    if form == "npz" and classifier:
        raise UserError("--classifier is for SavedModels: a .npz has the source's head anyway. Leave it out.")
    with taking_its_place(target) as staging:
        info, architecture = _described(source, reporter)
        wanted = info.path is not None and (form == "npz" or classifier)
        classes = head_classes(Path(info.path or ""), info.features) if wanted else None
        if classifier and classes is None:
            raise BackboneError(
                f"{source} has no head, so there are no logits: leave out --classifier for its features."
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
    except UnknownInputRange as error:  # which only matters to those who run it
        info, why = None, (error.failed_proof,) if error.failed_proof else ()
    if info is None or info.network is None:
        raise BackboneError(f"only a BiT can be ported, and {source} is none{''.join(f'; {text}' for text in why)}.")
    return info, info.network


@contextmanager
def _arrays(info: BackboneInfo, architecture: Architecture) -> Iterator[Mapping[str, npt.NDArray[np.float32]]]:
    """All arrays of the source, read when they are asked for; random ones are made."""
    if info.path is not None:
        with StoredArrays(Path(info.path)) as arrays:
            yield arrays
    else:
        with silent_native_stderr():
            from hyperrule.exporting.bit_module import random_arrays
        yield random_arrays(architecture)


def _write_npz(arrays: Mapping[str, npt.NDArray[np.float32]], path: Path) -> float:
    """Returns the difference between the arrays and what is read from the file again: none, or it is a RunError."""
    write_arrays(path, arrays)
    with StoredArrays(path) as written:
        wrong = [name for name, array in arrays.items() if not np.array_equal(written[name], array, equal_nan=True)]
    if wrong:
        raise RunError(f"arrays are not what was written when they are read again: {listed(wrong)}. Is the disk sound?")
    return 0.0
