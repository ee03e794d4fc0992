"""What this process may use of the machine: cores and memory, within the control groups of Linux (containers, SLURM,
systemd)."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")


class MemoryLimit(NamedTuple):
    """The control group with the least left: its `limit` and what is `available` of it, in bytes; whose it is."""

    limit: int
    available: int
    folder: Path


def memory_limit(root: Path = ROOT) -> MemoryLimit | None:
    """The tightest limit on memory, of this process's group or one above it; None where there is none."""
    limits = (limit for folder in _groups("memory", root) if (limit := _memory_limit(folder)) is not None)
    return min(limits, key=lambda limit: limit.available, default=None)


def core_limit(root: Path = ROOT) -> int | None:
    """Cores' worth of time that this process may take, rounded up; None where there is no quota."""
    quotas = [quota for folder in _groups("cpu", root) if (quota := _cpu_quota(folder)) is not None]
    return math.ceil(min(quotas)) if quotas else None


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Folders of this process's control groups and all above them, of version 2 and 1.

    Within a container, paths are often those of the host, of which only the upper end is mounted: what is not there
    is passed over by whoever reads.
    """
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            tops = [mounted, mounted / "unified"]
        elif controller in controllers.split(","):
            tops = [mounted / controller]
        else:
            continue
        for top in tops:
            inside = Path(path.lstrip("/"))
            if ".." not in inside.parts:  # a group outside the namespace
                yield from (top / part for part in (inside, *inside.parents) if part != Path())
            yield top


def _memory_limit(folder: Path) -> MemoryLimit | None:
    for most, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, taken = _number(folder / most), _number(folder / used)
        if limit is not None and taken is not None and limit < 2**60:  # version 1 says 2^63 for no limit
            # Pages of files that were read count as used, and are given up when memory is wanted.
            reclaimable = _statistics(folder / "memory.stat").get(cache, 0)
            return MemoryLimit(limit, max(0, limit - taken + reclaimable), folder)
    return None


def _cpu_quota(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota, period = (str(_number(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _statistics(file: Path) -> dict[str, int]:
    try:
        return {name: int(value) for name, value in map(str.split, file.read_text().splitlines())}
    except (OSError, ValueError):
        return {}


def allowed_cores() -> int:
    """Cores that this process may run on; TensorFlow starts as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores() -> int:
    """Cores whose time this process may take: those it may run on, or fewer where a quota leaves less."""
    return min(allowed_cores(), core_limit() or allowed_cores())
