"""Checks a machine before training on it: the codec's bits, a step's gradients, its speed."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.extend.core import Jaxpr

from dmcnn_jax import jpeg
from dmcnn_jax.config import default_config
from dmcnn_jax.config.types import Config
from dmcnn_jax.config.validation import batch_sizes
from dmcnn_jax.data import feeds, luma_pairs
from dmcnn_jax.data.tiles import Tiles
from dmcnn_jax.system import devices
from dmcnn_jax.training.trainer import Trainer

CODEC_DIGEST = "3183784b"
"""`codec_digest` on a CPU, where tests compare the codec with libjpeg's bits."""

GRADIENT_TOLERANCE = 1e-2
"""Largest relative difference between a step's gradients and the CPU's, in full float32.

Sums of float32 products in another order, and algorithms such as Winograd's, differ by 1e-5 to
1e-3; a wrong convolution by 1.
"""

# Number of timed steps, after two untimed ones; fewer if a step takes longer than `_SLOW_STEP`,
# seconds.
_TIMED_STEPS, _TIMED_SLOW_STEPS, _SLOW_STEP = 10, 1, 1.0


def codec_digest() -> str:
    """Returns a digest of the results of `jpeg.encode` and `jpeg.decode` on the default device.

    Noise and smooth waves are compressed at qualities 1 to 100: 8 hexadecimal digits of the SHA-256
    of all coefficients and pixels.
    """
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (50, 64, 64), dtype=np.uint8)
    y, x = np.mgrid[:64, :64]
    waves = np.stack([y * (k + 1) + x * (50 - k) for k in range(50)]) % 256
    planes = np.concatenate([noise, waves.astype(np.uint8)])
    tables = np.asarray(jpeg.quality_table(np.arange(1, 101)))
    coefficients = jax.jit(jpeg.encode)(planes, tables)
    pixels = jax.jit(jpeg.decode)(coefficients, tables)
    digest = hashlib.sha256(np.asarray(coefficients, np.int32).tobytes())
    digest.update(np.asarray(pixels).tobytes())
    return digest.hexdigest()[:8]


def gradient_difference() -> float:
    """Compares one step's gradients of a small DMCNN on this device with those on the CPU.

    Returns:
        ‖g - g'‖ / ‖g'‖ over all weights, computed at the highest precision of matrix products;
        infinite if the training pairs differ in a single bit.
    """
    here, there = (_gradients_on(device) for device in (jax.devices()[0], jax.devices("cpu")[0]))
    for one, other in zip(jax.tree.leaves(here[0]), jax.tree.leaves(there[0]), strict=True):
        if not np.array_equal(one, other):
            return float("inf")
    pairs = list(zip(jax.tree.leaves(here[1]), jax.tree.leaves(there[1]), strict=True))
    difference = sum(float(np.sum(np.square(a - b))) for a, b in pairs)
    return float(np.sqrt(difference / sum(float(np.sum(np.square(b))) for _, b in pairs)))


def _gradients_on(device: jax.Device) -> tuple[Any, Any]:
    """Returns a batch, and the loss's gradients with respect to the weights, in host memory."""
    config = default_config()
    config.model.features = 8
    config.quality = 10
    mesh = jax.sharding.Mesh(
        np.array([device]), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    trainer = Trainer(config, mesh)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 64, 64), dtype=np.uint8)
    rows = np.arange(len(pixels))
    tiles = Tiles(pixels, rows, rows.astype(np.int32), tuple(map(str, rows)))
    config.train.batch_sizes = (len(pixels),)
    inputs = luma_pairs.TileFeed(tiles, config, mesh).inputs(0, 0)
    state = trainer.init_state()

    @jax.jit
    def compute(state: Any, inputs: Any) -> tuple[Any, Any]:
        key = jax.random.key(0)
        batch = feeds.make_batch(inputs, key, 56, config, devices.batched(mesh))
        return batch, trainer.gradients(state, batch)[1]

    with jax.default_matmul_precision("highest"):
        batch, gradients = compute(state, inputs)
    found: tuple[Any, Any] = jax.device_get((batch, gradients))
    return found


def step_rates(
    configs: Sequence[Config], count_flops: Callable[[Jaxpr], float], write: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Measures real training steps, whose programs `training.trainer` keeps for training.

    Args:
        configs: configurations; their data are opened, and all their steps compiled at once.
        count_flops: counts the arithmetic of a program.
        write: prints a line.

    Yields:
        For each different step "name"; "patch", pixels; "step", median seconds; "rate",
        pixels a second; and "flops", FLOP a second.
    """
    trainers = [Trainer(_from_random_weights(config)) for config in configs]
    opened = [
        feeds.open_data(config, t.mesh)[0] for config, t in zip(configs, trainers, strict=True)
    ]
    write(f"opened {', '.join(sorted(set(map(str, opened))))}")
    before = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        programs = [
            pool.submit(trainer.compile_step, trainer.abstract_state(), inputs, patch)
            for trainer, feed in zip(trainers, opened, strict=True)
            for stage, patch in enumerate(trainer.config.train.patch_sizes)
            for inputs in feeds.example_inputs(feed, stage)
        ]
    # An error appears here.
    compiled = sum(program.result() for program in programs)
    write(f"compiled {compiled} steps in {time.perf_counter() - before:.1f} s")
    timed = set()
    for trainer, feed in zip(trainers, opened, strict=True):
        name, sizes = trainer.config.name, batch_sizes(trainer.config)
        for stage, patch in enumerate(trainer.config.train.patch_sizes):
            # Networks that differ only in quality share their steps.
            key = trainer.program_key(feed.inputs(stage, 0), patch)
            if key in timed:
                continue
            timed.add(key)
            seconds = _time_steps(trainer, feed, stage, patch)
            arguments = trainer.abstract_state(), feed.inputs(stage, 0), np.float32(0), patch
            flops = count_flops(trainer.trace_step(*arguments).jaxpr.jaxpr)
            pixels = sizes[stage] * patch**2
            write(
                f"{name}: step of {sizes[stage]} × {patch} × {patch} in {1000 * seconds:.1f} ms, "
                f"{pixels / seconds / 1e6:.2f} million pixels and {flops / seconds / 1e12:.2f} "
                f"TFLOP a second ({flops / pixels / 1e6:.2f} MFLOP a pixel)"
            )
            rates = {"step": seconds, "rate": pixels / seconds, "flops": flops / seconds}
            yield {"name": name, "patch": patch, **rates}


def _from_random_weights(config: Config) -> Config:
    """Returns a copy of a configuration without `init_from`, whose weights may not exist yet."""
    copied = ml_collections.ConfigDict(config.to_dict())
    copied.init_from = ""
    return copied


def _time_steps(trainer: Trainer, feed: feeds.Feed, stage: int, patch: int) -> float:
    """Returns the median time of a step, seconds; the weights don't change."""
    state, inputs = trainer.init_state(), feed.inputs(stage, 0)
    seconds: list[float] = []
    count = 2 + _TIMED_STEPS
    while len(seconds) < count:
        before = time.perf_counter()
        state, scalars = trainer.step(state, inputs, np.float32(0), patch)
        jax.block_until_ready(scalars)
        seconds.append(time.perf_counter() - before)
        if len(seconds) == 2 and seconds[1] > _SLOW_STEP:
            count = 2 + _TIMED_SLOW_STEPS
    return float(np.median(seconds[2:]))


def copy_rate() -> float:
    """Measures the device's copy rate, in bytes read and written per second."""
    size = 2**28 if jax.default_backend() != "cpu" else 2**24
    array = jnp.zeros(size, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    jax.block_until_ready(copy(array))
    seconds = []
    for _ in range(10):
        before = time.perf_counter()
        jax.block_until_ready(copy(array))
        seconds.append(time.perf_counter() - before)
    return 2 * array.nbytes / float(np.median(seconds))
