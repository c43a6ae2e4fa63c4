"""Peak memory of restoring a picture, measured in a process of its own.

    python tools/benchmark/memory.py 64 '["float32"]' 512 768

Prints bytes. Arguments are JSON: features, the network's data type (and OpenVINO's precision, if it
computes the layers), height and width.
"""

import contextlib
import gc
import json
import re
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmark.inputs import make_jpeg, random_model
from benchmark.processes import run_script
from dmcnn_jax.inference.plane import restore_plane
from dmcnn_jax.system.malloc import trim_memory, tune_malloc


def measure_memory_alone(features: int, kind: Sequence[str], height: int, width: int) -> int:
    """Runs `measure_memory` in a new process, whose memory allocator is set as in our commands.

    Raises:
        RuntimeError: if that process failed.
    """
    return run_script(Path(__file__).name, features, list(kind), height, width)


def measure_memory(features: int, kind: Sequence[str], height: int, width: int) -> int:
    """Measures how much the memory of this process grows at its peak while it restores a picture.

    Args:
        features: F, the network's width.
        kind: the network's data type and, if OpenVINO computes its layers, OpenVINO's precision.
        height: of the picture, pixels; a multiple of 8.
        width: of the image.

    Returns:
        Bytes, without the restored picture itself.
    """
    model = random_model(features, *kind)
    k, q = make_jpeg(height, width)
    gc.collect()
    trim_memory()
    _reset_peak()
    before = _peak()
    restore_plane(model, k, q)
    # The restored picture takes 4 bytes a pixel.
    return max(0, _peak() - before - 4 * height * width)


def compiled_memory(compiled: Any) -> int | None:
    """Returns the bytes of a compiled program's arguments, results and temporary arrays."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def _peak() -> int:
    """Returns the peak memory of the accelerator, or of this process on a CPU, in bytes."""
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats:
        return stats["peak_bytes_in_use"]
    with contextlib.suppress(OSError, ValueError):
        found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        if found:
            return 1024 * int(found[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _reset_peak() -> None:
    """Resets the process's recorded peak, where the operating system allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    tune_malloc()
    print(measure_memory(*map(json.loads, sys.argv[1:])))
