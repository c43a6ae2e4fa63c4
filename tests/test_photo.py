"""The network for photographs: what it is given, keeps, is trained by and measured with."""

import functools
import io
import re

import jax
import jax.numpy as jnp
import jpeg_cases
import networks
import numpy as np
import pytest
import runs
import scipy.fft
import scipy.ndimage
import skimage.metrics
from flax.traverse_util import flatten_dict
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.config import default_config
from dmcnn_jax.config.files import load_config
from dmcnn_jax.config.validation import validate_config
from dmcnn_jax.data import chroma_pairs, feeds, photo_pairs
from dmcnn_jax.data import tiles as tiles_module
from dmcnn_jax.evaluation import photo_protocol
from dmcnn_jax.images import color
from dmcnn_jax.inference import tiling
from dmcnn_jax.inference.model import Model, estimate, load
from dmcnn_jax.inference.photo import restore_photo
from dmcnn_jax.inference.plane import restore_plane
from dmcnn_jax.inference.variables import check_variables, variable_shapes
from dmcnn_jax.inference.weights import find_weights, load_weights, save_weights
from dmcnn_jax.jpeg import resampling
from dmcnn_jax.models import create_model, photo
from dmcnn_jax.models.photo import PhotoNet
from dmcnn_jax.models.photo_input import PhotoInput
from dmcnn_jax.models.photo_loss import rgb_error_weights
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer
from dmcnn_jax.system import devices
from dmcnn_jax.training.loop import train

MODEL = {"name": "photo", "features": (4, 6, 8), "dilations": (2,)}
MODEL |= {"luma_features": 4, "luma_dct_features": 8}
# Programs are compiled for each; the most common one is in the plain suite.
SUBSAMPLINGS = [
    pytest.param(factors, marks=[] if factors == (2, 2) else [pytest.mark.slow])
    for factors in jpeg.SUBSAMPLING_FACTORS.values()
]


@functools.cache
def filled(rectify=True):
    """A network all of whose weights do something: module and variables."""
    module = create_model(MODEL | {"rectify": rectify})
    rng = np.random.default_rng(0)

    def fill(leaf):
        deviation = 1 / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
        return (deviation * rng.normal(size=leaf.shape)).astype(np.float32)

    return module, jax.tree.map(fill, variable_shapes(module))


def untrained(rectify):
    """A network as it is before training."""
    module = create_model(MODEL | {"rectify": rectify})
    variables = networks.start(module)
    variables["params"]["last"] = jax.tree.map(np.zeros_like, variables["params"]["last"])
    # The network that restores luma then changes nothing, either.
    variables["frozen"] = jax.tree.map(np.zeros_like, variables["frozen"])
    return module, variables


def picture(height, width, seed=0):
    """A smooth random colour picture: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (2, 2, 0))
    return np.clip(128 + 50 * noise / noise.std(), 0, 255).astype(np.uint8)


def compressed(height, width, subsampling, quality=20, seed=0):
    """A batch of one picture of whole blocks of chroma."""
    rgb = picture(height, width, seed)[None]
    return jax.device_get(photo_pairs.compress_at(rgb, np.array([quality]), subsampling))


def exact_planes(k, table):
    """Pixels of planes by SciPy: k [planes, h, w, 64], Q [planes, 8, 8]."""
    planes, rows, columns, _ = k.shape
    x = k.reshape(planes, rows, columns, 8, 8) * table[:, None, None].astype(float)
    pixels = scipy.fft.idctn(x, axes=(3, 4), norm="ortho") + 128
    return np.clip(pixels.transpose(0, 1, 3, 2, 4).reshape(planes, 8 * rows, 8 * columns), 0, 255)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_untrained_is_luma_restored_and_chroma_decoded(subsampling):
    """Chroma: the exact inverse transform, upsampled in NumPy. Luma: another network's."""
    batch = compressed(32, 64, subsampling)
    module, variables = untrained(rectify=False)
    found = estimate(module, variables, batch["coefficients"], batch["table"])
    given, table = batch["coefficients"], batch["table"][0]
    (luma,) = exact_planes(given.luma, table[:1])
    chroma = [
        resampling.upsample(plane.astype(np.float32), subsampling)
        for plane in exact_planes(given.chroma[0], table[1:])
    ]
    expected = np.stack([luma, *chroma], axis=-1)
    assert found["image"].shape == (1, 32, 64, 3)
    np.testing.assert_allclose(found["jpeg"][0] * 255, expected, atol=2e-3)
    np.testing.assert_array_equal(found["image"][..., 1:], found["jpeg"][..., 1:])
    dmcnn = Model(module.luma_network(), {"params": variables["frozen"]["luma"]})
    restored = restore_plane(dmcnn, given.luma[0], table[0], project=True)
    np.testing.assert_allclose(found["image"][0, ..., 0], restored, atol=1e-5)
    assert np.abs(restored * 255 - luma).max() < 0.6


def test_luma_restored_before_shows():
    """In all planes of a network whose weights do something."""
    batch = compressed(32, 32, (2, 2))
    module, variables = filled()
    without = {**variables, "frozen": jax.tree.map(np.zeros_like, variables["frozen"])}
    found, other = (
        estimate(module, v, batch["coefficients"], batch["table"])["image"]
        for v in (variables, without)
    )
    assert np.abs(found - other).max(axis=(0, 1, 2)).min() > 1 / 255


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_what_the_file_says_is_kept(subsampling):
    """Each plane, averaged over its samples, lies in the intervals and their margin."""
    batch = compressed(32, 32, subsampling)
    given, table = batch["coefficients"], batch["table"][0]
    estimates = estimate(*filled(), given, batch["table"])
    image = np.asarray(estimates["image"])[0] * 255
    assert np.abs(image - np.asarray(estimates["jpeg"][0]) * 255).max() > 1
    down, across = subsampling
    averages = image[..., 1:].reshape(32 // down, down, 32 // across, across, 2).mean(axis=(1, 3))
    planes = [(image[..., 0], given.luma[0])]
    planes += [(averages[..., i], given.chroma[0, i]) for i in range(2)]
    for (plane, k), q in zip(planes, table, strict=True):
        rows, columns, _ = k.shape
        blocks = plane.reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3) - 128
        x = scipy.fft.dctn(blocks, axes=(2, 3), norm="ortho")
        distance = np.abs(x - k.reshape(rows, columns, 8, 8) * q) - q / 2
        assert distance.max() <= 0.25 + 0.01


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_what_lies_outside_of_the_image_has_no_influence(subsampling):
    batch = compressed(32, 48, subsampling)
    given, table = batch["coefficients"], batch["table"]
    whole = estimate(*filled(), given, table)["image"]
    down, across = subsampling
    rng = np.random.default_rng(0)

    def surround(k, rows, columns):
        """Places blocks among others that mean nothing."""
        *leading, height, width, _ = k.shape
        shape = (*leading, height + 2 * rows, width + 2 * columns, 64)
        padded = rng.integers(-9, 9, shape, dtype=k.dtype)
        padded[..., rows : rows + height, columns : columns + width, :] = k
        return padded

    padded = PhotoInput(surround(given.luma, 2, 4), surround(given.chroma, 2 // down, 4 // across))
    mask = np.zeros((1, 8, 14, 1), bool)
    mask[:, 2:6, 4:10] = True
    module, variables = filled()
    run = jax.jit(lambda k: module.apply(variables, k, table, mask=mask)["image"])
    np.testing.assert_allclose(run(padded)[:, 16:48, 32:80], whole, atol=1e-4)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_halo_covers_what_a_block_depends_on(subsampling):
    """With it, the middle of a picture is the same in a part of it, whose luma is restored."""
    down, across = subsampling
    module, variables = filled()
    halo = module.halo(subsampling)
    # One block of chroma, its halo, and one block more.
    sides = [(2 * (n + 1) + 1) * s for n, s in zip(halo, subsampling, strict=True)]
    batch = compressed(8 * sides[0], 8 * sides[1], subsampling)
    given, table = batch["coefficients"], batch["table"]
    part = PhotoInput(given.luma[:, down:-down, across:-across], given.chroma[:, :, 1:-1, 1:-1])
    luma = module.apply(variables, given.luma, table[:, 0], None, method="restore_luma")

    @jax.jit
    def restore(k, luma):
        return module.apply(variables, k, table, luma, method="restore_from_luma")["image"]

    whole = restore(given, luma)[:, 8 * down :, 8 * across :]
    top, left = 8 * down * halo[0], 8 * across * halo[1]
    block = np.s_[:, top : top + 8 * down, left : left + 8 * across]
    found = restore(part, luma[:, 8 * down : -8 * down, 8 * across : -8 * across])
    np.testing.assert_allclose(found[block], whole[block], atol=1e-5)


def test_gray_stays_exactly_gray():
    """Where a file has no coefficients of chroma; colour elsewhere doesn't reach far."""
    batch = compressed(64, 128, (2, 2))
    given = batch["coefficients"]
    chroma = given.chroma.copy()
    chroma[:, :, :, 2:] = 0
    image = np.asarray(estimate(*filled(), PhotoInput(given.luma, chroma), batch["table"])["image"])
    assert np.abs(image[:, :, :32, 1:] - 128 / 255).max() > 0.01
    # Two blocks of chroma have coefficients, the third is beside them, the fourth fades out; and
    # upsampling adds a pixel.
    np.testing.assert_array_equal(image[:, :, 65:, 1:], np.float32(128 / 255))


def test_error_weights_are_those_of_rgb(rng):
    """By conversion of random errors of single planes."""
    errors = rng.normal(size=(3, 1000))
    for plane, weight in enumerate(rgb_error_weights()):
        ycbcr = np.full((1000, 3), 128.0)
        ycbcr[:, plane] += errors[plane]
        moved = color.ycbcr_to_rgb(ycbcr, "full") - 128
        assert np.square(moved).mean() == pytest.approx(weight * np.square(errors[plane]).mean())


def test_the_loss_is_that_worked_out_by_hand():
    """Two pictures with constant errors: 4 and 2 levels of the JPEG, 2 and 1 of the result."""
    original = np.full((2, 8, 8, 3), 0.5, np.float32)
    jpeg_error = np.array([[4, 4, 4], [2, 2, 0]])[:, None, None] / 255
    error = np.array([[2, 4, 4], [1, 1, 0]])[:, None, None] / 255
    estimates = {
        name: jnp.asarray(original + e, jnp.float32)
        for name, e in (("jpeg", jpeg_error), ("image", error))
    }
    blue = 1.0861379
    both = blue + 0.8251982
    luma = [4 / (16 + 4), 1 / (4 + 4)]
    chroma = [16 * both / (16 * both + 4), blue / (4 * blue + 4)]
    for weight in (1.0, 0.5):
        expected = (np.mean(luma) + weight * np.mean(chroma)) / (1 + weight)
        found = PhotoNet(chroma_weight=weight).loss(estimates, jnp.asarray(original))
        assert float(found) == pytest.approx(expected, rel=1e-4)


def test_steps_lower_the_loss():
    """Of plain gradient descent, from the untrained network, on one batch."""
    module, variables = untrained(rectify=True)
    batch = compressed(32, 32, (2, 2), quality=10)
    original = batch["original"].astype(np.float32) / 255

    def loss(params):
        found = module.apply(variables | {"params": params}, batch["coefficients"], batch["table"])
        return module.loss(found, original)

    params = variables["params"]
    step = jax.jit(jax.value_and_grad(loss))
    losses = []
    for _ in range(12):
        value, gradient = step(params)
        losses.append(float(value))
        params = jax.tree.map(lambda p, g: p - 0.002 * g, params, gradient)
    assert losses[-1] < losses[0] - 0.01


def test_pairs_are_what_pillows_files_hold():
    rgb = picture(48, 64)
    batch = jax.device_get(photo_pairs.compress_at(rgb[None], np.array([30]), (2, 2)))
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=30)
    components = jpeg.read(file.getvalue()).components
    given = batch["coefficients"]
    found = [given.luma[0], *given.chroma[0]]
    for k, table, component in zip(found, batch["table"][0], components, strict=True):
        np.testing.assert_array_equal(k, component.coefficients)
        np.testing.assert_array_equal(table, component.table)
    np.testing.assert_array_equal(batch["original"][0], color.rgb_to_ycbcr(rgb, "full"))


def test_batches_follow_from_the_key_and_some_are_gray():
    config = photo_config()
    tiles = jnp.asarray(np.stack([picture(32, 32, seed) for seed in range(64)]))
    batched = devices.batched(devices.make_mesh())

    @functools.partial(jax.jit, static_argnums=1)
    def make(key, subsampling):
        inputs = photo_pairs.PhotoInputs(tiles, None, jnp.array([5, 97]), subsampling)
        return feeds.make_batch(inputs, key, 16, config, batched)

    batch, same = make(jax.random.key(1), (1, 1)), make(jax.random.key(1), (1, 1))
    jax.tree.map(np.testing.assert_array_equal, batch, same)
    chroma = np.asarray(batch["original"][..., 1:])
    gray = (chroma == 128).all(axis=(1, 2, 3))
    assert 1 <= gray.sum() <= 12
    assert not np.asarray(batch["coefficients"].chroma)[gray].any()
    assert np.asarray(batch["coefficients"].chroma)[~gray].any(axis=(1, 2, 3, 4)).all()


def photo_config(**fields):
    config = default_config()
    config.model = MODEL
    config.data.luma, config.data.tile, config.data.max_short_side = "rgb", 32, 0
    config.data.subsampling = ("4:2:0", "4:4:4")
    config.quality_range = (5, 97)
    config.random_table_prob = 0.5
    config.update_from_flattened_dict(fields)
    return config


def run_config(folder, **fields):
    """Writes images and weights of a network of luma that changes nothing; a run of six steps."""
    runs.write_images(folder / "images", 6)
    dmcnn = {"name": "dmcnn", "features": 4, "dct_features": 8, "condition_on_table": True}
    start = networks.start(create_model(dmcnn))
    for branch, layer in (("f", "conv9"), ("g", "conv15")):
        weights = start["params"][branch]
        weights[layer] = jax.tree.map(np.zeros_like, weights[layer])
    save_weights(folder / "luma.safetensors", start, {"model": dmcnn})
    config = photo_config(
        **{
            "data.source": str(folder / "images"),
            "data.validation_images": 2,
            "train.patch_sizes": (16,),
            "train.batch_sizes": (2,),
            "train.stage_steps": (6,),
            "train.optimizer": "muon",
            "train.validate_every": 3,
            "schedule.name": "constant",
            "init_from": str(folder / "luma.safetensors"),
        },
        **fields,
    )
    return config, start["params"] | {
        "g": {k: v for k, v in start["params"]["g"].items() if not k.startswith("head_")}
    }


@pytest.mark.parametrize("count", [1, 4, 5])
def test_validation_qualities_do_not_depend_on_the_batches(count):
    """As many tiles of each quality, however many devices share a batch."""
    rgb = np.stack([picture(16, 16, seed) for seed in range(9)])
    tiles = tiles_module.Tiles(rgb, np.arange(9), np.arange(9), tuple(map(str, range(9))))
    tables = [
        feeds.validation_batch(tiles, rows, photo_config())["table"][:, 0]
        for rows in np.split(np.arange(9), range(count, 9, count))
    ]
    expected = [jpeg.quality_table(q) for q in (10, 30, 70)] * 3
    np.testing.assert_array_equal(np.concatenate(tables), expected)


@pytest.mark.slow
def test_a_run_trains_validates_and_measures(tmp_path, capsys):
    config, luma = run_config(tmp_path)
    model = train(config, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, model.variables["frozen"]["luma"], luma)
    assert set(model.about["validation"]) == {"loss", "psnr", "gain", "gain_luma", "gain_chroma"}
    assert re.search(r"\(luma [+-]\d\.\d{3}, chroma [+-]\d\.\d{3}\)", capsys.readouterr().err)
    results = photo_protocol.evaluate_model(model, config)
    assert [row["quality"] for row in results["mean"]] == [10, 10, 30, 30, 70, 70]
    first = results["mean"][0]
    assert first["model"]["rgb"] == pytest.approx(first["jpeg"]["rgb"], abs=1)
    assert first["model"] != first["jpeg"]


@pytest.mark.slow
def test_the_network_of_luma_is_trained_too_on_demand(tmp_path):
    config, luma = run_config(tmp_path, **{"train.unfreeze": True})
    validate_config(config)
    model = train(config, tmp_path / "run")
    first, last = (flatten_dict(x) for x in (luma, model.variables["frozen"]["luma"]))
    moved = [np.any(first[path] != last[path]) for path in first]
    assert set(first) == set(last) and np.mean(moved) > 0.9
    assert load(str(tmp_path / "run")).module == model.module
    # It goes on as it was.
    config.train.stage_steps = (8,)
    train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("subsampling", "number"), [("4:2:0", 2), pytest.param("4:4:4", 0, marks=pytest.mark.slow)]
)
def test_pictures_of_any_size_are_measured_as_others_do(subsampling, number):
    """The JPEG's PSNR by Pillow's decoder and scikit-image; a network that changes nothing."""
    rgb = picture(37, 41)
    results = photo_protocol.evaluate(
        photo_protocol.restore_by_photo(Model(*untrained(rectify=False))),
        [("one", rgb)],
        qualities=(30,),
        subsamplings=(subsampling,),
    )
    (row,) = results["mean"]
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=30, subsampling=number)
    with Image.open(file) as image:
        expected = skimage.metrics.peak_signal_noise_ratio(rgb, np.asarray(image))
    assert row["jpeg"]["rgb"] == pytest.approx(expected, abs=0.02)
    for measure in photo_protocol.MEASURES:
        assert row["model"][measure] == pytest.approx(row["jpeg"][measure], abs=0.1)
    table = photo_protocol.format_table(results)
    assert "RGB dB" in table and f"30  {subsampling}" in table


def test_tables_of_luma_and_chroma_are_drawn_together():
    luma, chroma = chroma_pairs.draw_color_tables(jax.random.key(0), 8, (5, 97), 0.0)
    for y, c in zip(np.asarray(luma), np.asarray(chroma), strict=True):
        qualities = [q for q in range(5, 98) if (jpeg.quality_table(q) == y).all()]
        assert qualities
        assert any((jpeg.quality_table(q, jpeg.STANDARD_CHROMA) == c).all() for q in qualities)


@pytest.mark.parametrize("subsampling", [(2, 2), pytest.param((1, 2), marks=pytest.mark.slow)])
def test_tiles_give_what_the_whole_does(monkeypatch, subsampling):
    """Of a picture whose last blocks of chroma reach beyond those of luma."""
    # Long enough for the network's halo, too short for the picture.
    monkeypatch.setattr(tiling, "TILE_SIDES", (16, 24 if subsampling == (2, 2) else 40))
    down, across = subsampling
    rgb = picture(8 * 41, 8 * 35)
    coefficients, table, mask = photo_protocol.compress_whole(rgb, 20, subsampling)
    model = Model(*filled())
    assert 2 * max(model.module.halo(subsampling)) < max(tiling.chroma_tile_sides(subsampling))
    run = jax.jit(lambda k: model.module.apply(model.variables, k, table, mask=mask)["image"])
    whole = np.moveaxis(np.asarray(run(coefficients))[0], -1, 0)
    luma = np.asarray(coefficients.luma)[0, :41, :35]
    k = [luma, *np.asarray(coefficients.chroma)[0]]
    tiled = restore_photo(model, k, table[0], subsampling)
    assert tiled.shape == (3, 8 * down * -(-41 // down), 8 * across * -(-35 // across))
    np.testing.assert_allclose(tiled[:, :328, :280] / 255, whole[:, :328, :280], atol=5e-4)


def test_transposed_sampling_strength_and_projection(rng):
    model = Model(*filled())
    batch = compressed(16, 32, (1, 2))
    k = [batch["coefficients"].luma[0], *batch["coefficients"].chroma[0]]
    q = batch["table"][0]
    upright = restore_photo(model, k, q, (1, 2), project=True)
    turned = [
        plane.reshape(*plane.shape[:2], 8, 8).transpose(1, 0, 3, 2).reshape(*plane.shape[1::-1], 64)
        for plane in k
    ]
    flat = restore_photo(model, turned, q.swapaxes(1, 2), (2, 1), project=True)
    np.testing.assert_allclose(flat, upright.swapaxes(1, 2), atol=2e-3)
    blocks = upright[0].reshape(2, 8, 4, 8).transpose(0, 2, 1, 3) - 128
    x = scipy.fft.dctn(blocks, axes=(2, 3), norm="ortho")
    np.testing.assert_array_equal(np.rint(x / q[0]).reshape(2, 4, 64), k[0])
    decoded = restore_photo(model, k, q, (1, 2), strength=0.0)
    (expected,) = exact_planes(k[0][None], q[:1])
    np.testing.assert_allclose(decoded[0], expected, atol=2e-3)
    with pytest.raises(ValueError, match=r"subsampling is \(3, 1\)"):
        restore_photo(model, k, q, (3, 1))
    with pytest.raises(ValueError, match="do not cover"):
        restore_photo(model, [np.zeros((9, 9, 64), int), *k[1:]], q, (1, 2))


def test_gray_files_are_restored_as_luma_of_colour_ones():
    model = Model(*filled())
    batch = compressed(40, 24, (1, 1))
    k, q = batch["coefficients"].luma[0], batch["table"][0, 0]
    plane = restore_plane(model, k, q, project=True)
    assert plane.shape == (40, 24)
    blocks = 255 * plane.reshape(5, 8, 3, 8).transpose(0, 2, 1, 3) - 128
    x = scipy.fft.dctn(blocks, axes=(2, 3), norm="ortho")
    np.testing.assert_array_equal(np.rint(x / q).reshape(5, 3, 64), k)


def quantised(plane, component):
    """What a plane at full size quantises to, by SciPy, in the blocks that lie in the picture."""
    down, across = component.subsampling
    rows, columns = component.height // 8, component.width // 8
    part = plane[: 8 * rows * down, : 8 * columns * across]
    own = part.reshape(rows, 8, down, columns, 8, across).mean(axis=(2, 5)) - 128.0
    x = scipy.fft.dctn(own, axes=(1, 3), norm="ortho").transpose(0, 2, 1, 3)
    return np.rint(x / component.table).reshape(rows, columns, 64)


def saved(rgb, quality=20, subsampling="4:2:0", mode="RGB"):
    file = io.BytesIO()
    Image.fromarray(rgb).convert(mode).save(
        file, "JPEG", quality=quality, subsampling=subsampling if mode == "RGB" else 0
    )
    return file.getvalue()


def test_mirrored_planes_are_part_of_a_larger_picture():
    """Luma ends within a block of chroma."""
    model = Model(*filled())
    rgb = picture(40, 64)
    batch = jax.device_get(photo_pairs.compress_at(rgb[None, :40], np.array([20]), (1, 1)))
    luma, table = batch["coefficients"].luma[0], batch["table"][0]
    rng = np.random.default_rng(0)
    chroma = rng.integers(-2, 3, (2, 3, 4, 64), dtype=np.int32)
    found = restore_photo(model, [luma, *chroma], table, (2, 2), mirrored=1)

    def continued(k, above, below, sides):
        """Coefficients of the picture that `np.pad` continues."""
        rows, columns, _ = k.shape
        pixels = scipy.fft.idctn(k.reshape(rows, columns, 8, 8) * 1.0, axes=(2, 3), norm="ortho")
        plane = pixels.transpose(0, 2, 1, 3).reshape(8 * rows, 8 * columns)
        padded = np.pad(plane, ((8 * above, 8 * below), (8 * sides, 8 * sides)), mode="symmetric")
        rows, columns = padded.shape[0] // 8, padded.shape[1] // 8
        blocks = padded.reshape(rows, 8, columns, 8)
        x = scipy.fft.dctn(blocks, axes=(1, 3), norm="ortho").transpose(0, 2, 1, 3)
        return np.rint(x).astype(np.int32).reshape(rows, columns, 64)

    whole = continued(luma, 0, 1, 0)
    larger = [continued(whole, 2, 2, 2), *(continued(k, 1, 1, 1) for k in chroma)]
    expected = restore_photo(model, larger, table, (2, 2))[:, 16:-16, 16:-16]
    assert found.shape == (3, 48, 64)
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("subsampling", [(2, 2), (1, 2)])
def test_the_ensemble_is_the_mean_over_symmetries(subsampling):
    """A turned picture is restored to the turned result; and it's projected after averaging."""
    model = Model(*filled())
    batch = compressed(16, 32, subsampling)
    k = [batch["coefficients"].luma[0], *batch["coefficients"].chroma[0]]
    q, shares = batch["table"][0], []
    found = restore_photo(model, k, q, subsampling, ensemble=True, progress=shares.append)
    assert sum(shares) == pytest.approx(1)
    signs = np.tile([1, -1] * 4, 8)
    mirrored = [plane[:, ::-1] * signs for plane in k]
    again = restore_photo(model, mirrored, q, subsampling, ensemble=True)
    np.testing.assert_allclose(again[:, :, ::-1], found, atol=2e-3)
    one = restore_photo(model, k, q, subsampling)
    assert np.abs(one - found).max() > 0.1
    kept = restore_photo(model, k, q, subsampling, ensemble=True, project=True)
    blocks = kept[0].reshape(2, 8, 4, 8) - 128.0
    x = scipy.fft.dctn(blocks, axes=(1, 3), norm="ortho").transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(np.rint(x / q[0]).reshape(2, 4, 64), k[0])


def test_files_are_restored_by_one_network():
    """Y, Cb and Cr quantise to the file's coefficients; the mean colour stays."""
    model = Model(*filled(), name="mine")
    rgb = picture(45, 70)
    file = jpeg.read(saved(rgb))
    restorer = Restorer(model, RestoreOptions(strength=0.05))
    planes = restorer.restore_planes(file)
    assert planes.models == ("mine",) * 3 and not planes.notes
    for plane, component in zip([*planes.luma, *planes.chroma], file.components, strict=True):
        found = quantised(plane, component)
        kept = component.coefficients[: found.shape[0], : found.shape[1]]
        np.testing.assert_array_equal(found, kept)
    assert planes.chroma[0].shape == (45, 70)
    restoration = restorer.render(planes)
    with Image.open(io.BytesIO(file.data)) as image:
        decoded = np.asarray(image)
    assert restoration.pixels.shape == decoded.shape
    drift = restoration.pixels.astype(int) - decoded
    assert np.abs(drift).max() > 3
    assert np.abs(drift.mean(axis=(0, 1))).max() < 0.3
    assert restoration.luma_tally.blocks and restoration.chroma_tally.blocks


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_gray_files_and_inks_are_restored_plane_by_plane(mode):
    file = jpeg.read(saved(picture(32, 48), mode=mode))
    planes = Restorer(Model(*filled(), name="mine")).restore_planes(file)
    assert planes.models == ("mine",) * len(file.components)
    parts = planes.parts or (planes,)
    for part in parts:
        found = quantised(part.luma[0], part.file.components[0])
        np.testing.assert_array_equal(found, part.file.components[0].coefficients)


@pytest.mark.slow
def test_chroma_that_is_subsampled_by_four_is_restored_too():
    rng = np.random.default_rng(0)
    planes = jpeg_cases.planes(rng, 48, 96, [(1, 4), (1, 1), (1, 1)], spread=3)
    file = jpeg.read(jpeg_cases.write(48, 96, planes))
    assert file.components[1].subsampling == (1, 4)
    planes = Restorer(Model(*filled(), name="mine")).restore_planes(file)
    assert planes.models == ("mine",) * 3
    for plane, component in zip([*planes.luma, *planes.chroma], file.components, strict=True):
        assert plane.shape == (48, 96)
        found = quantised(plane, component)
        kept = component.coefficients[: found.shape[0], : found.shape[1]]
        np.testing.assert_array_equal(found, kept)


@pytest.mark.slow
def test_files_that_were_saved_before_keep_their_chroma():
    """Luma is restored by the earlier save's table, on its grid."""
    rgb = picture(96, 128)
    with Image.open(io.BytesIO(saved(rgb, quality=15))) as image:
        again = saved(np.asarray(image)[3:, 5:], quality=90)
    file = jpeg.read(again)
    options = RestoreOptions(assume_quality=15, prior_grid=(3, 5))
    planes = Restorer(Model(*filled(), name="mine"), options).restore_planes(file)
    assert planes.prior is not None
    assert planes.luma[0].shape == (96, 128)
    for plane, component in zip(planes.chroma, file.components[1:], strict=True):
        found = quantised(plane, component)
        kept = component.coefficients[: found.shape[0], : found.shape[1]]
        np.testing.assert_array_equal(found, kept)


def test_two_networks_of_chroma_are_refused():
    with pytest.raises(ValueError, match="'mine' restore chroma too; expected no others"):
        Restorer(Model(*filled(), name="mine"), chroma="dmcnn-chroma")


def test_where_luma_is_expected_the_network_is_refused():
    module, variables = filled()
    with pytest.raises(ValueError, match="restore luma and chroma together; expected weights that"):
        Model(module, variables, name="mine").apply(variables, np.zeros((1, 1, 64), int), None)


def test_the_number_of_weights_is_that_of_the_docstring():
    module = create_model({"name": "photo"})
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variable_shapes(module)))
    assert f"{count:,} weights" in photo.__doc__


def test_the_weights_to_start_from_fit_the_configuration():
    config = load_config(str(runs.CHECKOUT / "configs" / "photo.py"))
    validate_config(config)
    weights, _ = load_weights(find_weights(config.init_from))
    check_variables(create_model(config.model.to_dict()), weights, config.init_from)
