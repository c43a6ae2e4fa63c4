"""Checkpoints are whole or not there; weights go through files."""

import errno
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from dmcnn_jax.inference.variables import check_variables
from dmcnn_jax.inference.weights import find_weights, load_weights, save_weights
from dmcnn_jax.models import create_model
from dmcnn_jax.system import atomic_write
from dmcnn_jax.system.bundled import BUNDLED
from dmcnn_jax.training.checkpoint_reading import read_checkpoint
from dmcnn_jax.training.checkpoints import Checkpoints, complete_steps

ABOUT = {"model": {"name": "dncnn", "depth": 3}, "step": 7}


@pytest.fixture
def variables(rng):
    params = {
        "conv1": {"kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32)},
        "r": np.float32(0.5),
    }
    return {"params": params, "batch_stats": {"norm": {"mean": np.arange(4, dtype=np.float32)}}}


def arrays(value):
    return {"a": jnp.full((3, 2), value, jnp.float32), "b": jnp.int32(value)}


def test_the_latest_two_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest is None
    for step, loss in ((1, 0.3), (2, 0.1), (3, 0.2), (4, None), (5, 0.15), (6, None)):
        checkpoints.save(step, arrays(step), {"step": step}, loss)
    checkpoints.wait()
    assert (checkpoints.latest, checkpoints.best) == (6, 2)
    checkpoints.close()
    steps = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert steps == [2, 5, 6]

    again = Checkpoints(tmp_path)
    assert (again.latest, again.best) == (6, 2)
    again.close()
    for step in steps:
        host, restored = read_checkpoint(tmp_path / "checkpoints" / str(step), arrays(0))
        assert host == {"step": step}
        np.testing.assert_array_equal(restored["a"], np.full((3, 2), step))
        assert int(restored["b"]) == step


def test_what_is_half_written_is_not_seen_and_removed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, arrays(3), {}, 20.0)
    checkpoints.close()
    # What a run leaves that is killed while it writes: Orbax's temporary name.
    folder = tmp_path / "checkpoints"
    half = folder / "7.orbax-checkpoint-tmp"
    (half / "arrays").mkdir(parents=True)
    (half / "arrays" / "manifest.ocdbt").write_bytes(b"half")
    again = Checkpoints(tmp_path)
    assert again.latest == 3
    # It is removed in the background, before something else is written.
    again.save(8, arrays(8), {}, 21.0)
    again.close()
    assert not half.exists()
    assert (folder / "8").is_dir()


def test_a_workdir_that_cannot_be_written_is_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        OSError, match=r"workdir '.*file/run' \(Not a directory\); choose another with --workdir"
    ):
        Checkpoints(tmp_path / "file" / "run")
    # To whom runs the tests as root, everything is open.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OSError, match=r"\(Permission denied\); choose another"):
        Checkpoints(tmp_path / "run")


def test_a_checkpoint_that_cannot_be_written_is_one_clear_error(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, arrays(3), {"step": 3}, 20.0)
    checkpoints.wait()

    def fail(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", fail)
    with pytest.raises(OSError, match=r"No space left.*that of step 3 is still good; make room"):
        checkpoints.save(4, arrays(4), {}, 21.0)
    monkeypatch.undo()
    checkpoints.close()
    assert complete_steps(tmp_path) == [3]
    host, restored = read_checkpoint(tmp_path / "checkpoints" / "3", arrays(0))
    assert host == {"step": 3} and int(restored["b"]) == 3


def test_a_process_that_is_gone_is_no_full_disk(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)

    def fail(*args, **kwargs):
        # So Orbax's thread hands it on, no longer as JAX's own type.
        raise ValueError("UNKNOWN: Gloo AllGather failed: Read error: Connection reset by peer")

    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", fail)
    with pytest.raises(OSError, match="can't be written"):
        checkpoints.wait()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Connection reset by peer"):
        checkpoints.wait()


def test_weights_go_through_a_file(tmp_path, variables):
    save_weights(tmp_path / "below" / "w.safetensors", variables, ABOUT)
    loaded, about = load_weights(tmp_path / "below" / "w.safetensors")
    assert about == ABOUT
    assert loaded.keys() == variables.keys()
    np.testing.assert_array_equal(
        loaded["params"]["conv1"]["kernel"], variables["params"]["conv1"]["kernel"]
    )
    assert loaded["params"]["r"].shape == ()
    np.testing.assert_array_equal(loaded["batch_stats"]["norm"]["mean"], np.arange(4))


def test_a_file_is_whole_or_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    atomic_write.write_file(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic_write.os, "fsync", full)
    with pytest.raises(OSError, match=r"w.safetensors' can't be written \(No space left"):
        atomic_write.write_file(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    atomic_write.write_file(tmp_path / ("n" * 255), b"content")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"content"
    for path, reason in (
        (tmp_path / ("n" * 256), "File name too long"),
        (tmp_path / "none" / "file", "No such file or directory"),
    ):
        with pytest.raises(OSError) as raised, atomic_write.replacing(path):
            pass
        assert (raised.value.filename, raised.value.strerror) == (str(path), reason)
    assert len(list(tmp_path.iterdir())) == 1


def test_files_that_are_none_of_ours_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_weights(path)
    save_file({"a": np.zeros(2, np.float32)}, path)
    with pytest.raises(ValueError, match="does not say which model"):
        load_weights(path)


def test_names_of_weights(tmp_path, variables, capsys):
    path, last = tmp_path / "best.safetensors", tmp_path / "last.safetensors"
    with pytest.raises(FileNotFoundError, match=r"has validated or was stopped$"):
        find_weights(tmp_path)
    save_weights(last, variables, ABOUT)  # of a run stopped early
    assert find_weights(tmp_path) == last
    note = capsys.readouterr().err
    assert note.count("\n") == 1 and repr(str(last)) in note and "not validated" in note
    save_weights(path, variables, ABOUT)
    assert find_weights(tmp_path) == find_weights(path) == path
    assert not capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match=r"no weights 'nowhere'; .*a bundled name \("):
        find_weights("nowhere")
    for bundled in Path(BUNDLED).glob("*.safetensors"):
        assert find_weights(bundled.stem) == bundled
        assert json.dumps(load_weights(bundled)[1]["model"])


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_nothing_in_the_working_directory_hides_bundled_weights(
    tmp_path, monkeypatch, variables, make
):
    monkeypatch.chdir(tmp_path)
    make(Path("dmcnn-any"))
    assert find_weights("dmcnn-any") == BUNDLED / "dmcnn-any.safetensors"
    # A path says so by its separator.
    if Path("dmcnn-any").is_file():
        assert find_weights("./dmcnn-any") == Path("dmcnn-any")
    else:
        with pytest.raises(FileNotFoundError, match=r"no best\.safetensors .* in '\./dmcnn-any'"):
            find_weights("./dmcnn-any")
    # Workdirs and files of other names need none.
    save_weights("runs/best.safetensors", variables, ABOUT)
    assert find_weights("runs") == Path("runs/best.safetensors")
    make(Path("dmcnn-any.safetensors"))
    assert find_weights("dmcnn-any") == BUNDLED / "dmcnn-any.safetensors"


def test_a_name_does_not_lead_out_of_the_bundled_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="a bundled name"):
        find_weights("../weights/dmcnn-any")


def test_bundled_weights_fit_their_networks():
    # `load` doesn't check them.
    for bundled in Path(BUNDLED).glob("*.safetensors"):
        variables, about = load_weights(bundled)
        check_variables(create_model(about["model"]), variables, bundled.stem)
