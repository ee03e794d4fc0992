"""Run the command line in a process of its own, on small work."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from conftest import exporting_nothing
from forks import Fork

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


def flags(options: dict[str, object]) -> list[str]:
    return [part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", str(value))]


def start(*arguments: str, export: bool = True, cwd: Path | None = None, **environment: str) -> Fork:
    """Without `export`, runs end as under the fixture `without_export`."""
    return Fork(partial(_command, arguments, export), cwd, {**os.environ, **environment})


def run(*arguments: str, export: bool = True) -> tuple[int, str, str]:
    process = start(*arguments, export=export)
    out, err = process.communicate()
    return process.returncode, out, err


def run_afresh(*arguments: str) -> tuple[int, str, str]:
    """As a user does, in a process that has imported nothing."""
    done = subprocess.run([sys.executable, "-m", "hyperrule", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def _command(arguments: tuple[str, ...], export: bool) -> None:
    from hyperrule.cli import main

    if export:
        main(list(arguments), prog_name="hyperrule")
    with exporting_nothing():
        main(list(arguments), prog_name="hyperrule")
