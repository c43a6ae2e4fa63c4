"""The network of chroma, and how it is run over whole planes."""

import io

import jax
import jax.numpy as jnp
import jpeg_cases
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import skimage.metrics
from PIL import Image

import dmcnn_jax
from dmcnn_jax import jpeg
from dmcnn_jax.config import default_config
from dmcnn_jax.data import images as images_module
from dmcnn_jax.data import packs
from dmcnn_jax.data import tiles as tiles_module
from dmcnn_jax.evaluation import color_protocol
from dmcnn_jax.inference import tiling
from dmcnn_jax.inference.chroma import restore_chroma
from dmcnn_jax.inference.model import Model, estimate
from dmcnn_jax.inference.plane import restore_plane
from dmcnn_jax.inference.variables import initialize, variable_shapes
from dmcnn_jax.inference.weights import save_weights
from dmcnn_jax.jpeg import dihedral, resampling
from dmcnn_jax.jpeg.projection import project_upsampled
from dmcnn_jax.models import chroma, create_model, decode, example_input, upsampling
from dmcnn_jax.models.chroma import ChromaInput
from dmcnn_jax.restoration import bands, coefficient_check
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer
from dmcnn_jax.training.loop import train

MODEL = {"name": "chroma", "features": 4, "dilations": (1, 2, 1)}


def filled(config, gain=0.5):
    """A network whose weights are random, so that all of them do something."""
    module = create_model(config)
    shapes = variable_shapes(module)
    rng = np.random.default_rng(0)

    def fill(leaf):
        deviation = gain / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
        return (deviation * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    return Model(module, jax.tree.map(fill, shapes))


@pytest.fixture(scope="module")
def model():
    """A network that does something."""
    return filled(MODEL)


def colours(height, width, seed=0):
    """A smooth random colour picture: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (3, 3, 0))
    return np.clip(128 + 45 * noise / max(noise.std(), 1e-9), 0, 255).astype(np.uint8)


def gray_jpeg(plane):
    file = io.BytesIO()
    Image.fromarray(plane).save(file, "JPEG", quality=75)
    return file.getvalue()


def plane_of(rng, height, width, subsampling):
    """Coefficients, tables and a guide of a plane of blocks."""
    k = np.zeros((2, height, width, 64), np.int16)
    k[..., :10] = rng.integers(-4, 5, (2, height, width, 10))
    tables = np.stack([jpeg.quality_table(q, jpeg.STANDARD_CHROMA) for q in (30, 60)])
    guide = rng.uniform(0, 255, (8 * subsampling[0] * height, 8 * subsampling[1] * width)).astype(
        np.float32
    )
    return k, tables, guide


@pytest.mark.parametrize("subsampling", [(1, 1), (1, 2), (2, 2), (4, 1)])
@pytest.mark.parametrize("size", [(8, 16), (3, 5), (1, 2), (1, 1)])
def test_upsampling_is_libjpegs(rng, subsampling, size):
    """Against NumPy's, which is tested against libjpeg."""
    plane = rng.uniform(0, 255, (1, 8 * size[0], 8 * size[1], 2)).astype(np.float32)
    ours = jax.jit(upsampling.upsample, static_argnums=1)(plane, subsampling)
    for c in range(2):
        expected = resampling.upsample(plane[0, ..., c], subsampling)
        np.testing.assert_allclose(ours[0, ..., c], expected, atol=1e-4)


@pytest.mark.parametrize("subsampling", [(1, 2), (2, 2)])
def test_upsampling_under_a_mask_is_that_of_the_masked_part(rng, subsampling):
    plane = rng.uniform(0, 255, (1, 40, 48, 1)).astype(np.float32)
    mask = np.zeros((1, 5, 6, 1), bool)
    mask[:, 1:4, 2:5] = True
    found = jax.jit(upsampling.upsample, static_argnums=1)(plane, subsampling, mask)
    down, across = subsampling
    part = np.asarray(found)[0, 8 * down : 32 * down, 16 * across : 40 * across, 0]
    expected = resampling.upsample(plane[0, 8:32, 16:40, 0], subsampling)
    np.testing.assert_allclose(part, expected, atol=1e-4)


@pytest.mark.parametrize("subsampling", [(1, 1), (1, 2), (2, 2)])
def test_projection_gives_the_coefficients_back(rng, subsampling):
    """The average over samples quantises to k, and nothing that does is nearer."""
    k, tables, _ = plane_of(rng, 4, 3, subsampling)
    shape = (1, 8 * subsampling[0] * 4, 8 * subsampling[1] * 3, 2)
    image = jnp.asarray(rng.uniform(0, 1, shape).astype(np.float32))
    project = jax.jit(project_upsampled, static_argnums=3)
    projected = np.asarray(project(image, k[None], tables[None], -0.01))

    def coefficients(picture):
        cells = (
            picture[0].reshape(32, subsampling[0], 24, subsampling[1], 2).mean(axis=(1, 3)) * 255
        )
        blocks = (
            bands.to_blocks(cells[..., 0]),
            bands.to_blocks(cells[..., 1]),
        )
        return (np.stack(blocks) - 128) @ jpeg.BASIS_IMAGES.reshape(64, 64).T

    found = np.rint(coefficients(projected) / tables.reshape(2, 1, 64))
    np.testing.assert_array_equal(found, k.reshape(2, -1, 64))
    # Of a convex set the nearest point p to x is the one with (x - p)·(y - p) <= 0 for all y in it.
    other = np.asarray(project(jnp.full(shape, 0.5), k[None], tables[None], -0.01))
    inner = np.sum((np.asarray(image) - projected) * (other - projected), dtype=np.float64)
    assert inner <= 1e-3 * np.sum(np.square(image - projected))
    again = project(jnp.asarray(projected), k[None], tables[None], -0.01)
    np.testing.assert_allclose(again, projected, atol=1e-6)


@pytest.mark.parametrize("subsampling", [(1, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("size", [(1, 1), (2, 13), (11, 5), (19, 9)])
def test_tiles_give_what_the_whole_does(model, rng, monkeypatch, subsampling, size):
    monkeypatch.setattr(tiling, "TILE_SIDES", (8, 16))
    k, tables, guide = plane_of(rng, *size, subsampling)
    assert all(halo < 8 // max(subsampling) for halo in model.module.halo(subsampling))
    given = ChromaInput(k[None], guide[None, ..., None] / 255)
    whole = estimate(model.module, model.variables, given, tables[None])["image"]
    tiled = restore_chroma(model, k, tables, guide, subsampling)
    assert tiled.shape == (2, *guide.shape)
    np.testing.assert_allclose(tiled / 255, np.moveaxis(np.asarray(whole[0]), -1, 0), atol=1e-5)


def test_halo_is_what_a_block_depends_on(model, rng):
    """Whatever its pixels depend on lies within; P does not move them, nor stop their gradient."""
    module = create_model(MODEL | {"rectify": False})
    for subsampling in chroma.TRAINED_SUBSAMPLINGS:
        k, tables, guide = plane_of(rng, 9, 9, subsampling)
        guide = jnp.asarray(guide[None, ..., None] / 255)

        def middle(guide, k=k, tables=tables, subsampling=subsampling):
            found = module.apply(model.variables, ChromaInput(k[None], guide), tables[None])
            inner = found["image"][
                :,
                32 * subsampling[0] : 40 * subsampling[0],
                32 * subsampling[1] : 40 * subsampling[1],
            ]
            return inner.sum()

        depends = np.asarray(jax.jit(jax.grad(middle))(guide))[0, ..., 0] != 0
        for axis, halo in enumerate(model.module.halo(subsampling)):
            (where,) = np.nonzero(depends.any(axis=1 - axis))
            unit = 8 * subsampling[axis]
            assert unit * (4 - halo) <= where.min()
            assert where.max() < unit * (5 + halo)


def test_a_transposed_picture_gives_the_transpose(model, rng):
    """4:4:0 is 4:2:2 turned."""
    k, tables, guide = plane_of(rng, 3, 4, (1, 2))
    upright = restore_chroma(model, k, tables, guide, (1, 2), project=True)
    turned = k.reshape(2, 3, 4, 8, 8).transpose(0, 2, 1, 4, 3).reshape(2, 4, 3, 64)
    flat = restore_chroma(model, turned, tables.swapaxes(1, 2), guide.T, (2, 1), project=True)
    np.testing.assert_allclose(flat, upright.swapaxes(1, 2), atol=1e-3)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2), (1, 4)])
def test_mirrored_planes_are_part_of_larger_ones(model, rng, subsampling):
    k, tables, guide = plane_of(rng, 3, 4, subsampling)
    down, across = (16 * factor for factor in subsampling)
    larger = [dihedral.continue_mirrored(plane, 2) for plane in k]
    wide = np.pad(guide, ((down, down), (across, across)), mode="symmetric")
    expected = restore_chroma(model, larger, tables, wide, subsampling)[
        :, down:-down, across:-across
    ]
    found = restore_chroma(model, k, tables, guide, subsampling, mirrored=2)
    inner = (slice(None), slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(found[inner], expected[inner], atol=1e-3)
    if 4 not in subsampling:  # there, the last upsampling repeats the border
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("color", [(255, 0, 255), (0, 0, 255), (255, 60, 0)])
def test_a_flat_picture_gets_no_frame(color, subsampling):
    """With nothing but zeros outside, the border was up to 69 levels off."""
    for quality, size in ((10, (37, 64)), (50, (64, 45))):
        buffer = io.BytesIO()
        flat = Image.new("RGB", size, color)
        flat.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
        decoded = np.asarray(Image.open(buffer).convert("RGB")).astype(int)
        assert np.abs(dmcnn_jax.restore(buffer.getvalue()) - decoded).max() <= 3


def test_gray_stays_gray(model, luma):
    """No coefficient of chroma nearby: no correction; blocks further off have theirs."""
    rng = np.random.default_rng(0)
    picture = np.repeat(rng.integers(0, 256, (96, 160, 1), np.uint8), 3, axis=-1)
    picture[:, :48, 0] //= 2
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=30)
    restored = Restorer(luma, chroma=model)(jpeg.read(file.getvalue())).pixels
    spread = np.ptp(restored.astype(int), axis=-1)
    assert spread[:, :32].max() > 10
    # Blocks of 16 pixels: three are red, the next is beside one that is, the next fades.
    assert spread[:, 80:].max() == 0


def test_the_correction_gate_follows_colour_and_the_table(rng):
    k = np.zeros((1, 2, 3, 7, 64), np.int32)
    k[0, 1, 1, 0, 5] = 1
    table = np.full((1, 2, 8, 8), 100)
    weights = np.asarray(chroma.correction_gate(k, table, (1, 2)))[0, ..., 0]
    assert weights.shape == (24, 112)
    along = weights[12]
    assert (weights == along).all()
    # In full in the block and half of the one beside it; then falling, symmetrically.
    np.testing.assert_allclose(along[:16], 1, atol=1e-6)
    np.testing.assert_allclose(along[:64] + along[:64][::-1], 1, atol=1e-6)
    assert (np.diff(along) <= 0).all() and (along[48:] == 0).all()
    fine = np.asarray(chroma.correction_gate(k, table // 4, (1, 2)))[0, ..., 0]
    np.testing.assert_allclose(fine, weights / 4, atol=1e-6)


def test_strength_and_sampling_are_checked(model, rng):
    k, tables, guide = plane_of(rng, 2, 2, (2, 2))
    none = restore_chroma(model, k, tables, guide, (2, 2), strength=0.0)
    middle = np.stack([resampling.upsample(plane, (2, 2)) for plane in middles(k, tables)])
    np.testing.assert_allclose(none, middle, atol=1e-3)
    with pytest.raises(ValueError, match=r"subsampling is \(3, 1\)"):
        restore_chroma(model, k, tables, guide, (3, 1))


def middles(k, tables):
    x = k * tables.reshape(2, 1, 1, 64).astype(np.float32)
    return np.clip(np.asarray(jpeg.idct(x)) + 128, 0, 255)


def test_untrained_is_what_libjpeg_decodes(rng):
    """The first weights change next to nothing, whatever the table."""
    module = create_model({"name": "chroma", "rectify": False})
    variables = initialize(module, jax.random.key(0))
    k, tables, guide = plane_of(rng, 4, 4, (2, 2))
    given = ChromaInput(k[None], guide[None, ..., None] / 255)
    estimates = estimate(module, variables, given, tables[None])
    image = np.asarray(estimates["image"]) * 255
    decoded = np.asarray(decode(module, given, tables[None]))
    assert np.abs(np.clip(image, 0, 255) - decoded).max() < 8
    assert np.abs(image - decoded).mean() < 1
    assert example_input(module)[0].subsampling == (2, 2)


@pytest.fixture(scope="module")
def luma(tmp_path_factory):
    """A small network of luma that changes next to nothing: a weights file."""
    config = {"name": "dmcnn", "features": 2, "dct_features": 4}
    variables = filled(config, 0.1).variables
    path = tmp_path_factory.mktemp("weights") / "luma.safetensors"
    save_weights(path, variables, {"model": config, "quality": 20})
    return path


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_restored_files_keep_their_chroma(model, luma, subsampling):
    """By the formula of T.81, on the averages of what was restored."""
    picture = colours(80, 112)
    file = jpeg.read(color_protocol.save_jpeg(picture, 20, subsampling))
    planes = Restorer(luma, chroma=model).restore_planes(file)
    for plane, component in zip(planes.chroma, file.components[1:], strict=True):
        assert plane.shape == (80, 112)
        down, across = component.subsampling
        # Only whole blocks are all there.
        rows, columns = component.height // 8, component.width // 8
        part = plane[: 8 * rows * down, : 8 * columns * across]
        own = part.reshape(8 * rows, down, 8 * columns, across).mean(axis=(1, 3))
        x = scipy.fft.dctn(
            own.reshape(rows, 8, columns, 8) - 128.0, axes=(1, 3), norm="ortho"
        ).transpose(0, 2, 1, 3)
        expected = component.coefficients[:rows, :columns].reshape(rows, columns, 8, 8)
        np.testing.assert_array_equal(np.rint(x / component.table), expected)


@pytest.mark.parametrize("subsampling", [(1, 4), (4, 1), (4, 2)])
def test_by_four_is_by_two_of_half_the_size(model, rng, subsampling):
    """In bands as in whole; and what the file says of samples is kept."""
    k, tables, guide = plane_of(rng, 66 if subsampling == (4, 1) else 3, 2, subsampling)
    found = restore_chroma(model, k, tables, guide, subsampling)
    assert found.shape == (2, *guide.shape)
    halves = tuple(2 if factor == 4 else 1 for factor in subsampling)
    shape = guide.shape[0] // halves[0], halves[0], guide.shape[1] // halves[1], halves[1]
    rest = tuple(factor // half for factor, half in zip(subsampling, halves, strict=True))
    small = restore_chroma(model, k, tables, guide.reshape(shape).mean((1, 3)), rest)
    for plane, half in zip(found, small, strict=True):
        np.testing.assert_allclose(plane, resampling.upsample(half, halves), atol=1e-3)
    # A guide that ends within a block of chroma is continued.
    cut = restore_chroma(model, k, tables, guide[:-3, :-5], subsampling, project=True)
    for plane, coefficients, table in zip(cut, k, tables, strict=True):
        rows, columns, _ = coefficients.shape
        own = plane.reshape(8 * rows, subsampling[0], 8 * columns, subsampling[1]).mean((1, 3))
        x = scipy.fft.dctn(own.reshape(rows, 8, columns, 8) - 128.0, axes=(1, 3), norm="ortho")
        quantised = np.rint(x.transpose(0, 2, 1, 3).reshape(rows, columns, 64) / table.ravel())
        np.testing.assert_array_equal(quantised, coefficients)


@pytest.mark.parametrize(("factors", "known"), [((1, 4), True), ((2, 4), True), ((1, 3), False)])
def test_rare_samplings_keep_their_chroma(model, luma, factors, known):
    """By the network where there is one; the planes quantise as the file says, and it's counted."""
    rng = np.random.default_rng(0)
    all_factors = [factors, (1, 1), (1, 1)]
    planes = jpeg_cases.planes(rng, 64, 96, all_factors, spread=3)
    file = jpeg.read(jpeg_cases.write(64, 96, planes))
    restorer = Restorer(luma, chroma=model)
    planes = restorer.restore_planes(file)
    for plane, component in zip(planes.chroma, file.components[1:], strict=True):
        assert plane.shape == ((64, 96) if known else (component.height, component.width))
        down, across = component.subsampling if known else (1, 1)
        rows, columns = component.height // 8, component.width // 8
        part = plane[: 8 * rows * down, : 8 * columns * across]
        own = part.reshape(rows, 8, down, columns, 8, across).mean(axis=(2, 5))
        x = scipy.fft.dctn(own - 128.0, axes=(1, 3), norm="ortho").transpose(0, 2, 1, 3)
        expected = component.coefficients[:rows, :columns].reshape(rows, columns, 8, 8)
        np.testing.assert_array_equal(np.rint(x / component.table), expected)
    assert restorer.render(planes).chroma_tally.blocks == 2 * rows * columns


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 2), (31, 50)])
def test_any_size_and_gray(model, luma, size):
    """Shapes, and that a network that does nothing hardly changes what is there without one."""
    picture = colours(*size)
    file = jpeg.read(color_protocol.save_jpeg(picture, 75))
    restorer = Restorer(luma, chroma=model)
    assert restorer(file).pixels.shape == (*size, 3)
    variables = jax.tree.map(jnp.zeros_like, model.variables)
    still = Model(model.module, variables)
    without = Restorer(luma)
    without.chroma = None
    with_, before = (r(file).pixels.astype(int) for r in (Restorer(luma, chroma=still), without))
    # Of one or two columns libjpeg repeats samples.
    assert np.abs(with_ - before).mean() < (1.5 if size[1] > 4 else 6)
    gray = jpeg.read(gray_jpeg(picture[..., 0]))
    np.testing.assert_array_equal(restorer(gray).pixels, Restorer(luma)(gray).pixels)


def test_weights_are_of_luma_or_of_chroma(model, luma):
    with pytest.raises(ValueError, match="restore chroma; expected"):
        Restorer(model)
    with pytest.raises(ValueError, match="do not restore chroma"):
        Restorer(luma, chroma=luma)
    k, table = np.zeros((1, 1, 64), np.int32), jpeg.quality_table(50)
    with pytest.raises(ValueError, match="restore chroma, guided by"):
        restore_plane(model, k, table)
    with pytest.raises(ValueError, match="restore chroma, guided by"):
        model.apply(model.variables, k, table)


def test_colour_is_measured(luma, model, tmp_path):
    """Against scikit-image's PSNR, and means by hand."""
    picture = colours(48, 64)
    results = color_protocol.evaluate(
        Restorer(luma, chroma=model), [("one", picture)], 30, subsampling="4:2:0", source="here"
    )
    with Image.open(io.BytesIO(color_protocol.save_jpeg(picture, 30))) as image:
        decoded = np.asarray(image)
    found = results["mean"]["jpeg"]
    expected = skimage.metrics.peak_signal_noise_ratio(picture, decoded)
    assert found["rgb_psnr"] == pytest.approx(expected)
    shift = np.abs(decoded.reshape(-1, 3).mean(0) - picture.reshape(-1, 3).mean(0)).max()
    assert found["color_shift"] == pytest.approx(shift)
    assert found["color_drift"] == 0
    chroma_only = color_protocol.measure_picture(picture, picture, decoded)
    assert chroma_only["chroma_psnr"] == np.inf and chroma_only["color_shift"] == 0
    assert chroma_only["color_drift"] == pytest.approx(shift)
    # Networks of random weights, but the mean stays the file's, up to what gamut and rounding take.
    assert results["mean"]["restored"]["color_drift"] < 0.2
    kept = results["per_image"][0]["kept"]
    assert results["mean"]["kept"] == kept and 0.9 < kept["luma"] <= 1 and 0.9 < kept["chroma"] <= 1
    table = color_protocol.format_table(results)
    assert f"luma {kept['luma']:.3%}, chroma {kept['chroma']:.3%}" in table
    assert "1 images of here, quality 30, 4:2:0" in table
    assert f"{expected:.3f}" in table


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_bits(luma, tmp_path):
    """Trained, resumed, measured: as networks of luma are."""
    for i in range(4):
        Image.fromarray(colours(64, 64, i)).save(tmp_path / f"{i}.png")
    config = default_config()
    config.model = MODEL
    config.quality, config.quality_range, config.random_table_prob = 10, (5, 95), 0.5
    config.data.source, config.data.luma, config.data.tile = str(tmp_path), "rgb", 64
    config.data.subsampling = ("4:2:0", "4:4:4")
    config.data.guide = str(luma)
    config.train.patch_sizes, config.train.batch_sizes = (32,), (2,)
    config.train.validate_every = config.train.checkpoint_every = 2
    config.train.stage_steps = (2,)
    train(config, tmp_path / "two")
    config.train.stage_steps = (4,)
    train(config, tmp_path / "two")
    whole = train(config, tmp_path / "four")
    assert (tmp_path / "two/last.safetensors").read_bytes() == (
        tmp_path / "four/last.safetensors"
    ).read_bytes()
    assert isinstance(whole.module, chroma.ChromaNet)
    results = color_protocol.evaluate_model(whole, config)
    # Of tiles, at the same quality: what validation says of them.
    assert results["quality"] == 10
    config.data.luma = "full"
    with pytest.raises(ValueError, match=r"config\.data\.luma is 'full'; expected 'rgb'"):
        train(config, tmp_path / "other")


def test_packs_hold_colours(tmp_path):
    """What is packed is what is cut, in both forms."""
    Image.fromarray(colours(64, 96)).save(tmp_path / "one.png")
    images = images_module.open_images(str(tmp_path))
    options = {"tile": 64, "luma": "rgb", "max_short_side": 0}
    expected = tiles_module.cut_images(images, **options).take()
    assert expected.shape == (2, 64, 64, 3)
    for compact in (False, True):
        path = tmp_path / f"pack-{compact}"
        packs.write_pack(path, images, compact=compact, **options)
        tiles = packs.open_pack(path, tile=64, luma="rgb")
        np.testing.assert_array_equal(tiles.take(), expected)
        assert tiles.nbytes == expected.nbytes


@pytest.mark.parametrize("bits", [8, 16])
def test_what_pixels_keep_of_chroma_is_counted(model, luma, bits):
    """Colours far from the gamut's border: all of it at 16 bits."""
    picture = (128 + (colours(80, 70).astype(int) - 128) // 3).astype(np.uint8)
    file = jpeg.read(color_protocol.save_jpeg(picture, 60))
    result = Restorer(luma, RestoreOptions(bits=bits), chroma=model)(file)
    kept = result.chroma_tally
    # 5 by 4 whole blocks of 16 by 16 pixels, of Cb and of Cr.
    assert (kept.blocks, kept.coefficients) == (2 * 5 * 4, 2 * 5 * 4 * 64)
    assert kept.share > (0.95 if bits == 8 else 0.999)
    levels = result.pixels / (1 if bits == 8 else 257)
    blue = (levels[..., 2] - levels @ [0.299, 0.587, 0.114]) / 1.772
    own = blue[:80, :64].reshape(40, 2, 32, 2).mean(axis=(1, 3)).reshape(5, 8, 4, 8)
    x = scipy.fft.dctn(own, axes=(1, 3), norm="ortho").transpose(0, 2, 1, 3)
    component = file.components[1]
    same = np.rint(x / component.table) == component.coefficients[:5, :4].reshape(5, 4, 8, 8)
    share = coefficient_check.tally_chroma(result.pixels, file.components, bits).inside.share
    assert abs(same.mean() - share) < 0.05
