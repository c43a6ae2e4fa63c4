"""Memory that a command's steps take again and again is kept, not returned in between."""

import ctypes
import os

# mallopt's parameters (malloc.h), and what they are set to.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_NEVER, _PAD = 2**31 - 1, 64 * 2**20

VARIABLES = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(_NEVER),
    "MALLOC_TOP_PAD_": str(_PAD),
}
"""What does the same for a process that is started with them in its environment."""

_libc: ctypes.CDLL | None = None  # once memory is kept

# Who has set glibc's own variables has decided already.
_ALREADY = (*VARIABLES, "GLIBC_TUNABLES")


def tune_malloc() -> bool:
    """Lets this process keep memory that it frees; for commands, before threads are started.

    XLA asks for the memory of a step when it begins, and frees it at its end. glibc takes blocks of
    32 MB and more from the system each time and gives them back, and the system fills each page
    with zeros: a sixth of a training step on a CPU, a quarter of restoring a large picture. Here
    all comes from one heap, which doesn't shrink. `DMCNN_JAX_KEEP_MEMORY=0` leaves it as it was, as
    does any of glibc's own variables.

    Returns:
        Whether it was done: on Linux with glibc alone.
    """
    if os.environ.get("DMCNN_JAX_KEEP_MEMORY") == "0" or any(v in os.environ for v in _ALREADY):
        return False
    try:
        if not os.confstr("CS_GNU_LIBC_VERSION").startswith("glibc"):
            return False
    except (AttributeError, ValueError, OSError):
        return False
    global _libc
    libc = ctypes.CDLL(None)
    libc.mallopt.argtypes, libc.mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    libc.malloc_trim.argtypes, libc.malloc_trim.restype = (ctypes.c_size_t,), ctypes.c_int
    # Other threads' heaps can't hold large blocks, so that there is one for all.
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
    """Gives back what is free at the moment, if this process keeps memory.

    For the end of work that takes other blocks than what comes next: else each kind of work would
    keep its own.
    """
    if _libc is not None:
        _libc.malloc_trim(0)
