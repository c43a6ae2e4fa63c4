"""JAX's compilation cache on disk, so that a command's next start is quick."""

import hashlib
import os
import platform
import stat
import sys
import warnings
from pathlib import Path

import platformdirs

MIN_COMPILE_SECONDS = 0.2
"""Compile time in seconds above which programs are cached."""

MAX_BYTES = 2**30
"""Size limit of the cache; the least recently used programs are deleted above it."""


def enable_compilation_cache() -> Path | None:
    """Makes JAX cache compiled programs on disk; commands call it before they compile anything.

    The environment variable `DMCNN_JAX_CACHE` names the folder; an empty value turns the cache off.
    By default it is `dmcnn_jax` in the user's cache folder: on Linux `XDG_CACHE_HOME`, or ~/.cache.
    JAX's own `JAX_COMPILATION_CACHE_DIR` takes precedence.

    Programs in the cache are run, so a folder that someone else could have written to is not used,
    and a line on standard error says so.

    Returns:
        The folder that was set, or None: the cache is off, set by JAX, not safe, or not writable,
        or there is no home folder.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    named = os.environ.get("DMCNN_JAX_CACHE")
    if named == "":
        return None
    try:
        base = Path(named or platformdirs.user_cache_path("dmcnn_jax", appauthor=False))
        # Machines may share a home folder, but a CPU may not run programs compiled for another.
        folder = base.expanduser().absolute() / f"compiled-{_processor()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        danger, writable = _describe_danger(folder.stat()), os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return None
    if danger:
        print(
            f"dmcnn_jax: the cache of compiled programs in {str(folder)!r} is not used: {danger}; "
            "set DMCNN_JAX_CACHE to a folder of your own, or to nothing",
            file=sys.stderr,
        )
    if danger or not writable:
        return None

    import jax

    # Harmless: another process deleted an entry in the meantime; the program is compiled again.
    warnings.filterwarnings("ignore", message="Error (writing|reading) persistent compilation")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    try:
        import filelock  # noqa: F401
    except ImportError:
        return folder  # JAX needs filelock to enforce a limit
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    return folder


def _describe_danger(status: os.stat_result) -> str:
    """Returns why others could have written programs to a folder; "" if they couldn't."""
    if not hasattr(os, "getuid"):  # Windows
        return ""
    if status.st_uid != os.getuid():
        return f"it belongs to another user (number {status.st_uid})"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write to it (mode {stat.S_IMODE(status.st_mode):o}; chmod go-w)"
    return ""


def _processor() -> str:
    """Returns a short digest of the CPU's architecture and features."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = platform.processor()
    features = next((x for x in text.splitlines() if x.startswith(("flags", "Features"))), text)
    return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:8]
