"""The benchmark's sections, and those that measure the machine, training, restoring and pairs."""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmark.growth import measure_growth
from benchmark.harness import Benchmark, one_line
from benchmark.inputs import (
    make_batch,
    make_jpeg,
    make_pictures,
    random_model,
    restore_call,
    training_config,
)
from benchmark.layers import (
    measure_gradients,
    measure_kernels,
    measure_layers,
    measure_workarounds,
)
from benchmark.memory import measure_memory_alone
from benchmark.operations import compiled_flops, find_operations, trace
from benchmark.settings import QUALITY, SEED
from benchmark.start import measure_start
from benchmark.timing import Call, device_call
from benchmark.training_step import TrainingStep
from dmcnn_jax.evaluation.complexity import flops_per_pixel
from dmcnn_jax.inference.model import Model, estimate, is_openvino
from dmcnn_jax.inference.plane import restore_plane
from dmcnn_jax.system import devices
from dmcnn_jax.system.cpu import usable_cores


def measure_machine(bench: Benchmark) -> dict[str, Any]:
    """Describes the machine, and measures matrix products (FLOP/s) and memory (bytes/s)."""
    side, rates = bench.settings.matrix, {}
    for dtype in bench.settings.dtypes:
        x = jax.random.normal(jax.random.key(SEED), (side, side)).astype(dtype)
        product = jax.jit(lambda x: jnp.dot(x, x))
        times = bench.measure({dtype: device_call(product, x)})[dtype]
        rates[dtype] = 2 * side**3 / min(times.wall)
    numbers = 4 * side**2
    copy = bench.measure({"copy": _copy_call(numbers)})["copy"].wall
    return {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "jax": jax.__version__,
        "peer": bench.peer_version(),
        "matrix_product": rates,
        "memory": 8 * numbers / min(copy),
    }


def measure_train(bench: Benchmark) -> dict[str, Any]:
    """Measures training steps, making of pairs included; the peer's get a finished batch."""
    settings = bench.settings
    pixels = settings.batch * settings.patch**2
    steps, rows = {}, {}
    for dtype in settings.dtypes:
        name = f"jax {dtype}"
        step = TrainingStep(settings, settings.features, settings.batch, dtype)
        steps[name], rows[name] = step.call, step.measure_cost(bench.machine_rates(dtype))
    if bench.peer:
        batch = make_batch(settings.batch, settings.patch)
        for compiled in (False, True)[: 1 + settings.compiled]:
            steps |= bench.peer.steps(settings.features, settings.dtypes, batch, compiled=compiled)
    return bench.compare(steps, rows, pixels)


def measure_restore(bench: Benchmark) -> dict[str, Any]:
    """Measures restoring a whole image, from coefficients to pixels in the host's memory."""
    settings = bench.settings
    height, width = settings.block_size
    k, q = make_jpeg(height, width)
    calls, rows = {}, {}
    for dtype in settings.dtypes:
        name = f"jax {dtype}"
        model = random_model(settings.features, dtype)
        rows[name], calls[name] = (
            _measure_cost(bench, model, dtype, k, q),
            restore_call(model, k, q),
        )
    # OpenVINO is measured where it is installed and JAX runs on a CPU.
    for dtype in settings.dtypes if is_openvino("auto") else ():
        model = random_model(settings.features, "float32", dtype)
        start = time.perf_counter()
        restore_plane(model, k, q)
        name = f"openvino {dtype}"
        rows[name] = {
            "first_cold": time.perf_counter() - start,
            "flops": rows[f"jax {settings.dtypes[0]}"]["flops"],
            "memory": measure_memory_alone(settings.features, ("float32", dtype), height, width),
        }
        calls[name] = restore_call(model, k, q)
    if bench.peer:
        for compiled in (False, True)[: 1 + settings.compiled]:
            calls |= bench.peer.restorers(
                settings.features, settings.dtypes, k, q, compiled=compiled
            )
    return bench.compare(calls, rows, height * width)


def _measure_cost(
    bench: Benchmark, model: Model, dtype: str, k: np.ndarray, q: np.ndarray
) -> dict[str, Any]:
    """Measures first calls, cold and cached, and memory, and counts arithmetic."""
    features = bench.settings.features
    height, width = 8 * k.shape[0], 8 * k.shape[1]
    seconds = []
    for _ in range(2):
        jax.clear_caches()
        start = time.perf_counter()
        restore_plane(model, k, q)
        seconds.append(time.perf_counter() - start)
    arguments = (model.module, model.variables, k[None], q[None])
    compiled = estimate.lower(*arguments).compile()
    found = find_operations(trace(estimate, *arguments))
    return {
        "first_cold": seconds[0],
        "first_cached": seconds[1],
        "flops": flops_per_pixel(model.module, model.variables, 64) * height * width,
        "flops_compiled": compiled_flops(compiled),
        "memory": measure_memory_alone(features, (dtype,), height, width),
        "bound": sum(operation.bound(bench.machine_rates(dtype)) for operation in found),
    }


def measure_pairs(bench: Benchmark) -> dict[str, Any]:
    """Measures making training pairs: on the device, by tf.data, and by Pillow on all cores."""
    from dmcnn_jax.data import luma_pairs

    settings = bench.settings
    batch, patch = settings.batch, settings.patch
    tiles = jnp.asarray(make_pictures(batch, max(patch, 8)))
    make = jax.jit(luma_pairs.make_batch, static_argnums=2)
    qualities = jnp.array([QUALITY, QUALITY])
    call = device_call(make, tiles, jax.random.key(SEED), patch, qualities)
    result = bench.measure({"on device": call})["on device"]
    table = {"on device": result.row(batch * patch**2)}
    step = bench.results.get("train", {}).get("rows", {}).get("jax float32")
    if step:
        table["on device"]["share_of_step"] = result.median / step["seconds"]["median"]
    try:
        table |= _measure_host_pairs(bench)
    except ImportError as error:
        table["tf.data"] = {"error": one_line(error)}
    return table


def _measure_host_pairs(bench: Benchmark) -> dict[str, Any]:
    import io

    from PIL import Image

    from dmcnn_jax.data import images as images_module
    from dmcnn_jax.data import tf_pipeline

    settings = bench.settings
    with tempfile.TemporaryDirectory() as folder:
        for i, picture in enumerate(make_pictures(32, max(384, settings.patch))):
            Image.fromarray(picture).convert("RGB").save(f"{folder}/{i}.jpg", quality=95)
        images = images_module.open_images(folder)
        config = training_config(settings, settings.features, settings.batch, "float32")
        feed = tf_pipeline.PipelineFeed(images, np.arange(len(images)), config, devices.make_mesh())
        numbers, passed = iter(range(sys.maxsize)), iter(range(sys.maxsize))
        pool = ThreadPoolExecutor(usable_cores())

        def by_pillow(_: int) -> np.ndarray:
            pixels, quality = feed.example(0, next(numbers))
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "jpeg", quality=int(quality))
            return np.asarray(Image.open(file))

        calls: dict[str, Call] = {
            "tf.data": (lambda: feed.inputs(0, next(passed)), jax.block_until_ready),
            "Pillow": (
                lambda: list(pool.map(by_pillow, range(settings.batch))),
                lambda pairs: None,
            ),
        }
        with pool:
            results = bench.measure(calls, least=4 * settings.seconds)
    rows = {name: r.row(settings.batch * settings.patch**2) for name, r in results.items()}
    rows["tf.data"]["speed_against_pillow"] = results["Pillow"].over(results["tf.data"])
    return rows


def _copy_call(numbers: int) -> Call:
    """Returns a call that reads and writes so many float32 numbers in place."""
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros((numbers,), jnp.float32)

    def copy() -> jax.Array:
        nonlocal x
        x = add(x)
        return x

    return copy, jax.block_until_ready


SECTIONS: dict[str, Callable[[Benchmark], dict[str, Any]]] = {
    "train": measure_train,
    "restore": measure_restore,
    "pairs": measure_pairs,
    "layers": measure_layers,
    "kernels": measure_kernels,
    "gradients": measure_gradients,
    "workarounds": measure_workarounds,
    "growth": measure_growth,
    "start": measure_start,
}
"""Sections that can be chosen, in the order in which they run; `measure_machine` precedes them."""
