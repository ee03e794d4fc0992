"""Run the command line in a fresh process, on small work."""

import subprocess
import sys

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


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hyperrule", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments: str) -> tuple[int, str, str]:
    process = start(*arguments)
    out, err = process.communicate()
    return process.returncode, out, err
