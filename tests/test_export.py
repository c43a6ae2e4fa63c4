"""Exports compute what the model computes, and weights come back bit for bit."""

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.evaluation import paper_results
from dmcnn_jax.export import exporter, pytorch
from dmcnn_jax.export.formats import model_runner
from dmcnn_jax.export.onnx import OPSET
from dmcnn_jax.inference.model import Model, estimate, load
from dmcnn_jax.inference.variables import variable_shapes
from dmcnn_jax.inference.weights import load_weights, save_weights
from dmcnn_jax.models import MODELS, create_model
from dmcnn_jax.models.photo import PhotoNet
from dmcnn_jax.system.bundled import BUNDLED

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
    state = pytorch.state_dict(model)
    network = pytorch.make_module(state)
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
    same_tree(pytorch.from_torch(model.module, again), jax.tree.map(np.asarray, model.variables))
    assert network.state_dict()["_extra_state"]["quality"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("conditioned", [False, True])
def test_torch_compile_sees_one_graph(conditioned):
    torch = pytest.importorskip("torch")
    from dmcnn_jax.export.torch_dmcnn import DMCNN

    network = DMCNN(features=4, condition_on_table=conditioned)
    arguments = torch.zeros(1, 8, 8, 64, dtype=torch.int32), torch.ones(1, 8, 8, dtype=torch.int32)
    explained = torch._dynamo.explain(network)(*arguments)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_every_pytorch_module_is_compared():
    pytest.importorskip("torch", reason="PyTorch is not installed: extra 'export'")
    from dmcnn_jax.export import torch_baselines

    modules = {"dmcnn", *torch_baselines.MODELS}
    assert {config["name"] for config in VARIANTS} == modules <= set(MODELS)
    assert modules >= set(paper_results.SYSTEMS)


PROGRAMS = ("torch", "onnx", "stablehlo")
WEIGHTS = sorted(p.stem for p in BUNDLED.glob("*.safetensors"))
WEIGHTS += sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("configs/**/*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("format", exporter.FORMATS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_all_weights_in_every_format(name, format, tmp_path):
    for package in exporter.FORMATS[format].packages:
        pytest.importorskip(package, reason=f"{package} is not installed: extra 'export'")
    source = ROOT / name if "/" in name else name
    model, path = load(source), tmp_path / f"model{suffix(format)}"
    if name.startswith("dmcnn-chroma") and format in PROGRAMS:
        with pytest.raises(ValueError, match="npz, safetensors"):
            exporter.export_model(model, path, format)
        assert not path.exists()
        return
    done = exporter.export_model(model, path, format)
    photographs = 2 * len(exporter.FORMATS[format].subsamplings)
    images = photographs if isinstance(model.module, PhotoNet) else 4
    assert (done.format, done.images) == (format, images)
    if format not in ("onnx", "stablehlo"):
        again = exporter.import_model(path)
        same_tree(again.variables, model.variables)
        assert again.about == json.loads(json.dumps(model.about))


def test_pytorch_classes_take_every_field_but_those_of_jax_alone():
    """A field that a network gets is a field of its PyTorch class, or is declared as JAX's own."""
    pytest.importorskip("torch", reason="PyTorch is not installed: extra 'export'")
    from dmcnn_jax.export import torch_baselines, torch_dmcnn, torch_photo

    kinds = {"dmcnn": torch_dmcnn.DMCNN, "photo": torch_photo.PhotoNet, **torch_baselines.MODELS}
    for name, kind in kinds.items():
        module = type(create_model({"name": name}))
        fields = {field.name for field in dataclasses.fields(module)} - {"name", "parent"}
        assert set(inspect.signature(kind).parameters) == fields - set(module.JAX_ONLY_FIELDS), name


@pytest.mark.slow
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
    assert done.max_difference <= exporter.FORMATS[format].tolerance
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
@pytest.mark.parametrize("format", exporter.FORMATS)
def test_a_hundred_images_of_odd_sizes(format, model, photographs, tmp_path):
    for package in exporter.FORMATS[format].packages:
        pytest.importorskip(package, reason=f"{package} is not installed: extra 'export'")
    path = tmp_path / f"model{suffix(format)}"
    exporter.export_model(model, path, format)
    run, expect = exporter.FORMATS[format].run(path), model_runner(model)
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
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", OPSET)]
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
        "qualities": jnp.array([10, 10]),
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
    with pytest.raises(ValueError, match=r"bare\.npz' does not say which network .* --like"):
        exporter.import_model(tmp_path / "bare.npz")
    again = exporter.import_model(tmp_path / "bare.npz", like=tmp_path / "home.safetensors")
    same_tree(again.variables, model.variables)


def test_a_bare_state_dict_of_another_network(model, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra 'export'")
    save_weights(tmp_path / "home.safetensors", model.variables, model.about)
    state = pytorch.state_dict(model)
    del state["_extra_state"]
    torch.save(state, tmp_path / "bare.pt")
    again = exporter.import_model(tmp_path / "bare.pt", like=tmp_path / "home.safetensors")
    same_tree(again.variables, model.variables)
    state["g.conv99.weight"] = state.pop("g.conv1.weight")
    torch.save(state, tmp_path / "bare.pt")
    with pytest.raises(ValueError, match=r"g\.conv1\.weight missing; g\.conv99\.weight unknown"):
        exporter.import_model(tmp_path / "bare.pt", like=tmp_path / "home.safetensors")


def test_pytorch_refuses_the_state_dict_of_another_configuration(model):
    pytest.importorskip("torch", reason="PyTorch is not installed: extra 'export'")
    state = pytorch.state_dict(model)
    network = pytorch.make_module(state)
    other = type(network)(features=3, condition_on_table=True, rectifier="none")
    with pytest.raises(ValueError, match="rectifier='interval', this model 'none'"):
        other.load_state_dict(state)


def test_an_export_with_other_outputs_is_not_left_behind(model, tmp_path, monkeypatch):
    wrong = jax.tree.map(lambda a: a + 1e-3, dict(model.variables))
    npz = exporter.FORMATS["npz"]

    def write_wrong(model, path):
        npz.write(Model(model.module, wrong, model.about), path)

    monkeypatch.setitem(exporter.FORMATS, "npz", dataclasses.replace(npz, write=write_wrong))
    (tmp_path / "model.npz").write_text("from before")
    (tmp_path / "model.npz.partial").mkdir()  # somebody's, in spite of its name
    with pytest.raises(ValueError, match="as npz differ from the model's by"):
        exporter.export_model(model, tmp_path / "model.npz")
    assert (tmp_path / "model.npz").read_text() == "from before"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("nothing.npz", FileNotFoundError, "no file '.*nothing.npz'"),
        ("nothing", FileNotFoundError, "expected a .safetensors file, a workdir, or a bundled"),
        ("text.npz", ValueError, "is not an npz file of arrays"),
        ("text.onnx", ValueError, "is a program, not weights"),
        ("empty", FileNotFoundError, "no best.safetensors or last.safetensors in"),
    ],
)
def test_what_can_not_be_read(source, error, message, tmp_path):
    (tmp_path / "text.npz").write_text("no zip")
    (tmp_path / "text.onnx").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        exporter.import_model(tmp_path / source)


def test_a_small_file_of_huge_arrays_is_not_read(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(2 * 10**7, np.float32))
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(ValueError, match="its arrays would take 76 MB, over 20 times its size"):
        exporter.import_model(tmp_path / "bomb.npz")


def test_what_can_not_be_written(model, tmp_path):
    with pytest.raises(ValueError, match=r"no format '\.xyz'; expected one of: npz, "):
        exporter.export_model(model, tmp_path / "model.xyz")
    with pytest.raises(FileExistsError, match="is a directory; expected a new name"):
        exporter.export_model(model, tmp_path)


@pytest.mark.parametrize(
    ("format", "package", "extra"),
    [
        ("torch", "torch", "export"),
        ("onnx", "torch", "export"),
        ("onnx", "onnx", "export"),
        ("onnx", "onnxscript", "export"),
        ("onnx", "onnxruntime", "export"),
        ("stablehlo", "flatbuffers", "export"),
        ("orbax", "orbax.checkpoint", "train"),
    ],
)
def test_a_missing_package_is_one_line_that_names_the_extra(
    format, package, extra, model, tmp_path, monkeypatch
):
    for other in exporter.FORMATS[format].packages:
        if other != package:
            pytest.importorskip(other, reason=f"{other} is not installed: extra 'export'")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as caught:
        exporter.export_model(model, tmp_path / f"model{suffix(format)}", format)
    message = str(caught.value)
    assert message.startswith(f"the format {format} needs {package}, ")
    assert message.endswith(f'pip install "dmcnn-jax[{extra}]"') and "\n" not in message
    assert not list(tmp_path.iterdir())


def run_tool(*arguments):
    return run_python(ROOT, ROOT / "tools/export_params.py", *arguments)


def run_python(package_root, *arguments, cwd=None):
    """Runs Python on the package below a folder: the checkout's, or what a wheel holds."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(package_root)},
        cwd=cwd,
        check=False,
    )


@pytest.mark.slow
def test_the_command_of_the_readme(tmp_path):
    for package in exporter.FORMATS["onnx"].packages:
        pytest.importorskip(package, reason=f"{package} is not installed: extra 'export'")
    done = run_tool("dmcnn-qf10", "-o", tmp_path / "dmcnn.onnx")
    assert done.returncode == 0, done.stderr
    assert "dmcnn.onnx: onnx, opset 18, " in done.stdout


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


def test_a_wheel_holds_the_pytorch_modules(installed):
    modules = {path.name for path in (ROOT / "dmcnn_jax" / "export").glob("*.py")}
    assert {"torch_dmcnn.py", "torch_baselines.py", "torch_photo.py"} <= modules
    assert {path.name for path in (installed / "dmcnn_jax" / "export").iterdir()} == modules


@pytest.mark.slow
def test_an_installed_package_exports_programs_without_the_checkout(installed, tmp_path):
    for package in exporter.FORMATS["onnx"].packages:
        pytest.importorskip(package, reason=f"{package} is not installed: extra 'export'")
    code = """
        import sys, dmcnn_jax
        from dmcnn_jax.export import exporter, torch_baselines, torch_dmcnn
        model = dmcnn_jax.load("dmcnn-small-qf10")
        for name in ("model.pt", "model.onnx"):
            exporter.export_model(model, name)
        torch_dmcnn.load("model.pt")
        print(dmcnn_jax.__file__, torch_dmcnn.__file__, torch_baselines.__file__, sep="\\n")
    """
    done = run_python(installed, "-c", inspect.cleandoc(code), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files = done.stdout.splitlines()
    assert len(files) == 3 and all(Path(file).is_relative_to(installed) for file in files)
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", "model.onnx"}


@pytest.fixture(scope="module")
def short_run(cache, tmp_path_factory):
    """The workdir of a run of six steps."""
    pytest.importorskip("optax", reason="optax is not installed: extra 'train'")
    folder = tmp_path_factory.mktemp("run")
    runs.write_images(folder / "images")
    arguments = runs.command(
        folder,
        folder / "workdir",
        f"--config.data.source={folder / 'images'}",
        "--config.train.stage_steps=(4,2)",
        "--config.train.validate_every=2",
    )
    subprocess.run(arguments, env=runs.environment(cache), check=True)
    return folder / "workdir"


@pytest.mark.slow
@pytest.mark.parametrize("format", exporter.FORMATS)
def test_a_fresh_run_in_every_format(format, short_run, tmp_path):
    for package in exporter.FORMATS[format].packages:
        pytest.importorskip(package, reason=f"{package} is not installed: extra 'export'")
    path = tmp_path / f"model{suffix(format)}"
    done = run_tool(short_run, "--format", format, "-o", path)
    assert done.returncode == 0, done.stderr
    if exporter.FORMATS[format].read:
        again, run = exporter.import_model(path), load(short_run)
        same_tree(again.variables, run.variables)
        assert again.about == json.loads(json.dumps(run.about))


@pytest.mark.slow
def test_snippets_of_the_page_run_as_printed(tmp_path, monkeypatch):
    """Each in turn restores the same picture, from the files that the page's commands write."""
    for package in exporter.FORMATS["onnx"].packages:
        pytest.importorskip(package, reason=f"{package} is not installed: extra 'export'")
    photographs = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photographs.astronaut()[:75, :90]).save("photo.jpg", quality=10)
    model = load("dmcnn-small-qf10")
    for name in ("dmcnn.onnx", "dmcnn.stablehlo"):
        exporter.export_model(model, name)
    text = (ROOT / "docs" / "exporting.md").read_text()
    names, images = {}, []
    for snippet in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        exec(snippet, names)
        if "image" in names:
            images.append(np.asarray(names.pop("image")))
    expected = model.apply(model.variables, names["coefficients"], names["table"])
    assert len(images) == 3
    for image in images:
        np.testing.assert_allclose(image, expected, rtol=0, atol=1e-5)
