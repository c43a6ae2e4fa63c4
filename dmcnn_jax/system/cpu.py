"""What the processor is good at, and how many of its cores this process may use."""

import os
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")


def usable_cores() -> int:
    """Returns the number of cores that this process may use, which `taskset` and Slurm limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # not on Linux


def has_fast_bfloat16() -> bool:
    """Returns whether a processor that has bfloat16 instructions is faster with them.

    On AMD's Zen 4 and 5, AVX-512 multiplies bfloat16 twice as fast as float32. On Intel's
    processors it does not; only AMX is faster, and virtual machines often hide AMX. On an Intel
    Xeon without AMX, `dmcnn-photo` took 1.5 times as long in bfloat16 as in float32.

    Returns:
        False on Intel's processors without AMX under Linux, otherwise True.
    """
    text = _CPU_INFO.read_text(errors="replace") if _CPU_INFO.exists() else ""
    return "GenuineIntel" not in text or "amx_bf16" in text
