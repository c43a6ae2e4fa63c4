"""Section "start": whole processes, with an empty compilation cache and with a filled one."""

import dataclasses
import json
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmark.harness import Benchmark
from benchmark.inputs import make_pictures
from benchmark.processes import command, environment
from benchmark.settings import QUALITY


def measure_start(bench: Benchmark) -> dict[str, Any]:
    """Measures a process that restores a photograph, and one that takes a training step."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        Image.fromarray(make_pictures(1, 96)[0]).save(photo, quality=QUALITY)
        commands = {
            "restore": command("restore_process.py", str(photo), f"{folder}/clean.png"),
            "first step": command("first_step_process.py", dataclasses.asdict(bench.settings)),
        }
        return {name: _measure_process(bench, name, c, folder) for name, c in commands.items()}


def _measure_process(
    bench: Benchmark, name: str, arguments: list[str], folder: str
) -> dict[str, Any]:
    """Returns {"cold": run, "cached": run}, the cached run being the median of several.

    A run is {"seconds", "cpu_seconds", "parts": {part: seconds}}. If the process fails, the result
    is {"error": reason}.
    """
    cold: dict[str, Any] = {}
    cached = []
    variables = environment({"DMCNN_JAX_CACHE": str(Path(folder) / name.replace(" ", "-"))})
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    for temperature in ("cold", *["cached"] * bench.settings.rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        done = subprocess.run(arguments, env=variables, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            return {"error": (done.stderr.strip().splitlines() or ["no reason given"])[-1]}
        bench.say(f"start: {name}, {temperature} {seconds:.1f} s")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        parts = json.loads(done.stdout.splitlines()[-1])
        run = {"seconds": seconds, "cpu_seconds": cpu, "parts": parts}
        if temperature == "cold":
            cold = run
        else:
            cached.append(run)
    cached.sort(key=lambda run: run["seconds"])
    return {"cold": cold, "cached": cached[len(cached) // 2]}
