"""Run the command line in a fresh process, on small work."""

import os
import subprocess
import sys
from pathlib import Path

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


WITHOUT_EXPORT = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
from conftest import exporting_nothing
from hyperrule.cli import main
with exporting_nothing():
    main(prog_name="hyperrule")
"""


def start(*arguments: str, export: bool = True, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """Without `export`, runs end as under the fixture `without_export`."""
    program = ["-m", "hyperrule"] if export else ["-c", WITHOUT_EXPORT]
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def run(*arguments: str, export: bool = True) -> tuple[int, str, str]:
    process = start(*arguments, export=export)
    out, err = process.communicate()
    return process.returncode, out, err
