"""Processes that are forked from one that has imported TensorFlow and started nothing: a second instead of four."""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["tensorflow", "hyperrule.api", "hyperrule.cli", "hyperrule.jobs.finetune", "hyperrule.jobs.distill"]
)


class Fork:
    """Runs `work` in a process of its own, with the methods of a `subprocess.Popen` whose output is text."""

    def __init__(self, work: Callable[[], None], cwd: str | Path | None, environment: Mapping[str, str]) -> None:
        self._output = tempfile.TemporaryDirectory()
        self._files = [Path(self._output.name, name) for name in ("stdout", "stderr")]
        self._process = FORKS.Process(target=_work, args=(work, cwd, dict(environment), self._files))
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; raises subprocess.TimeoutExpired. Returns stdout and stderr."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("hyperrule", timeout or 0)
        stdout, stderr = (file.read_text(encoding="utf-8") if file.exists() else "" for file in self._files)
        return stdout, stderr

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_script(command: list[str], *, env: Mapping[str, str], cwd: str) -> subprocess.CompletedProcess[str]:
    """Run `python -P SCRIPT ARGUMENTS`; the script cannot import hyperrule."""
    process = Fork(partial(_script, *command[2:]), cwd, env)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode or 0, stdout, stderr)


def _script(script: str, *arguments: str) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "hyperrule"]:
        del sys.modules[module]
    sys.modules["hyperrule"] = None  # type: ignore[assignment]
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def _work(work: Callable[[], Any], cwd: str | Path | None, environment: dict[str, str], output: list[Path]) -> None:
    for number, (name, file) in enumerate(zip(("stdout", "stderr"), output, strict=True), 1):
        stream = file.open("w", encoding="utf-8", buffering=1)
        os.dup2(stream.fileno(), number)
        setattr(sys, name, stream)
    os.environ.clear()
    os.environ.update(environment)
    if cwd is not None:
        os.chdir(cwd)
    work()
