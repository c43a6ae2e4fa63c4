"""The benchmark runs, writes what it promises, and counts what can be counted by hand."""

import dataclasses
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmcnn_jax.evaluation.complexity import arithmetic, flops_per_pixel
from dmcnn_jax.inference import tiling
from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.plane import restore_plane
from dmcnn_jax.models import create_model

sys.path.append(str(Path(__file__).parents[1] / "tools"))

from benchmark import growth as growth_section
from benchmark import operations
from benchmark.harness import Benchmark
from benchmark.inputs import make_jpeg, random_model
from benchmark.limited import measure_within_limit
from benchmark.peers import TorchPeers
from benchmark.processes import run_script
from benchmark.report import to_markdown
from benchmark.sections import SECTIONS, measure_machine
from benchmark.settings import Settings
from benchmark.timing import measure_in_rounds

CHECKOUT = Path(__file__).parents[1]
# Figures don't matter here: compiling takes most of the time.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(CHECKOUT),
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}


def command(output, *flags):
    tool = str(CHECKOUT / "tools" / "benchmark")
    return [sys.executable, tool, "--quick", "-o", str(output), *flags]


def run(output, *flags):
    return subprocess.run(
        command(output, *flags),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=900,
    )


def check_spread(spread):
    assert 0 < spread["low"] <= spread["median"] <= spread["high"] < math.inf


@pytest.mark.slow
def test_quick_run_compares_training_and_restoring(tmp_path):
    pytest.importorskip("torch")
    done = run(tmp_path / "b", "--only", "train", "restore")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "b.json").read_text())
    assert results["machine"]["matrix_product"]["float32"] > 1e6
    assert results["machine"]["peer"].startswith("PyTorch")
    for section in ("train", "restore"):
        rows = results[section]["rows"]
        kept = {"torch, memory kept, float32"} if sys.platform == "linux" else set()
        by_openvino = section == "restore" and importlib.util.find_spec("openvino")
        ours = {"jax float32", *(["openvino float32"] if by_openvino else [])}
        assert rows.keys() == ours | {"torch float32"} | kept
        for row in rows.values():
            check_spread(row["seconds"])
            pixels = results[section]["pixels"]
            assert row["pixels_per_second"] == pytest.approx(pixels / row["seconds"]["median"])
        ours = rows["jax float32"]
        assert ours["flops"] > 1000 * results[section]["pixels"]
        assert ours["share_of_matrix_product"] > 0 and ours["share_of_roofline"] > 0
        ratios = results[section]["speed"]["jax float32 against torch float32"]
        check_spread(ratios["wall"])
    assert results["train"]["rows"]["jax float32"]["compile_cached"] > 0
    # A gradient is some three times what it is the gradient of.
    per_pixel = [
        results[s]["rows"]["jax float32"]["flops"] / results[s]["pixels"]
        for s in ("train", "restore")
    ]
    assert 2 < per_pixel[0] / per_pixel[1] < 3.5
    assert "times as fast" in (tmp_path / "b.md").read_text()


@pytest.mark.slow
def test_quick_run_of_everything_else(tmp_path):
    sections = [s for s in SECTIONS if s not in ("train", "restore")]
    done = run(tmp_path / "b", "--rounds", "1", "--only", *sections)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "b.json").read_text())
    assert results["pairs"]["on device"]["pixels_per_second"] > 0
    for table in results["workarounds"].values():
        assert set(table) == {"XLA", "ours"} and table["ours"]["seconds"]["median"] > 0
    for table in (*results["kernels"].values(), *results["gradients"].values()):
        assert len(table) == 4 and all(row["rate"] > 0 for row in table.values())
    area = results["growth"]["area"]
    assert [row["side"] for row in area] == [16, 32]
    assert all(row["computed"] >= 1 and row["memory"] > 0 for row in area)
    assert [row["batch"] for row in results["growth"]["batch"]] == [1, 2]
    assert "Cost by area" in (tmp_path / "b.md").read_text()
    pytest.importorskip("tensorflow")
    check_spread(results["pairs"]["tf.data"]["speed_against_pillow"])
    names = {row["name"] for row in results["layers"]["train"]["rows"]}
    assert {"g/conv5", "backward g/conv5", "f/conv9"} <= names
    for process in ("restore", "first step"):
        for run_ in results["start"][process].values():
            assert 0 < sum(run_["parts"].values()) < run_["seconds"]


def test_interrupted_it_writes_what_it_has(tmp_path):
    process = subprocess.Popen(
        command(tmp_path / "b", "--no-torch", "--rounds", "100000", "--only", "pairs"),
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    for line in process.stderr:
        if line.startswith("round"):
            process.send_signal(signal.SIGINT)
            break
    assert "interrupted" in process.stderr.read()
    assert process.wait() == 130
    assert (tmp_path / "b.md").exists()


def test_what_a_section_has_measured_outlives_its_failure(tmp_path, monkeypatch):
    """The second table of growth, that by batch, finds no memory."""

    def no_memory(*arguments):
        raise MemoryError("no memory for a step")

    row = {"side": 8, "tiles": ((1, 8), (2, 4)), "computed": 1.0, "memory": 0}
    row |= {"pixels_per_second": 3e6, "nanoseconds_per_computed_pixel": 1}
    bench = Benchmark(Settings.quick())
    monkeypatch.setattr(growth_section, "measure_areas", lambda *arguments: [row])
    monkeypatch.setattr(growth_section, "TrainingStep", no_memory)
    sections = {"machine": measure_machine, "growth": growth_section.measure_growth}
    bench.run(sections, tmp_path / "b.json")
    growth = json.loads((tmp_path / "b.json").read_text())["growth"]
    assert growth["error"] == "no memory for a step"
    assert growth["area"][0]["pixels_per_second"] == 3e6
    markdown = to_markdown(bench.results)
    assert "**Growth**: no memory for a step" in markdown
    assert "| 8 | 1 × 2 of 8 × 4 |" in markdown


def test_every_section_that_fails_is_reported():
    results = {"machine": {"device": "cpu"}, "settings": {"rounds": 1}}
    results |= {section: {"error": f"{section} failed"} for section in SECTIONS}
    markdown = to_markdown(results)
    for section in SECTIONS:
        assert f"**: {section} failed" in markdown


class QuickPeer:
    """A peer that does nothing; compiled, it does not even do that in time."""

    version = "Quick 1.0"

    def __init__(self):
        self.limits = []

    def restorers(self, features, dtypes, k, q, *, compiled=False):
        if compiled:
            raise RuntimeError("did not answer in time")
        return {f"torch {dtype}": (lambda: None, lambda _: None) for dtype in dtypes}

    def answer_by(self, moment):
        self.limits.append(moment)

    def cpu_seconds(self):
        return 0.0


def limited_settings(**fields):
    return dataclasses.replace(Settings.quick(), compiled=True, **fields)


def test_under_a_time_limit_compiling_comes_after_all_of_the_first_dtype():
    settings = limited_settings(dtypes=("bfloat16", "float32"))
    bench = Benchmark(settings, QuickPeer(), stop_at=0)
    measure_within_limit(bench, ("restore", "train"), lambda: pytest.fail("nothing to write"))
    assert bench.results["left_out"] == [
        "machine",
        "train, bfloat16",
        "restore, bfloat16",
        "train, torch.compile bfloat16",
        "restore, torch.compile bfloat16",
        "restore, float32",
        "train, float32",
    ]


def test_what_was_measured_is_written_before_compiling_runs_out_of_time():
    stop_at = time.monotonic() + 1000
    bench = Benchmark(limited_settings(), QuickPeer(), stop_at=stop_at)
    written = []
    measure_within_limit(bench, ("restore",), lambda: written.append(to_markdown(bench.results)))
    assert stop_at in bench.peer.limits
    assert len(written) == 3
    assert "| jax float32 against torch float32 |" in written[1] and "in time" not in written[1]
    assert "**restore, torch.compile float32**: did not answer in time" in written[2]
    rows = bench.results["restore"]["rows"]
    assert rows.keys() == {"jax float32", "torch float32"}
    model = random_model(4, "float32")
    flops = 16 * 24 * flops_per_pixel(model.module, model.variables, 64)
    for row in rows.values():
        assert row["rate"] * row["seconds"]["median"] == pytest.approx(flops)
    assert np.isfinite(restore_plane(model, *make_jpeg(16, 24))).all()


def test_no_round_begins_when_time_is_up():
    calls = {"nothing": (lambda: None, lambda _: None)}
    for stop_at, rounds in ((0, 1), (math.inf, 5)):
        times = measure_in_rounds(calls, 5, 0, lambda: 0.0, lambda line: None, stop_at)
        assert len(times["nothing"].wall) == rounds


def test_pytorch_is_ended_when_it_does_not_answer_in_time():
    pytest.importorskip("torch")
    peers = TorchPeers()
    peers.answer_by(time.monotonic())
    for _ in range(2):  # importing PyTorch takes longer; then the process has ended
        with pytest.raises(RuntimeError, match=r"did not answer in time|has ended"):
            peers.restorers(4, ("float32",), *make_jpeg(16, 24))


def test_a_time_limit_is_for_training_and_restoring(tmp_path):
    done = run(tmp_path / "b", "--seconds", "9", "--only", "train", "pairs")
    assert done.returncode == 1
    assert (
        done.stderr == "benchmark: --only names pairs; with --seconds expected train or restore\n"
    )


def test_scripts_find_the_package_and_the_tool_from_anywhere(tmp_path, monkeypatch):
    """Without the package installed: neither PYTHONPATH nor the working directory leads to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert run_script("memory.py", 4, ["float32"], 16, 24) >= 0
    with pytest.raises(RuntimeError, match="measure_memory"):
        run_script("memory.py", 4)


def test_the_torch_peer_has_help():
    script = CHECKOUT / "tools" / "benchmark" / "torch_peer.py"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith(b"usage: torch_peer.py")


def test_operations_of_a_program_by_hand():
    def program(x, kernel, matrix):
        y = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(y @ matrix)

    shapes = [(2, 8, 6, 3), (3, 3, 3, 5), (5, 7)]
    arrays = [jnp.ones(shape) for shape in shapes]
    found = operations.find_operations(jax.make_jaxpr(jax.grad(program, (0, 1, 2)))(*arrays).jaxpr)
    convolution, product = 2 * (2 * 4 * 3) * 9 * 3 * 5, 2 * (2 * 4 * 3) * 5 * 7
    forward = [operation.flops for operation in found if "backward" not in operation.name]
    assert forward == [convolution, product]
    assert sum(operation.flops for operation in found) == pytest.approx(
        3 * (convolution + product), rel=0.01
    )
    first = found[0]
    assert first.bytes == 4 * (2 * 8 * 6 * 3 + 9 * 3 * 5 + 2 * 4 * 3 * 5)
    assert first.bound({"flops": 1e9, "bytes": 1e12}) == pytest.approx(convolution / 1e9)
    assert first.bound({"flops": 1e12, "bytes": 1e6}) == pytest.approx(first.bytes / 1e6)


def test_a_convolution_is_three_products():
    x, kernel = jnp.arange(2 * 5 * 3.0).reshape(1, 2, 5, 3), jnp.arange(9 * 3 * 4.0)
    arguments = x, kernel.reshape(3, 3, 3, 4)
    expected = operations.convolution(*arguments)
    assert jnp.allclose(operations.convolution_by_products(*arguments), expected, rtol=1e-6)


def test_of_branches_one_counts():
    def program(flag, x):
        return jax.lax.cond(flag, lambda x: x @ x, lambda x: x @ x + 1, x)

    jaxpr = jax.make_jaxpr(program)(True, jnp.ones((4, 4))).jaxpr
    assert [flops for _, flops in arithmetic(jaxpr)] == [2 * 4**3]


def test_of_branches_for_platforms_this_ones_counts():
    def program(x):
        here = {jax.default_backend(): lambda x: x @ x}
        return jax.lax.platform_dependent(x, **here, default=lambda x: x @ x @ x)

    jaxpr = jax.make_jaxpr(program)(jnp.ones((4, 4))).jaxpr
    assert [flops for _, flops in arithmetic(jaxpr)] == [2 * 4**3]


@pytest.mark.parametrize("rows, columns", [(1, 1), (12, 12), (64, 64), (512, 300)])
def test_computed_pixels_cover_the_plane(rows, columns):
    model = Model(create_model({"name": "dmcnn", "features": 4}), {})
    computed = tiling.computed_pixels(model, rows, columns)
    assert computed >= 64 * rows * columns
    if min(rows, columns) >= 300:
        assert computed < 2 * 64 * rows * columns
