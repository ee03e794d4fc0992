"""Compute (not measure) the tables of docs/scaling.md.

scripts/bench scaling            # prints them
scripts/bench scaling --write    # writes them into docs/scaling.md
scripts/bench scaling --check    # exits with 1 if the tables in docs/scaling.md differ
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hyperrule.backbones.bit.architecture import Architecture
from hyperrule.backbones.describe import describe_backbone
from hyperrule.planning.cost import SHARE_OF_MEMORY, Kind, Work, forward_pass, largest_fitting, total, training_step
from hyperrule.rule import BATCH

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
ARCHITECTURES = [
    Architecture(*shape) for shape in ((26, 0.5), (50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4))
]
CROPS = (128, 224, 384, 480)
LARGE, SMALL = 480, 128  # the rule's crops
SCHEDULES = (500, 10_000, 20_000)  # the rule's steps
GRADIENT = 4  # bytes: gradients are summed in float32
PER_MACHINE = 8

# The assumed shares of published peaks that a device reaches.
OF_ARITHMETIC, OF_MEMORY, OF_LINKS = 0.5, 0.8, 0.8


@dataclass(frozen=True)
class Accelerator:
    """Published peaks of one device, in operations and bytes a second; links count one direction."""

    name: str
    operations: float
    memory: float
    within_machine: float
    across_machines: float

    def kernel(self, work: Work) -> float:
        """Return the seconds of one kernel: arithmetic or memory traffic, whichever takes longer."""
        return max(work.operations / (OF_ARITHMETIC * self.operations), work.bytes / (OF_MEMORY * self.memory))

    def step(self, architecture: Architecture, crop: int, devices: int) -> float:
        """Return the seconds of a step of 512 images: each device's share of them, then the sum of the gradients."""
        work = training_step(architecture, crop, BATCH // devices, "bfloat16")
        return sum(map(self.kernel, work)) + self.all_reduce(architecture, devices)

    def all_reduce(self, architecture: Architecture, devices: int) -> float:
        """Return the seconds of a ring all-reduce; across machines, one ring for each adapter shares the work."""
        within, across = self.within_machine, PER_MACHINE * self.across_machines
        rate = within if devices <= PER_MACHINE else min(within, across)
        return all_reduce_bytes(architecture, devices) / (OF_LINKS * rate)


# Dense bfloat16 and memory: NVIDIA A100 and H100 data sheets. NVLink there is the sum of both directions (600 and
# 900 GB/s). Across machines: one HDR (200 Gbit/s) or NDR (400 Gbit/s) adapter a GPU, as in DGX A100 and DGX H100.
A100 = Accelerator("A100", 312e12, 2039e9, 300e9, 25e9)
H100 = Accelerator("H100", 989.4e12, 3350e9, 450e9, 50e9)
ACCELERATORS = (A100, H100)


def all_reduce_bytes(architecture: Architecture, devices: int) -> float:
    """Return the bytes that each of n devices sends in a ring: 2 (n - 1) / n of all gradients."""
    return 2 * (devices - 1) / devices * GRADIENT * architecture.parameters


def work() -> Iterable[str]:
    yield row("network", "crop", "forward, GFLOP an image", "step, TFLOP", *_KINDS, "all, GB", "FLOP a byte")
    for architecture, crop in every():
        step = list(training_step(architecture, crop, BATCH, "bfloat16"))
        forward, whole = total(forward_pass(architecture, crop, 1, "bfloat16")), total(step)
        yield row(
            architecture,
            crop,
            f"{forward.operations / 1e9:.2f}",
            f"{whole.operations / 1e12:.2f}",
            *(f"{total(step, kind).bytes / 1e9:.1f}" for kind in _KINDS.values()),
            f"{whole.bytes / 1e9:.0f}",
            f"{whole.operations / whole.bytes:.0f}",
        )


_KINDS: dict[str, Kind] = {
    "convolutions, GB": "convolution",
    "normalisation, GB": "normalization",
    "additions, GB": "addition",
    "weights, GB": "weights",
}


def seconds() -> Iterable[str]:
    yield row("network", "crop", *(f"{count} {device.name}" for device in ACCELERATORS for count in (1, 8, 64)))
    for architecture, crop in every():
        times = (device.step(architecture, crop, count) for device in ACCELERATORS for count in (1, 8, 64))
        yield row(architecture, crop, *map(milliseconds, times))


def all_reduce() -> Iterable[str]:
    yield row(
        "network",
        "parameters, M",
        "sent by each of 8, MB",
        "of 64, MB",
        *(f"{count} {device.name}, ms" for device in ACCELERATORS for count in (8, 64)),
    )
    for architecture in ARCHITECTURES:
        times = (device.all_reduce(architecture, count) for device in ACCELERATORS for count in (8, 64))
        sent = (all_reduce_bytes(architecture, count) for count in (8, 64))
        yield row(
            architecture,
            f"{architecture.parameters / 1e6:.1f}",
            *(f"{each / 1e6:.0f}" for each in sent),
            *map(milliseconds, times),
        )


def normalization() -> Iterable[str]:
    yield row("network", *(f"{device.name}, {crop} px" for device in ACCELERATORS for crop in (SMALL, LARGE)))
    for architecture in ARCHITECTURES:
        shares = (
            normalization_to_arithmetic(device, architecture, crop)
            for device in ACCELERATORS
            for crop in (SMALL, LARGE)
        )
        yield row(architecture, *(f"{share:.2f}" for share in shares))


def normalization_to_arithmetic(device: Accelerator, architecture: Architecture, crop: int) -> float:
    """Return the time of normalisation's memory traffic divided by the time of all arithmetic."""
    step = list(training_step(architecture, crop, BATCH, "bfloat16"))
    traffic = total(step, "normalization").bytes / (OF_MEMORY * device.memory)
    return traffic / (total(step).operations / (OF_ARITHMETIC * device.operations))


def micro_batches() -> Iterable[str]:
    memories = (80, 24, 16)
    yield row("network", "crop", *(f"{memory} GB" for memory in memories))
    for architecture, crop in every():
        yield row(architecture, crop, *(fitting(architecture, crop, memory * 2**30) for memory in memories))


def fitting(architecture: Architecture, crop: int, memory: int) -> str:
    """Return the largest micro-batches without and with recomputed units, as a table cell; `memory` is in bytes."""
    backbone = describe_backbone(f"random-{str(architecture).lower()}")
    counts = (
        largest_fitting(backbone, crop, BATCH, "bfloat16", SHARE_OF_MEMORY * memory, remat) for remat in (False, True)
    )
    return " / ".join(str(count) if count else "-" for count in counts)


def hours() -> Iterable[str]:
    yield row(
        "network",
        "crop",
        "devices",
        *(f"{device.name}, {steps:,} steps" for device in ACCELERATORS for steps in SCHEDULES),
    )
    for architecture in ARCHITECTURES:
        for crop in (SMALL, LARGE):
            for count in (1, PER_MACHINE):
                runs = (
                    device.step(architecture, crop, count) * steps for device in ACCELERATORS for steps in SCHEDULES
                )
                yield row(architecture, crop, count, *(f"{run / 3600:.2g}" for run in runs))


TABLES: dict[str, Callable[[], Iterable[str]]] = {
    "work": work,
    "seconds": seconds,
    "all-reduce": all_reduce,
    "normalization": normalization,
    "micro-batches": micro_batches,
    "hours": hours,
}


def every() -> Iterable[tuple[Architecture, int]]:
    return ((architecture, crop) for architecture in ARCHITECTURES for crop in CROPS)


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g}" if seconds < 1 else f"{1000 * seconds:,.0f}"


def table(name: str) -> str:
    head, *rows = TABLES[name]()
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *rows])


def page(text: str) -> str:
    """Return the page with its tables recomputed; each stands between a comment with its name and an end comment."""
    for name in TABLES:
        text, found = re.subn(
            rf"(<!-- {name} -->\n).*?(\n<!-- end -->)",
            lambda match, name=name: match[1] + table(name) + match[2],
            text,
            flags=re.S,
        )
        assert found == 1, f"{PAGE} has no place for the table {name}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true")
    what.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.write:
        PAGE.write_text(page(PAGE.read_text()))
    elif args.check:
        text = PAGE.read_text()
        sys.exit(0 if page(text) == text else f"{PAGE} is out of date: run scripts/bench scaling --write")
    else:
        print("\n\n".join(map(table, TABLES)))


if __name__ == "__main__":
    main()
