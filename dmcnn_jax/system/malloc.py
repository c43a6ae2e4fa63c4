"""Tunes glibc's allocator: memory that a process frees is reused, not returned to the system."""

import ctypes
import os

# mallopt's parameters (malloc.h) and their values.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_NEVER, _PAD = 2**31 - 1, 64 * 2**20

VARIABLES = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(_NEVER),
    "MALLOC_TOP_PAD_": str(_PAD),
}
"""Environment variables with the same effect, for processes that are started with them."""

_libc: ctypes.CDLL | None = None  # True once the allocator is tuned

# A user's setting of one of glibc's own variables takes precedence.
_ALREADY = (*VARIABLES, "GLIBC_TUNABLES")


def tune_malloc() -> bool:
    """Makes this process keep memory that it frees; commands call it before starting threads.

    XLA allocates a step's memory when it begins, and frees it at its end. By default glibc requests
    blocks of 32 MB and more from the system each time and returns them, and the system fills each
    page with zeros: a sixth of a training step on a CPU, a quarter of restoring a large picture.
    Tuned, glibc allocates everything from one heap that doesn't shrink. `DMCNN_JAX_KEEP_MEMORY=0`
    or any of glibc's own variables prevents the tuning.

    Returns:
        Whether the allocator was tuned, which needs Linux with glibc.
    """
    if os.environ.get("DMCNN_JAX_KEEP_MEMORY") == "0" or any(v in os.environ for v in _ALREADY):
        return False
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return False
    except (AttributeError, ValueError, OSError):
        return False
    global _libc
    libc = ctypes.CDLL(None)
    libc.mallopt.argtypes, libc.mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    libc.malloc_trim.argtypes, libc.malloc_trim.restype = (ctypes.c_size_t,), ctypes.c_int
    # One arena for all threads, since only the main arena can hold large blocks.
    settings = (
        (_M_ARENA_MAX, 1),
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, _NEVER),
        (_M_TOP_PAD, _PAD),
    )
    done = all([libc.mallopt(*setting) for setting in settings])
    _libc = libc if done else None
    return done


def trim_memory() -> None:
    """Returns free memory to the system, if this process keeps it.

    Call it between kinds of work that need blocks of different sizes; otherwise each kind would
    keep blocks of its own sizes.
    """
    if _libc is not None:
        _libc.malloc_trim(0)
