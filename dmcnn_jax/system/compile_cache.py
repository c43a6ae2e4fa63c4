"""What a command compiled once is kept on disk, so that its next start is quick."""

import hashlib
import os
import platform
import warnings
from pathlib import Path

# Whatever takes longer to compile is kept, seconds.
_WORTH_KEEPING = 0.2
# What is kept in all, bytes; then what was used longest ago goes.
_LIMIT = 2**30


def enable_compilation_cache() -> Path | None:
    """Lets JAX keep what it compiles; for commands, before they compile anything.

    `DMCNN_JAX_CACHE` names the folder; if that is empty, nothing is kept. Without it, it is
    `dmcnn_jax` in the user's cache folder (`XDG_CACHE_HOME`, or ~/.cache). Where JAX was told of a
    folder by its own `JAX_COMPILATION_CACHE_DIR`, that is used, as JAX does.

    Returns:
        The folder that was set here, or None.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    named = os.environ.get("DMCNN_JAX_CACHE")
    if named == "":
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    # A home folder may be shared by machines, and code made for one CPU is not for another.
    folder = Path(named or home / "dmcnn_jax").expanduser().absolute() / f"compiled-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        return None

    import jax

    # Another process may throw out an entry in between: it is compiled again, and that is all.
    warnings.filterwarnings("ignore", message="Error (writing|reading) persistent compilation")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)
    try:
        import filelock  # noqa: F401
    except ImportError:
        return folder  # JAX can't bound it, then
    jax.config.update("jax_compilation_cache_max_size", _LIMIT)
    return folder


def _processor() -> str:
    """A name for what this CPU can do."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = platform.processor()
    features = next((x for x in text.splitlines() if x.startswith(("flags", "Features"))), text)
    return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:8]
