"""Bits that flip in a checkpoint are noticed, and the run goes on from the newest good one."""

import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lengths import length
from runs import load_config, read_log, write_images

from dmcnn_jax.training.checkpoint_reading import (
    ASIDE,
    DamagedCheckpointError,
    read_checkpoint,
    read_newest,
)
from dmcnn_jax.training.checkpoints import FOLDER, CheckpointError, Checkpoints, complete_steps
from dmcnn_jax.training.loop import train

# As much of each kind of file as in the checkpoint of a run: arrays, a bfloat16 one and a scalar.
LOSS = {3: 0.3, 5: 0.4}


def arrays(seed):
    rng = np.random.default_rng(seed)
    return {
        "params": {"kernel": jnp.asarray(rng.normal(size=(30, 20)), jnp.float32)},
        "average": jnp.asarray(rng.normal(size=(7,)), jnp.bfloat16),
        "step": jnp.int32(seed),
    }


def host(step):
    return {"schedule": {"step": step, "rate": 0.1 * step}, "config": {"name": "tiny"}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with the checkpoints of steps 3 and 5."""
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(workdir)
    for step, loss in LOSS.items():
        checkpoints.save(step, arrays(step), host(step), loss)
    checkpoints.close()
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    """A copy of `saved`, to damage."""
    return shutil.copytree(saved, tmp_path / "run")


def resume(workdir):
    """Reads the newest good checkpoint: its step, and the lines that were printed."""
    lines = []
    found = read_newest(workdir, arrays(0), lambda host: None, lines.append)
    assert found is not None
    step, values, restored = found
    assert values == host(step)
    jax.tree.map(np.testing.assert_array_equal, restored, arrays(step))
    return step, lines


def files_of(folder):
    # commit_success.txt only has to be there.
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".txt")
    return sorted(path for path in files if path.stat().st_size)


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def check_flips(workdir, count):
    """Flips single bits; returns for how many the checkpoint was refused."""
    rng, folder, refused = random.Random(0), workdir / FOLDER / "5", 0
    files = files_of(folder)
    for number in range(count):
        path = files[number % len(files)]
        content = path.read_bytes()
        flip(path, rng.randrange(8 * len(content)))
        try:
            values, restored = read_checkpoint(folder, arrays(0))
        except DamagedCheckpointError:
            refused += 1
        else:
            # A bit that nothing reads.
            assert values == host(5), path
            jax.tree.map(np.testing.assert_array_equal, restored, arrays(5))
        path.write_bytes(content)
    return refused


def test_a_flipped_bit_in_any_file_is_noticed_or_changes_nothing(workdir, capfd):
    assert check_flips(workdir, 8) >= 3
    assert not capfd.readouterr().err


@pytest.mark.slow
def test_many_flipped_bits_are_noticed_or_change_nothing(workdir, capfd):
    count = length(60, 200)
    assert check_flips(workdir, count) >= count / 4
    assert not capfd.readouterr().err


@pytest.mark.parametrize("item", ["arrays", "host", "checksums", "metrics"])
def test_the_run_goes_on_from_the_newest_good_checkpoint(workdir, capfd, item):
    largest = max(files_of(workdir / FOLDER / "5" / item), key=lambda path: path.stat().st_size)
    flip(largest, 4 * largest.stat().st_size)
    step, (line,) = resume(workdir)
    assert step == 3
    assert line.startswith(f"damaged checkpoints in {str(workdir)!r}: step 5 (")
    assert line.endswith(f"set aside in '{ASIDE}'; going on from step 3, the newest good one")
    # It no longer counts as the latest, and is not lost.
    assert complete_steps(workdir) == [3]
    assert (workdir / ASIDE / "5").is_dir()
    checkpoints = Checkpoints(workdir)
    checkpoints.save(5, arrays(5), host(5), 0.2)
    checkpoints.close()
    assert resume(workdir) == (5, [])
    assert not capfd.readouterr().err


def test_truncated_files_are_one_line(workdir, capfd):
    for path in files_of(workdir / FOLDER / "5" / "arrays"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    step, (line,) = resume(workdir)
    assert step == 3
    assert "step 5 (its arrays can't be read: " in line and len(line) < 600 and "\n" not in line
    assert not capfd.readouterr().err


def test_an_older_checkpoint_that_orbax_could_not_open_is_put_aside(workdir):
    (workdir / FOLDER / "3" / "metrics" / "metrics").write_text('{"loss": 0.')
    step, (line,) = resume(workdir)
    assert step == 5
    assert "step 3 (metrics/metrics can't be read" in line
    checkpoints = Checkpoints(workdir)
    assert checkpoints.best == 5
    checkpoints.close()


def test_all_damaged_is_an_error_and_nothing_is_moved(workdir):
    for step in (3, 5):
        flip(workdir / FOLDER / str(step) / "host" / "metadata", 300)
    with pytest.raises(
        CheckpointError,
        match=r"^no checkpoint in '.*checkpoints' is good: step 5 \(.*\), step 3 \(.*\); bring",
    ):
        resume(workdir)
    assert complete_steps(workdir) == [5, 3]
    assert not (workdir / ASIDE).exists()


def test_a_checkpoint_of_an_earlier_version_is_read_with_a_note(workdir):
    shutil.rmtree(workdir / FOLDER / "5" / "checksums")
    step, (line,) = resume(workdir)
    assert step == 5
    assert line.startswith("the checkpoint of step 5 in ") and line.endswith("it is not verified")
    # What can be noticed without checksums is.
    (workdir / FOLDER / "5" / "host" / "metadata").write_text('{"schedulf": 3}')

    def check_host(host):
        assert host["schedule"]

    found = read_newest(workdir, arrays(0), check_host, print)
    assert found is not None and found[0] == 3


def test_arrays_of_another_version_are_not_called_damaged(workdir):
    other = arrays(0) | {"average": jnp.zeros(8, jnp.bfloat16)}
    with pytest.raises(ValueError, match=r"has other arrays than this version .*: average;"):
        read_newest(workdir, other, lambda host: None, print)
    assert complete_steps(workdir) == [5, 3]


@pytest.mark.slow
def test_a_run_with_a_damaged_checkpoint_ends_with_the_bits_of_one_without(tmp_path, capfd):
    write_images(tmp_path / "images")
    config = load_config(**{"data.source": str(tmp_path / "images")})
    train(config, tmp_path / "whole")
    short = config.copy_and_resolve_references()
    short.train.stage_steps = (30, 4)
    train(short, tmp_path / "damaged")
    newest = tmp_path / "damaged" / FOLDER / "34"
    largest = max(files_of(newest / "arrays"), key=lambda path: path.stat().st_size)
    flip(largest, 4 * largest.stat().st_size)
    capfd.readouterr()
    train(config, tmp_path / "damaged")
    assert "resuming from step 32" in capfd.readouterr().err
    assert read_log(tmp_path / "damaged") == read_log(tmp_path / "whole")
    for name in ("best.safetensors", "last.safetensors"):
        contents = [(tmp_path / run / name).read_bytes() for run in ("whole", "damaged")]
        assert contents[0] == contents[1]
