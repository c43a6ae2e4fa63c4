"""The network for photographs in PyTorch, ONNX and StableHLO: what JAX restores, of any size."""

import io
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.export import onnx, pytorch, stablehlo
from dmcnn_jax.images.color import ycbcr_to_rgb
from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.photo import restore_gray, restore_photo
from dmcnn_jax.inference.variables import variable_shapes
from dmcnn_jax.models import create_model

ROOT = Path(__file__).parents[1]
CONFIG = {"name": "photo", "features": [4, 6, 8], "dilations": [2], "chroma_weight": 0.5}
CONFIG |= {"luma_features": 4, "luma_dct_features": 8}
KINDS = [*jpeg.SUBSAMPLING_FACTORS, "gray"]
# One block, blocks of luma that don't fill those of chroma, and whole ones.
SIZES = [(8, 8), (37, 41), (33, 16), (64, 80)]


@pytest.fixture(scope="module")
def model():
    """A model whose every weight shows in its result, and whose results are about as pixels are."""
    module = create_model(CONFIG)
    rng = np.random.default_rng(0)

    def fill(leaf):
        deviation = 0.7 / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
        return (deviation * rng.normal(size=leaf.shape)).astype(np.float32)

    return Model(module, jax.tree.map(fill, variable_shapes(module)), {"model": CONFIG}, "test")


@pytest.fixture(scope="module")
def network(model):
    pytest.importorskip("torch", reason="PyTorch is not installed: extra 'export'")
    return pytorch.make_module(pytorch.state_dict(model))


@pytest.fixture(scope="module")
def program(model, tmp_path_factory):
    """The path of the model as ONNX."""
    for package in onnx.ONNX.packages:
        pytest.importorskip(package, reason=f"{package} is not installed: extra 'export'")
    path = tmp_path_factory.mktemp("onnx") / "photo.onnx"
    onnx.write(model, path)
    return path


def save(kind, size):
    """Returns a JPEG file of a smooth random picture."""
    rng = np.random.default_rng(0)
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(*size, 3)), (2, 2, 0))
    picture = np.clip(128 + 50 * noise / noise.std(), 0, 255).astype(np.uint8)
    image, options = Image.fromarray(picture), {"subsampling": kind}
    if kind == "gray":
        image, options = image.convert("L"), {}
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30, **options)
    return file.getvalue()


def restore_by_jax(model, data):
    """Returns Y, Cb and Cr of a file's blocks of luma, levels: [H, W, 3]."""
    components = jpeg.read(data).components
    k, tables = [c.coefficients for c in components], [c.table for c in components]
    if len(k) == 1:
        (luma, table), gray = (*k, *tables), np.full((2, *(8 * n for n in k[0].shape[:2])), 128)
        return np.stack([255 * restore_gray(model, luma, table), *gray], axis=-1)
    factors = next(f for f in jpeg.SUBSAMPLING_FACTORS.values() if covers(f, data))
    planes = restore_photo(model, k, tables, factors)
    height, width = (8 * n for n in k[0].shape[:2])
    return np.moveaxis(planes, 0, -1)[:height, :width]


def covers(factors, data):
    """Returns whether a file's chroma is subsampled by these factors, as its header says."""
    frame = data.index(b"\xff\xc0")
    across, down = divmod(data[frame + 11], 16)
    return (down, across) == factors


def inputs_of(data):
    """Returns the inputs of an export by name."""
    components = jpeg.read(data).components
    luma, *chroma = [c.coefficients.astype(np.int32) for c in components]
    tables = np.zeros((3, 8, 8), np.int32)
    tables[: len(components)] = [c.table for c in components]
    factors = (2, 2)
    if chroma:
        factors = next(f for f in jpeg.SUBSAMPLING_FACTORS.values() if covers(f, data))
    else:
        chroma = np.zeros((2, *(-(-n // 2) for n in luma.shape[:2]), 64), np.int32)
    return {
        "luma": luma[None],
        "chroma": np.stack(chroma)[None],
        "table": tables[None],
        "subsampling": np.array(factors, np.int32),
    }


@pytest.mark.slow
def test_standard_tables_are_those_of_the_codec(network):
    qualities = np.arange(1, 101)
    for found, base in (
        (network.standard_luma, jpeg.STANDARD_LUMA),
        (network.standard_chroma, jpeg.STANDARD_CHROMA),
    ):
        expected = jpeg.quality_table(qualities, base)
        np.testing.assert_array_equal(found.numpy().reshape(100, 8, 8), expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_pytorch_and_onnx_restore_what_jax_restores(kind, model, network, program):
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(program)
    for size in SIZES:
        data = save(kind, size)
        expected, inputs = restore_by_jax(model, data), inputs_of(data)
        rgb, ycbcr = session.run(["rgb", "ycbcr"], inputs)
        np.testing.assert_allclose(ycbcr[0], expected, rtol=0, atol=5e-3)  # of 255 levels
        np.testing.assert_allclose(rgb[0], ycbcr_to_rgb(expected, "full"), rtol=0, atol=1e-2)
        with torch.inference_mode():
            estimates = network(*map(torch.from_numpy, inputs.values()))
        image = 255 * estimates["image"][0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(image, expected, rtol=0, atol=5e-3)
        moved = 255 * (estimates["image"] - estimates["jpeg"]).abs().amax(dim=(0, 2, 3))
        assert moved[0] > 1 and (kind == "gray" or moved[1:].min() > 1), "corrections must show"


@pytest.mark.slow
def test_gray_stays_exactly_gray(program):
    import onnxruntime

    session = onnxruntime.InferenceSession(program)
    rgb, ycbcr = session.run(["rgb", "ycbcr"], inputs_of(save("gray", (37, 41))))
    np.testing.assert_array_equal(ycbcr[..., 1:], np.float32(128))
    np.testing.assert_array_equal(rgb, ycbcr[..., :1].repeat(3, axis=-1))


@pytest.mark.slow
def test_the_script_of_the_page_restores_files(model, program, tmp_path, monkeypatch):
    pytest.importorskip("jpeglib")
    page = (ROOT / "docs/onnx-photographs.md").read_text()
    (script,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.onnx").write_bytes(program.read_bytes())
    for kind in KINDS:
        data = save(kind, (37, 41))
        (tmp_path / "photo.jpg").write_bytes(data)
        monkeypatch.setattr("sys.argv", ["restore.py", "photo.jpg", "restored.ppm"])
        names = {}
        exec(script, names)
        expected = ycbcr_to_rgb(restore_by_jax(model, data), "full")[:37, :41]
        with Image.open(tmp_path / "restored.ppm") as image:
            found = np.asarray(image).astype(float)
        # Halves round either way.
        np.testing.assert_allclose(found, np.clip(expected, 0, 255), rtol=0, atol=0.51)
    Image.new("CMYK", (16, 16)).save(tmp_path / "photo.jpg")
    with pytest.raises(ValueError, match=r"'photo\.jpg' is not gray, nor YCbCr in 4:4:4"):
        names["restore"](names["session"], "photo.jpg")


@pytest.mark.slow
def test_stablehlo_restores_420_of_any_size(model, tmp_path):
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed: extra 'export'")
    stablehlo.write(model, tmp_path / "photo.stablehlo")
    program = jax.export.deserialize(bytearray((tmp_path / "photo.stablehlo").read_bytes()))
    data = save("4:2:0", (37, 41))
    luma, chroma, table, _ = inputs_of(data).values()
    blocks = np.array(luma.shape[1:3], np.int32)
    more = [(0, 2 * n - m) for n, m in zip(chroma.shape[2:4], blocks, strict=True)]
    luma = np.pad(luma, ((0, 0), *more, (0, 0)), constant_values=7)
    rgb, ycbcr = program.call(luma, chroma, table, blocks)
    expected = restore_by_jax(model, data)
    height, width = 8 * blocks
    np.testing.assert_allclose(ycbcr[0, :height, :width], expected, rtol=0, atol=5e-3)
    rgb = np.asarray(rgb)[0, :height, :width]
    np.testing.assert_allclose(rgb, ycbcr_to_rgb(expected, "full"), rtol=0, atol=1e-2)
