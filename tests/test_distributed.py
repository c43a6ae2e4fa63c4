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

from dmcnn_jax.training.workdir_lock import WorkdirLock

# Gradients of one batch and the losses of 20 steps, of the network itself; and what was read.
WORKER = """
import json, sys
import jax, numpy as np
sys.path.insert(0, sys.argv[1])
from runs import load_config
from dmcnn_jax.system import devices
images, pipeline, output, process, processes, port = sys.argv[2:]
if int(processes) > 1:
    devices.init_distributed(f"127.0.0.1:{port}", int(processes), int(process))
from dmcnn_jax.data import feeds
from dmcnn_jax.data.tiles import Tiles
from dmcnn_jax.training.trainer import Trainer
config = load_config(**{
    "data.source": images, "data.pipeline": pipeline, "data.device_bytes": 0,
    "train.batch_sizes": (8,), "train.learning_rate": 1e-3,
})
config.model = type(config.model)({"name": "dmcnn", "features": 4}, type_safe=False)
trainer = Trainer(config)
state = trainer.init_state()
feed, _ = feeds.open_data(config, trainer.mesh)
# They find each other now: after minutes of compiling one may be too late for collectives.
devices.synchronize("data is open")
read = []
if pipeline == "tf.data":
    make = feed.example
    def watch(stage, position):
        read.append(position)
        return make(stage, position)
    feed.example = watch
else:
    take = Tiles.take
    def watch(self, indices=slice(None)):
        read.extend(np.asarray(indices).tolist())
        return take(self, indices)
    Tiles.take = watch

replicated = devices.replicated(trainer.mesh)
def gradients(state, inputs):
    key = jax.random.fold_in(jax.random.key(0), 0)
    batch = feeds.make_batch(inputs, key, 16, config, devices.batched(trainer.mesh))
    return trainer.gradients(state, batch)[1]
first = feed.inputs(0, 0)
grads = jax.jit(gradients, out_shardings=replicated)(state, first)
losses, wrong = [], 0
for step in range(20):
    inputs = feed.inputs(0, step) if step else first
    state, scalars = trainer.step(state, inputs, np.float32(1e-3), 16)
    losses.append(float(scalars["loss"]))
    wrong += int(scalars.get("wrong_pixels", 0))
names = {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
}
np.savez(f"{output}-{process}.npz", **names)
about = {"losses": losses, "read": read, "devices": jax.device_count(), "wrong": wrong}
open(f"{output}-{process}.json", "w").write(json.dumps(about))
"""
# Two processes of which the second is late, or doesn't come.
LATE = """
import os, sys, time
from dmcnn_jax.system import devices
process, port, seconds, comes = sys.argv[1:]
if comes == "no":
    devices.HEARTBEAT_TIMEOUT = 15
devices.init_distributed(f"127.0.0.1:{port}", 2, int(process))
if process == "1":
    time.sleep(float(seconds))
    if comes == "no":
        os._exit(7)
devices.check_agreement("the same")
devices.synchronize("again")
devices.synchronize("again")
print("together")
"""
# The command, which gives a process up after 20 seconds instead of a minute.
IMPATIENT = """
import runpy
from dmcnn_jax.system import devices
devices.HEARTBEAT_TIMEOUT = 20
runpy.run_module("dmcnn_jax.main", run_name="__main__", alter_sys=True)
"""
EIGHT = "--xla_force_host_platform_device_count=8"
BATCH = 8


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "images")
    return folder


def finish(processes, timeout=1800):
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs


def work(name, folder, cache, pipeline, count=1, flags=""):
    """Gradients and account of each of some processes."""
    script = folder / "worker.py"
    script.write_text(WORKER)
    env, port, output = environment(cache, XLA_FLAGS=flags), free_port(), folder / name
    common = [script, os.path.dirname(__file__), folder / "images", pipeline, output]
    common = [sys.executable, *map(str, common)]
    finish([start([*common, str(i), str(count), str(port)], env) for i in range(count)])
    return [
        (
            dict(np.load(folder / f"{name}-{i}.npz")),
            json.loads((folder / f"{name}-{i}.json").read_text()),
        )
        for i in range(count)
    ]


def assert_the_same(name, found, expected):
    """Each array of the gradient within 1e-5 of its norm, each of 20 losses within 1e-4."""
    (grads, about), (expected_grads, expected_about) = found, expected
    errors = {
        key: np.linalg.norm(grads[key] - value) / np.linalg.norm(value)
        for key, value in expected_grads.items()
    }
    worst = max(errors, key=errors.get)
    losses = np.abs(np.divide(about["losses"], expected_about["losses"]) - 1)
    print(f"{name}: gradients {errors[worst]:.1e} ({worst}), losses of 20 {max(losses):.1e}")
    assert len(losses) == 20
    assert errors[worst] < 1e-5
    assert max(losses) < 1e-4


def start_late(cache, seconds, comes):
    port = free_port()
    common = [sys.executable, "-c", LATE]
    return [start([*common, i, str(port), seconds, comes], environment(cache)) for i in "01"]


@pytest.mark.slow
def test_a_process_may_be_later_than_collectives_wait(cache):
    outputs = finish(start_late(cache, "40", "yes"))
    assert all("together" in output for output in outputs)


@pytest.mark.slow
def test_one_that_does_not_come_is_not_waited_for(cache):
    waiting, gone = start_late(cache, "1", "no")
    output, _ = waiting.communicate(timeout=300)
    assert gone.wait() == 7
    assert waiting.returncode not in (0, None)
    assert "another process is gone" in output or "another task died" in output, output


@pytest.mark.slow
def test_the_same_step_on_one_device_eight_and_two_processes(folder, cache):
    (one,) = work("one", folder, cache, "device")
    (eight,) = work("eight", folder, cache, "device", flags=EIGHT)
    two = work("two", folder, cache, "device", count=2)
    assert [about["devices"] for _, about in (one, eight, *two)] == [1, 8, 2, 2]
    assert_the_same("eight devices", eight, one)
    for found in two:
        assert_the_same("two processes", found, one)
    # Half of each batch is read by each, and nothing by both.
    whole, *halves = (np.reshape(a["read"], (20, -1)) for _, a in (one, *two))
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), whole)
    assert not any(set(mine) & set(others) for mine, others in zip(*halves, strict=True))


@pytest.mark.slow
def test_the_same_step_of_tf_data_in_two_processes(folder, cache):
    pytest.importorskip("tensorflow", reason="pip install 'dmcnn-jax[data]'")
    (one,) = work("one", folder, cache, "tf.data")
    two = work("two", folder, cache, "tf.data", count=2)
    for found in two:
        assert found[1]["devices"] == 2
        assert found[1]["wrong"] == 0
        assert_the_same("tf.data in two processes", found, one)
    # Each reads ahead, and its own rows of the batches alone.
    first, second = (set(about["read"]) for _, about in two)
    assert not first & second
    assert {position % BATCH for position in first} == {0, 1, 2, 3}
    assert {position % BATCH for position in second} == {4, 5, 6, 7}
    asked = set(range(20 * BATCH))
    assert asked <= first | second
    assert asked <= set(one[1]["read"])


def start_two(folder, workdir, cache, *flags, program=("-m", "dmcnn_jax.main")):
    images, port = f"--config.data.source={folder / 'images'}", free_port()
    flags = [images, f"--coordinator=127.0.0.1:{port}", "--num_processes=2", *flags]
    python, _, _, *rest = command(folder, workdir, *flags)
    return [
        start([python, *program, *rest, f"--process_id={i}"], environment(cache)) for i in range(2)
    ]


def start_two_under_slurm(folder, workdir, cache, *flags):
    """As `srun` starts them, told by its environment alone who they are."""
    images = f"--config.data.source={folder / 'images'}"
    about = {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
        "JAX_COORDINATOR_PORT": str(free_port()),
    }
    return [
        start(
            command(folder, workdir, images, "--distributed", *flags),
            environment(cache, **about, SLURM_PROCID=str(i), SLURM_LOCALID=str(i)),
        )
        for i in range(2)
    ]


def start_one(folder, workdir, cache, *flags):
    return start(
        command(folder, workdir, f"--config.data.source={folder / 'images'}", *flags),
        environment(cache),
    )


# 12 steps of 20: as many as lie between validations, for the end of a run is validated, too.
SHORT, LONG = "--config.train.stage_steps=(6, 6)", "--config.train.stage_steps=(6, 14)"


def losses(workdir):
    return {r["step"]: r["loss"] for r in read_log(workdir) if "loss" in r}


@pytest.mark.slow
def test_checkpoints_move_between_one_process_and_two(folder, cache):
    finish([start_one(folder, folder / "one", cache, LONG)])
    # Two, then one.
    finish(start_two(folder, folder / "two", cache, SHORT))
    (output,) = finish([start_one(folder, folder / "two", cache, LONG)])
    assert "resuming from step 12" in output
    # One, then two.
    finish([start_one(folder, folder / "three", cache, SHORT)])
    outputs = finish(start_two(folder, folder / "three", cache, LONG))
    assert "resuming from step 12" in outputs[0]
    assert "of 2 processes" in outputs[0]
    expected = losses(folder / "one")
    for name in ("two", "three"):
        found = losses(folder / name)
        assert found.keys() == expected.keys()
        apart = max(abs(found[step] / loss - 1) for step, loss in expected.items())
        print(f"{name}: losses of {max(expected)} steps {apart:.1e} apart")
        assert apart < 1e-4


@pytest.mark.slow
def test_two_processes_are_refused_together_and_put_damage_aside_together(folder, cache):
    workdir = folder / "damaged"
    finish(start_two(folder, workdir, cache, SHORT))
    for path in (workdir / "checkpoints" / "12" / "arrays").rglob("d/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with WorkdirLock(workdir):
        processes = start_two(folder, workdir, cache, LONG)
        outputs = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    assert f"process {os.getpid()} is training in the workdir" in outputs[0]
    assert "process 0 can't train in the workdir" in outputs[1]
    outputs = finish(start_two(folder, workdir, cache, LONG))
    assert "damaged checkpoints in" in outputs[0]
    assert "resuming from step 8" in outputs[0]
    assert (workdir / "damaged-checkpoints" / "12").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_killed_stops_the_other_with_a_clear_word(folder, cache, victim):
    workdir = folder / f"killed{victim}"
    endless = "--config.train.stage_steps=(100000, 24)"
    processes = start_two(folder, workdir, cache, endless, program=("-c", IMPATIENT))
    while not losses(workdir) or max(losses(workdir)) < 8:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
    processes[victim].send_signal(signal.SIGKILL)
    other = processes[1 - victim]
    began = time.monotonic()
    output, _ = other.communicate(timeout=900)
    print(f"stopped after {time.monotonic() - began:.0f} s:", output.strip().splitlines()[-1][:300])
    processes[victim].communicate()
    assert other.returncode not in (0, None)
    assert "another process is gone" in output or "another task died" in output, output
    outputs = finish(start_two(folder, workdir, cache, "--config.train.stage_steps=(12, 4)"))
    assert "resuming from step" in outputs[0]


@pytest.mark.slow
def test_a_signal_to_one_of_two_stops_both_with_a_checkpoint(folder, cache):
    workdir = folder / "signal"
    processes = start_two_under_slurm(
        folder, workdir, cache, "--config.train.stage_steps=(100000, 24)"
    )
    while not losses(workdir) or max(losses(workdir)) < 8:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [130, 130], outputs
    assert "stopped at step" in outputs[0]


def test_half_a_description_of_the_processes_is_refused(folder, cache):
    arguments = command(folder, folder / "none", "--coordinator=127.0.0.1:1")
    done = subprocess.run(arguments, env=environment(cache), capture_output=True, text=True)
    assert done.returncode == 1
    assert "expected all three" in done.stderr
    assert done.stderr.strip().count("\n") == 0
