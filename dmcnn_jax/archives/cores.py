"""Pins a worker to cores that no other worker of the machine uses."""

import os
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    _has_locks = False
else:
    _has_locks = True

_held: list[int] = []  # descriptors of the locks, held until the process ends


def pin_to_cores(count: int) -> tuple[int, ...]:
    """Pins this process to cores that no other pinned worker uses, while such cores are left.

    Call it before JAX is imported, since JAX and OpenVINO start a thread for each core that they
    may use. If all cores are taken, workers share them.

    Args:
        count: number of cores.

    Returns:
        The cores; empty where the system can't pin processes.
    """
    if not _has_locks or not hasattr(os, "sched_setaffinity"):
        return ()
    allowed = sorted(os.sched_getaffinity(0))
    chosen: list[int] = []
    for core in allowed:
        if len(chosen) < count and _claim(core):
            chosen.append(core)
    rest = [core for core in allowed if core not in chosen]
    chosen += rest[: count - len(chosen)]
    os.sched_setaffinity(0, chosen)
    return tuple(chosen)


def _claim(core: int) -> bool:
    """Locks a core for this process; returns False if another process holds it."""
    folder = Path(tempfile.gettempdir()) / f"dmcnn-cores-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(folder / f"{core}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return False
    _held.append(handle)
    return True
