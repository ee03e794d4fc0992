"""How exports compare with the evaluation: parity.json of a run, an entry for each of its exports."""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from hyperrule.errors import RunFolderError
from hyperrule.prediction.formats import FormatName, Quantize, export_name
from hyperrule.support.files import atomic_write


class Parity(BaseModel):
    """An export beside the evaluation, on `examples` test images.

    `path` is that of the export, in parity.json from its folder on; `accuracy_before` the evaluation's accuracy on
    these images, `accuracy_after` the export's; `latency_ms_1` and `images_per_second_32` are times of this machine's
    CPU for one image and in batches of 32.
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
    """Those of a run's exports by name; none where there is no file. Raises RunFolderError if it is damaged."""
    if not file.exists():
        return {}
    try:
        return _PARITIES.validate_json(file.read_bytes())
    except ValueError as error:
        raise RunFolderError(
            f"{file} is damaged, or of another version: {' '.join(str(error).split())[:200]}"
        ) from None


def add_parity(file: Path, parity: Parity) -> Parity:
    """Write it among those of the other exports, which lie beside `file`, and return it as written."""
    parity = parity.model_copy(update={"path": os.path.relpath(parity.path, file.parent)})
    with atomic_write(file) as partial:
        partial.write_bytes(_PARITIES.dump_json({**read_parities(file), parity.name: parity}, indent=2) + b"\n")
    return parity
