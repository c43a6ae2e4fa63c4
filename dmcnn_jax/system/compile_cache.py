"""JAX's compilation cache on disk, so that a command's next start is quick."""

import hashlib
import os
import platform
import warnings
from pathlib import Path

import platformdirs

MIN_COMPILE_SECONDS = 0.2
"""Programs that take longer to compile are cached."""

MAX_BYTES = 2**30
"""Size limit of the cache; the least recently used programs are deleted above it."""


def enable_compilation_cache() -> Path | None:
    """Makes JAX cache compiled programs on disk; for commands, before they compile anything.

    The environment variable `DMCNN_JAX_CACHE` names the folder; an empty value turns the cache off.
    By default it is `dmcnn_jax` in the user's cache folder: on Linux `XDG_CACHE_HOME`, or ~/.cache.
    JAX's own `JAX_COMPILATION_CACHE_DIR` takes precedence.

    Returns:
        The folder that was set, or None: the cache is off, set by JAX, or not writable.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    named = os.environ.get("DMCNN_JAX_CACHE")
    if named == "":
        return None
    base = Path(named or platformdirs.user_cache_path("dmcnn_jax", appauthor=False))
    # Machines may share a home folder, but programs compiled for one CPU may not run on another.
    folder = base.expanduser().absolute() / f"compiled-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        return None

    import jax

    # Harmless: another process deleted an entry in the meantime, and it is compiled again.
    warnings.filterwarnings("ignore", message="Error (writing|reading) persistent compilation")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    try:
        import filelock  # noqa: F401
    except ImportError:
        return folder  # JAX needs filelock to enforce a limit
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    return folder


def _processor() -> str:
    """Returns a short digest of the CPU's architecture and features."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = platform.processor()
    features = next((x for x in text.splitlines() if x.startswith(("flags", "Features"))), text)
    return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:8]
