"""`hyperrule doctor`: what it shows, and the command that fixes each thing that is missing."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from command_line import run
from fake_machine import A100, FAILS, THREE_GPUS, V100, NvidiaSmi, nvidia_smi, speed_of, unknown_machine, written

from hyperrule.cli import doctor
from hyperrule.doctor import diagnose, findings, installation
from hyperrule.doctor.findings import driver_finding, tensorflow_findings
from hyperrule.doctor.installation import Surroundings, TensorFlow, ask_tensorflow, look_around, missing_cuda_packages
from hyperrule.planning.machine import machine
from hyperrule.planning.machine.gpus import Gpu, GpusUnknown, NoNvidiaSmi
from hyperrule.planning.machine.machine import this_machine
from hyperrule.planning.machine.speed import store_speed, stored_speed
from hyperrule.support import limits
from hyperrule.support.limits import MemoryLimit

ALL_THREE = TensorFlow(gpus=(V100, A100, A100), cuda="12.5.1")
NOWHERE = Surroundings(pci_gpus=0, driver=None, device_files=False, container=False, distribution="")

Doctor = Callable[..., str]
__all__ = ["nvidia_smi", "unknown_machine"]  # fixtures
pytestmark = pytest.mark.usefixtures("unknown_machine")


@pytest.fixture
def hyperrule_doctor(monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """A function that runs the command within 80 columns, with what TensorFlow would see; returns stdout."""

    def told(*arguments: str, sees: TensorFlow = ALL_THREE, around: Surroundings = NOWHERE) -> str:
        monkeypatch.setattr(doctor, "WIDTH", 80)
        monkeypatch.setattr(diagnose, "ask_tensorflow", lambda: sees)
        monkeypatch.setattr(diagnose, "look_around", lambda: around)
        result = CliRunner().invoke(doctor.doctor_command, arguments)
        assert result.exception is None
        return result.stdout

    return told


def test_without_fakes_it_answers_and_its_own_process_stays_without_tensorflow() -> None:
    program = "import sys; from hyperrule.cli import main\ntry: main()\nfinally: assert 'tensorflow' not in sys.modules"
    asked = subprocess.run([sys.executable, "-c", program, "doctor", "--json"], capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    told = json.loads(asked.stdout)
    assert told["versions"]["tensorflow"]
    assert told["tensorflow"]["error"] is None
    assert set(told["auto"]) == {"devices", "precision", "xla"}
    assert all(decided["reason"] for decided in told["auto"].values())


def test_three_gpus_of_two_kinds(nvidia_smi: NvidiaSmi, hyperrule_doctor: Doctor) -> None:
    nvidia_smi(f"cat <<'END'\n{THREE_GPUS}END")
    told = hyperrule_doctor()
    assert all(len(line) <= 80 for line in told.splitlines() if "->" not in line)
    assert f"GPU 0      {V100}, 16.0 GiB (15.8 GiB free), capability 7.0\n" in told
    assert "devices    0,1,2: all GPUs that nvidia-smi lists" in told
    assert "precision  float16: Tesla V100" in told
    assert "GPU 1: only 20.0 GiB of 40.0 GiB are free" in told
    assert "-> nvidia-smi --query-compute-apps=pid,process_name,used_memory --format=csv\n" in told
    assert "-> hyperrule finetune --devices 1,2 ...\n" in told
    assert "precision  bfloat16: NVIDIA A100" in hyperrule_doctor("--devices", "2")
    assert "devices    cpu: requested" in hyperrule_doctor("--devices", "cpu")


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("7,x", "devices must be all, cpu, tpu, or numbers of GPUs such as 0,1. Received: '7,x'"),
        ("tpu", "doctor cannot examine TPUs; devices must be all, cpu, or numbers of GPUs. Received: 'tpu'"),
    ],
)
def test_devices_that_there_are_not_are_a_wrong_request(devices: str, message: str) -> None:
    assert run("doctor", "--devices", devices) == (2, "", f"hyperrule: {message}\n")


@pytest.mark.parametrize(
    ("visible", "told"),
    [
        ("-1", "CUDA_VISIBLE_DEVICES=-1 hides all 3 GPUs\n           -> unset CUDA_VISIBLE_DEVICES\n"),
        ("1", "note       CUDA_VISIBLE_DEVICES=1 hides 2 of 3 GPUs\n"),
    ],
)
def test_hidden_gpus(
    visible: str,
    told: str,
    nvidia_smi: NvidiaSmi,
    hyperrule_doctor: Doctor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nvidia_smi(f"cat <<'END'\n{THREE_GPUS}END")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert told in hyperrule_doctor()


def test_a_machine_without_gpus_needs_nothing(
    hyperrule_doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    told = hyperrule_doctor(sees=TensorFlow(cuda="12.5.1"))
    assert "devices    cpu: nvidia-smi lists no GPU" in told
    assert "note       this machine has no NVIDIA GPU, and no driver for one" in told
    assert "->" not in told
    assert "fine       nothing to fix" in told


def test_a_failing_nvidia_smi_is_told_in_its_own_words(nvidia_smi: NvidiaSmi, hyperrule_doctor: Doctor) -> None:
    nvidia_smi(f'echo "{FAILS}"; exit 9')
    told = " ".join(hyperrule_doctor(sees=TensorFlow()).split())
    assert "fix nvidia-smi fails: NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver;" in told
    assert "-> sudo reboot" in told


@pytest.mark.parametrize(
    ("around", "what", "mend"),
    [
        ({}, "this machine has no NVIDIA GPU", None),
        (
            {"pci_gpus": 2, "distribution": "ubuntu"},
            "has 2 NVIDIA GPUs, but the driver is not loaded",
            "ubuntu-drivers",
        ),
        ({"pci_gpus": 1, "distribution": "debian"}, "has 1 NVIDIA GPU", "apt-get install nvidia-driver"),
        ({"pci_gpus": 1, "distribution": "plan9"}, "has 1 NVIDIA GPU", "as your distribution documents"),
        ({"pci_gpus": 1, "driver": "535.129.03"}, "driver 535.129.03 is loaded, but nvidia-smi", "nvidia-utils-535"),
        ({"pci_gpus": 8, "container": True}, "this container does not get them", "docker run --gpus all"),
        ({"driver": "535.129.03", "container": True}, "an NVIDIA driver, but this container", "nvidia.com/gpu: 1"),
        ({"driver": "1", "container": True, "device_files": True}, "has GPUs, but not nvidia-smi", "CAPABILITIES"),
    ],
)
def test_without_nvidia_smi_the_system_tells_what_is_missing(
    around: dict[str, object], what: str, mend: str | None
) -> None:
    finding = driver_finding(NoNvidiaSmi("nvidia-smi is not installed"), NOWHERE.model_copy(update=around))
    assert re.search(what, finding.what)
    assert finding.mend is None if mend is None else mend in (finding.mend or "")


def test_a_broken_driver_is_mended_outside_the_container() -> None:
    problem = GpusUnknown("nvidia-smi does not answer within 20 s")
    assert driver_finding(problem, NOWHERE).mend == "sudo reboot"
    assert "container" in (driver_finding(problem, NOWHERE.model_copy(update={"container": True})).mend or "")


def test_surroundings_are_read_from_linux_files(tmp_path: Path) -> None:
    devices = "sys/bus/pci/devices"
    kernel = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"
    files = {
        f"{devices}/0000:01:00.0/vendor": "0x10de\n",
        f"{devices}/0000:01:00.0/class": "0x030200\n",
        f"{devices}/0000:01:00.1/vendor": "0x10de\n",
        f"{devices}/0000:01:00.1/class": "0x040300\n",  # its sound
        f"{devices}/0000:02:00.0/vendor": "0x8086\n",
        f"{devices}/0000:02:00.0/class": "0x030000\n",
        "proc/driver/nvidia/version": kernel,
        "etc/os-release": 'NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="24.04"\n',
        "dev/nvidiactl": "",
        ".dockerenv": "",
    }
    found = look_around(written(tmp_path, files))
    assert found == Surroundings(
        pci_gpus=1, driver="570.86.15", device_files=True, container=True, distribution="ubuntu"
    )
    assert look_around(tmp_path / "nothing") == NOWHERE


@pytest.mark.parametrize(
    ("sees", "driver", "missing", "what", "mend"),
    [
        (
            TensorFlow(error="its import was killed by SIGILL"),
            "535.1",
            (),
            "does not start: .*SIGILL",
            "--force-reinstall",
        ),
        (TensorFlow(cuda=None), "535.1", (), "sees 0 of 1 GPU: it is built without CUDA", "hyperrule[gpu]"),
        (TensorFlow(cuda="12.5.1"), "470.57.02", (), r"driver of version 525.60.13. Received: 470", "update"),
        (TensorFlow(cuda="12.5.1"), "535.1", ("nvidia-nccl-cu12",), "missing: nvidia-nccl-cu12", "hyperrule[gpu]"),
        (TensorFlow(cuda="12.5.1", complaints=("no libcudnn.so.9",)), "535.1", (), "no libcudnn.so.9", "and-cuda"),
    ],
)
def test_gpus_that_tensorflow_does_not_see(
    sees: TensorFlow,
    driver: str,
    missing: tuple[str, ...],
    what: str,
    mend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(findings, "missing_cuda_packages", lambda: missing)
    gpu = Gpu(name=A100, memory=2**35, compute_capability=8.0)
    (finding,) = tensorflow_findings(sees, (gpu,), driver, {})
    assert re.search(what, finding.what)
    assert mend in (finding.mend or "")
    seen = TensorFlow(gpus=(A100,), cuda="12.5.1")
    assert list(tensorflow_findings(seen, (gpu,), driver, {})) == []


def test_cuda_packages_are_those_that_tensorflow_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        "numpy>=1.26",
        'nvidia-cudnn-cu12<10.0,>=9.3; extra == "and-cuda"',
        'nvidia-nccl-cu12<3.0,>=2.27; extra == "and-cuda"',
        'nvidia-cufft-cu12<12.0,>=11.2; extra == "and-cuda"',
    ]
    there = {"nvidia-cudnn-cu12": "9.5.1", "nvidia-nccl-cu12": "2.19.3"}
    monkeypatch.setattr(installation, "requires", lambda package: asked)
    monkeypatch.setattr(installation, "installed_version", there.get)
    assert missing_cuda_packages() == ("nvidia-nccl-cu12 2.19.3, which is not <3.0,>=2.27", "nvidia-cufft-cu12")


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "killed by SIGILL: this CPU lacks instructions"),
        ("raise ImportError('libfoo.so: cannot open')", "ImportError: libfoo.so: cannot open"),
        ("import time; time.sleep(60)", "its import takes more than 1 s"),
    ],
)
def test_a_tensorflow_that_does_not_start_is_told(
    program: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "program.py"
    script.write_text(program)
    monkeypatch.setattr(installation, "ASKING", (sys.executable, "-P", str(script)))
    monkeypatch.setattr(installation, "SECONDS", 1.0 if "sleep" in program else 60.0)
    assert error in (ask_tensorflow().error or "")


def test_what_tensorflow_complains_of_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "program.py"
    log = "2026-01-31 12:00:00.000001: W external/gpu_device.cc:2343] Could not load dynamic library 'libcudnn.so.9'"
    script.write_text(f'import sys\nprint({log!r}, file=sys.stderr)\nprint(\'{{"gpus": [], "cuda": "12.5.1"}}\')')
    monkeypatch.setattr(installation, "ASKING", (sys.executable, "-P", str(script)))
    assert ask_tensorflow().complaints == ("Could not load dynamic library 'libcudnn.so.9'",)


def test_limits_of_containers_are_shown(hyperrule_doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = MemoryLimit(limit=3 * 2**30, available=2**30, folder=Path("/sys/fs/cgroup/pod"))
    for module in (diagnose, machine):
        monkeypatch.setattr(module, "memory_limit", lambda: limit)
    monkeypatch.setattr(diagnose, "allowed_cores", lambda: 64)
    monkeypatch.setattr(limits, "core_limit", lambda: 1)
    monkeypatch.setattr(diagnose.resource, "getrlimit", lambda which: (2**33, 2**33))
    told = " ".join(hyperrule_doctor(sees=TensorFlow()).split())
    assert "1.0 GiB available; limited to 3.0 GiB by /sys/fs/cgroup/pod" in told
    assert "only 1.0 GiB of memory are available" in told
    assert "the address space is limited to 8.0 GiB" in told
    assert "a CPU quota allows 1 core, but TensorFlow starts threads for 64" in told
    assert "-> export TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1" in told


def test_a_measurement_is_shown_and_followed(hyperrule_doctor: Doctor) -> None:
    store_speed(speed_of(this_machine("cpu").device, float32=50, float32_xla=None, bfloat16=80, bfloat16_xla=100))
    this_machine.cache_clear()
    told = hyperrule_doctor("--devices", "cpu", sees=TensorFlow())
    assert "bfloat16, XLA     100.0 images/s   2.00 x float32\n" in told
    sentences = " ".join(told.split())
    assert "precision bfloat16: measured by 'hyperrule doctor' on 2026-01-31: bfloat16 2.00 x float32" in sentences
    assert "xla on: measured by 'hyperrule doctor' on 2026-01-31: bfloat16 with XLA 1.25 x without" in sentences


def test_measuring_keeps_what_runs_and_says_what_does_not(
    hyperrule_doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    from hyperrule.doctor import measure

    class WithoutXla(measure.TrainingStep):
        def __init__(self, *arguments: object, xla: bool) -> None:
            if xla:
                raise tf.errors.InternalError(None, None, "libdevice not found\nand more")
            super().__init__(*arguments, xla=False)

    for name, value in {
        "SIDE": 32,
        "CPU_BATCH": 2,
        "TURNS": 1,
        "TURN_SECONDS": 1e-3,
        "TrainingStep": WithoutXla,
    }.items():
        monkeypatch.setattr(measure, name, value)
    monkeypatch.setattr(measure, "worthwhile_precisions", lambda machine: ("float32",))
    told = hyperrule_doctor("--devices", "cpu", "--measure", sees=TensorFlow())
    assert "measured   training step of R26x0.5, 32 px, batch 2" in told
    assert "float32, XLA    does not run: libdevice not found\n" in told
    speed = stored_speed(this_machine("cpu").device)
    assert speed is not None
    assert speed.rate("float32", xla=False)
    assert speed.rate("float32", xla=True) is None
