"""The CPU's name and those of its instruction sets on which the choice of precision depends."""

import platform
import re
import subprocess
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
MACOS = {"hw.optional.avx2_0": "avx2", "hw.optional.avx512f": "avx512f", "hw.optional.arm.FEAT_BF16": "bf16"}

# As Linux calls them: x86-64, then ARM.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16", "sve", "bf16")
FAST_BFLOAT16 = ("avx512_bf16", "amx_bf16")  # R50x1, 128 px, batch 16, on Zen 4: 18.4 against 13.1 images/s


def cpu_name() -> str:
    """The model, or the kind of processor where the system has no name for it."""
    if match := re.search(r"^model name\s*: *(.+)$", _cpuinfo(), re.MULTILINE):
        return match[1].strip()
    return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine() or "unknown"


def instruction_sets() -> tuple[str, ...]:
    """Those of INSTRUCTION_SETS that the CPU has; empty where the system does not tell."""
    if match := re.search(r"^(?:flags|Features)\s*:(.+)$", _cpuinfo(), re.MULTILINE):
        flags = set(match[1].split())
    else:
        flags = {name for fact, name in MACOS.items() if _sysctl(fact) == "1"}
    return tuple(name for name in INSTRUCTION_SETS if name in flags)


def _cpuinfo() -> str:
    try:
        return CPUINFO.read_text()
    except OSError:
        return ""


def _sysctl(name: str) -> str | None:
    """A fact of macOS."""
    if platform.system() != "Darwin":
        return None
    try:
        asked = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip()
