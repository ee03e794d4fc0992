"""Finds what keeps a machine from working at full speed, each problem with the command that fixes it."""

from collections.abc import Iterator, Mapping

from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict

from hyperrule.doctor.installation import Surroundings, TensorFlow, missing_cuda_packages
from hyperrule.planning.machine.gpus import Gpu, GpusUnknown, Installed, NoNvidiaSmi
from hyperrule.support.wording import listed, number

LEAST_DRIVER = "525.60.13"  # for CUDA 12 on Linux (NVIDIA, CUDA release notes, "minor version compatibility")
LITTLE_MEMORY = 2 * 2**30  # a process with TensorFlow takes half of it before it loads any image
MOSTLY_FREE = 0.75  # fraction of a GPU's memory; a desktop takes some
GPU_EXTRA = "pip install 'hyperrule[gpu]'"
DOCKER = "docker run --gpus all ...   (Kubernetes: resources: {limits: {nvidia.com/gpu: 1}})"
DRIVER_BY_DISTRIBUTION = {
    "ubuntu": "sudo ubuntu-drivers install && sudo reboot",
    "debian": "sudo apt-get install nvidia-driver && sudo reboot",  # of the section non-free
    "fedora": "sudo dnf install akmod-nvidia && sudo reboot",  # of RPM Fusion
    "arch": "sudo pacman -S nvidia && sudo reboot",
}


class Finding(BaseModel):
    """A fact about the machine. If it is a problem, `mend` is the command that fixes it, else None."""

    model_config = ConfigDict(frozen=True)

    what: str
    mend: str | None = None


def driver_finding(problem: GpusUnknown, around: Surroundings) -> Finding:
    """Return why nvidia-smi lists no GPU."""
    if not isinstance(problem, NoNvidiaSmi):
        mend = "leave the container and start it again" if around.container else "sudo reboot"
        return Finding(what=f"{problem}; the driver does not work, so no GPU is used", mend=mend)
    if not around.pci_gpus and around.driver is None:
        return Finding(what="this machine has no NVIDIA GPU, and no driver for one")
    gpus = number(around.pci_gpus, "NVIDIA GPU") if around.pci_gpus else "an NVIDIA driver"
    if around.container:
        if around.device_files:
            mend = "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility ..."
            return Finding(what="the container has GPUs, but not nvidia-smi, which lists them", mend=mend)
        what = f"the machine has {gpus}, but this container does not get them; its host needs nvidia-container-toolkit"
        return Finding(what=what, mend=DOCKER)
    if around.driver is None:
        mend = DRIVER_BY_DISTRIBUTION.get(
            around.distribution, "install NVIDIA's driver, as your distribution documents"
        )
        return Finding(what=f"this machine has {gpus}, but the driver is not loaded", mend=mend)
    major = around.driver.partition(".")[0]
    what = f"the driver {around.driver} is loaded, but nvidia-smi, which lists the GPUs, is not on PATH"
    return Finding(what=what, mend=f"sudo apt-get install nvidia-utils-{major}")


def visibility_findings(
    installed: tuple[Installed, ...], visible: tuple[Gpu, ...], environment: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield the GPUs that CUDA_VISIBLE_DEVICES hides."""
    hidden = len(installed) - len(visible)
    setting = f"CUDA_VISIBLE_DEVICES={environment.get('CUDA_VISIBLE_DEVICES', '')}"
    if not visible and hidden:
        yield Finding(what=f"{setting} hides {_all(hidden)}", mend="unset CUDA_VISIBLE_DEVICES")
    elif hidden:
        yield Finding(what=f"{setting} hides {hidden} of {len(installed)} GPUs")


def tensorflow_findings(
    tensorflow: TensorFlow, visible: tuple[Gpu, ...], driver: str, environment: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield why TensorFlow does not start, or sees fewer GPUs than are visible."""
    if tensorflow.error is not None:
        mend = "pip install --force-reinstall 'tensorflow>=2.21'"
        yield Finding(what=f"TensorFlow does not start: {tensorflow.error}", mend=mend)
        return
    if len(tensorflow.gpus) >= len(visible):
        return
    sees = f"TensorFlow sees {len(tensorflow.gpus)} of {number(len(visible), 'GPU')}"
    if tensorflow.cuda is None:
        mend = f"pip uninstall -y tensorflow tensorflow-cpu && {GPU_EXTRA}"
        yield Finding(what=f"{sees}: it is built without CUDA", mend=mend)
    elif _older(driver, LEAST_DRIVER):
        what = f"{sees}: CUDA {tensorflow.cuda} needs a driver of version {LEAST_DRIVER}. Received: {driver}"
        yield Finding(what=what, mend="update NVIDIA's driver, as your distribution documents")
    elif missing := missing_cuda_packages():
        yield Finding(what=f"{sees}: CUDA packages are missing: {listed(missing)}", mend=GPU_EXTRA)
    else:
        log = listed(tensorflow.complaints) or "its log does not say why"
        foreign = " LD_LIBRARY_PATH may put other CUDA libraries first." if environment.get("LD_LIBRARY_PATH") else ""
        mend = "unset LD_LIBRARY_PATH" if foreign else "pip install --force-reinstall 'tensorflow[and-cuda]>=2.21'"
        yield Finding(what=f"{sees}, although all CUDA packages are installed: {log}.{foreign}", mend=mend)


def gpu_findings(gpus: tuple[Gpu, ...]) -> Iterator[Finding]:
    """Yield GPUs whose memory other processes hold, and GPUs of different models."""
    for gpu in gpus:
        if gpu.usable_memory < MOSTLY_FREE * gpu.memory:
            yield Finding(
                what=f"GPU {gpu.index}: only {gib(gpu.usable_memory)} of {gib(gpu.memory)} are free; other processes "
                "hold the rest",
                mend="nvidia-smi --query-compute-apps=pid,process_name,used_memory --format=csv",
            )
    if len({gpu.name for gpu in gpus}) > 1:
        weakest = min(gpus, key=lambda gpu: (gpu.compute_capability, gpu.memory))
        alike = ",".join(str(gpu.index) for gpu in gpus if gpu.name != weakest.name)
        what = f"GPUs of different models wait for the slowest, and all compute in the precision of {weakest.name}"
        yield Finding(what=what, mend=f"hyperrule finetune --devices {alike} ...")


def core_findings(cores: int, allowed: int) -> Iterator[Finding]:
    """Yield a CPU quota that is smaller than the number of cores that the process may run on."""
    if cores < allowed:
        what = f"a CPU quota allows {number(cores, 'core')}, but TensorFlow starts threads for {allowed}"
        mend = f"export TF_NUM_INTRAOP_THREADS={cores} TF_NUM_INTEROP_THREADS={cores}"
        yield Finding(what=what, mend=mend)


def memory_findings(available: int, address_space: int | None) -> Iterator[Finding]:
    if available < LITTLE_MEMORY:
        what = f"only {gib(available)} of memory are available; TensorFlow alone takes about 1 GiB"
        yield Finding(what=what, mend="end other programs, or raise the container's memory limit")
    if address_space is not None:
        what = f"the address space is limited to {gib(address_space)}, but TensorFlow reserves more than it uses"
        yield Finding(what=what, mend="ulimit -v unlimited")


def gib(length: int) -> str:
    """Return bytes in words.

    >>> gib(25_276_502_016)
    '23.5 GiB'
    """
    return f"{length / 2**30:.1f} GiB"


def _all(count: int) -> str:
    return "the GPU" if count == 1 else f"all {count} GPUs"


def _older(version: str, least: str) -> bool:
    try:
        return Version(version) < Version(least)
    except InvalidVersion:
        return False
