"""Run the command line in a process of its own, on small work."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from conftest import exporting_nothing

# A small network, few pixels and few steps: these tests check that the work runs through, not its accuracy.
SMALL = {
    "backbone": "random-r14x0.5",
    "batch": 8,
    "steps": 12,
    "resize": 40,
    "crop": 32,
    "precision": "float32",
    "checkpoint_every": 1,
}
# Processes are forked from one that has imported these, half of the work of a small run, and has started nothing.
IMPORTED = ["tensorflow", "hyperrule.api", "hyperrule.cli", "hyperrule.jobs.finetune", "hyperrule.jobs.distill"]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(IMPORTED)


def flags(options: dict[str, object]) -> list[str]:
    return [part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", str(value))]


class Command:
    """A running `hyperrule`, with the methods of a `subprocess.Popen` whose output is text.

    Without `export`, runs end as under the fixture `without_export`.
    """

    def __init__(self, *arguments: str, export: bool = True, cwd: Path | None = None, **environment: str) -> None:
        self._output = tempfile.TemporaryDirectory()
        self._files = [Path(self._output.name, name) for name in ("stdout", "stderr")]
        self._process = FORKS.Process(
            target=_work, args=(arguments, export, cwd, {**os.environ, **environment}, self._files)
        )
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
        return tuple(file.read_text(encoding="utf-8") if file.exists() else "" for file in self._files)

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _work(
    arguments: tuple[str, ...], export: bool, cwd: Path | None, environment: dict[str, str], output: list[Path]
) -> None:
    for number, (name, file) in enumerate(zip(("stdout", "stderr"), output, strict=True), 1):
        stream = file.open("w", encoding="utf-8", buffering=1)
        os.dup2(stream.fileno(), number)
        setattr(sys, name, stream)
    os.environ.clear()
    os.environ.update(environment)
    if cwd is not None:
        os.chdir(cwd)
    from hyperrule.cli import main

    with ExitStack() as held:
        if not export:
            held.enter_context(exporting_nothing())
        main(list(arguments), prog_name="hyperrule")


start = Command


def run(*arguments: str, export: bool = True) -> tuple[int, str, str]:
    process = start(*arguments, export=export)
    out, err = process.communicate()
    return process.returncode, out, err
