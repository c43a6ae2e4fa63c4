"""A network's layers by OpenVINO: JAX's answers, which other tests hold to the paper."""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

import dmcnn_jax
from dmcnn_jax import jpeg
from dmcnn_jax.cli import restore
from dmcnn_jax.cli import restore_arguments as arguments_module
from dmcnn_jax.cli.evaluate import main as evaluate
from dmcnn_jax.inference import openvino_engine, tiling
from dmcnn_jax.inference.chroma import restore_chroma
from dmcnn_jax.inference.model import ENGINES, Model
from dmcnn_jax.inference.photo import restore_photo
from dmcnn_jax.inference.plane import restore_plane
from dmcnn_jax.inference.variables import variable_shapes
from dmcnn_jax.inference.weights import save_weights
from dmcnn_jax.models import create_model
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer
from dmcnn_jax.system import cpu

DMCNN = {"name": "dmcnn", "features": 4, "dct_features": 8}
CHROMA = {"name": "chroma", "features": 4, "dilations": (1, 2, 1)}
PHOTO = {"name": "photo", "features": (4, 6, 8), "dilations": (2,)}

needs_openvino = pytest.mark.skipif(
    not openvino_engine.is_installed(), reason="OpenVINO isn't installed"
)


def busy_model(config, precision=None, seed=0, gain=1.0):
    """Random weights, biases and all, so that every layer and its padding shows."""
    module = create_model(config)
    shapes = variable_shapes(module)
    rng = np.random.default_rng(seed)

    def fill(leaf):
        deviation = np.sqrt(gain / np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.2
        return (deviation * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    params = jax.tree.map(fill, shapes)
    engine = None if precision is None else openvino_engine.Engine(module, params, precision)
    return Model(module, params, {"model": config}, "busy", engine)


def by_both(config, precision="float32", **options):
    model = busy_model(config, precision, **options)
    return dataclasses.replace(model, engine=None), model


def picture(rng, rows, columns, quality=10):
    """Coefficients and table of a smooth random picture."""
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(8 * rows, 8 * columns)), 2)
    plane = np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)
    table = np.asarray(jpeg.quality_table(quality))
    return np.asarray(jpeg.encode(plane, table)), table


@needs_openvino
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"condition_on_table": True},
        {"dct_branch": False},
        {"multi_scale": False, "dilations": (1, 3, 2)},
        {"rectifier": "none", "learn_residual": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (20, 13)])
def test_luma_is_jax_s(rng, change, size):
    plain, fast = by_both(DMCNN | change)
    k, table = picture(rng, *size)
    expected = restore_plane(plain, k, table)
    np.testing.assert_allclose(restore_plane(fast, k, table), expected, atol=2e-5)
    # It does something, so that this shows something.
    assert np.abs(expected - np.asarray(jpeg.decode(k, table)) / 255).max() > 0.01


@needs_openvino
@pytest.mark.parametrize("project, platform", [(False, "cpu"), (True, "cpu"), (True, "gpu")])
def test_luma_in_tiles_is_jax_s(rng, project, platform, monkeypatch):
    plain, fast = by_both(DMCNN)
    k, table = picture(rng, 20, 100)
    options = {"project": project, "strength": 0.7}
    expected = restore_plane(plain, k, table, **options)
    monkeypatch.setattr(tiling, "TILE_SIDES", (32,))
    monkeypatch.setattr(tiling, "LONGEST_SIDE", 32)
    # Where the rest of the work is an accelerator's, several tiles at a time.
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    np.testing.assert_allclose(restore_plane(fast, k, table, **options), expected, atol=2e-5)


@needs_openvino
def test_a_model_conditioned_on_the_table_gets_each_table(rng):
    plain, fast = by_both(DMCNN | {"condition_on_table": True})
    k, _ = picture(rng, 6, 7)
    results = []
    for quality in (5, 40, 95):
        table = np.asarray(jpeg.quality_table(quality))
        expected = restore_plane(plain, k, table)
        results.append(restore_plane(fast, k, table))
        np.testing.assert_allclose(results[-1], expected, atol=3e-5)
    assert np.abs(results[0] - results[1]).max() > 0.01


@needs_openvino
@pytest.mark.parametrize("subsampling", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 4)])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (40, 20)])
def test_chroma_is_jax_s(rng, subsampling, size, monkeypatch):
    monkeypatch.setattr(tiling, "TILE_SIDES", (32,))
    plain, fast = by_both(CHROMA, gain=0.3)
    k = np.zeros((2, *size, 64), np.int16)
    k[..., :10] = rng.integers(-4, 5, (2, *size, 10))
    tables = np.stack([jpeg.quality_table(q, jpeg.STANDARD_CHROMA) for q in (30, 60)])
    shape = 8 * subsampling[0] * size[0], 8 * subsampling[1] * size[1]
    guide = rng.uniform(0, 255, shape).astype(np.float32)
    expected = restore_chroma(plain, k, tables, guide, subsampling, project=True)
    found = restore_chroma(fast, k, tables, guide, subsampling, project=True)
    np.testing.assert_allclose(found, expected, atol=5e-3)  # of 255 levels
    still = restore_chroma(plain, k, tables, guide, subsampling, strength=0)
    assert np.abs(expected - still).max() > 1


@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize("subsampling", [(1, 1), (1, 2), (2, 2)])
def test_photographs_are_jax_s(rng, subsampling, monkeypatch):
    """Of blocks of luma that don't fill those of chroma, in one tile and in several."""
    plain, fast = by_both(PHOTO, gain=0.5)
    tables = np.stack([jpeg.quality_table(q) for q in (20, 30, 40)])
    sides = (16, 24 if subsampling == (2, 2) else 40)
    for sizes, rows, columns in ((tiling.TILE_SIDES, 5, 7), (sides, 41, 35)):
        monkeypatch.setattr(tiling, "TILE_SIDES", sizes)
        chroma = [-(-n // s) for n, s in zip((rows, columns), subsampling, strict=True)]
        k = [np.zeros((*size, 64), np.int16) for size in ((rows, columns), chroma, chroma)]
        for plane in k:
            plane[..., :10] = rng.integers(-4, 5, (*plane.shape[:2], 10))
        expected = restore_photo(plain, k, tables, subsampling, strength=0.7, project=True)
        found = restore_photo(fast, k, tables, subsampling, strength=0.7, project=True)
        np.testing.assert_allclose(found, expected, atol=5e-3)  # of 255 levels
        still = restore_photo(plain, k, tables, subsampling, strength=0.0, project=True)
        assert np.abs(expected - still).max() > 1


@needs_openvino
@pytest.mark.parametrize("quality", [10, 50])
def test_bfloat16_is_near_and_keeps_the_file_s_coefficients(photographs, quality):
    table = np.asarray(jpeg.quality_table(quality))
    original = photographs["astronaut"][:200, :256]
    k = np.asarray(jpeg.encode(original, table))
    results = [
        restore_plane(dmcnn_jax.load("dmcnn-any", engine), k, table, project=True)
        for engine in ("jax", "openvino-bfloat16")
    ]
    difference = 255 * (results[1] - results[0])
    assert np.sqrt(np.mean(difference**2)) < 0.15
    errors = [np.mean((255 * r[:200, :256] - original) ** 2) for r in results]
    assert abs(10 * np.log10(errors[1] / errors[0])) < 0.03  # dB
    # By SciPy's transform: every coefficient is where it was.
    x = scipy.fft.dctn(
        255.0 * results[1].astype(float).reshape(25, 8, 32, 8).swapaxes(1, 2) - 128,
        axes=(2, 3),
        norm="ortho",
    )
    np.testing.assert_array_equal(np.round(x / table), k.reshape(25, 32, 8, 8))


@needs_openvino
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads as Linux does")
def test_one_network_serves_all_sizes(rng):
    """A network for every size took its own threads: 665 after 500 files."""
    engine = openvino_engine.Engine(*_parts(DMCNN))
    pictures = [rng.normal(size=(1, 16, 8 * n, 2)).astype(np.float32) for n in range(1, 9)]

    def run(x):
        return engine(x, np.zeros((1, 64), np.float32), np.ones((1, 2, x.shape[2] // 8, 1), bool))

    first = [run(pictures[0])]
    threads = len(os.listdir("/proc/self/task"))
    first += [run(x) for x in pictures[1:]]
    assert len(os.listdir("/proc/self/task")) == threads
    for x, expected in zip(pictures, first, strict=True):
        np.testing.assert_array_equal(run(x), expected)


@needs_openvino
@pytest.mark.parametrize(
    "config, cells, channels, encoding",
    [
        (DMCNN, 8, (2,), 64),
        (CHROMA, 8, (12,), 66),
        (PHOTO | {"dilations": (1, 2)}, 4, (17, 8), 198),
    ],
    ids=("dmcnn", "chroma", "photo"),
)
def test_of_a_core_the_result_is_that_of_the_whole(rng, config, cells, channels, encoding):
    """Images are larger than what layers see around most of these cores."""
    engine = openvino_engine.Engine(*_parts(config), "float32")
    rows, columns = 40, 36
    mask = np.zeros((1, rows, columns, 1), bool)
    mask[:, 3:, :31] = True

    def image(scale, count):
        return rng.normal(size=(1, scale * rows, scale * columns, count)).astype(np.float32)

    x, *features = map(image, (cells, 1), channels)
    code = rng.normal(size=(1, encoding)).astype(np.float32)
    whole = engine(x, code, mask, *features)
    assert np.abs(whole[:, 3 * cells :, : 31 * cells]).mean() > 0.1
    for core in ([[18, 20], [17, 19]], [[0, 22], [15, 36]], [[12, 40], [0, 9]]):
        found = engine(x, code, mask, *features, core=np.array(core))
        (top, bottom), (left, right) = cells * np.array(core)
        expected = np.zeros_like(whole)
        expected[:, top:bottom, left:right] = whole[:, top:bottom, left:right]
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(whole).max())


@pytest.mark.parametrize(
    "vendor, flags, fast",
    [
        ("GenuineIntel", "avx512_bf16 avx512_fp16", False),
        ("GenuineIntel", "avx512_bf16 amx_bf16 amx_tile", True),
        ("AuthenticAMD", "avx512_bf16", True),
        (None, "", True),
    ],
)
def test_bfloat16_is_chosen_where_it_is_faster(monkeypatch, tmp_path, vendor, flags, fast):
    """On an Intel Xeon without AMX, it took 1.5 times as long as float32."""
    monkeypatch.setattr(cpu, "_CPU_INFO", tmp_path / "cpuinfo")
    if vendor:
        (tmp_path / "cpuinfo").write_text(f"vendor_id\t: {vendor}\nflags\t: fpu {flags}\n")
    assert cpu.has_fast_bfloat16() == fast
    if openvino_engine.is_installed() and not fast:
        assert openvino_engine.Engine(*_parts(DMCNN)).precision == "float32"


@needs_openvino
def test_the_processor_s_own_precision_is_one_of_two():
    assert openvino_engine.Engine(*_parts(DMCNN)).precision in openvino_engine.PRECISIONS
    with pytest.raises(ValueError, match="precision is 'int8'"):
        openvino_engine.Engine(*_parts(DMCNN), "int8")


def _parts(config):
    model = busy_model(config)
    return model.module, model.variables


@needs_openvino
def test_importing_it_tells_nobody():
    code = (
        "import sys; from dmcnn_jax import load; load('dmcnn-small-any', 'openvino');"
        "assert 'openvino' in sys.modules;"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@needs_openvino
def test_a_signal_finds_its_stack_after_engines_have_gone():
    """OpenVINO cores replace it; of two that ended in the order they were made, none was left."""
    code = """
import signal
import numpy as np
import dmcnn_jax

def use(engine):  # DMCNN: C and ÕD; the logarithms of Q
    layers = np.zeros((1, 16, 16, 2), np.float32)
    engine(layers, np.zeros((1, 64), np.float32), np.ones((1, 2, 2, 1), bool))

first = dmcnn_jax.load("dmcnn-small-any", "openvino")
use(first.engine)
second = dmcnn_jax.load("dmcnn-small-any", "openvino")
use(second.engine)
del first
del second
heard = []
signal.signal(signal.SIGTERM, lambda *signal: heard.append(signal))
signal.raise_signal(signal.SIGTERM)
print(len(heard))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr


def test_which_engine_is_chosen(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="engine is 'tensorrt'; expected one of: auto, jax, openv"):
        dmcnn_jax.load("dmcnn-small-any", "tensorrt")
    other = tmp_path / "other.safetensors"
    model = busy_model({"name": "arcnn"})
    save_weights(other, model.variables, model.about)
    assert dmcnn_jax.load(other, "auto").engine is None
    with pytest.raises(ValueError, match="OpenVINO runs DMCNN, ChromaNet and PhotoNet, not ARCNN;"):
        dmcnn_jax.load(other, "openvino")
    assert dmcnn_jax.load("dmcnn-small-any").engine is None
    monkeypatch.setattr(openvino_engine, "is_installed", lambda: False)
    assert dmcnn_jax.load("dmcnn-small-any", "auto").engine is None
    assert Restorer().size == "fast"


@needs_openvino
def test_auto_is_openvino_where_it_is_installed(monkeypatch):
    assert dmcnn_jax.load("dmcnn-small-any", "auto").engine is not None
    assert Restorer().size == "full"
    assert Restorer(options=RestoreOptions(engine="jax")).size == "fast"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert dmcnn_jax.load("dmcnn-small-any", "auto").engine is None


def test_without_openvino_one_line_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "openvino", None)
    path = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(path)
    assert restore.main([str(path), "--engine", "openvino"]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and 'pip install "dmcnn-jax[openvino]"' in lines[0]
    assert list(tmp_path.iterdir()) == [path]


@needs_openvino
def test_the_commands_take_an_engine(tmp_path, photographs, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(photographs["camera"][:64, :80]).save(folder / "a.png")
    Image.fromarray(photographs["camera"][:64, :80]).save(tmp_path / "a.jpg", quality=10)
    printed = []
    for engine in ("jax", "openvino-float32"):
        arguments = ["--weights", "dmcnn-small-any", "--quality", "10", "-o"]
        evaluate([*arguments, f"{tmp_path}/r.json", "--images", str(folder), "--engine", engine])
        printed.append(capsys.readouterr().out)
        target = tmp_path / f"{engine}.png"
        status = restore.main([f"{tmp_path}/a.jpg", "-o", str(target), "--engine", engine])
        assert status == 0
    assert printed[0] == printed[1]
    one, other = (
        np.asarray(Image.open(tmp_path / f"{e}.png")) for e in ("jax", "openvino-float32")
    )
    assert one.shape == other.shape
    options = {"size": "fast", "engine": "openvino-float32"}
    np.testing.assert_allclose(
        dmcnn_jax.restore(tmp_path / "a.jpg", **options).astype(int), one, atol=1
    )


def test_the_command_offers_what_there_is():
    (action,) = [a for a in arguments_module.make_parser()._actions if a.dest == "engine"]
    assert tuple(action.choices) == ENGINES and action.default == "auto"
