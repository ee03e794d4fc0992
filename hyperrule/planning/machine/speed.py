"""Stores the speeds of a training step that `hyperrule doctor --measure` found on this device, in the cache folder.

Measurements with other software, or on another device, are ignored.
"""

import hashlib
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hyperrule import __version__
from hyperrule.support.files import atomic_write, cache_folder

FORMAT = 1
LIBRARIES = ("tensorflow", "keras")  # their versions affect the speed of a step


class Rate(BaseModel):
    """Median images per second in one setting; None if it does not run, with the reason in `failure`."""

    model_config = ConfigDict(frozen=True)

    precision: Literal["float32", "bfloat16", "float16"]
    xla: bool
    images_per_second: float | None
    failure: str | None = None


class Speed(BaseModel):
    """Rates of the training step of one network (`what`) on one device; the settings were measured in turns."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    day: date
    device: str
    versions: dict[str, str]
    what: str
    rates: tuple[Rate, ...]

    def rate(self, precision: str, xla: bool | None = None) -> float | None:
        """Return images per second, with or without XLA; the faster if `xla` is None. None if it was not measured."""
        found = [
            rate.images_per_second for rate in self.rates if rate.precision == precision and xla in (None, rate.xla)
        ]
        return max((rate for rate in found if rate is not None), default=None)


def software() -> dict[str, str]:
    return {"hyperrule": __version__, **{name: installed_version(name) or "none" for name in LIBRARIES}}


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def stored_speed(device: str) -> Speed | None:
    """Return the measurements on `device` with the installed software; None if there are none."""
    try:
        speed = Speed.model_validate_json(speed_file(device).read_bytes())
    except (OSError, ValidationError):
        return None
    valid = (speed.format, speed.device, speed.versions) == (FORMAT, device, software())
    return speed if valid and speed.rate("float32") else None


def store_speed(speed: Speed) -> Path:
    """Write `speed` where `stored_speed` reads it, and return the file. Raises RunError if that fails."""
    file = speed_file(speed.device)
    with atomic_write(file) as partial:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(speed.model_dump_json(indent=2) + "\n")
    return file


def speed_file(device: str) -> Path:
    return cache_folder() / "speed" / f"{hashlib.sha256(device.encode()).hexdigest()[:16]}.json"
