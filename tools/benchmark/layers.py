"""Sections "layers", "kernels", "gradients" and "workarounds": convolutions by themselves."""

import math
from collections.abc import Sequence
from typing import Any

import jax

from benchmark.harness import Benchmark
from benchmark.inputs import first_devices, make_jpeg, random_model
from benchmark.operations import (
    Operation,
    convolution,
    convolution_by_products,
    find_operations,
    trace,
)
from benchmark.settings import SEED
from benchmark.timing import device_call
from benchmark.training_step import TrainingStep
from dmcnn_jax.inference.model import estimate
from dmcnn_jax.models.convolution import (
    convolve,
    convolve_inside,
    kernel_gradient,
    narrow_kernel_gradient,
    xla_kernel_gradient,
)
from dmcnn_jax.system import devices


def measure_layers(bench: Benchmark) -> dict[str, Any]:
    """Measures each convolution and matrix product of a training step and of restoring."""
    settings = bench.settings
    dtype = settings.dtypes[0] if jax.default_backend() == "cpu" else settings.dtypes[-1]
    step = TrainingStep(settings, settings.features, settings.batch, dtype)
    height, width = settings.block_size
    k, q = make_jpeg(min(height, 512), min(width, 512))
    model = random_model(settings.features, dtype)
    jaxprs = {
        "train": step.jaxpr,
        "restore": trace(estimate, model.module, model.variables, k[None], q[None]),
    }
    return {
        name: _measure_operations(bench, find_operations(jaxpr), dtype)
        for name, jaxpr in jaxprs.items()
    }


def _measure_operations(bench: Benchmark, found: Sequence[Operation], dtype: str) -> dict[str, Any]:
    calls = {str(i): operation.call() for i, operation in enumerate(found)}
    results = bench.measure(calls, rounds=min(2, bench.settings.rounds), least=0)
    rows = [
        {
            "name": operation.name,
            "shape": operation.shape,
            "flops": operation.flops,
            "bytes": operation.bytes,
            "bound": operation.bound(bench.machine_rates(dtype)),
            "seconds": min(results[str(i)].wall),
            "cpu_seconds": min(results[str(i)].cpu),
        }
        for i, operation in enumerate(found)
    ]
    return {
        "dtype": dtype,
        "seconds": sum(row["seconds"] for row in rows),
        "bound": sum(row["bound"] for row in rows),
        "rows": rows,
    }


def measure_kernels(bench: Benchmark) -> dict[str, Any]:
    """Measures a 3×3 convolution at each scale of the network, in several types and forms."""
    settings = bench.settings
    features, side = settings.features, 8 * (min(settings.size) // 8)
    forms = {
        f"convolution, {dtype}": (convolution, dtype) for dtype in ("float32", "bfloat16", "int8")
    } | {"three products, bfloat16 to float32": (convolution_by_products, "bfloat16")}
    table = {}
    for scale in (1, 2, 4):
        channels, length = scale * features, side // scale
        x = jax.random.normal(jax.random.key(SEED), (1, length, length, channels))
        kernel = jax.random.normal(jax.random.key(SEED + 1), (3, 3, channels, channels))
        calls = {
            name: device_call(jax.jit(form), x.astype(dtype), kernel.astype(dtype))
            for name, (form, dtype) in forms.items()
        }
        table[f"{channels} channels, {length} × {length}"] = bench.measure_rates(
            calls, channels, length * length
        )
    return table


def measure_gradients(bench: Benchmark) -> dict[str, Any]:
    """Measures a training step's 3×3 convolution and its gradients, on all devices."""
    settings = bench.settings
    mesh = first_devices(math.gcd(settings.batch, jax.device_count()))
    split = devices.batched(mesh)
    options = 1, ((1, 1), (1, 1)), 1
    forward = jax.jit(lambda x, kernel: convolve(x, kernel, padding=options[1]))
    table = {}
    for scale in (1, 2, 4):
        channels, length = scale * settings.features, settings.patch // scale
        shape = settings.batch, length, length, channels
        x, y = (
            jax.device_put(jax.random.normal(jax.random.key(SEED + i), shape), split)
            for i in range(2)
        )
        kernel = jax.random.normal(jax.random.key(SEED), (3, 3, channels, channels))
        by_image = jax.jit(lambda x, y, kernel: jax.vjp(lambda x: forward(x, kernel), x)[1](y))
        calls = {
            "forward": device_call(forward, x, kernel),
            "by the image": device_call(by_image, x, y, kernel),
        }
        for name, gradient in (("XLA", xla_kernel_gradient), ("ours", kernel_gradient)):
            program = jax.jit(gradient, static_argnums=(0, 1))
            calls[f"by the kernel, {name}"] = device_call(program, options, kernel.shape, x, y)
        table[f"{channels} channels, {settings.batch} × {length} × {length}"] = bench.measure_rates(
            calls, channels, settings.batch * length * length
        )
    return table


def measure_workarounds(bench: Benchmark) -> dict[str, Any]:
    """Measures convolutions that XLA computes slowly on CPUs, against this package's form.

    It runs them on one device, since steps have devices to themselves but for sums of gradients.
    """
    settings = bench.settings
    channels, length = settings.features, settings.patch
    batch = max(1, settings.batch // jax.device_count())
    x, y = (
        jax.random.normal(jax.random.key(SEED + i), (batch, length, length, last))
        for i, last in enumerate((channels, 1))
    )
    options = 1, ((1, 1), (1, 1)), 1
    table = {}
    for features in (channels, 1):
        kernel = jax.random.normal(jax.random.key(SEED), (3, 3, channels, features))
        table[f"without padding, {channels} → {features} channels"] = {
            "XLA": device_call(jax.jit(convolve), x, kernel),
            "ours": device_call(jax.jit(convolve_inside), x, kernel),
        }
    shape = 3, 3, channels, 1
    table[f"kernel gradient, {channels} → 1 channels"] = {
        name: device_call(jax.jit(gradient, static_argnums=(0, 1)), options, shape, x, y)
        for name, gradient in (("XLA", xla_kernel_gradient), ("ours", narrow_kernel_gradient))
    }
    return {
        f"{name}, {batch} × {length} × {length}": {
            which: result.row(batch * length**2) for which, result in bench.measure(calls).items()
        }
        for name, calls in table.items()
    }
