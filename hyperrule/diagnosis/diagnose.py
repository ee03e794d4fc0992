"""All that `hyperrule doctor` tells, gathered."""

import os
import platform
import resource
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from hyperrule.diagnosis.findings import (
    Finding,
    driver_finding,
    gpu_findings,
    memory_findings,
    tensorflow_findings,
    visibility_findings,
)
from hyperrule.diagnosis.installation import TensorFlow, ask_tensorflow
from hyperrule.diagnosis.surroundings import look_around
from hyperrule.errors import HyperruleError
from hyperrule.planning.container import memory_limit
from hyperrule.planning.gpus import GpusUnknown, Installed, installed_gpus, visible_gpus
from hyperrule.planning.machine import Machine, this_machine
from hyperrule.planning.plan import Decided
from hyperrule.planning.precision import MACHINE, precision_of, xla_of
from hyperrule.planning.speed import Speed, installed_version, store_speed
from hyperrule.progress import Reporter
from hyperrule.silence import silent_native_stderr
from hyperrule.version import __version__

PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-hub", "tensorflow-datasets")


class Limit(BaseModel):
    """Bytes that a control group leaves to its processes, and its folder."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    folder: str


class Diagnosis(BaseModel):
    """The machine, its installed GPUs (visible to this process or not), limits in bytes, what TensorFlow sees,
    versions (None: not installed), what `auto` chooses and why, and what there is to mend."""

    model_config = ConfigDict(frozen=True)

    machine: Machine
    installed_gpus: tuple[Installed, ...]
    memory_limit: Limit | None
    address_space: int | None
    versions: dict[str, str | None]
    tensorflow: TensorFlow
    auto: dict[str, Decided[Any]]
    findings: tuple[Finding, ...]


def diagnose(devices: str = "all", measure: bool = False, reporter: Reporter | None = None) -> Diagnosis:
    """Look at everything. With `measure`, time training steps on the machine's device, for some minutes, and keep
    what was found where plans look for it.

    Raises RecipeError for `devices` that there are not.
    """
    reporter = reporter or Reporter()
    machine, findings = this_machine(devices), list[Finding]()
    reporter.say("Asking TensorFlow what it sees ...")
    tensorflow = ask_tensorflow()
    if measure:
        try:
            machine = machine.model_copy(update={"speed": _measured(machine, reporter)})
        except HyperruleError as error:
            findings.append(Finding(what=f"not measured: {error}"))
    limit = memory_limit()
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    bounded = None if address_space == resource.RLIM_INFINITY else address_space
    installed, of_driver = _gpus(tensorflow, os.environ)
    precision = precision_of(machine)
    return Diagnosis(
        machine=machine,
        installed_gpus=installed,
        memory_limit=None if limit is None else Limit(bytes=limit.limit, folder=str(limit.folder)),
        address_space=bounded,
        versions={
            "python": platform.python_version(),
            "hyperrule": __version__,
            **{package: installed_version(package) for package in PACKAGES},
        },
        tensorflow=tensorflow,
        auto={
            "devices": _devices(devices, machine, installed),
            "precision": precision,
            "xla": xla_of(machine, precision.value),
        },
        findings=(*of_driver, *gpu_findings(machine.gpus), *memory_findings(machine, bounded), *findings),
    )


def _measured(machine: Machine, reporter: Reporter) -> Speed:
    with silent_native_stderr():
        from hyperrule.diagnosis.measure import measure_speed
    speed = measure_speed(machine, reporter)
    reporter.say(f"Kept in {store_speed(speed)}")
    return speed


def _gpus(tensorflow: TensorFlow, environment: Mapping[str, str]) -> tuple[tuple[Installed, ...], list[Finding]]:
    """The GPUs of the machine, and what keeps this process or TensorFlow from using them."""
    try:
        installed = installed_gpus()
    except GpusUnknown as problem:
        return (), [driver_finding(problem, look_around()), *tensorflow_findings(tensorflow, (), "", environment)]
    visible = visible_gpus(installed, environment)
    driver = installed[0].driver if installed else ""
    return installed, [
        *visibility_findings(installed, visible, environment),
        *tensorflow_findings(tensorflow, visible, driver, environment),
    ]


def _devices(asked: str, machine: Machine, installed: tuple[Installed, ...]) -> Decided[str]:
    """What `--devices` means here."""
    value = ",".join(str(gpu.index) for gpu in machine.gpus) or "cpu"
    if asked != "all":
        return Decided(value=value, reason="asked for", source="recipe")
    if machine.gpus:
        those = "all that nvidia-smi lists" if len(machine.gpus) == len(installed) else "those that are visible"
        return Decided(value=value, reason=f"the GPUs of this machine, {those}", source=MACHINE)
    reason = "no GPU is visible" if installed else "nvidia-smi lists no GPU"
    return Decided(value=value, reason=reason, source=MACHINE)
