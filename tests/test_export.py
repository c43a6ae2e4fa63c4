"""Exports answer as the model does, and come back as what they were."""

import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmcnn_jax import jpeg
from dmcnn_jax.evaluation import paper_results
from dmcnn_jax.export.exporter import exporter
from dmcnn_jax.inference.model import Model, estimate, load
from dmcnn_jax.inference.variables import variable_shapes
from dmcnn_jax.inference.weights import BUNDLED, load_weights, save_weights
from dmcnn_jax.models import MODELS, create_model

ROOT = Path(__file__).parents[1]
SMALL = {"name": "dmcnn", "features": 3, "condition_on_table": True}
VARIANTS = [
    SMALL,
    {"name": "dmcnn", "features": 2, "dct_features": 3, "rectifier": "leaky", "margin": 0.5},
    {"name": "dmcnn", "features": 2, "rectifier": "decoded", "dct_dilations": [1, 2, 4]},
    {"name": "dmcnn", "features": 2, "rectifier": "none", "dilations": [1, 1, 3]},
    {"name": "dmcnn", "features": 2, "dct_branch": False, "condition_on_table": True},
    {"name": "dmcnn", "features": 2, "multi_scale": False},
    {"name": "dmcnn", "features": 2, "learn_residual": False, "residual": 0.3},
    {"name": "arcnn"},
    {"name": "cas_cnn", "features": 3},
    {"name": "ddcn", "features": 3, "depth": 4},
    {"name": "dncnn", "features": 3, "depth": 5},
    {"name": "dncnn", "features": 3, "depth": 4, "batch_norm": False},
    {"name": "memnet", "features": 3, "blocks": 2, "recursions": 2},
    {"name": "tnrd", "strengths": [10.0, 1.0]},
]
BASELINES = [config for config in VARIANTS if config["name"] != "dmcnn"]


def make_model(config):
    """A model whose every parameter is its own, and whose corrections show."""
    module = create_model(config)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name, noise = path[-1].key, rng.standard_normal(leaf.shape)
        if leaf.ndim == 4:
            value = noise * np.sqrt(2 / np.prod(leaf.shape[:3]))
        elif name == "var":
            value = np.exp(0.3 * noise)
        else:
            about = {"scale": 1, "slope": 0.1, "r": 0.5, "filters": np.eye(48), "sum": 0.5}
            value = about.get(name, 0) + 0.05 * noise
        return jnp.asarray(value, jnp.float32)

    shapes = variable_shapes(module)
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    return Model(module, variables, {"model": config, "quality": 10}, "test")


@pytest.fixture(scope="module")
def model():
    return make_model(SMALL)


def jpegs(photographs, count, sizes):
    """Coefficients and tables of crops of odd sizes, `count / sizes` to a batch."""
    rng = np.random.default_rng(1)
    pictures = list(photographs.values())
    for height, width in 2 * rng.integers(3, 45, (sizes, 2)) + 1:
        crops = []
        for _ in range(count // sizes):
            picture = pictures[rng.integers(len(pictures))]
            y, x = rng.integers(0, np.array(picture.shape) - (height, width))
            crops.append(picture[y : y + height, x : x + width])
        tables = jpeg.quality_table(rng.integers(5, 96, len(crops)))
        yield np.array(jpeg.encode(np.stack(crops), tables)), tables


def same_tree(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.tree.map(np.array_equal, a, b)):
        assert leaf, jax.tree_util.keystr(path)


def suffix(format):
    return {"orbax": ""}.get(format, f".{format}" if format != "torch" else ".pt")


@pytest.mark.parametrize("config", VARIANTS, ids=json.dumps)
def test_pytorch_module_is_the_flax_module(config, photographs):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra 'export'")
    model = make_model(config)
    state = exporter._torch_state(torch, model)
    network = exporter._torch_module(state["_extra_state"], state)
    coefficients, table = next(jpegs(photographs, 2, 1))
    expected = estimate(model.module, model.variables, coefficients, table)
    with torch.inference_mode():
        found = network(torch.from_numpy(coefficients), torch.from_numpy(table))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name].permute(0, 2, 3, 1).numpy(), value, rtol=0, atol=1e-5, err_msg=name
        )
    assert np.abs(expected["image"] - expected["jpeg"]).max() > 1e-3, "corrections must show"
    # What PyTorch makes of itself is the same as what is written, and makes the same model.
    again = {k: v.numpy() for k, v in network.state_dict().items() if k != "_extra_state"}
    same_tree(exporter.from_torch(model.module, again), jax.tree.map(np.asarray, model.variables))
    assert network.state_dict()["_extra_state"]["quality"] == 10


def test_every_pytorch_module_is_compared():
    pytest.importorskip("torch", reason="PyTorch is not installed: extra 'export'")
    from dmcnn_jax.export import torch_baselines

    modules = {"dmcnn", *torch_baselines.MODELS}
    assert {config["name"] for config in VARIANTS} == modules <= set(MODELS)
    assert modules >= set(paper_results.SYSTEMS)


PROGRAMS = ("torch", "onnx", "stablehlo")
PACKAGES = {"torch": ["torch"], "onnx": ["torch", "onnx", "onnxruntime", "onnxscript"]}


@pytest.mark.slow
@pytest.mark.parametrize("format", exporter.TOLERANCES)
@pytest.mark.parametrize("name", sorted(p.stem for p in BUNDLED.glob("*.safetensors")))
def test_every_bundled_model_in_every_format(name, format, tmp_path):
    for package in PACKAGES.get(format, []):
        pytest.importorskip(package, reason=f"{package} is not installed: extra 'export'")
    path = tmp_path / f"model{suffix(format)}"
    if name == "dmcnn-chroma" and format in PROGRAMS:
        done = run_tool(name, "--format", format, "-o", path)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert "npz, safetensors" in done.stderr and not path.exists()
        return
    done = run_tool(name, "--format", format, "-o", path)
    assert done.returncode == 0, done.stderr
    assert f": {format}, " in done.stdout
    if format not in ("onnx", "stablehlo"):
        same_tree(exporter.import_model(path).variables, load(name).variables)
        assert exporter.import_model(path).about == json.loads(json.dumps(load(name).about))


def test_pytorch_classes_take_every_field_but_those_of_jax_alone():
    """A field that a network gets is a field of its PyTorch class, or is declared as JAX's own."""
    pytest.importorskip("torch", reason="PyTorch is not installed: extra 'export'")
    from dmcnn_jax.export import torch_baselines, torch_dmcnn

    kinds = {"dmcnn": torch_dmcnn.DMCNN, **torch_baselines.MODELS}
    for name, kind in kinds.items():
        module = type(create_model({"name": name}))
        fields = {field.name for field in dataclasses.fields(module)} - {"name", "parent"}
        assert set(inspect.signature(kind).parameters) == fields - set(module.JAX_ONLY_FIELDS), name


@pytest.mark.parametrize(
    "fields",
    [
        {"relative_loss": True, "theta": 0.5, "dct_weight": 0.1, "dtype": "float32"},
        {"relative_loss": False},
    ],
)
def test_fields_of_the_loss_travel_through_pytorch(fields, tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed: extra 'export'")
    model = make_model(SMALL | fields)
    exporter.export_model(model, tmp_path / "model.pt")
    assert exporter.import_model(tmp_path / "model.pt").about == model.about


@pytest.mark.parametrize("format", ["npz", "safetensors", "orbax", "torch"])
def test_weights_come_back_bit_for_bit(format, model, tmp_path):
    if format == "torch":
        pytest.importorskip("torch", reason="PyTorch is not installed: extra 'export'")
    path = tmp_path / f"model{suffix(format)}"
    done = exporter.export_model(model, path)
    assert (done.path, done.format, done.images) == (path, format, 4)
    assert done.difference <= exporter.TOLERANCES[format]
    again = exporter.import_model(path)
    same_tree(again.variables, model.variables)
    assert again.about == model.about
    assert again.module == model.module
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_batch_statistics_travel_too(tmp_path):
    model = make_model({"name": "dncnn", "features": 3, "depth": 4})
    for name in ("model.npz", "model", "model.safetensors"):
        exporter.export_model(model, tmp_path / name)
        same_tree(exporter.import_model(tmp_path / name).variables, model.variables)


@pytest.mark.slow
@pytest.mark.parametrize("format", exporter.TOLERANCES)
def test_a_hundred_images_of_odd_sizes(format, model, photographs, tmp_path):
    for package in {"torch": ["torch"], "onnx": ["torch", "onnx", "onnxruntime"]}.get(format, []):
        pytest.importorskip(package, reason=f"{package} is not installed: extra 'export'")
    path = tmp_path / f"model{suffix(format)}"
    exporter.export_model(model, path, format)
    run, expect = exporter._RUNNERS[format](path), exporter._runner(model)
    worst = images = 0
    for coefficients, table in jpegs(photographs, 100, 10):
        difference = run(coefficients, table) - expect(coefficients, table)
        worst = max(worst, np.abs(difference).max())
        images += len(coefficients)
    print(f"{format}: within {worst:.1e} on {images} images")
    assert images == 100
    assert worst <= {"torch": 1e-5, "onnx": 1e-5, "stablehlo": 1e-6}.get(format, 0)


@pytest.mark.slow
@pytest.mark.parametrize("config", BASELINES, ids=json.dumps)
def test_baselines_as_programs(config, tmp_path):
    model = make_model(config)
    exporter.export_model(model, tmp_path / "model.stablehlo")
    for package in ("torch", "onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed: extra 'export'")
    exporter.export_model(model, tmp_path / "model.onnx")


@pytest.mark.slow
def test_onnx_says_what_it_is(model, tmp_path):
    for package in ("torch", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed: extra 'export'")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: extra 'export'")
    exporter.export_model(model, tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx")
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", exporter.ONNX_OPSET)]
    shapes = {
        i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim]
        for i in proto.graph.input
    }
    assert shapes["coefficients"] == ["batch", "rows", "columns", 64]
    assert shapes["table"] == ["batch", 8, 8]
    assert [o.name for o in proto.graph.output] == ["image"]
    about = json.loads({p.key: p.value for p in proto.metadata_props}["dmcnn_jax"])
    assert about == model.about


@pytest.mark.slow
def test_stablehlo_is_for_three_platforms(model, tmp_path):
    exporter.export_model(model, tmp_path / "model.stablehlo")
    program = jax.export.deserialize((tmp_path / "model.stablehlo").read_bytes())
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert [str(a.shape) for a in program.in_avals] == [
        "(batch, rows, columns, 64)",
        "(batch, 8, 8)",
    ]


@pytest.mark.slow
def test_training_goes_on_as_if_never_left(model, tmp_path, rng):
    pytest.importorskip("optax", reason="optax is not installed: extra 'train'")
    pytest.importorskip("torch", reason="PyTorch is not installed: extra 'export'")
    from dmcnn_jax.config import default_config
    from dmcnn_jax.training.trainer import Trainer

    config = default_config()
    config.model.update(SMALL)
    trainer = Trainer(config)
    inputs = {
        "tiles": jnp.asarray(rng.integers(0, 256, (4, 32, 32), dtype=np.uint8)),
        "indices": jnp.arange(4, dtype=jnp.int32),
    }

    def params_after_a_step(path):
        config.init_from = str(path)
        state, _ = trainer.step(trainer.init_state(), inputs, jnp.float32(1e-3), 24)
        return jax.device_get(state.params)

    save_weights(tmp_path / "home.safetensors", model.variables, model.about)
    stayed = params_after_a_step(tmp_path / "home.safetensors")
    unchanged = jax.tree.map(np.array_equal, stayed, dict(model.variables["params"]))
    assert not any(jax.tree.leaves(unchanged))
    for name in ("abroad.npz", "abroad.safetensors", "abroad.pt"):
        exporter.export_model(model, tmp_path / name)
        exporter.export_model(exporter.import_model(tmp_path / name), tmp_path / "back.safetensors")
        same_tree(params_after_a_step(tmp_path / "back.safetensors"), stayed)


def test_weights_that_do_not_say_of_which_network(model, tmp_path):
    save_weights(tmp_path / "home.safetensors", model.variables, model.about)
    exporter.export_model(model, tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz") as file:
        np.savez(tmp_path / "bare.npz", **{k: v for k, v in file.items() if k != "about"})
    with pytest.raises(ValueError, match=r"bare\.npz' does not say which network .* `like`"):
        exporter.import_model(tmp_path / "bare.npz")
    again = exporter.import_model(tmp_path / "bare.npz", like=tmp_path / "home.safetensors")
    same_tree(again.variables, model.variables)


def test_a_bare_state_dict_of_another_network(model, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra 'export'")
    save_weights(tmp_path / "home.safetensors", model.variables, model.about)
    state = exporter._torch_state(torch, model)
    del state["_extra_state"]
    torch.save(state, tmp_path / "bare.pt")
    again = exporter.import_model(tmp_path / "bare.pt", like=tmp_path / "home.safetensors")
    same_tree(again.variables, model.variables)
    state["g.conv99.weight"] = state.pop("g.conv1.weight")
    torch.save(state, tmp_path / "bare.pt")
    with pytest.raises(ValueError, match=r"g\.conv1\.weight missing; g\.conv99\.weight unknown"):
        exporter.import_model(tmp_path / "bare.pt", like=tmp_path / "home.safetensors")


def test_pytorch_refuses_the_state_dict_of_another_configuration(model):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra 'export'")
    state = exporter._torch_state(torch, model)
    network = exporter._torch_module(state["_extra_state"], state)
    other = type(network)(features=3, condition_on_table=True, rectifier="none")
    with pytest.raises(ValueError, match="rectifier='interval', this model 'none'"):
        other.load_state_dict(state)


def test_what_answers_otherwise_is_not_left_behind(model, tmp_path, monkeypatch):
    wrong = jax.tree.map(lambda a: a + 1e-3, dict(model.variables))
    write = exporter._WRITERS["npz"]
    monkeypatch.setitem(
        exporter._WRITERS, "npz", lambda m, path: write(Model(m.module, wrong, m.about), path)
    )
    (tmp_path / "model.npz").write_text("from before")
    with pytest.raises(ValueError, match="answers otherwise than the model: by"):
        exporter.export_model(model, tmp_path / "model.npz")
    assert (tmp_path / "model.npz").read_text() == "from before"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("nothing.npz", FileNotFoundError, "no file '.*nothing.npz'"),
        ("nothing", FileNotFoundError, "expected a .safetensors file, a workdir, or a bundled"),
        ("text.npz", ValueError, "is no npz file of arrays"),
        ("text.onnx", ValueError, "is a program, not weights"),
        ("empty", FileNotFoundError, "no best.safetensors in"),
    ],
)
def test_what_can_not_be_read(source, error, message, tmp_path):
    (tmp_path / "text.npz").write_text("no zip")
    (tmp_path / "text.onnx").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        exporter.import_model(tmp_path / source)


def test_what_can_not_be_written(model, tmp_path):
    with pytest.raises(ValueError, match=r"no format '\.xyz'; expected one of: npz, "):
        exporter.export_model(model, tmp_path / "model.xyz")
    with pytest.raises(FileExistsError, match="is a directory; expected a new name"):
        exporter.export_model(model, tmp_path)


def run_tool(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "tools/export_params.py", *arguments],
        capture_output=True,
        text=True,
        env=_environment(),
        check=False,
    )


def _environment():
    import os

    # The checkout under test, whether or not it is the one that is installed.
    return os.environ | {"PYTHONPATH": str(ROOT)}


def test_the_command(model, tmp_path):
    save_weights(tmp_path / "best.safetensors", model.variables, model.about)
    done = run_tool(tmp_path, "--format", "npz", "-o", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    assert "out.npz: npz, " in done.stdout and "on 4 images within 0.0e+00" in done.stdout
    same_tree(exporter.import_model(tmp_path / "out.npz").variables, load(tmp_path).variables)

    failed = run_tool("no-such-model", "-o", tmp_path / "other.npz")
    assert failed.returncode == 1
    assert failed.stderr.startswith("export_params: no weights 'no-such-model'")
    assert failed.stderr.count("\n") == 1
    assert not (tmp_path / "other.npz").exists()


def test_scalars_stay_scalars(model, tmp_path):
    save_weights(tmp_path / "w.safetensors", model.variables, model.about)
    variables, _ = load_weights(tmp_path / "w.safetensors")
    assert variables["params"]["r"].shape == ()
