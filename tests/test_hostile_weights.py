"""Weights files of anyone's: each is loaded, or refused with one line, soon."""

import dataclasses
import io
import json
import random
import struct
import zipfile

import numpy as np
import pytest
from networks import start
from PIL import Image
from safetensors.numpy import save_file

import dmcnn_jax
from dmcnn_jax import models
from dmcnn_jax.export.exporter import import_model
from dmcnn_jax.inference.model import load
from dmcnn_jax.inference.weights import load_weights, save_weights
from dmcnn_jax.models.fields import check_fields
from dmcnn_jax.restoration.detail import check_finite

MODEL = {"name": "dncnn", "depth": 3, "features": 4, "batch_norm": True}


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """The arrays of a sound file, by name."""
    path = tmp_path_factory.mktemp("weights") / "sound.safetensors"
    save_weights(path, start(models.create_model(MODEL)), {"model": MODEL})
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def write(path, arrays, model=MODEL):
    save_file(dict(arrays), path, metadata={"dmcnn_jax": json.dumps({"model": model})})
    return path


def refusal(path, read=load):
    """The line that a file is refused with; any other error fails the test."""
    with pytest.raises((ValueError, OSError)) as raised:
        read(path)
    line = str(raised.value)
    assert line.isprintable() and len(line) < 1500, line
    return line


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weights_that_are_not_finite_are_refused(tmp_path, arrays, value, dtype):
    name = sorted(arrays)[1]
    changed = arrays[name].astype(dtype)
    changed.reshape(-1)[-1] = value
    path = write(tmp_path / "w.safetensors", arrays | {name: changed})
    assert refusal(path).endswith(f"that diverged: {name} has values that are not finite")


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_, np.int64])
def test_weights_that_are_no_floating_point_numbers_are_refused(tmp_path, arrays, dtype):
    name = sorted(arrays)[1]
    path = write(tmp_path / "w.safetensors", arrays | {name: np.ones_like(arrays[name], dtype)})
    kind = np.dtype(dtype).name
    assert f"{name} is of the type {kind}; expected floating" in refusal(path)
    npz = tmp_path / "w.npz"
    named = {f"params/{n}": a for n, a in arrays.items() if not n.startswith("batch_stats")}
    named[f"params/{name}"] = np.ones(3, dtype)
    np.savez(npz, about=json.dumps({"model": MODEL}), **named)
    assert f"is of the type {kind}; expected floating" in refusal(npz, import_model)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"name": ["x"]}, r"model.name is ['x']; expected one of: arcnn, "),
        ({"name": None}, "model.name is None; expected one of: arcnn, "),
        (MODEL | {"features": -1}, "model.features is -1; expected whole numbers from 1 to 1024"),
        (MODEL | {"features": 0}, "model.features is 0; expected whole numbers from 1 to 1024"),
        (MODEL | {"features": True}, "model.features is True; expected whole numbers"),
        (MODEL | {"features": "abc"}, "model.features is 'abc'; expected whole numbers"),
        (MODEL | {"features": None}, "model.features is None; expected whole numbers"),
        (MODEL | {"depth": 10**6}, "model.depth is 1000000; expected whole numbers from 1 to 128"),
        (MODEL | {"batch_norm": 1}, "model.batch_norm is 1; expected True or False"),
        (MODEL | {"dtype": ["float32"]}, "model.dtype is ['float32']; expected 'float32' or"),
        (MODEL | {"\x1b[2J" * 99: 1}, r"has no field '\x1b[2J"),
        ({"name": "dmcnn", "dilations": [1]}, "model.dilations is [1]; expected 3 whole numbers"),
        ({"name": "dmcnn", "dilations": [1, 2, 99]}, "whole numbers from 1 to 32"),
        ({"name": "dmcnn", "margin": float("nan")}, "model.margin is nan; expected numbers from"),
        ({"name": "dmcnn", "dct_features": -2}, "whole numbers from 1 to 1024, or None"),
        ({"name": "dmcnn", "rectifier": 3}, "model.rectifier is 3; expected a name"),
        ({"name": "dmcnn", "rectifier": "x"}, "rectifier is 'x'; expected one of"),
        ({"name": "tnrd", "strengths": []}, "expected 1 to 32 numbers from 0.0 to 1000.0"),
        ({"name": "tnrd", "strengths": "10"}, "expected 1 to 32 numbers from 0.0 to 1000.0"),
        ("dncnn", "does not say which model its weights are of"),
        ({}, "model.name is None; expected one of"),
    ],
)
def test_networks_that_make_no_sense_are_refused(tmp_path, arrays, model, said):
    assert said in refusal(write(tmp_path / "w.safetensors", arrays, model))


@pytest.mark.parametrize(
    "names",
    [
        ["a" + "/a" * 100_000],  # would end the process in a recursion
        ["conv1", "conv1/kernel"],
        ["\x1b[31m\n" * 50],
        ["batch_stats"],
        [""],
        ["/", "//"],
    ],
)
def test_names_that_make_no_tree_are_refused(tmp_path, arrays, names):
    extra = {name: np.ones(2, np.float32) for name in names}
    refusal(write(tmp_path / "w.safetensors", arrays | extra))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "3", '{"model": 3}', '{"model": null}'])
def test_descriptions_that_are_none_are_refused(tmp_path, arrays, text):
    path = tmp_path / "w.safetensors"
    save_file(dict(arrays), path, metadata={"dmcnn_jax": text})
    assert "does not say which model" in refusal(path)


def test_broken_archives_and_state_dicts_are_refused(tmp_path):
    npz = tmp_path / "w.npz"
    npz.write_bytes(b"PK\x03\x04 and nothing else")
    assert "is not an npz file" in refusal(npz, import_model)
    # An array that claims to be larger than any memory.
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999,), }"
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(npz, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    assert "is not an npz file" in refusal(npz, import_model)
    with zipfile.ZipFile(npz, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("about.npy", b"\x93NUMPY\x01\x00")
    assert "is not an npz file" in refusal(npz, import_model)
    for about in ("[", "null", '{"model": [1]}'):
        np.savez(npz, about=about, a=np.ones(2, np.float32))
        assert "does not say which network" in refusal(npz, import_model)


def test_state_dicts_with_other_keys_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pt"
    about = {"model": MODEL}
    for state in (
        {0: torch.ones(2), "_extra_state": about},
        {"conv1.weight": torch.ones(2, dtype=torch.int32), "_extra_state": about},
        {"conv1.weight": torch.ones(2), "_extra_state": {"model": ["x"]}},
        {"conv1.weight": torch.ones(2), "_extra_state": about | {"jax_only": 3}},
    ):
        torch.save(state, path)
        refusal(path, import_model)


def test_an_orbax_directory_without_its_description_is_refused(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    (tmp_path / "run" / "variables").mkdir(parents=True)
    assert "is not a directory that this package exported" in refusal(
        tmp_path / "run", import_model
    )


def test_every_field_of_every_network_has_a_known_type():
    for name in models.MODELS:
        network = type(models.create_model({"name": name}))
        for field in dataclasses.fields(network):
            if field.name not in ("name", "parent"):
                with pytest.raises(ValueError, match=rf"model\.{field.name} is .*; expected "):
                    check_fields(network, {field.name: object()})


def mutate(rng, arrays, model):
    """Returns arrays and a model that differ in one to three things from sound ones."""
    arrays, model = dict(arrays), dict(model)
    hostile = [-1, 0, 1.5, 10**9, "x", None, True, [], [1, 2, 3], [10**6] * 3, {}, float("nan")]
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(sorted(arrays))
        array = arrays[name]
        kind = rng.randrange(6)
        if kind == 0:
            model[rng.choice([*MODEL, "dilations", "dtype", "x\n"])] = rng.choice(hostile)
        elif kind == 1:
            model = {"name": rng.choice(sorted(models.MODELS))}
        elif kind == 2:
            dtypes = [np.int8, np.bool_, np.float64, np.float16, np.uint64]
            arrays[name] = array.astype(rng.choice(dtypes))
        elif kind == 3:
            arrays[name] = np.full_like(array, rng.choice([np.nan, np.inf, 1e38]))
        elif kind == 4:
            arrays[name] = np.ones(rng.choice([(), (0,), (2, 3), (1, 1, 1, 1, 1)]), np.float32)
        else:
            arrays[rng.choice([name, name + "/x", "\x1b]0;x\x07", "a" * 5000])] = array
    return arrays, model


def check_files(tmp_path, arrays, count):
    """Writes hostile files; returns how many were refused."""
    rng, refused = random.Random(0), 0
    for number in range(count):
        path = write(tmp_path / f"{number}.safetensors", *mutate(rng, arrays, MODEL))
        if number % 3 == 0:  # bits flip, the end is missing
            content = bytearray(path.read_bytes())
            for _ in range(rng.randint(1, 8)):
                content[rng.randrange(min(len(content), 2000))] ^= 1 << rng.randrange(8)
            path.write_bytes(content[: rng.randint(0, len(content))])
        try:
            load(path)
        except (ValueError, OSError) as error:
            refused += 1
            assert str(error).isprintable() and len(str(error)) < 1500
        else:
            assert load_weights(path)[1]["model"]["name"] == "dncnn"
    return refused


def test_hostile_files_are_loaded_or_refused(tmp_path, arrays):
    assert check_files(tmp_path, arrays, 10) >= 5


@pytest.mark.slow
def test_two_hundred_hostile_files_are_loaded_or_refused(tmp_path, arrays):
    assert check_files(tmp_path, arrays, 200) >= 150


def test_a_result_that_is_not_finite_is_refused(tmp_path, arrays):
    # Sound numbers, whose products overflow.
    large = {name: np.full_like(a, 3e38) if a.ndim == 4 else a for name, a in arrays.items()}
    path = write(tmp_path / "w.safetensors", large)
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    with pytest.raises(ValueError, match=r"w\.safetensors' restore this file to values that are"):
        dmcnn_jax.restore(file.getvalue(), path, engine="jax")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_enough(value):
    planes = np.full((2, 40, 50), 255, np.float32)
    check_finite(planes, "sound")
    planes[1, 7, 3] = value
    with pytest.raises(ValueError, match="the weights 'diverged' restore this file to values"):
        check_finite(planes, "diverged")
