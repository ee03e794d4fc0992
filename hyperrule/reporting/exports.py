"""What was exported, and how well each export says what the evaluation said: export/parity.json, in one place."""

import json

from pydantic import BaseModel, ConfigDict

from hyperrule.run_folder import RunFolder


class Export(BaseModel):
    """An export in its own runtime against the evaluation, on `examples` images.

    `path` is relative to the run's export folder. Accuracies are fractions, latency is in milliseconds for
    one image, `images_per_second_32` that of batches of 32; None for what was not measured.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    format: str = "saved_model"
    quantize: str = "none"
    path: str = "saved_model/1"
    bytes: int | None = None
    examples: int
    top1_agreement: float
    largest_difference: float
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    latency_ms_1: float | None = None
    images_per_second_32: float | None = None


def read_exports(run: RunFolder) -> tuple[Export, ...]:
    """All exports of a run, the first being the SavedModel that training left; none if there are none.

    Raises ValueError (pydantic's and json's are) if parity.json is damaged.
    """
    if not run.parity_file.is_file():
        return ()
    told = json.loads(run.parity_file.read_text(encoding="utf-8"))
    if not isinstance(told, dict):
        raise ValueError("no JSON object")
    by_name = {"saved_model": told} if "examples" in told else told
    exports = [Export.model_validate({**figures, "name": name}) for name, figures in by_name.items()]
    return tuple(_sized(export, run) for export in exports)


def _sized(export: Export, run: RunFolder) -> Export:
    """With its size, where parity.json does not tell it and the export is there."""
    if export.bytes is not None:
        return export
    place = run.export / export.path
    size = sum(path.stat().st_size for path in (place, *place.rglob("*")) if path.is_file())
    return export.model_copy(update={"bytes": size or None})
