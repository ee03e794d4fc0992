"""Gathers everything that `hyperrule doctor` shows."""

import os
import platform
import resource
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from hyperrule import __version__
from hyperrule.doctor.findings import (
    Finding,
    core_findings,
    driver_finding,
    gpu_findings,
    memory_findings,
    tensorflow_findings,
    visibility_findings,
)
from hyperrule.doctor.installation import TensorFlow, ask_tensorflow, look_around
from hyperrule.errors import HyperruleError, RecipeError
from hyperrule.planning.machine.gpus import GpusUnknown, Installed, installed_gpus, visible_gpus
from hyperrule.planning.machine.machine import Machine, this_machine
from hyperrule.planning.machine.speed import Speed, installed_version, store_speed
from hyperrule.planning.planner import MACHINE, precision_of, xla_of
from hyperrule.planning.training_plan import Decided
from hyperrule.support.limits import allowed_cores, memory_limit
from hyperrule.support.progress import Reporter, silent_native_stderr

PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-hub", "tensorflow-datasets")


class Limit(BaseModel):
    """The memory limit of a control group in bytes, and the group's folder."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    folder: str


class Diagnosis(BaseModel):
    """Everything that doctor shows. `memory_limit` and `address_space` are in bytes, None for no limit.

    `installed_gpus` may be visible to this process or not; a version of None means not installed. `auto` holds what
    each option of that value chooses here, and why.
    """

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
    """Examine machine and software. With `measure`, time training steps for some minutes, and store that for plans.

    Raises RecipeError for `devices` that do not exist, and for TPUs, which doctor cannot examine.
    """
    if devices == "tpu":
        raise RecipeError("doctor cannot examine TPUs; devices must be all, cpu, or numbers of GPUs. Received: 'tpu'")
    reporter = reporter or Reporter()
    machine = this_machine(devices)
    reporter.say("Asking TensorFlow what it sees ...")
    tensorflow = ask_tensorflow()
    findings: list[Finding] = []
    if measure and tensorflow.error is None:
        try:
            machine = machine.model_copy(update={"speed": _measured(machine, reporter)})
        except HyperruleError as error:
            findings.append(Finding(what=f"not measured: {error}"))
    installed, of_driver = _installed_gpus(os.environ)
    driver = installed[0].driver if installed else ""
    visible = visible_gpus(installed, os.environ)
    limit, address_space = memory_limit(), _address_space()
    precision = precision_of(machine)
    return Diagnosis(
        machine=machine,
        installed_gpus=installed,
        memory_limit=None if limit is None else Limit(bytes=limit.limit, folder=str(limit.folder)),
        address_space=address_space,
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
        findings=(
            *of_driver,
            *tensorflow_findings(tensorflow, visible, driver, os.environ),
            *gpu_findings(machine.gpus),
            *core_findings(machine.cores, allowed_cores()),
            *memory_findings(machine.available_memory, address_space),
            *findings,
        ),
    )


def _measured(machine: Machine, reporter: Reporter) -> Speed:
    with silent_native_stderr():
        from hyperrule.doctor.measure import measure_speed
    speed = measure_speed(machine, reporter)
    reporter.say(f"Kept in {store_speed(speed)}")
    return speed


def _installed_gpus(environment: Mapping[str, str]) -> tuple[tuple[Installed, ...], list[Finding]]:
    """Return the GPUs that nvidia-smi lists, and findings on why it lists none or the process does not see them."""
    try:
        installed = installed_gpus()
    except GpusUnknown as problem:
        return (), [driver_finding(problem, look_around())]
    return installed, list(visibility_findings(installed, visible_gpus(installed, environment), environment))


def _address_space() -> int | None:
    """Return the limit in bytes that ulimit -v sets, None for no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def _devices(asked: str, machine: Machine, installed: tuple[Installed, ...]) -> Decided[str]:
    """Return the devices that `--devices` selects here."""
    value = ",".join(str(gpu.index) for gpu in machine.gpus) or "cpu"
    if asked != "all":
        return Decided(value=value, reason="requested", source="recipe")
    if machine.gpus:
        which = "all GPUs that nvidia-smi lists" if len(machine.gpus) == len(installed) else "the visible GPUs"
        return Decided(value=value, reason=f"{which} on this machine", source=MACHINE)
    reason = "no GPU is visible" if installed else "nvidia-smi lists no GPU"
    return Decided(value=value, reason=reason, source=MACHINE)
