"""What the plan knows about the machine (GPUs, container limits, CPU, measured speeds), and what `auto` chooses."""

import os
from pathlib import Path

import pytest
from fake_machine import A100, FAILS, THREE_GPUS, V100, NvidiaSmi, nvidia_smi, speed_of, unknown_machine, written

from hyperrule.errors import RecipeError
from hyperrule.planning.machine import gpus, machine
from hyperrule.planning.machine.gpus import Gpu, GpusUnknown, installed_gpus, visible_gpus
from hyperrule.planning.machine.machine import Machine, this_machine
from hyperrule.planning.machine.speed import Speed, speed_file, store_speed, stored_speed
from hyperrule.planning.planner import precision_of, worthwhile_precisions, xla_of
from hyperrule.support.limits import core_limit, memory_limit, usable_cores

GIB = 2**30


__all__ = ["nvidia_smi", "unknown_machine"]  # fixtures
pytestmark = pytest.mark.usefixtures("unknown_machine")


@pytest.fixture
def three_gpus(nvidia_smi: NvidiaSmi) -> None:
    nvidia_smi(f"cat <<'END'\n{THREE_GPUS}END")


@pytest.mark.usefixtures("three_gpus")
def test_gpus_are_listed_with_what_is_free_of_them() -> None:
    machine = this_machine()
    assert [(gpu.index, gpu.name) for gpu in machine.gpus] == [(0, V100), (1, A100), (2, A100)]
    assert [gpu.memory for gpu in machine.gpus] == [16 * GIB, 40 * GIB, 40 * GIB]
    assert machine.gpus[1].usable_memory == 20 * GIB
    assert machine.weakest_gpu.name == V100
    assert Machine.model_validate_json(machine.model_dump_json()) == machine


def test_memory_that_nvidia_smi_does_not_tell_counts_as_free(nvidia_smi: NvidiaSmi) -> None:
    nvidia_smi("echo '0, GPU-1, NVIDIA GH200 480GB, 97871, [N/A], 9.0, 550.54.15'")
    assert this_machine().gpus[0].usable_memory == 97871 * 2**20


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        (None, ["11aa", "22bb", "23cc"]),
        ("2,0", ["23cc", "11aa"]),
        (" 1 , 2 ", ["22bb", "23cc"]),
        ("GPU-23,0", ["23cc", "11aa"]),
        ("GPU-2", []),  # which of the two?
        ("0,7,1", ["11aa"]),
        ("0,-1,1", ["11aa"]),
        ("1,1", ["22bb"]),
        ("", []),
        ("-1", []),
    ],
)
def test_visible_gpus_are_those_that_cuda_shows_in_its_order(visible: str | None, uuids: list[str]) -> None:
    installed = installed_gpus()
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    expected = [one.gpu for uuid in uuids for one in installed if one.uuid == f"GPU-{uuid}"]
    shown = visible_gpus(installed, environment)
    assert [gpu.index for gpu in shown] == list(range(len(expected)))
    assert [gpu.free_memory for gpu in shown] == [gpu.free_memory for gpu in expected]


@pytest.mark.usefixtures("three_gpus")
def test_devices_are_numbered_within_the_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [gpu.index for gpu in this_machine("2,1").gpus] == [1, 2]
    assert this_machine("cpu").gpus == this_machine("tpu").gpus == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert [(gpu.index, gpu.name) for gpu in this_machine("1").gpus] == [(1, V100)]
    with pytest.raises(RecipeError, match=r"asks for GPU 2, .* GPUs here: 0 \(.*within CUDA_VISIBLE_DEVICES=2,0\. Use"):
        this_machine("0,2")


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("0,5", r"asks for GPU 5, .* GPUs here: 0 \(Tesla V100-SXM2-16GB\), 1 .* Use --devices all;"),
        ("gpu", r"must be all, cpu, tpu, or numbers of GPUs such as 0,1\. Received: 'gpu'"),
        ("0,", r"Received: '0,'"),
        ("-1", r"Received: '-1'"),
        ("", r"Received: ''"),
        ("1,1", r"each GPU once\. Received: '1,1'"),
    ],
)
def test_devices_that_there_are_not_are_refused(devices: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        this_machine(devices)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (f'echo "{FAILS}"; exit 9', "nvidia-smi fails: NVIDIA-SMI has failed because"),
        ("exit 3", "nvidia-smi fails: exit code 3"),
        ("echo No devices were found", "output of unknown form, 'No devices were found'"),
        ("echo '0, GPU-1, Some GPU, [N/A], 1, 8.0, 535'", "output of unknown form"),
        ("exec sleep 60", "does not answer within 0.2 s"),
    ],
)
def test_an_nvidia_smi_that_does_not_work_leaves_the_cpu(
    script: str, problem: str, nvidia_smi: NvidiaSmi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "NVIDIA_SMI_SECONDS", 0.2)
    nvidia_smi(script)
    with pytest.raises(GpusUnknown, match=problem):
        installed_gpus()
    assert this_machine().gpus == ()
    with pytest.raises(RecipeError, match=f"devices 0 asks for GPUs, but .*{problem}.*Use --devices cpu"):
        this_machine("0")


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("files", "limit", "available"),
    [
        pytest.param({"proc/self/cgroup": "0::/a\n", f"{V2}/a/memory.max": "max\n"}, None, None, id="no limit"),
        pytest.param({}, None, None, id="no control groups"),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "4000", f"{V2}/memory.current": "1500"},
            4000,
            2500,
            id="a container of version 2",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/pod/one\n",
                f"{V2}/pod/one/memory.max": "max",
                f"{V2}/pod/one/memory.current": "100",
                f"{V2}/pod/memory.max": "3000",
                f"{V2}/pod/memory.current": "2900",
                f"{V2}/pod/memory.stat": "anon 2000\ninactive_file 700\n",
                f"{V2}/memory.max": "9000",
                f"{V2}/memory.current": "4000",
            },
            3000,
            800,
            id="the group above is the tightest, and its page cache can be had",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:devices:/x\n4:memory:/docker/f00\n0::/\n",
                f"{V1}/memory.limit_in_bytes": "2000",
                f"{V1}/memory.usage_in_bytes": "1900",
                f"{V1}/memory.stat": "cache 5\ntotal_inactive_file 400\n",
            },
            2000,
            500,
            id="a container of version 1, whose path is the host's",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/x\n",
                f"{V1}/x/memory.limit_in_bytes": "9223372036854771712",
                f"{V1}/x/memory.usage_in_bytes": "1",
            },
            None,
            None,
            id="no limit in version 1",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../../x\n", f"{V2}/memory.max": "50", f"{V2}/memory.current": "60"},
            50,
            0,
            id="a group outside the namespace, overdrawn",
        ),
    ],
)
def test_memory_is_what_the_tightest_control_group_leaves(
    files: dict[str, str], limit: int | None, available: int | None, tmp_path: Path
) -> None:
    found = memory_limit(written(tmp_path, files))
    assert (found and found.limit, found and found.available) == (limit, available)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": "0::/a\n", f"{V2}/a/cpu.max": "max 100000"}, None),
        (
            {
                "proc/self/cgroup": "0::/a\n",
                f"{V2}/a/cpu.max": "350000 100000",
                f"{V2}/cpu.max": "800000 100000",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_cores_are_what_the_quota_leaves(files: dict[str, str], cores: int | None, tmp_path: Path) -> None:
    assert core_limit(written(tmp_path, files)) == cores


def test_cores_where_no_affinity_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    for quota, cores in ((None, 3), (2, 2), (8, 3)):
        monkeypatch.setattr("hyperrule.support.limits.core_limit", lambda quota=quota: quota)
        assert usable_cores() == cores
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.mark.parametrize(
    ("text", "name", "sets"),
    [
        (
            "model name\t: AMD EPYC 9R14\nflags\t\t: fpu avx2 avx512f avx512_bf16 sse\n",
            "AMD EPYC 9R14",
            ("avx2", "avx512f", "avx512_bf16"),
        ),
        ("BogoMIPS\t: 2100.00\nFeatures\t: fp asimd sve i8mm bf16\n", None, ("sve", "bf16")),
        ("", None, ()),
    ],
)
def test_cpu_is_known_by_name_and_instruction_sets(
    text: str, name: str | None, sets: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    if text:
        file.write_text(text)
    monkeypatch.setattr(machine, "CPUINFO", file)
    assert machine.instruction_sets() == sets
    assert machine.cpu_name() == (name or machine.cpu_name()) != ""


def machine_with(
    capabilities: tuple[float, ...] = (), sets: tuple[str, ...] = (), speed: Speed | None = None
) -> Machine:
    return Machine(
        cores=8,
        memory=64 * GIB,
        available_memory=32 * GIB,
        gpus=tuple(
            Gpu(index=index, name="Some GPU", memory=16 * GIB, free_memory=GIB, compute_capability=capability)
            for index, capability in enumerate(capabilities)
        ),
        cpu="Some CPU",
        instruction_sets=sets,
        cpu_bfloat16="avx512_bf16" in sets,
        gigaflops=100.0,
        speed=speed,
    )


@pytest.mark.parametrize(
    ("machine", "precision", "reason"),
    [
        (machine_with((8.0,)), "bfloat16", "tensor cores compute in bfloat16"),
        (machine_with((9.0, 7.5)), "float16", "capability 7.5: tensor cores compute in float16; bfloat16 needs 8.0"),
        (machine_with((6.1,)), "float32", "tensor cores need 7.0"),
        (machine_with(sets=("avx2", "avx512_bf16")), "bfloat16", "natively"),
        (machine_with(sets=("bf16",)), "float32", "'hyperrule doctor --measure' finds out"),
        (machine_with(sets=("avx2",)), "float32", "no bfloat16 instructions"),
    ],
)
def test_precision_without_a_measurement_is_what_is_known(machine: Machine, precision: str, reason: str) -> None:
    decided = precision_of(machine)
    assert (decided.value, decided.source) == (precision, "machine")
    assert reason in decided.reason
    assert precision in worthwhile_precisions(machine)
    assert not xla_of(machine, decided.value).value


@pytest.mark.parametrize(
    ("speed", "precision", "xla"),
    [
        (speed_of(float32=100, bfloat16=160), "bfloat16", False),
        (speed_of(float32=100, bfloat16=105), "float32", False),  # not worth its rounding
        (speed_of(float32=100, float32_xla=150, bfloat16=120), "float32", True),
        (speed_of(float32=100, bfloat16=150, bfloat16_xla=155, float16=160), "bfloat16", False),
        (speed_of(float32=100, bfloat16=None, float16=180, float16_xla=200), "float16", True),
        (speed_of(float32=100, float32_xla=None), "float32", False),
    ],
)
def test_precision_and_xla_go_by_the_measurement(speed: Speed, precision: str, xla: bool) -> None:
    machine = machine_with((8.0,), speed=speed)
    decided = precision_of(machine)
    assert (decided.value, decided.source) == (precision, "measurement")
    assert decided.reason.startswith("measured by 'hyperrule doctor' on 2026-01-31: ")
    assert xla_of(machine, decided.value).value == xla


def test_a_measurement_counts_for_its_device_and_software_only() -> None:
    speed = speed_of(this_machine("cpu").device, float32=100, bfloat16=160)
    assert stored_speed(speed.device) is None
    file = store_speed(speed)
    assert stored_speed(speed.device) == speed
    assert stored_speed("another") is None
    this_machine.cache_clear()
    assert this_machine("cpu").speed == speed
    for spoilt in (
        speed.model_copy(update={"versions": {**speed.versions, "tensorflow": "1.15"}}).model_dump_json(),
        speed.model_copy(update={"device": "another"}).model_dump_json(),
        speed.model_copy(update={"rates": speed.rates[1:]}).model_dump_json(),
        speed.model_dump_json()[:-9],
        "[]",
    ):
        file.write_text(spoilt)
        assert stored_speed(speed.device) is None
    assert file == speed_file(speed.device)
