"""Section "growth": how cost grows with the picture's area, the batch, and the devices."""

from typing import Any

import jax

from benchmark.harness import Benchmark
from benchmark.inputs import first_devices, make_jpeg, random_model, restore_call
from benchmark.memory import measure_memory_alone
from benchmark.training_step import TrainingStep
from dmcnn_jax.inference import tiling
from dmcnn_jax.inference.model import is_openvino


def measure_growth(bench: Benchmark) -> dict[str, Any]:
    """Measures restoring by area, and training by batch size and by number of devices."""
    dtypes = bench.settings.dtypes
    # Large images may exhaust the memory, so each table is kept as soon as it is measured.
    growth = bench.results["growth"] = {}
    growth["area"] = measure_areas(bench, dtypes[0])
    if is_openvino("auto"):
        growth[f"area, openvino {dtypes[-1]}"] = measure_areas(bench, "float32", dtypes[-1])
    growth["batch"] = _measure_batches(bench)
    growth["devices"] = _measure_devices(bench)
    return growth


def measure_areas(bench: Benchmark, *kind: str) -> list[dict[str, Any]]:
    """Measures restoring square images of growing sides.

    Args:
        bench: the benchmark.
        kind: data type of the network and, if OpenVINO computes its layers, OpenVINO's precision.
    """
    settings = bench.settings
    model = random_model(settings.growth_features, *kind)
    calls, planes = {}, {}
    for side in settings.sides:
        k, q = make_jpeg(side, side)
        calls[str(side)] = restore_call(model, k, q)
        planes[side] = k
    results = bench.measure(calls, rounds=min(3, settings.rounds))
    rows = []
    for side in settings.sides:
        down, across = planes[side].shape[:2]
        computed = tiling.computed_pixels(model, down, across)
        bench.say(f"memory: {side} × {side}")
        rows.append(
            {
                "side": side,
                "tiles": tiling.tile_grid(model, down, across),
                "computed": computed / side**2,
                "memory": measure_memory_alone(settings.growth_features, kind, side, side),
            }
            | results[str(side)].row(side**2)
            | {"nanoseconds_per_computed_pixel": 1e9 * results[str(side)].median / computed}
        )
    return rows


def _measure_batches(bench: Benchmark) -> list[dict[str, Any]]:
    settings = bench.settings
    calls = {
        batch: TrainingStep(settings, settings.growth_features, batch, settings.dtypes[0]).call
        for batch in settings.batches
    }
    results = bench.measure({str(batch): call for batch, call in calls.items()})
    return [
        {"batch": batch} | results[str(batch)].row(batch * settings.patch**2) for batch in calls
    ]


def _measure_devices(bench: Benchmark) -> list[dict[str, Any]]:
    settings = bench.settings
    counts = [2**i for i in range(20) if 2**i <= jax.device_count()]
    calls = {
        str(count): TrainingStep(
            settings,
            settings.growth_features,
            settings.batch,
            settings.dtypes[0],
            mesh=first_devices(count),
        ).call
        for count in counts
    }
    return [
        {"devices": int(name)} | result.row(settings.batch * settings.patch**2)
        for name, result in bench.measure(calls).items()
    ]
