"""Limits on the cores and memory of this process, including Linux control groups (containers, SLURM, systemd)."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")


class MemoryLimit(NamedTuple):
    """The memory limit of the control group in `folder`, and how much of it is still available, both in bytes."""

    limit: int
    available: int
    folder: Path


def memory_limit(root: Path = ROOT) -> MemoryLimit | None:
    """Return the limit with the least memory available, of this process's group or its ancestors; None if unlimited."""
    limits = (limit for folder in _groups("memory", root) if (limit := _memory_limit(folder)) is not None)
    return min(limits, key=lambda limit: limit.available, default=None)


def core_limit(root: Path = ROOT) -> int | None:
    """Return the CPU quota of this process in cores, rounded up; None if there is no quota."""
    quotas = [quota for folder in _groups("cpu", root) if (quota := _cpu_quota(folder)) is not None]
    return math.ceil(min(quotas)) if quotas else None


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups and of all their ancestors, for versions 1 and 2.

    Some folders may not exist: within a container, paths are often those of the host, and only their top is mounted.
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
        if limit is not None and taken is not None and limit < 2**60:  # version 1 reports about 2^63 for no limit
            # Cached pages of files count as used, but the kernel frees them when memory is needed.
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
    """Return the number of cores that this process may run on; TensorFlow starts as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores() -> int:
    """Return the number of cores that this process may run on, or its CPU quota in cores if that is smaller."""
    return min(allowed_cores(), core_limit() or allowed_cores())
