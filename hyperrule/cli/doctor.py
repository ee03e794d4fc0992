"""`hyperrule doctor`: shows this machine, what `auto` chooses on it, and what its GPUs need."""

from collections.abc import Iterator
from textwrap import wrap

import click
from rich.console import Console
from rich.text import Text

from hyperrule.doctor.diagnose import Diagnosis, diagnose
from hyperrule.doctor.findings import gib
from hyperrule.planning.machine.speed import Speed
from hyperrule.support.wording import listed, number, printable

INDENT = 11  # width of the headings, in columns
WIDTH = 100  # columns if stdout is not a terminal


@click.command("doctor", short_help="Show devices, precision, and what is missing for GPU use.")
@click.option("--devices", metavar="all|cpu|0,1", default="all", help="Choose for these devices only [all].")
@click.option("--measure", is_flag=True, help="Time training steps in each precision; auto then uses the result.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def doctor_command(devices: str, measure: bool, as_json: bool) -> None:
    """Show devices, memory and software, what 'auto' chooses here and why, and what is missing for GPU use, with the
    command that fixes each problem.

    --measure takes some minutes: it times training steps of a small network in every precision that the device has
    instructions for, with and without XLA. The result is kept in the cache folder (HYPERRULE_CACHE_DIR), and is used
    until the device or the software changes.

    \b
    Example:
      hyperrule doctor
      hyperrule doctor --measure
      hyperrule doctor --devices cpu --json

    Exit codes: 0 done, whatever was found; 2 the devices do not exist.
    """
    found = diagnose(devices, measure)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        _render(found)


def _render(found: Diagnosis) -> None:
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    width = max(40, (console.width if console.is_terminal else WIDTH) - INDENT)

    def say(heading: str, text: str, style: str = "") -> None:
        for row, line in enumerate(wrap(printable(text), width, break_on_hyphens=False, break_long_words=False)):
            console.print(Text(f"{heading if row == 0 else '':{INDENT}}", style=style), line, sep="")

    for heading, text in _facts(found):
        say(heading, text)
    console.print()
    for name, decided in found.auto.items():
        value = {True: "on", False: "off"}.get(decided.value, decided.value)
        say(name, f"{value}: {decided.reason}")
    if found.machine.speed is not None:
        console.print()
        for heading, text in _speeds(found.machine.speed):
            say(heading, text)
    console.print()
    for finding in found.findings:
        say("fix" if finding.mend else "note", finding.what, "bold yellow" if finding.mend else "")
        if finding.mend:
            console.print(f"{'':{INDENT}}-> {finding.mend}")
    if not any(finding.mend for finding in found.findings):
        say("fine", "nothing to fix")


def _facts(found: Diagnosis) -> Iterator[tuple[str, str]]:
    """Yield heading and text of each line about machine and software."""
    machine = found.machine
    sets = ", ".join(machine.instruction_sets) or "no instruction set that affects the precision"
    yield "CPU", f"{machine.cpu}, {number(machine.cores, 'core')}; {sets}; {machine.gigaflops:.0f} GFLOP/s"
    for one in found.installed_gpus:
        gpu = one.gpu
        free = "" if gpu.free_memory is None else f" ({gib(gpu.free_memory)} free)"
        yield f"GPU {gpu.index}", f"{gpu.name}, {gib(gpu.memory)}{free}, capability {gpu.compute_capability}"
    limit = found.memory_limit
    limited = "" if limit is None else f"; limited to {gib(limit.bytes)} by {limit.folder}"
    yield "memory", f"{gib(machine.memory)}, {gib(machine.available_memory)} available{limited}"
    versions = found.versions
    yield "software", ", ".join(f"{name} {version or '(not installed)'}" for name, version in versions.items())
    if found.installed_gpus:
        yield "driver", found.installed_gpus[0].driver
    if found.tensorflow.error is None:
        cuda = "without CUDA" if found.tensorflow.cuda is None else f"for CUDA {found.tensorflow.cuda}"
        yield "TensorFlow", f"built {cuda}; sees {listed(found.tensorflow.gpus) or 'no GPU'}"


def _speeds(speed: Speed) -> Iterator[tuple[str, str]]:
    base = speed.rate("float32", xla=False) or 1.0
    yield "measured", f"{speed.what}, on {speed.day}"
    for rate in speed.rates:
        setting = f"{rate.precision}{', XLA' if rate.xla else ''}"
        if rate.images_per_second is None:
            yield "", f"{setting:14}  does not run: {rate.failure}"
        else:
            of_base = rate.images_per_second / base
            yield "", f"{setting:14} {rate.images_per_second:8.1f} images/s {of_base:6.2f} x float32"


COMMANDS = (doctor_command,)
