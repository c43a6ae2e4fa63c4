"""Finds the fastest way to compute convolutions on a GPU, before any network is compiled.

    python -m dmcnn_jax.training.convolution_probe products convolutions

XLA's options decide which kernels of the GPU's libraries it takes, and how long it searches. Each
way is measured on layers of DMCNN in bfloat16, forward and backward, in another process, since a
search can't be stopped and a kernel can crash.
"""

import contextlib
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

import numpy as np

# Triton's kernels take minutes to compile for a training step.
_WITHOUT_TRITON: Mapping[str, str | bool] = {"xla_gpu_enable_triton_gemm": False}
_UNTUNED: Mapping[str, str | bool] = {**_WITHOUT_TRITON, "xla_gpu_autotune_level": "0"}

WAYS: Mapping[str, Mapping[str, str | bool]] = {
    "products": _UNTUNED,
    # The first plan that cuDNN proposes. Without any choice of a plan (level 0), XLA takes an old
    # algorithm of cuDNN that doesn't use tensor cores.
    "convolutions": {**_WITHOUT_TRITON, "xla_gpu_exclude_nondeterministic_ops": True},
    "convolutions-fused": {**_UNTUNED, "xla_gpu_experimental_enable_conv_fusion": True},
    # The fastest of all plans, whose results are not compared (level 1).
    "convolutions-tuned": {**_WITHOUT_TRITON, "xla_gpu_autotune_level": "1"},
}
"""Ways to compute convolutions, the safest first, and the options of XLA that each needs."""

# With this rate, FLOP a second, no further way is tried.
_GOOD_RATE = 2e14

# A training step has some twenty times as many convolutions as the probe's layers.
_LONGEST_COMPILATION = 10.0

# Largest relative difference from the results of matrix products; bfloat16 has 8 significant bits.
_TOLERANCE = 2e-2

# Seconds that a process may take to start, besides the time of its first way.
_START = 20.0


class _Layer(NamedTuple):
    """A layer of DMCNN with F = 64; `stride` 1/2 means a transposed convolution of stride 2."""

    side: int
    channels: int
    features: int
    stride: float = 1
    dilation: int = 1


_TIMED = _Layer(128, 64, 64), _Layer(64, 128, 128), _Layer(32, 256, 256, dilation=4)
# GPU libraries support fewer kernels for these: few channels, strides, transposed convolutions.
_UNTIMED = (
    _Layer(128, 2, 64),
    _Layer(128, 64, 1),
    _Layer(128, 64, 128, stride=2),
    _Layer(64, 128, 64, stride=1 / 2),
)
_BATCH = 16


def flags(way: str) -> str:
    """Returns the options of a way as a value of the environment variable XLA_FLAGS."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in WAYS[way].items())


def probe(write: Callable[[str], None], timeout: float = 20, limit: float = 75) -> str:
    """Measures the ways in another process, until one is good enough or the time is over.

    Args:
        write: prints a line.
        timeout: longest time for one way, seconds.
        limit: longest time for all, seconds.

    Returns:
        The fastest of `WAYS` whose results are right and which compiles quickly; else the right one
        that compiles soonest; else the safest.

    Raises:
        RuntimeError: if JAX finds no GPU.
    """
    rates: dict[str, float] = {}
    compilations: dict[str, float] = {}
    for found in _measurements(timeout, limit):
        if "failed" in found:
            write(f"{found['way']}: {found['failed']}")
            continue
        if found["backend"] == "cpu":
            raise RuntimeError("JAX finds no GPU here; expected jax with its CUDA plugin")
        refused = ""
        if found["difference"] > _TOLERANCE:
            refused = f"; refused: its results differ by {found['difference']:.1e}"
        else:
            compilations[found["way"]] = found["compile"]
            if found["compile"] > _LONGEST_COMPILATION:
                refused = "; refused: a training step would take minutes to compile"
            else:
                rates[found["way"]] = found["rate"]
        write(
            f"{found['way']}: {found['rate'] / 1e12:.1f} TFLOP a second ({found['layers']}), "
            f"compiled in {found['compile']:.1f} s, by {found['kernels']}{refused}"
        )
        if not refused and found["rate"] > _GOOD_RATE:
            break
    if rates:
        return max(rates, key=rates.__getitem__)
    return min(compilations, key=compilations.__getitem__, default=next(iter(WAYS)))


def _measurements(timeout: float, limit: float) -> Iterator[dict[str, Any]]:
    """Yields a result for each way, that of `measure` or {"way", "failed"}, while there is time."""
    pending, end = list(WAYS), time.monotonic() + limit
    while pending:
        with tempfile.TemporaryFile("w+") as errors:
            child = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, *pending],
                env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            try:
                for found in _results(child.stdout, pending, timeout, end):
                    yield found
                    pending.remove(found["way"])
                if not pending:
                    return
                way = pending.pop(0)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(1)  # if it is ending
                if child.poll() is None:
                    yield {"way": way, "failed": "not measured in time"}
                else:
                    errors.seek(0)
                    lines = errors.read().strip().splitlines() or ["no message"]
                    yield {"way": way, "failed": f"its process ended ({lines[-1][:200]})"}
            finally:
                child.kill()
                child.wait()
        if time.monotonic() >= end:
            for way in pending:
                yield {"way": way, "failed": "not tried, since the time is over"}
            return


def _results(
    output: IO[str] | None, ways: Sequence[str], timeout: float, end: float
) -> Iterator[dict[str, Any]]:
    """Yields the results that a process prints, until it ends or one takes too long."""
    assert output is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in output:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    allowed = _START + timeout
    for _ in range(len(ways)):
        while True:
            try:
                line = lines.get(timeout=max(0.0, min(allowed, end - time.monotonic())))
            except queue.Empty:
                return
            if not line:
                # The process has closed its output, so it is about to end.
                return
            if line.startswith("{"):
                break
        yield json.loads(line)
        allowed = timeout


def measure(way: str, reference: dict[_Layer, list[np.ndarray]]) -> dict[str, str | float]:
    """Measures one way, in this process.

    Args:
        way: one of `WAYS`.
        reference: the results of each layer by the first way measured; filled by that.

    Returns:
        "way"; "backend", JAX's; "rate", FLOP a second of the timed layers; "layers", the rates of
        each, in TFLOP a second, as text; "compile", seconds of all layers; "difference", the
        largest relative one from the reference; and "kernels", the library's functions.
    """
    import jax

    from dmcnn_jax.models.convolution import use_products

    use_products(way == "products")
    compiling, running, work, difference = 0.0, 0.0, 0.0, 0.0
    shares, kernels = [], set()
    for layer in _TIMED + _UNTIMED:
        gradients, inputs, flops = _program(layer)
        before = time.perf_counter()
        compiled = jax.jit(gradients).lower(*inputs).compile(compiler_options={**WAYS[way]})
        compiling += time.perf_counter() - before
        kernels |= _library_functions(compiled.as_text() or "")
        results = [np.asarray(array, np.float32) for array in compiled(*inputs)]
        for one, other in zip(results, reference.setdefault(layer, results), strict=True):
            off = float(np.linalg.norm(one - other) / np.linalg.norm(other))
            difference = max(difference, off if np.isfinite(off) else np.inf)
        if layer in _TIMED:
            before = time.perf_counter()
            repeated = [compiled(*inputs) for _ in range(5)]
            jax.block_until_ready(repeated)
            seconds = (time.perf_counter() - before) / len(repeated)
            running, work = running + seconds, work + flops
            shares.append(f"{flops / seconds / 1e12:.1f}")
    return {
        "way": way,
        "backend": jax.default_backend(),
        "rate": work / running,
        "layers": ", ".join(shares),
        "compile": compiling,
        "difference": difference,
        "kernels": ", ".join(sorted(kernels)) or "XLA's own code",
    }


def _program(layer: _Layer) -> tuple[Callable, tuple[Any, Any], float]:
    """Returns a function of an image and a kernel, these two, and its arithmetic, FLOP.

    The function returns the layer's output and its gradients with respect to both, with the output
    as cotangent.
    """
    import jax
    import jax.numpy as jnp

    from dmcnn_jax.models.convolution import convolve
    from dmcnn_jax.models.deconvolution import deconvolve

    batch, side = (1, 32) if jax.default_backend() == "cpu" else (_BATCH, layer.side)
    taps = 4 if layer.stride < 1 else 3
    padding = ((layer.dilation, layer.dilation),) * 2

    def apply(x: jax.Array, kernel: jax.Array) -> jax.Array:
        if layer.stride < 1:
            return deconvolve(x, kernel)
        return convolve(
            x, kernel, stride=int(layer.stride), padding=padding, dilation=layer.dilation
        )

    def gradients(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, ...]:
        y, pullback = jax.vjp(apply, x, kernel)
        return y, *pullback(y)

    rng = np.random.default_rng(0)
    shapes = (batch, side, side, layer.channels), (taps, taps, layer.channels, layer.features)
    x, kernel = (
        jnp.asarray(rng.standard_normal(shape, np.float32), jnp.bfloat16) for shape in shapes
    )
    flops = 3 * 2 * taps**2 * layer.channels * layer.features * batch * side**2
    return gradients, (x, kernel), flops / max(1, layer.stride) ** 2


def _library_functions(program: str) -> set[str]:
    """Returns the names of the library functions that a compiled program calls, with algorithms."""
    found = set()
    for line in program.splitlines():
        if name := re.search(r'custom_call_target="([^"]+)"', line):
            number = re.search(r'"algo_id":"?(\d+)', line)
            found.add(name[1] + (f" {number[1]}" if number else ""))
    return found


def main(ways: Sequence[str]) -> None:
    """Prints the result of `measure` for each way as a line of JSON, or why there is none."""
    reference: dict[_Layer, list[np.ndarray]] = {}
    for way in ways:
        try:
            found = measure(way, reference)
        except Exception as error:  # such as: no kernel for a layer
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            found = {"way": way, "failed": f"failed ({reason[:200]})"}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
