"""How fast everything is, and how near to what the machine can do.

What is compared runs in turns, round after round, so that whatever else the machine does meets all
alike; figures are medians over the rounds, with the lowest and highest, and ratios are taken within
a round. Beside the clock stands the processors' own time, which says more where they are shared.
"""

import contextlib
import dataclasses
import gc
import json
import math
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.evaluation.complexity import arithmetic, flops_per_pixel
from dmcnn_jax.inference import openvino_engine
from dmcnn_jax.inference.luma import restore_plane
from dmcnn_jax.inference.model import Model, estimate, is_openvino
from dmcnn_jax.inference.tiling import tiling
from dmcnn_jax.inference.variables import initialize
from dmcnn_jax.models import create_model
from dmcnn_jax.models.convolution import convolve, kernel_gradient, xla_kernel_gradient
from dmcnn_jax.system import devices
from dmcnn_jax.system.atomic_write import write_file
from dmcnn_jax.system.malloc import trim_memory

SECTIONS = ("train", "restore", "pairs", "layers", "kernels", "gradients", "growth", "start")
_SEED, _QUALITY = 0, 20
# Seconds after which a first call is enough to know that one is.
_LONG = 20.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        features: F, of training and restoring.
        patch: side of training patches, pixels.
        batch: patches in a batch.
        size: height and width of the image that is restored, pixels.
        dtypes: what the network computes in.
        rounds: how often everything is measured.
        seconds: that a measurement lasts at least, by repeating it.
        growth_features: F of what is measured on larger and larger images.
        sides: of those images, pixels.
        batches: of which training steps are measured.
        matrix: side of the matrices whose product is the machine's rate.
    """

    features: int = 64
    patch: int = 56
    batch: int = 16
    size: tuple[int, int] = (512, 768)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    rounds: int = 5
    seconds: float = 0.2
    growth_features: int = 24
    sides: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    batches: tuple[int, ...] = (1, 2, 3, 4, 7, 8, 16)
    matrix: int = 2048

    @classmethod
    def of_machine(cls) -> "Settings":
        """What suits the machine: of a GPU, the recipe's last stage and a 12-megapixel image."""
        if jax.default_backend() == "cpu":
            return cls()
        return cls(
            patch=224,
            batch=80,
            size=(3000, 4000),
            growth_features=64,
            batches=(8, 16, 32, 80, 160),
            matrix=8192,
        )

    @classmethod
    def quick(cls) -> "Settings":
        """The least of everything, to see that it works."""
        return cls(
            features=4,
            patch=16,
            batch=2,
            size=(16, 24),
            dtypes=("float32",),
            rounds=2,
            seconds=0,
            growth_features=4,
            sides=(16, 32),
            batches=(1, 2),
            matrix=64,
        )


class Benchmark:
    """All measurements; `results` holds what there is so far.

    Args:
        settings: what is measured.
        peer: makes what is measured beside, see `tools/benchmark.py`; None for nothing.
        say: called with a line of progress now and then.
    """

    def __init__(
        self, settings: Settings, peer: Any = None, say: Callable[[str], None] = lambda line: None
    ):
        self.settings, self._peer, self._say = settings, peer, say
        self.results: dict[str, Any] = {"settings": dataclasses.asdict(settings)}

    def run(self, sections: Sequence[str], path: str | os.PathLike) -> None:
        """Measures, and writes `results` after every section; a section that can't be is noted.

        Interrupted, it writes what there is; of a section that fails, too.
        """
        with tempfile.TemporaryDirectory() as folder, _compilation_cache(folder):
            for section in ("machine", *sections):
                self._say(section)
                try:
                    self.results[section] = getattr(self, f"measure_{section}")()
                except (ImportError, RuntimeError, MemoryError) as error:
                    self.results.setdefault(section, {})["error"] = _one_line(error)
                finally:
                    write_file(path, (json.dumps(self.results, indent=1) + "\n").encode())

    def measure_machine(self) -> dict[str, Any]:
        """What it is, and what it can do: matrix products (FLOP/s), memory (bytes/s)."""
        side, rates = self.settings.matrix, {}
        for dtype in self.settings.dtypes:
            x = jax.random.normal(jax.random.key(_SEED), (side, side)).astype(dtype)
            product = jax.jit(lambda x: jnp.dot(x, x))
            rates[dtype] = 2 * side**3 / min(self._rounds({dtype: _jax(product, x)})[dtype].wall)
        numbers = 4 * side**2
        copy = self._rounds({"copy": _copying(numbers)})["copy"].wall
        return {
            "platform": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "jax": jax.__version__,
            "peer": self._peer.version if self._peer else None,
            "matrix_product": rates,
            "memory": 8 * numbers / min(copy),
        }

    def measure_train(self) -> dict[str, Any]:
        """Training steps, pairs and optimizer included; the peer's on a batch that is there."""
        settings = self.settings
        pixels = settings.batch * settings.patch**2
        steps, rows = {}, {}
        for dtype in settings.dtypes:
            name = f"jax {dtype}"
            step = Step(settings, settings.features, settings.batch, dtype)
            steps[name], rows[name] = step.call, step.about(self._machine(dtype))
        if self._peer:
            batch = _batch(settings.batch, settings.patch)
            steps |= self._peer.steps(settings.features, settings.dtypes, batch)
        return self._table(steps, rows, pixels)

    def measure_restore(self) -> dict[str, Any]:
        """A whole image, from coefficients in memory to pixels in memory."""
        settings = self.settings
        height, width = (8 * (side // 8) for side in settings.size)
        k, q = _jpeg(height, width)
        calls, rows = {}, {}
        for dtype in settings.dtypes:
            model = _model(settings.features, dtype)
            arguments = (model.module, model.variables, k[None], q[None])
            seconds, compiled = [], None
            for _ in range(2):
                jax.clear_caches()
                start = time.perf_counter()
                restore_plane(model, k, q)
                seconds.append(time.perf_counter() - start)
            compiled = estimate.lower(*arguments).compile()
            rows[f"jax {dtype}"] = {
                "first_cold": seconds[0],
                "first_cached": seconds[1],
                "flops": flops_per_pixel(model.module, model.variables, 64) * height * width,
                "flops_compiled": _flops(compiled),
                "memory": _memory_alone(settings.features, (dtype,), height, width),
                "bound": sum(
                    operation.bound(self._machine(dtype))
                    for operation in operations(_traced(estimate, *arguments))
                ),
            }
            calls[f"jax {dtype}"] = _restoring(model, k, q)
        for dtype in self._openvino_dtypes():
            model = _model(settings.features, "float32", dtype)
            start = time.perf_counter()
            restore_plane(model, k, q)
            name = f"openvino {dtype}"
            rows[name] = {
                "first_cold": time.perf_counter() - start,
                "flops": rows[f"jax {settings.dtypes[0]}"]["flops"],
                "memory": _memory_alone(settings.features, ("float32", dtype), height, width),
            }
            calls[name] = _restoring(model, k, q)
        if self._peer:
            calls |= self._peer.restorers(settings.features, settings.dtypes, k, q)
        return self._table(calls, rows, height * width)

    def _openvino_dtypes(self) -> tuple[str, ...]:
        """What OpenVINO is measured in: where JAX runs on a CPU, and it is installed."""
        return self.settings.dtypes if is_openvino("auto") else ()

    def measure_pairs(self) -> dict[str, Any]:
        """Training pairs, made by the step, by tf.data, and by Pillow on all cores."""
        from dmcnn_jax.data import on_device

        settings = self.settings
        batch, patch = settings.batch, settings.patch
        tiles = jnp.asarray(_pictures(batch, max(patch, 8)))
        make = jax.jit(on_device.make_batch, static_argnums=(2, 3))
        results = self._rounds(
            {"on device": _jax(make, tiles, jax.random.key(_SEED), patch, _QUALITY)}
        )
        table = {"on device": results["on device"].row(batch * patch**2)}
        step = self.results.get("train", {}).get("rows", {}).get("jax float32")
        if step:
            table["on device"]["share_of_step"] = (
                results["on device"].median / step["seconds"]["median"]
            )
        try:
            table |= self._measure_host_pairs()
        except ImportError as error:
            table["tf.data"] = {"error": _one_line(error)}
        return table

    def _measure_host_pairs(self) -> dict[str, Any]:
        from PIL import Image

        from dmcnn_jax.data import images as images_module
        from dmcnn_jax.data import tf_pipeline

        settings = self.settings
        patch = settings.patch
        with tempfile.TemporaryDirectory() as folder:
            for i, picture in enumerate(_pictures(32, max(384, patch))):
                Image.fromarray(picture).convert("RGB").save(f"{folder}/{i}.jpg", quality=95)
            images = images_module.open_images(folder)
            config = _config(settings, settings.features, settings.batch, "float32")
            feed = tf_pipeline.PipelineFeed(
                images, np.arange(len(images)), config, devices.make_mesh()
            )
            numbers, passed = iter(range(sys.maxsize)), iter(range(sys.maxsize))
            pool = ThreadPoolExecutor(os.cpu_count())

            def by_pillow(_: int) -> Any:
                import io

                pixels, quality = feed.example(0, next(numbers))
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "jpeg", quality=int(quality))
                return np.asarray(Image.open(file))

            calls = {
                "tf.data": (lambda: feed.inputs(0, next(passed)), jax.block_until_ready),
                "Pillow": (
                    lambda: list(pool.map(by_pillow, range(settings.batch))),
                    lambda pairs: None,
                ),
            }
            with pool:
                results = self._rounds(calls, least=4 * settings.seconds)
        rows = {name: r.row(settings.batch * patch**2) for name, r in results.items()}
        rows["tf.data"]["speed_against_pillow"] = results["Pillow"].over(results["tf.data"])
        return rows

    def measure_layers(self) -> dict[str, Any]:
        """Every convolution and matrix product by itself, of a step and of restoring."""
        settings = self.settings
        dtype = settings.dtypes[0] if jax.default_backend() == "cpu" else settings.dtypes[-1]
        step = Step(settings, settings.features, settings.batch, dtype)
        height, width = (8 * (side // 8) for side in settings.size)
        k, q = _jpeg(min(height, 512), min(width, 512))
        model = _model(settings.features, dtype)
        traced = {
            "train": step.traced,
            "restore": _traced(estimate, model.module, model.variables, k[None], q[None]),
        }
        return {
            name: self._measure_operations(operations(jaxpr), dtype)
            for name, jaxpr in traced.items()
        }

    def _measure_operations(self, found: Sequence["Operation"], dtype: str) -> dict[str, Any]:
        calls = {str(i): operation.call() for i, operation in enumerate(found)}
        results = self._rounds(calls, rounds=min(2, self.settings.rounds), least=0)
        rows = [
            {
                "name": operation.name,
                "shape": operation.shape,
                "flops": operation.flops,
                "bytes": operation.bytes,
                "bound": operation.bound(self._machine(dtype)),
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

    def measure_kernels(self) -> dict[str, Any]:
        """A 3×3 convolution at each scale of the network, in every type and form there is."""
        features, side = self.settings.features, 8 * (min(self.settings.size) // 8)
        table = {}
        for scale in (1, 2, 4):
            channels, length = scale * features, side // scale
            x = jax.random.normal(jax.random.key(_SEED), (1, length, length, channels))
            kernel = jax.random.normal(jax.random.key(_SEED + 1), (3, 3, channels, channels))
            forms = {
                f"convolution, {dtype}": (_convolution, dtype)
                for dtype in ("float32", "bfloat16", "int8")
            } | {"three products, bfloat16 to float32": (_three_products, "bfloat16")}
            calls = {
                name: _jax(jax.jit(form), x.astype(dtype), kernel.astype(dtype))
                for name, (form, dtype) in forms.items()
            }
            table[f"{channels} channels, {length} × {length}"] = self._rates(
                calls, channels, length * length
            )
        return table

    def measure_gradients(self) -> dict[str, Any]:
        """A 3×3 convolution of a training step at each scale, and its gradients, on all devices."""
        settings = self.settings
        mesh = _mesh(math.gcd(settings.batch, jax.device_count()))
        split = devices.batched(mesh)
        options = 1, ((1, 1), (1, 1)), 1
        forward = jax.jit(lambda x, kernel: convolve(x, kernel, padding=options[1]))
        table = {}
        for scale in (1, 2, 4):
            channels, length = scale * settings.features, settings.patch // scale
            shape = settings.batch, length, length, channels
            x, y = (
                jax.device_put(jax.random.normal(jax.random.key(_SEED + i), shape), split)
                for i in range(2)
            )
            kernel = jax.random.normal(jax.random.key(_SEED), (3, 3, channels, channels))
            by_image = jax.jit(lambda x, y, kernel: jax.vjp(lambda x: forward(x, kernel), x)[1](y))
            calls = {
                "forward": _jax(forward, x, kernel),
                "by the image": _jax(by_image, x, y, kernel),
            }
            for name, gradient in (("XLA", xla_kernel_gradient), ("ours", kernel_gradient)):
                gradient = jax.jit(gradient, static_argnums=(0, 1))
                calls[f"by the kernel, {name}"] = _jax(gradient, options, kernel.shape, x, y)
            table[f"{channels} channels, {settings.batch} × {length} × {length}"] = self._rates(
                calls, channels, settings.batch * length * length
            )
        return table

    def _rates(
        self, calls: Mapping[str, "Call"], channels: int, pixels: int
    ) -> dict[str, dict[str, Any]]:
        """Times of 3×3 convolutions or their gradients, and operations a second."""
        flops = 2 * 9 * channels**2 * pixels
        return {
            name: result.row(pixels) | {"rate": flops / result.median}
            for name, result in self._rounds(calls).items()
        }

    def measure_growth(self) -> dict[str, Any]:
        """Seconds by area, by batch, and by devices."""
        settings = self.settings
        # Kept table by table: the large images take long.
        growth = self.results["growth"] = {}
        growth["area"] = self._measure_areas(settings.dtypes[0])
        for dtype in self._openvino_dtypes()[-1:]:
            growth[f"area, openvino {dtype}"] = self._measure_areas("float32", dtype)
        pixels, calls = {}, {}
        for batch in settings.batches:
            name = str(batch)
            step = Step(settings, settings.growth_features, batch, settings.dtypes[0])
            calls[name], pixels[name] = step.call, batch * settings.patch**2
        growth["batch"] = [
            {"batch": int(name)} | result.row(pixels[name])
            for name, result in self._rounds(calls).items()
        ]
        calls, counts = {}, [2**i for i in range(20) if 2**i <= jax.device_count()]
        for count in counts:
            step = Step(
                settings,
                settings.growth_features,
                settings.batch,
                settings.dtypes[0],
                mesh=_mesh(count),
            )
            calls[str(count)] = step.call
        growth["devices"] = [
            {"devices": int(name)} | result.row(settings.batch * settings.patch**2)
            for name, result in self._rounds(calls).items()
        ]
        return growth

    def _measure_areas(self, *kind: str) -> list[dict[str, Any]]:
        settings = self.settings
        model = _model(settings.growth_features, *kind)
        calls, planes = {}, {}
        for side in settings.sides:
            k, q = _jpeg(side, side)
            calls[str(side)] = _restoring(model, k, q)
            planes[side] = k
        results = self._rounds(calls, rounds=min(3, settings.rounds))
        rows = []
        for side in settings.sides:
            blocks = planes[side].shape[:2]
            computed = tiling.computed_pixels(model, *blocks)
            self._say(f"memory: {side} × {side}")
            rows.append(
                {
                    "side": side,
                    "tiles": tiling.tiling(model, *blocks),
                    "computed": computed / side**2,
                    "memory": _memory_alone(settings.growth_features, kind, side, side),
                }
                | results[str(side)].row(side**2)
                | {"nanoseconds_per_computed_pixel": 1e9 * results[str(side)].median / computed}
            )
        return rows

    def measure_start(self) -> dict[str, Any]:
        """Whole processes, with an empty compilation cache and with a filled one."""
        with tempfile.TemporaryDirectory() as folder:
            from PIL import Image

            photo = Path(folder) / "photo.jpg"
            Image.fromarray(_pictures(1, 96)[0]).save(photo, quality=_QUALITY)
            programs = {
                "restore": _RESTORE.format(photo=str(photo), output=f"{folder}/clean.png"),
                "first step": _FIRST_STEP.format(**dataclasses.asdict(self.settings)),
            }
            return {name: self._start(program, folder, name) for name, program in programs.items()}

    def _start(self, program: str, folder: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        cache = str(Path(folder) / name.replace(" ", "-"))
        environment = os.environ | {
            "DMCNN_JAX_CACHE": cache,
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        for temperature in ("cold", *["cached"] * self.settings.rounds):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", program], env=environment, capture_output=True, text=True
            )
            seconds = time.perf_counter() - start
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if done.returncode:
                reason = done.stderr.strip().splitlines() or ["no reason given"]
                return {"error": reason[-1]}
            self._say(f"start: {name}, {temperature} {seconds:.1f} s")
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            parts = json.loads(done.stdout.splitlines()[-1])
            run = {"seconds": seconds, "cpu_seconds": cpu, "parts": parts}
            if temperature == "cold":
                found["cold"] = run
            else:
                found.setdefault("cached_runs", []).append(run)
        runs = sorted(found.pop("cached_runs"), key=lambda run: run["seconds"])
        return found | {"cached": runs[len(runs) // 2]}

    def _rounds(
        self,
        calls: Mapping[str, "Call"],
        *,
        rounds: int | None = None,
        least: float | None = None,
    ) -> dict[str, "Times"]:
        """Times of calls, in turns; a first call of each is not counted."""
        least = self.settings.seconds if least is None else least
        counts = {}
        for name, (call, wait) in calls.items():
            # The first may compile. A second says how often it fits into the time, which is once
            # if even the first was long.
            for _ in range(2):
                start = time.perf_counter()
                wait(call())
                seconds = time.perf_counter() - start
                if seconds > _LONG:
                    break
            counts[name] = max(1, math.ceil(least / max(1e-6, seconds)))
        times = {name: Times() for name in calls}
        for number in range(rounds or self.settings.rounds):
            for name, (call, wait) in calls.items():
                cpu, start = self._cpu_seconds(), time.perf_counter()
                for _ in range(counts[name]):
                    result = call()
                wait(result)
                times[name].wall.append((time.perf_counter() - start) / counts[name])
                times[name].cpu.append((self._cpu_seconds() - cpu) / counts[name])
            shown = [f"{name} {1e3 * t.wall[-1]:,.1f} ms" for name, t in times.items()]
            self._say(f"round {number + 1}: {', '.join(shown[:6])}{', …' * (len(shown) > 6)}")
        return times

    def _cpu_seconds(self) -> float:
        return time.process_time() + (self._peer.cpu_seconds() if self._peer else 0)

    def _table(
        self, calls: Mapping[str, "Call"], rows: Mapping[str, Any], pixels: int
    ) -> dict[str, Any]:
        """Rows of what is compared, and how much faster ours is."""
        times = self._rounds(calls)
        table = {}
        for name, result in times.items():
            row = result.row(pixels) | dict(rows.get(name, {}))
            dtype = name.split()[-1]
            rate = self._machine(dtype).get("flops")
            if "flops" in row and rate:
                row["share_of_matrix_product"] = row["flops"] / result.median / rate
            if row.get("bound"):
                row["share_of_roofline"] = row["bound"] / result.median
            table[name] = row
        ours = [name for name in times if name.startswith(("jax ", "openvino "))]
        ratios = {
            f"{one} against {other}": {
                "wall": times[other].over(times[one]),
                "cpu": times[other].over(times[one], "cpu"),
            }
            for one in ours
            for other in times
            if other not in ours
        }
        return {"pixels": pixels, "rows": table, "speed": ratios}

    def _machine(self, dtype: str) -> dict[str, float]:
        machine = self.results.get("machine", {})
        rate = machine.get("matrix_product", {}).get(dtype)
        return {"flops": rate, "bytes": machine.get("memory")} if rate else {}


Call = tuple[Callable[[], Any], Callable[[Any], Any]]
"""What is measured: a call, and what waits for its result."""


def _restoring(model: Model, k: np.ndarray, q: np.ndarray) -> Call:
    return lambda: restore_plane(model, k, q), lambda plane: None


def _mesh(count: int) -> jax.sharding.Mesh:
    """Of the first devices."""
    auto = jax.sharding.AxisType.Auto
    return jax.sharding.Mesh(np.asarray(jax.devices()[:count]), ("batch",), axis_types=(auto,))


@dataclasses.dataclass
class Times:
    """Seconds of each round, by the clock and of all cores."""

    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        """By the clock."""
        return statistics.median(self.wall)

    def row(self, pixels: int) -> dict[str, Any]:
        """As JSON."""
        return {
            "seconds": _spread(self.wall),
            "cpu_seconds": _spread(self.cpu),
            "pixels_per_second": pixels / self.median,
        }

    def over(self, other: "Times", kind: str = "wall") -> dict[str, float]:
        """How many times longer than another, within each round."""
        pairs = zip(getattr(self, kind), getattr(other, kind), strict=True)
        return _spread([mine / max(1e-9, theirs) for mine, theirs in pairs])


class Step:
    """A training step that can be called again and again.

    Args:
        settings: patches and what they are cut from.
        features: F.
        batch: patches.
        dtype: what it computes in.
        mesh: of devices; by default as many as split the batch evenly.

    Attributes:
        call: a step and what waits for it.
    """

    def __init__(
        self,
        settings: Settings,
        features: int,
        batch: int,
        dtype: str,
        *,
        mesh: jax.sharding.Mesh | None = None,
    ):
        from dmcnn_jax.data.on_device import TileFeed
        from dmcnn_jax.data.tiles import Tiles
        from dmcnn_jax.training.trainer import Trainer

        config = _config(settings, features, batch, dtype)
        trainer = Trainer(config, mesh or _mesh(math.gcd(batch, jax.device_count())))
        pictures = _pictures(max(8, batch), config.data.tile)
        rows = np.arange(len(pictures))
        feed = TileFeed(
            Tiles(pictures, rows, rows.astype(np.int32), tuple(map(str, rows))),
            config,
            trainer.mesh,
        )
        state, inputs = trainer.init_state(), feed.inputs(0, 0)
        rate = np.float32(1e-4)
        self._trainer = trainer
        self._arguments = (jax.eval_shape(lambda: state), inputs, rate, settings.patch)
        steps = iter(range(1, sys.maxsize))

        def step() -> Any:
            nonlocal state
            state, scalars = trainer.step(state, feed.inputs(0, next(steps)), rate, settings.patch)
            return scalars

        self.call: Call = (step, jax.block_until_ready)

    @property
    def traced(self) -> Any:
        """Its jaxpr."""
        return self._trainer.trace_step(*self._arguments).jaxpr.jaxpr

    def about(self, machine: Mapping[str, float]) -> dict[str, Any]:
        """What it takes to compile, to run, and at least."""
        seconds = []
        for _ in range(2):
            jax.clear_caches()
            lowered = self._trainer.trace_step(*self._arguments).lower()
            start = time.perf_counter()
            compiled = lowered.compile()
            seconds.append(time.perf_counter() - start)
        found = operations(self.traced)
        return {
            "compile_cold": seconds[0],
            "compile_cached": seconds[1],
            "flops": sum(operation.flops for operation in found),
            "flops_compiled": _flops(compiled),
            "memory": _memory(compiled),
            "bound": sum(operation.bound(machine) for operation in found),
        }


@dataclasses.dataclass(frozen=True)
class Operation:
    """A convolution or matrix product of a program.

    Attributes:
        name: of the layer, "backward" before it in a gradient.
        equation: of the jaxpr.
        flops: what it computes.
    """

    name: str
    equation: Any
    flops: float

    @property
    def shape(self) -> str:
        """Of what goes in and comes out."""
        variables = (*self.equation.invars[:2], self.equation.outvars[0])
        shapes = ["×".join(map(str, variable.aval.shape)) or "1" for variable in variables]
        return f"{shapes[0]}, {shapes[1]} → {shapes[2]}"

    @property
    def bytes(self) -> int:
        """What it has to read and write at least."""
        variables = (*self.equation.invars[:2], *self.equation.outvars)
        return sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in variables)

    def bound(self, machine: Mapping[str, float]) -> float:
        """Seconds that it takes at least: of its arithmetic, or of its bytes."""
        if not machine:
            return 0.0
        return max(self.flops / machine["flops"], self.bytes / machine["bytes"])

    def call(self) -> Call:
        """It alone, on random numbers."""
        equation = self.equation
        keys = jax.random.split(jax.random.key(_SEED), len(equation.invars))
        arrays = [
            jax.random.normal(key, v.aval.shape).astype(v.aval.dtype)
            for key, v in zip(keys, equation.invars, strict=True)
        ]
        return _jax(jax.jit(lambda *xs: equation.primitive.bind(*xs, **equation.params)), *arrays)


def operations(jaxpr: Any) -> list[Operation]:
    """The convolutions and matrix products of a program, in its order."""
    return [
        Operation(_layer_name(equation), equation, flops) for equation, flops in arithmetic(jaxpr)
    ]


def to_markdown(results: Mapping[str, Any]) -> str:
    """The results as tables."""
    machine = results.get("machine", {})
    if not machine:
        return "Nothing was measured."
    rates = machine.get("matrix_product", {})
    lines = [
        f"{machine.get('devices')} × {machine.get('device')}, {machine.get('cores')} CPU cores; "
        f"JAX {machine.get('jax')}, {machine.get('peer') or 'nothing to compare with'}; load "
        f"{machine.get('load', 0):.1f} at the start. Matrix products: "
        + ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in rates.items())
        + f"; memory {machine.get('memory', 0) / 1e9:,.0f} GB/s. Medians of "
        f"{results['settings']['rounds']} rounds in turn (lowest to highest).",
        "",
    ]
    for section, title in (("train", "A training step"), ("restore", "Restoring an image")):
        lines += _lines_compared(title, results.get(section))
    lines += _lines_pairs(results.get("pairs"))
    lines += _lines_layers(results.get("layers"))
    for section, title in (("kernels", "by itself"), ("gradients", "of a step, and its gradients")):
        lines += _lines_kernels(f"A 3×3 convolution {title}", results.get(section))
    lines += _lines_growth(results.get("growth"))
    lines += _lines_start(results.get("start"))
    return "\n".join(lines)


def _lines_compared(title: str, table: Mapping[str, Any] | None) -> Iterator[str]:
    if not table:
        return
    if "error" in table:
        yield from (f"**{title}**: {table['error']}", "")
        return
    yield from (f"**{title}**, {table['pixels']:,} pixels", "")
    yield (
        "| | seconds | CPU seconds | Mpixel/s | of matrix products | of roofline | first, cold "
        "| cached | memory, MB |"
    )
    yield "| --- " + "| ---: " * 8 + "|"
    for name, row in table["rows"].items():
        cold = row.get("compile_cold", row.get("first_cold"))
        cached = row.get("compile_cached", row.get("first_cached"))
        cells = [
            name,
            _show(row["seconds"]),
            _show(row["cpu_seconds"]),
            f"{row['pixels_per_second'] / 1e6:.3g}",
            _percent(row.get("share_of_matrix_product")),
            _percent(row.get("share_of_roofline")),
            f"{cold:.1f} s" if cold else "",
            f"{cached:.1f} s" if cached else "",
            f"{row['memory'] / 1e6:,.0f}" if row.get("memory") else "",
        ]
        yield "| " + " | ".join(cells) + " |"
    yield ""
    if table["speed"]:
        yield from ("| times as fast | by the clock | by CPU time |", "| --- | ---: | ---: |")
        for name, ratio in table["speed"].items():
            yield f"| {name} | {_show(ratio['wall'])} | {_show(ratio['cpu'])} |"
        yield ""


def _lines_pairs(table: Mapping[str, Any] | None) -> Iterator[str]:
    if not table:
        return
    yield from ("**Training pairs**", "", "| | Mpixel/s | |", "| --- | ---: | --- |")
    for name, row in table.items():
        if "error" in row:
            yield f"| {name} | | {row['error']} |"
            continue
        note = ""
        if "share_of_step" in row:
            note = f"{row['share_of_step']:.1%} of a step"
        if "speed_against_pillow" in row:
            note = f"{_show(row['speed_against_pillow'])} of Pillow on all cores"
        yield f"| {name} | {row['pixels_per_second'] / 1e6:.3g} | {note} |"
    yield ""


def _lines_layers(tables: Mapping[str, Any] | None) -> Iterator[str]:
    if not tables or "error" in tables:
        return
    for name, table in tables.items():
        yield from (
            f"**Layers by themselves, {name}, {table['dtype']}**: "
            f"{1e3 * table['seconds']:,.1f} ms, at least {1e3 * table['bound']:,.1f} ms; the "
            "costliest:",
            "",
            "| layer | shapes | ms | at least | GFLOP/s |",
            "| --- | --- | ---: | ---: | ---: |",
        )
        rows = sorted(table["rows"], key=lambda row: -row["seconds"])
        for row in rows[:12]:
            yield (
                f"| {row['name']} | {row['shape']} | {1e3 * row['seconds']:,.2f} "
                f"| {1e3 * row['bound']:,.2f} | {row['flops'] / row['seconds'] / 1e9:,.0f} |"
            )
        yield ""


def _lines_kernels(title: str, tables: Mapping[str, Any] | None) -> Iterator[str]:
    if not tables:
        return
    if "error" in tables:
        yield from (f"**{title}**: {tables['error']}", "")
        return
    names = list(next(iter(tables.values())))
    yield from (f"**{title}**, ms, and thousand million operations a second", "")
    yield "| | " + " | ".join(names) + " |"
    yield "| --- " + "| ---: " * len(names) + "|"
    for title, table in tables.items():
        cells = [
            f"{1e3 * row['seconds']['median']:.1f} ({row['rate'] / 1e9:,.0f})"
            for row in table.values()
        ]
        yield f"| {title} | " + " | ".join(cells) + " |"
    yield ""


def _lines_growth(growth: Mapping[str, Any] | None) -> Iterator[str]:
    if not growth:
        return
    if "error" in growth:
        yield from (f"**Growth**: {growth['error']}", "")
    for name in (name for name in growth if name.startswith("area")):
        yield from (
            f"**Cost by {name}**",
            "",
            "| side | tiles | Mpixel/s | computed / pixels | ns a computed pixel | memory, MB |",
            "| ---: | --- | ---: | ---: | ---: | ---: |",
        )
        for row in growth[name]:
            (down, height), (across, width) = row["tiles"]
            yield (
                f"| {row['side']} | {down} × {across} of {height} × {width} "
                f"| {row['pixels_per_second'] / 1e6:.3g} | {row['computed']:.2f} "
                f"| {row['nanoseconds_per_computed_pixel']:,.0f} | {row['memory'] / 1e6:,.0f} |"
            )
        yield ""
    for kind in ("batch", "devices"):
        if kind not in growth:
            continue
        yield from (f"**Training by {kind}**", "")
        yield from (f"| {kind} | Mpixel/s | by CPU time |", "| ---: | ---: | ---: |")
        for row in growth[kind]:
            rate = row["pixels_per_second"] / 1e6
            by_cpu = rate * row["seconds"]["median"] / max(1e-9, row["cpu_seconds"]["median"])
            yield f"| {row[kind]} | {rate:.3g} | {by_cpu:.3g} |"
        yield ""


def _lines_start(table: Mapping[str, Any] | None) -> Iterator[str]:
    if not table:
        return
    yield from (
        "**Whole processes**",
        "",
        "| | seconds | CPU seconds | spent on |",
        "| --- | ---: | ---: | --- |",
    )
    for name, runs in table.items():
        if "error" in runs:
            yield f"| {name} | | | {runs['error']} |"
            continue
        for temperature, run in runs.items():
            parts = ", ".join(f"{part} {seconds:.2f}" for part, seconds in run["parts"].items())
            yield (
                f"| {name}, {temperature} | {run['seconds']:.2f} | {run['cpu_seconds']:.2f} "
                f"| {parts} |"
            )
    yield ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _show(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.3g} ({spread['low']:.3g}–{spread['high']:.3g})"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def _jax(function: Callable, *arguments: Any) -> Call:
    return (lambda: function(*arguments)), jax.block_until_ready


def _copying(numbers: int) -> Call:
    """Reads and writes so many float32 numbers, in memory that is there already."""
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros((numbers,), jnp.float32)

    def copy() -> jax.Array:
        nonlocal x
        x = add(x)
        return x

    return copy, jax.block_until_ready


def _pictures(count: int, side: int) -> np.ndarray:
    """Waves with some noise, uint8 [count, side, side]."""
    rng = np.random.default_rng(_SEED)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    scales = rng.uniform(3, 30, (count, 2, 1, 1)).astype(np.float32)
    waves = 60 * np.sin(x / scales[:, 0]) * np.cos(y / scales[:, 1])
    noise = rng.normal(128, 4, (1, side, side)).astype(np.float32)
    return np.clip(waves + noise, 16, 235).astype(np.uint8)


def _jpeg(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients [height/8, width/8, 64] and table [8, 8] of a picture."""
    table = np.asarray(jpeg.quality_table(_QUALITY))
    # A picture of 512 pixels, over and over.
    side = min(512, max(height, width))
    once = np.asarray(jpeg.encode(_pictures(1, side)[0], table))
    repeats = (-(-height // side), -(-width // side), 1)
    return np.tile(once, repeats)[: height // 8, : width // 8], table


def _batch(batch: int, patch: int) -> dict[str, np.ndarray]:
    original = _pictures(batch, patch)
    table = np.asarray(jpeg.quality_table(_QUALITY))
    return {
        "original": original,
        "coefficients": np.asarray(jpeg.encode(original, table)),
        "table": np.tile(table, (batch, 1, 1)),
    }


def _model(features: int, dtype: str, precision: str = "") -> Model:
    """A random model; its layers by OpenVINO, if a precision for that is named."""
    module = create_model({"name": "dmcnn", "features": features, "dtype": dtype})
    params = initialize(module, jax.random.key(_SEED))
    engine = openvino_engine.Engine(module, params, precision) if precision else None
    return Model(module, params, engine=engine)


def _config(settings: Settings, features: int, batch: int, dtype: str) -> Any:
    from dmcnn_jax.config.defaults import default_config

    config = default_config()
    config.quality = _QUALITY
    config.model.features, config.model.dtype = features, dtype
    config.data.tile = max(settings.patch, 64)
    config.train.patch_sizes, config.train.stage_steps = (settings.patch,), (1000,)
    config.train.batch_sizes = (batch,)
    return config


def _convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[1, H, W, C], [3, 3, C, N] → [1, H, W, N], sums in 32 bits."""
    total = jnp.int32 if jnp.issubdtype(x.dtype, jnp.integer) else jnp.float32
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=total,
    )


def _three_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same as matrix products: what a row sees side by side, by a kernel's three rows."""
    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    wide = jnp.concatenate([padded[:, :, j : j + width] for j in range(3)], axis=-1)
    rows = [
        jnp.matmul(
            wide[:, i : i + height].reshape(-1, 3 * channels),
            kernel[i].reshape(3 * channels, -1),
            preferred_element_type=jnp.float32,
        )
        for i in range(3)
    ]
    return sum(rows).reshape(1, height, width, -1)


def _traced(function: Any, *arguments: Any) -> Any:
    """The jaxpr of a jitted function, without what its results don't need."""
    return function.trace(*arguments).jaxpr.jaxpr


def _layer_name(equation: Any) -> str:
    stack = str(equation.source_info.name_stack)
    layers = [part for part in re.split(r"[/()]", stack) if re.match(r"(f|g)$|.*\d|head", part)]
    backward = "backward " if "transpose" in stack else ""
    return backward + ("/".join(layers[-2:]) or stack.split("/")[-1] or equation.primitive.name)


def _flops(compiled: Any) -> float | None:
    """As the compiler counts them, where it does: what a library does is hidden from it."""
    analysis = compiled.cost_analysis() or {}
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    return analysis.get("flops")


def _memory(compiled: Any) -> int | None:
    """Bytes of arguments, results and what is between them."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def memory_taken(features: int, kind: tuple[str, ...], height: int, width: int) -> int:
    """Bytes that this process takes more at its peak while it restores, but for the result."""
    model = _model(features, *kind)
    k, q = _jpeg(height, width)
    gc.collect()
    trim_memory()
    _reset_peak()
    before = _peak()
    restore_plane(model, k, q)
    # The result, 4 bytes a pixel, is what has to grow.
    return max(0, _peak() - before - 4 * height * width)


def _memory_alone(features: int, kind: tuple[str, ...], height: int, width: int) -> int:
    """The same in a process that does nothing else, with memory kept as commands keep it."""
    program = _MEMORY.format(arguments=(features, kind, height, width))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    return int(done.stdout.splitlines()[-1])


def _peak() -> int:
    """Most memory that this process took, bytes; of an accelerator's, if it has one."""
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats:
        return stats["peak_bytes_in_use"]
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _reset_peak() -> None:
    """Forgets the process's peak, where the system lets one."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def _compilation_cache(folder: str) -> Iterator[None]:
    """An empty folder for what is compiled, for the first to be cold and the second cached."""
    from jax.experimental.compilation_cache import compilation_cache

    names = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in names}
    compilation_cache.reset_cache()
    for name, value in names.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


_MEMORY = """
from dmcnn_jax import benchmark
from dmcnn_jax.system.malloc import tune_malloc
tune_malloc()
print(benchmark.memory_taken{arguments})
"""

_CLOCK = """
import json, time
parts, last = {{}}, time.perf_counter()
def part(name):
    global last
    now = time.perf_counter()
    parts[name], last = now - last, now
"""

_RESTORE = (
    _CLOCK
    + """
import dmcnn_jax.cli.restore
from dmcnn_jax.system.compile_cache import enable_compilation_cache
part("command")
import jax
enable_compilation_cache()
part("jax")
import flax.linen
part("flax")
from dmcnn_jax import jpeg
from dmcnn_jax.restoration.restorer import Restorer
part("package")
file = jpeg.read({photo!r})
part("reading")
jax.devices()
part("device")
restorer = Restorer()
part("weights")
planes = restorer.restore_planes(file)
part("first network")
restoration = restorer.render(planes)
part("pixels")
from PIL import Image
Image.fromarray(restoration.pixels).save({output!r})
part("writing")
print(json.dumps(parts))
"""
)

_FIRST_STEP = (
    _CLOCK
    + """
from dmcnn_jax.system.compile_cache import enable_compilation_cache
enable_compilation_cache()
import jax
part("jax")
import dmcnn_jax.training.loop
part("package")
from dmcnn_jax import benchmark
settings = benchmark.Settings(features={features}, patch={patch}, batch={batch})
jax.devices()
part("device")
step = benchmark.Step(settings, settings.features, settings.batch, {dtypes[0]!r})
part("state, tracing")
step.call[1](step.call[0]())
part("compiling, first step")
print(json.dumps(parts))
"""
)
