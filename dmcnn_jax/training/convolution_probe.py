"""Finds the fastest way to compute convolutions on a GPU, before any network is compiled.

    python -m dmcnn_jax.training.convolution_probe products

XLA's choice of kernels depends on flags that a process reads once, so each way is measured in a
separate process: three layers of DMCNN in bfloat16, forward and backward.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

# Tuned products and Triton's kernels take minutes to compile for a training step.
_UNTUNED = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"

WAYS: Mapping[str, str] = {
    "products": _UNTUNED,
    "convolutions": _UNTUNED,
    "convolutions-nhwc": f"{_UNTUNED} --xla_gpu_force_conv_nhwc=true",
    "convolutions-fused": f"{_UNTUNED} --xla_gpu_experimental_enable_conv_fusion=true",
    "convolutions-tuned": "--xla_gpu_enable_triton_gemm=false",
}
"""Ways to compute convolutions, and the XLA flags that each needs."""

REFERENCE = "PyTorch"
"""The reference measurement: the convolutions of the machine's library, without JAX."""

# Batch, side, channels and dilation of the layers: at full, half and quarter size.
_LAYERS = ((16, 128, 64, 1), (16, 64, 128, 1), (16, 32, 256, 4))


def probe(write: Callable[[str], None], timeout: float = 20) -> str:
    """Measures all ways, each in a separate process.

    Args:
        write: prints a line.
        timeout: longest time for one way, seconds; slower ways are skipped.

    Returns:
        The fastest of `WAYS`.

    Raises:
        RuntimeError: if none could be measured.
    """
    rates: dict[str, float] = {}
    for way, flags in (*WAYS.items(), (REFERENCE, "")):
        environment = os.environ | {"XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        command = [sys.executable, "-m", __spec__.name, way]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            write(f"{way}: not measured within {timeout:g} s")
            continue
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            write(f"{way}: failed ({lines[-1][:200]})")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        if way != REFERENCE:
            rates[way] = found["rate"]
        write(
            f"{way}: {found['rate'] / 1e12:.1f} TFLOP a second ({found['layers']}), compiled in "
            f"{found['compile']:.1f} s"
        )
    if not rates:
        raise RuntimeError("no convolution ran here; expected a GPU that JAX can use")
    return max(rates, key=rates.__getitem__)


def measure(way: str) -> dict[str, float | str]:
    """Measures one way, in this process.

    Returns:
        "rate", FLOP a second of all layers; "layers", the rates of each layer, in TFLOP a second,
        as text; and "compile", seconds.
    """
    if way == REFERENCE:
        return _measure_torch()
    import jax
    import jax.numpy as jnp

    from dmcnn_jax.models.convolution import convolve, use_products

    use_products(way == "products")
    compiling, running, work, shares = 0.0, 0.0, 0.0, []
    for batch, side, channels, dilation in _LAYERS:
        if jax.default_backend() == "cpu":
            batch, side = 1, 32
        padding = ((dilation, dilation),) * 2

        def gradients(
            x: jax.Array, kernel: jax.Array, padding: tuple = padding, dilation: int = dilation
        ) -> tuple[jax.Array, jax.Array]:
            y, pullback = jax.vjp(
                lambda x, kernel: convolve(x, kernel, padding=padding, dilation=dilation), x, kernel
            )
            found: tuple[jax.Array, jax.Array] = pullback(y)
            return found

        keys = jax.random.split(jax.random.key(0))
        x = jax.random.normal(keys[0], (batch, side, side, channels), jnp.bfloat16)
        kernel = jax.random.normal(keys[1], (3, 3, channels, channels), jnp.bfloat16)
        before = time.perf_counter()
        compiled = jax.jit(gradients).lower(x, kernel).compile()
        jax.block_until_ready(compiled(x, kernel))
        compiling += time.perf_counter() - before
        before = time.perf_counter()
        results = [compiled(x, kernel) for _ in range(5)]
        jax.block_until_ready(results)
        seconds = (time.perf_counter() - before) / len(results)
        flops = 3 * 2 * 9 * channels**2 * batch * side**2
        running, work = running + seconds, work + flops
        shares.append(f"{flops / seconds / 1e12:.1f}")
    return {"rate": work / running, "layers": ", ".join(shares), "compile": compiling}


def _measure_torch() -> dict[str, float | str]:
    """Measures PyTorch's convolutions, as `measure` does."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    compiling, running, work, shares = 0.0, 0.0, 0.0, []
    for batch, side, channels, dilation in _LAYERS:
        if device == "cpu":
            batch, side = 1, 32
        x, kernel = (
            torch.randn(shape, device=device, dtype=torch.bfloat16)
            .to(memory_format=torch.channels_last)
            .requires_grad_()
            for shape in ((batch, channels, side, side), (channels, channels, 3, 3))
        )
        seconds = []
        for _ in range(6):
            before = time.perf_counter()
            y = torch.nn.functional.conv2d(x, kernel, padding=dilation, dilation=dilation)
            torch.autograd.grad(y, (x, kernel), y.detach())
            wait()
            seconds.append(time.perf_counter() - before)
        flops = 3 * 2 * 9 * channels**2 * batch * side**2
        compiling += seconds[0]
        running, work = running + min(seconds), work + flops
        shares.append(f"{flops / min(seconds) / 1e12:.1f}")
    return {"rate": work / running, "layers": ", ".join(shares), "compile": compiling}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
