"""`hyperrule launch`, with short Python scripts in place of finetune: what it starts, what it prints, how all end."""

import json
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from hyperrule.cli import main
from hyperrule.errors import RecipeError
from hyperrule.planning.machine.machine import Gpu, Machine
from hyperrule.training.launch import hosts
from hyperrule.training.launch.hosts import LOOPBACK_PORTS, free_ports, local_workers, remote_workers

# The command line as it is, with shorter waits, and `finetune CODE` runs CODE.
LAUNCH = """
import sys
import hyperrule.cli.training as command
from hyperrule.cli import main
from hyperrule.training.launch import supervise

supervise.LOST_WORKER = supervise.LOST_CAUSE = {patience}
supervise.STOPPING = {stopping}
command.HYPERRULE = (sys.executable, "-c", {worker!r})
try:
    main(prog_name="hyperrule")
finally:
    assert "tensorflow" not in sys.modules
"""
WORKER = """
import json, os, signal, subprocess, sys, time
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
say = lambda *words: print(*words, file=sys.stderr, flush=True)
def fail(code, why):
    say("hyperrule:", why)
    sys.exit(code)
def here(name):
    "Tells that this worker is ready, and its process."
    with open(f"{name}-{index}.part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(file.name, f"{name}-{index}")
exec(sys.argv[2])
"""
# Like ssh: another environment, the order passed on through a line of its own, the exit code passed back.
SSH = """#!{python}
import os, re, subprocess, sys, threading

host, command = sys.argv[1:]
if host == "nowhere":
    sys.exit("ssh: Could not resolve hostname nowhere")
environment = {{"PATH": os.environ["PATH"], "ON": host, "HYPERRULE_KEPT": "by the host"}}
remote = subprocess.Popen(["sh", "-c", command], cwd="/", env=environment, stdin=subprocess.PIPE)

def pass_on():
    while data := os.read(0, 65536):
        if host == "bare":
            data = re.sub(rb'"cwd": "[^"]*"', b'"cwd": "/no such folder"', data)
        os.write(remote.stdin.fileno(), data)
    remote.stdin.close()

threading.Thread(target=pass_on, daemon=True).start()
os._exit(remote.wait())
"""
TWO = ("--local-workers", "2")
FOREVER = "here('ready'); time.sleep(120)"
NOTES_SIGNALS = """
def note(number, frame):
    open(f"{signal.Signals(number).name}-{index}", "w").close()
    fail(128 + number, "a checkpoint is written")
signal.signal(signal.SIGTERM, note)
signal.signal(signal.SIGINT, note)
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


@pytest.fixture
def start() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    processes = []

    def begin(
        cluster: tuple[str, ...], code: str, *more: str, patience: float = 10, stopping: float = 10
    ) -> "subprocess.Popen[str]":
        launch = LAUNCH.format(patience=patience, stopping=stopping, worker=WORKER)
        command = [sys.executable, "-c", launch, "launch", *cluster, "--", "finetune", code, *more]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def run(start: Callable[..., "subprocess.Popen[str]"]) -> Callable[..., tuple[int, str, str]]:
    def finish(*arguments: object, **waits: float) -> tuple[int, str, str]:
        process = start(*arguments, **waits)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    return finish


@pytest.fixture
def ssh(tmp_path: Path) -> str:
    program = tmp_path / "fake-ssh"
    program.write_text(SSH.format(python=sys.executable))
    program.chmod(0o755)
    return str(program)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def process_of(name: str) -> int:
    """The process that told that it is ready, once it has."""
    until(Path(name).exists)
    return int(Path(name).read_text())


def gone(process: int) -> bool:
    return not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE


def test_two_workers_make_one_cluster_and_one_output(run) -> None:
    code, out, err = run(TWO, "print(os.environ['TF_CONFIG']); say('words of', index, os.environ['TF_CONFIG'])")
    assert code == 0
    own = json.loads(out)
    assert own["task"] == {"type": "worker", "index": 0}
    assert len(set(own["cluster"]["worker"])) == 2
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+", address) for address in own["cluster"]["worker"])
    words = sorted(err.splitlines())
    assert words[1] == f"words of 0 {out.strip()}"
    assert words[0].startswith("[worker 1] words of 1 ")
    other = json.loads(words[0].removeprefix("[worker 1] words of 1 "))
    assert other == {**own, "task": {"type": "worker", "index": 1}}


def test_worker_0_alone_has_the_terminal(start) -> None:
    ours, theirs = pty.openpty()
    launch = LAUNCH.format(patience=10, stopping=10, worker=WORKER)
    code = "open(f'terminal-{index}', 'w').write(f'{os.isatty(1)} {os.isatty(2)}')"
    command = [sys.executable, "-c", launch, "launch", *TWO, "--", "finetune", code]
    assert subprocess.run(command, stdout=theirs, stderr=theirs, timeout=120, check=False).returncode == 0
    os.close(ours)
    os.close(theirs)
    assert Path("terminal-0").read_text() == "True True"
    assert Path("terminal-1").read_text() == "False False"


def test_a_mistake_that_all_workers_find_is_told_once(run) -> None:
    assert run(TWO, "fail(2, 'unknown option')") == (2, "", "hyperrule: unknown option\n")


def test_a_reason_of_another_worker_is_told_with_its_number(run) -> None:
    code = "time.sleep(0.5 * (1 - index)); fail(1, 'the disk is full' if index else 'worker 1 is lost')"
    assert run(TWO, code) == (1, "", "hyperrule: worker 1 is lost\n[worker 1] hyperrule: the disk is full\n")


def test_a_killed_worker_is_named_with_the_command_that_goes_on(run) -> None:
    code = "index and os.kill(os.getpid(), 9); time.sleep(0.5); fail(1, 'a worker is lost')"
    exit_code, _, err = run(TWO, code, "--out", "runs/photos")
    assert exit_code == 128 + 9
    assert err.splitlines() == [
        "hyperrule: a worker is lost",
        "hyperrule: worker 1 on this machine was killed by SIGKILL. "
        "Continue with: hyperrule launch --local-workers 2 -- finetune --resume runs/photos",
    ]


@pytest.mark.parametrize("deaf", [False, True])
def test_who_does_not_notice_that_a_worker_is_lost_is_ended(run, deaf: bool) -> None:
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN);" if deaf else ""
    code = f"index and (time.sleep(0.5), sys.exit(1)); {ignore} here('ready'); time.sleep(120)"
    exit_code, _, err = run(TWO, code, patience=0.5, stopping=0.5)
    assert exit_code == 1
    assert "worker 0 on this machine did not end without the others: SIGTERM" in err
    assert gone(process_of("ready-0"))


def test_none_outlives_worker_0(run) -> None:
    exit_code, _, _ = run(TWO, f"index or (time.sleep(0.5), sys.exit(0)); {FOREVER}", patience=0.5)
    assert exit_code == 128 + signal.SIGTERM
    assert gone(process_of("ready-1"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_every_worker(start, number: signal.Signals) -> None:
    process = start(TWO, f"{NOTES_SIGNALS}\n{FOREVER}", "--out=run", "--restartable")
    workers = [process_of(f"ready-{index}") for index in (0, 1)]
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert all(map(gone, workers))
    assert all(Path(f"{number.name}-{index}").exists() for index in (0, 1))
    first, last = err.splitlines()
    assert first == "hyperrule: a checkpoint is written"
    assert last.startswith(f"hyperrule: stopped by {number.name} on every worker. Continue with: hyperrule launch")
    assert last.endswith("--out=run --restartable")


def test_a_signal_that_comes_too_late_takes_nothing_back(start) -> None:
    process = start(TWO, "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); here('ready'); time.sleep(120)")
    for index in (0, 1):
        process_of(f"ready-{index}")
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0


def test_no_process_is_left_when_launch_is_killed(start) -> None:
    code = "child = subprocess.Popen(['sleep', '120']); open(f'child-{index}', 'w').write(str(child.pid));"
    process = start(TWO, f"{code} {FOREVER}")
    family = [process_of(f"{name}-{index}") for index in (0, 1) for name in ("ready", "child")]
    process.kill()
    until(lambda: all(map(gone, family)))


def test_no_process_is_left_when_its_tether_is_killed(start) -> None:
    process = start(TWO, FOREVER, patience=0.5)
    family = [process_of(f"ready-{index}") for index in (0, 1)]
    psutil.Process(family[1]).parent().kill()
    assert process.wait(120) == 128 + 9
    assert all(map(gone, family))


def test_hosts_are_given_the_folder_the_interpreter_and_our_variables(run, ssh: str, monkeypatch) -> None:
    monkeypatch.setenv("HYPERRULE_CACHE_DIR", "/a cache")
    monkeypatch.setenv("https_proxy", "proxy:3128")
    monkeypatch.setenv("PRIVATE", "stays")
    names = "['ON', 'HYPERRULE_CACHE_DIR', 'https_proxy', 'PRIVATE', 'HYPERRULE_KEPT', 'TF_CONFIG']"
    tell = "[os.getcwd(), sys.executable, *map(os.environ.get, NAMES)]".replace("NAMES", names)
    code, out, err = run(("--workers", "a,b", "--port", "2345", "--ssh", ssh), f"print({tell}); say({tell})")
    assert code == 0
    (other,) = [line.removeprefix("[worker 1] ") for line in err.splitlines() if line.startswith("[worker 1] ")]
    assert set(err.splitlines()) == {out.strip(), f"[worker 1] {other}"}
    for index, said in enumerate((out, other)):
        folder, interpreter, host, cache, proxy, private, kept, cluster = eval(said)
        assert (folder, interpreter, host) == (os.getcwd(), sys.executable, "ab"[index])
        assert (cache, proxy, private, kept) == ("/a cache", "proxy:3128", None, "by the host")
        assert json.loads(cluster) == {
            "cluster": {"worker": ["a:2345", "b:2345"]},
            "task": {"type": "worker", "index": index},
        }


def test_a_host_that_cannot_be_reached_is_named_with_what_ssh_says(run, ssh: str) -> None:
    code, out, err = run(("--workers", "a,nowhere", "--ssh", ssh), FOREVER, patience=0.5)
    assert (code, out) == (2, "")
    said = err.splitlines()[-1]
    assert said.startswith("hyperrule: worker 1 on nowhere could not be started: ssh: Could not resolve hostname")
    assert f"Try: {ssh} nowhere {sys.executable} --version" in said


def test_a_host_without_our_folder_is_named(run, ssh: str) -> None:
    code, _, err = run(("--workers", "a,bare", "--ssh", ssh), FOREVER, patience=0.5)
    assert code == 2
    assert "worker 1 on bare could not be started: No such file or directory: /no such folder" in err.splitlines()[-1]


def test_a_program_that_is_none_is_told(run, ssh: str) -> None:
    Path(ssh).write_text("no program")
    code, _, err = run(("--workers", "a,b", "--ssh", ssh), FOREVER)
    assert (code, err) == (2, f"hyperrule: worker 0 on a could not be started: Exec format error: {ssh}\n")


def test_a_lost_connection_ends_the_worker_at_its_end(start, ssh: str) -> None:
    process = start(("--workers", "a,b", "--ssh", ssh), FOREVER, patience=0.5)
    family = [process_of(f"ready-{index}") for index in (0, 1)]
    (connection,) = [one for one in psutil.Process(process.pid).children() if one.cmdline()[1:3] == [ssh, "b"]]
    connection.kill()
    assert process.wait(120) == 128 + 9
    until(lambda: all(map(gone, family)))


def test_ports_are_different_free_and_not_those_of_outgoing_connections() -> None:
    ports = free_ports(64)
    assert len(set(ports)) == 64
    assert set(ports) <= set(LOOPBACK_PORTS)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))
        assert not hosts._is_free(ports[0])


@pytest.mark.parametrize(
    ("visible", "shares"),
    [(None, ["0,1", "2,3"]), ("4,5,6,7", ["4,5", "6,7"]), ("GPU-a,GPU-b,GPU-c,GPU-d", ["GPU-a,GPU-b", "GPU-c,GPU-d"])],
)
def test_gpus_are_shared_equally(monkeypatch, visible: str | None, shares: list[str]) -> None:
    a_machine_with(monkeypatch, gpus=4)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [worker.environment["CUDA_VISIBLE_DEVICES"] for worker in local_workers(2)] == shares


def test_cores_are_shared_equally_where_nothing_else_is_said(monkeypatch) -> None:
    a_machine_with(monkeypatch, gpus=0)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "1")
    for worker in local_workers(3):
        assert worker.environment["TF_NUM_INTRAOP_THREADS"] == "5"
        assert worker.environment["TF_NUM_INTEROP_THREADS"] == "1"
        assert "CUDA_VISIBLE_DEVICES" not in worker.environment


@pytest.mark.parametrize(("count", "gpus"), [(3, 4), (8, 4), (2, 1)])
def test_gpus_that_cannot_be_shared_equally_are_told(monkeypatch, count: int, gpus: int) -> None:
    a_machine_with(monkeypatch, gpus)
    with pytest.raises(RecipeError, match=f"--local-workers {count} cannot share {gpus} GPU"):
        local_workers(count)


def test_this_machine_needs_no_ssh() -> None:
    first, second = remote_workers(f"{socket.gethostname()},elsewhere", ssh=sys.executable)
    assert first.connect == ()
    assert second.connect == (sys.executable, "elsewhere")


def a_machine_with(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    gpu = Gpu(name="A100", memory=2**36, compute_capability=8.0)
    machine = Machine.model_construct(cores=16, gpus=(gpu,) * gpus)
    monkeypatch.setattr(hosts, "this_machine", lambda: machine)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("-- finetune", ["--workers", "--local-workers", "neither"]),
        ("--workers a,b --local-workers 2 -- finetune", ["both"]),
        ("--local-workers 2", ["launch runs finetune", "nothing after --"]),
        ("--local-workers 2 -- plan --dataset digits", ["launch runs finetune", "plan --dataset digits"]),
        ("--local-workers 1 -- finetune", ["from 2 to 64", "Received: 1"]),
        ("--local-workers many -- finetune", ["many"]),
        ("--local-workers 2 --port 2000 -- finetune", ["--port goes with --workers"]),
        ("--local-workers 2 --ssh ssh -- finetune", ["--ssh goes with --workers"]),
        ("--workers a -- finetune", ["two or more", "'a'"]),
        ("--workers a, -- finetune", ["two or more", "'a,'"]),
        ("--workers a,b,a -- finetune", ["a is listed 2 times"]),
        ("--workers a,localhost -- finetune", ["localhost means another machine"]),
        ("--workers a,user@b -- finetune", ["'user@b'", "~/.ssh/config"]),
        ("--workers a,-oProxyCommand=x -- finetune", ["is not a host name"]),
        ("--workers a,b --port 80 -- finetune", ["from 1024 to 65535", "80"]),
        ("--workers a,b --ssh no-such-program -- finetune", ["no-such-program"]),
        ("--workers a,b --ssh '\"' -- finetune", ["--ssh"]),
    ],
)
def test_mistakes_get_one_line(arguments: str, words: list[str]) -> None:
    result = CliRunner().invoke(main, ["launch", *shlex.split(arguments)], prog_name="hyperrule")
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert not [word for word in words if word not in result.stderr], result.stderr
