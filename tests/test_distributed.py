"""One device, eight devices and two processes compute the same, and hand each other checkpoints."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from runs import command, environment, read_log, start, write_images

# Gradients of one batch and the losses of 20 steps, of the network itself.
WORKER = """
import json, sys
import jax, numpy as np
sys.path.insert(0, sys.argv[1])
from runs import load_config
from dmcnn_jax import sharding
images, output, process, processes, port = sys.argv[2:]
if int(processes) > 1:
    sharding.connect(f"127.0.0.1:{port}", int(processes), int(process))
from dmcnn_jax.data import feeds, sources
from dmcnn_jax.train import Trainer
config = load_config(**{
    "data.source": images, "data.device_bytes": 0, "train.batch_sizes": (8,),
    "train.learning_rate": 1e-3,
})
config.model = type(config.model)({"name": "dmcnn", "features": 4}, type_safe=False)
trainer = Trainer(config)
state = trainer.init_state()
feed, _ = feeds.open_data(config, trainer.mesh)
read = []
take = sources.Tiles.take
def watch(self, indices=slice(None)):
    read.append(np.asarray(indices).tolist())
    return take(self, indices)
sources.Tiles.take = watch

replicated = sharding.replicated(trainer.mesh)
def gradients(state, inputs):
    key = jax.random.fold_in(jax.random.key(0), 0)
    batch = feeds.make_batch(inputs, key, 16, config, sharding.batched(trainer.mesh))
    return trainer.gradients(state, batch)[1]
grads = jax.jit(gradients, out_shardings=replicated)(state, feed.inputs(0, 0))
losses = []
for step in range(20):
    state, scalars = trainer.step(state, feed.inputs(0, step), np.float32(1e-3), 16)
    losses.append(float(scalars["loss"]))
names = {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
}
np.savez(f"{output}-{process}.npz", **names)
about = {"losses": losses, "read": read, "devices": jax.device_count()}
open(f"{output}-{process}.json", "w").write(json.dumps(about))
"""


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "images")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def finish(processes, timeout=900):
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs


@pytest.mark.slow
def test_the_same_step_on_one_device_eight_and_two_processes(folder, cache):
    script = folder / "worker.py"
    script.write_text(WORKER)
    eight = "--xla_force_host_platform_device_count=8"
    found = {}
    for name, count, flags in (("one", 1, ""), ("eight", 1, eight), ("two", 2, "")):
        env, port = environment(cache, XLA_FLAGS=flags), free_port()
        tests = os.path.dirname(__file__)
        common = [sys.executable, str(script), tests, str(folder / "images"), str(folder / name)]
        finish([start([*common, str(i), str(count), str(port)], env) for i in range(count)])
        found[name] = [
            (
                dict(np.load(folder / f"{name}-{i}.npz")),
                json.loads((folder / f"{name}-{i}.json").read_text()),
            )
            for i in range(count)
        ]
    ((grads, about),) = found["one"]
    assert [found[n][0][1]["devices"] for n in ("one", "eight", "two")] == [1, 8, 2]
    for name in ("eight", "two"):
        for other, other_about in found[name]:
            # Against the whole gradient: one of its arrays alone may be the sum of what cancels.
            whole = np.sqrt(sum(np.sum(value**2) for value in grads.values()))
            errors = [np.linalg.norm(other[key] - value) / whole for key, value in grads.items()]
            losses = np.abs(np.divide(other_about["losses"], about["losses"]) - 1)
            print(f"{name}: gradients {max(errors):.1e}, losses of 20 steps {max(losses):.1e}")
            assert max(errors) < 1e-5
            assert max(losses) < 1e-4
    first, second = (about["read"] for _, about in found["two"])
    for mine, others, whole in zip(first, second, about["read"], strict=True):
        assert not set(mine) & set(others)
        assert mine + others == whole


def start_two(folder, workdir, cache, *flags):
    port = free_port()
    return [
        start(
            command(
                folder,
                workdir,
                f"--config.data.source={folder / 'images'}",
                f"--coordinator=127.0.0.1:{port}",
                "--num_processes=2",
                f"--process_id={i}",
                *flags,
            ),
            environment(cache),
        )
        for i in range(2)
    ]


def start_one(folder, workdir, cache, *flags):
    return start(
        command(folder, workdir, f"--config.data.source={folder / 'images'}", *flags),
        environment(cache),
    )


SHORT, LONG = "--config.train.stage_steps=(12, 24)", "--config.train.stage_steps=(12, 30)"


def losses(workdir):
    return {r["step"]: r["loss"] for r in read_log(workdir) if "loss" in r}


@pytest.mark.slow
def test_checkpoints_move_between_one_process_and_two(folder, cache):
    finish([start_one(folder, folder / "one", cache, LONG)])
    # Two, then one.
    finish(start_two(folder, folder / "two", cache, SHORT))
    (output,) = finish([start_one(folder, folder / "two", cache, LONG)])
    assert "going on from step 36" in output
    # One, then two.
    finish([start_one(folder, folder / "three", cache, SHORT)])
    outputs = finish(start_two(folder, folder / "three", cache, LONG))
    assert "going on from step 36" in outputs[0]
    assert "of 2 processes" in outputs[0]
    expected = losses(folder / "one")
    for name in ("two", "three"):
        found = losses(folder / name)
        assert found.keys() == expected.keys()
        apart = max(abs(found[step] / loss - 1) for step, loss in expected.items())
        print(f"{name}: losses of {max(expected)} steps {apart:.1e} apart")
        assert apart < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_killed_stops_the_other_with_a_clear_word(folder, cache, victim):
    workdir = folder / f"killed{victim}"
    endless = "--config.train.stage_steps=(100000, 24)"
    processes = start_two(folder, workdir, cache, endless)
    while not losses(workdir) or max(losses(workdir)) < 8:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
    processes[victim].send_signal(signal.SIGKILL)
    other = processes[1 - victim]
    began = time.monotonic()
    output, _ = other.communicate(timeout=300)
    print(f"stopped after {time.monotonic() - began:.0f} s:", output.strip().splitlines()[-1][:300])
    processes[victim].communicate()
    assert other.returncode not in (0, None)
    assert "another process is gone" in output or "another task died" in output, output
    outputs = finish(start_two(folder, workdir, cache, "--config.train.stage_steps=(12, 4)"))
    assert "going on from step" in outputs[0]


@pytest.mark.slow
def test_a_signal_to_one_of_two_stops_both_with_a_checkpoint(folder, cache):
    workdir = folder / "signal"
    processes = start_two(folder, workdir, cache, "--config.train.stage_steps=(100000, 24)")
    while not losses(workdir) or max(losses(workdir)) < 8:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [130, 130], outputs
    assert "stopped at step" in outputs[0]


def test_half_a_description_of_the_processes_is_refused(folder, cache):
    arguments = command(folder, folder / "none", "--coordinator=127.0.0.1:1")
    done = subprocess.run(arguments, env=environment(cache), capture_output=True, text=True)
    assert done.returncode == 1
    assert "expected all three" in done.stderr
    assert done.stderr.strip().count("\n") == 0
