"""The backbones hyperrule knows, as plain data; no TensorFlow."""

import hashlib
import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from hyperrule.backbones.architecture import UNITS_PER_BLOCK, Architecture
from hyperrule.backbones.checkpoints import read_architecture
from hyperrule.errors import BackboneError
from hyperrule.wording import did_you_mean

Kind = Literal["embedded", "file", "random"]


@dataclass(frozen=True)
class EmbeddedBackbone:
    """Weights that the package carries."""

    name: str
    file: str
    trained_on: str


EMBEDDED = {
    "bit-r26x0.5": EmbeddedBackbone(
        name="bit-r26x0.5",
        file="bit-r26x0.5.npz",
        trained_on="distilled from EfficientNet-Lite0 on CIFAR-10, Imagenette and ImageNet sample images",
    )
}


class BackboneInfo(BaseModel):
    """Facts about a backbone, known before TensorFlow is imported.

    `path` is None for random weights; `sha256` is that of the file.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    architecture: str
    depth: int
    width: float
    features: int
    parameters: int
    kind: Kind
    origin: str
    path: str | None
    sha256: str | None

    @property
    def network(self) -> Architecture:
        return Architecture(self.depth, self.width)


def describe_backbone(backbone: str) -> BackboneInfo:
    """Facts of an embedded backbone ("bit-r26x0.5"), a BiT .npz file, or seeded random weights
    ("random-r26x0.5", "random-r50x1"; for tests and as a floor).

    Raises BackboneError for an unknown name or a file that is not a BiT checkpoint.
    """
    if (embedded := EMBEDDED.get(backbone.lower())) is not None:
        path = Path(str(resources.files("hyperrule.backbones"))) / "weights" / embedded.file
        return _described(embedded.name, read_architecture(path), "embedded", embedded.trained_on, path)
    if (random := re.fullmatch(r"random-r(\d+)x(\d+(?:\.\d+)?)", backbone.lower())) is not None:
        try:
            architecture = Architecture(int(random[1]), float(random[2]))
        except ValueError as error:
            raise BackboneError(f"backbone {backbone!r}: {error}") from None
        return _described(f"random-{str(architecture).lower()}", architecture, "random", "seeded random weights", None)
    path = Path(os.path.expanduser(backbone))
    if path.suffix == ".npz" or path.exists():
        return _described(path.name, read_architecture(path), "file", str(path.resolve()), path.resolve())
    known = [*EMBEDDED, *(f"random-r{depth}x1" for depth in UNITS_PER_BLOCK)]
    raise BackboneError(
        f"unknown backbone {backbone!r}.{did_you_mean(backbone, known)} "
        f"Allowed: {', '.join(EMBEDDED)}, or the path of a BiT checkpoint (.npz)."
    )


def _described(name: str, architecture: Architecture, kind: Kind, origin: str, path: Path | None) -> BackboneInfo:
    sha256 = None
    if path is not None:
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return BackboneInfo(
        name=name,
        architecture=str(architecture),
        depth=architecture.depth,
        width=architecture.width,
        features=architecture.features,
        parameters=architecture.parameters,
        kind=kind,
        origin=origin,
        path=None if path is None else str(path),
        sha256=sha256,
    )
