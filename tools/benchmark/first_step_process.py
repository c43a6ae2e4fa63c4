"""Takes the first training step of a new process, and prints how long each part took.

    python tools/benchmark/first_step_process.py '{"features": 4, "patch": 16, "batch": 2, …}'

The argument is JSON: fields of `Settings`.
"""

import importlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from benchmark.clock import Clock


def main(fields: Mapping[str, Any]) -> None:
    """Takes a step; imports stand where a training run's own are executed."""
    clock = Clock()
    from dmcnn_jax.system.compile_cache import enable_compilation_cache

    enable_compilation_cache()
    import jax

    clock.end("jax")
    importlib.import_module("dmcnn_jax.training.loop")
    clock.end("package")
    from benchmark.settings import Settings
    from benchmark.training_step import TrainingStep

    settings = Settings(features=fields["features"], patch=fields["patch"], batch=fields["batch"])
    jax.devices()
    clock.end("device")
    step = TrainingStep(settings, settings.features, settings.batch, fields["dtypes"][0])
    clock.end("state, tracing")
    call, wait = step.call
    wait(call())
    clock.end("compiling, first step")
    clock.report()


if __name__ == "__main__":
    main(*map(json.loads, sys.argv[1:]))
