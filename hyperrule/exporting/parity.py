"""parity.json of a run: how each of its exports compares with the evaluation."""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from hyperrule.errors import RunFolderError
from hyperrule.prediction.formats import FormatName, Quantize, export_name
from hyperrule.support.files import atomic_write


class Parity(BaseModel):
    """An export compared with the evaluation on `examples` test images.

    `path` is the export's, in parity.json relative to that file's folder. `bytes` is its size. `top1_agreement` is the
    fraction of equal labels, `largest_difference` that of probabilities. `accuracy_before` is the evaluation's top-1
    accuracy on these images, `accuracy_after` the export's. `latency_ms_1` (one image) and `images_per_second_32`
    (batches of 32) were measured on this machine's CPU.
    """

    model_config = ConfigDict(frozen=True)

    format: FormatName
    quantize: Quantize
    path: str
    bytes: int
    examples: int
    top1_agreement: float
    largest_difference: float
    accuracy_before: float
    accuracy_after: float
    latency_ms_1: float
    images_per_second_32: float

    @property
    def name(self) -> str:
        return export_name(self.format, self.quantize)


_PARITIES = TypeAdapter(dict[str, Parity])


def read_parities(file: Path) -> dict[str, Parity]:
    """Return the entries by name of the export; none if there is no file. Raises RunFolderError if it is damaged."""
    if not file.exists():
        return {}
    try:
        return _PARITIES.validate_json(file.read_bytes())
    except ValueError as error:
        raise RunFolderError(
            f"{file} is damaged, or of another version: {' '.join(str(error).split())[:200]}"
        ) from None


def add_parity(file: Path, parity: Parity) -> Parity:
    """Add an entry to `file`, or replace that of the same name. Returns it as written, with a relative path."""
    parity = parity.model_copy(update={"path": os.path.relpath(parity.path, file.parent)})
    with atomic_write(file) as partial:
        partial.write_bytes(_PARITIES.dump_json({**read_parities(file), parity.name: parity}, indent=2) + b"\n")
    return parity
