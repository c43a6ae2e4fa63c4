"""A model over whole images: tiles, padding, strength, projection, loading."""

import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.images.color import to_uint8
from dmcnn_jax.inference import tiling
from dmcnn_jax.inference.luma import one_pass_program
from dmcnn_jax.inference.model import Model, load
from dmcnn_jax.inference.plane import restore_plane
from dmcnn_jax.inference.tiling import plan_tiles
from dmcnn_jax.inference.variables import initialize, variable_shapes
from dmcnn_jax.inference.weights import save_weights
from dmcnn_jax.jpeg import dihedral
from dmcnn_jax.jpeg.projection import project_plane
from dmcnn_jax.models import MODELS, create_model
from dmcnn_jax.models.base import Network
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer

SMALL = {"name": "dmcnn", "features": 4, "dct_features": 8}
# Networks of luma but for DMCNN.
BASELINES = [
    name
    for name in sorted(set(MODELS) - {"dmcnn"})
    if isinstance(create_model({"name": name}), Network)
]


def busy_model(config=SMALL, seed=0, gain=2.0):
    """Random weights, the last layers' as large as the others', so that all of it shows."""
    module = create_model(config)
    shapes = variable_shapes(module)
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        if leaf.ndim > 1:
            deviation = np.sqrt(gain / np.prod(leaf.shape[:-1]))
            return (deviation * rng.normal(size=leaf.shape)).astype(leaf.dtype)
        # Biases, so that a padding that is not zero at every layer shows.
        bias = jax.tree_util.keystr(path).endswith("['bias']")
        return np.full(leaf.shape, 0.1 if bias else 0.3, leaf.dtype)

    return Model(module, jax.tree_util.tree_map_with_path(fill, shapes), {"model": config})


def picture(rng, blocks_high, blocks_wide, quality=10):
    """Coefficients and table of a random smooth picture."""
    size = (8 * blocks_high, 8 * blocks_wide)
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=size), 2)
    plane = np.clip(128 + 60 * noise / (noise.std() + 1e-6), 0, 255).astype(np.uint8)
    table = np.asarray(jpeg.quality_table(quality))
    return np.asarray(jpeg.encode(plane, table)), table


def whole(model, k, table):
    """The network itself, at the exact size."""
    return np.asarray(jax.jit(model.apply)(model.variables, jnp.asarray(k), jnp.asarray(table)))


@pytest.fixture(scope="module")
def model():
    return busy_model()


@pytest.mark.parametrize("size", [(1, 1), (13, 7), (5, 17)])
def test_a_padded_image_equals_the_exact_size(model, rng, size):
    k, table = picture(rng, *size)
    assert np.abs(restore_plane(model, k, table) - whole(model, k, table)).max() < 1e-5


@pytest.mark.parametrize(
    "size",
    [
        (37, 41),
        pytest.param((1, 67), marks=pytest.mark.slow),
        pytest.param((61, 3), marks=pytest.mark.slow),
    ],
)
def test_a_tiled_image_equals_the_whole(model, rng, size, monkeypatch):
    monkeypatch.setattr(tiling, "TILE_SIDES", (16, 32))
    monkeypatch.setattr(tiling, "LONGEST_SIDE", 0)
    monkeypatch.setattr(tiling, "STRIP_SIDES", (16, 48))
    k, table = picture(rng, *size)
    restored = restore_plane(model, k, table)
    assert np.abs(restored - whole(model, k, table)).max() < 1e-5
    # The network does see as far as the tiles overlap: less would not do.
    monkeypatch.setattr(type(model.module), "halo_blocks", (2, 2))
    assert np.abs(restore_plane(model, k, table) - restored).max() > 1e-5


@pytest.mark.slow
def test_tiles_of_the_sizes_in_use_equal_the_whole(model, rng):
    k, table = picture(rng, 145, 150)
    assert len(tiling.plan_tiles(145, 9, tiling.tile_sides(model.module)).tiles) > 1
    assert np.abs(restore_plane(model, k, table) - whole(model, k, table)).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"dct_branch": False},
        {"condition_on_table": True},
        {"multi_scale": False, "rectifier": "decoded"},
        {"dilations": (1, 2, 4), "dct_dilations": (1, 2, 3)},
    ],
    ids=lambda change: "-".join(change),
)
def test_variants_are_tiled_alike(rng, change, monkeypatch):
    monkeypatch.setattr(tiling, "TILE_SIDES", (32,))
    monkeypatch.setattr(tiling, "LONGEST_SIDE", 0)
    monkeypatch.setattr(tiling, "STRIP_SIDES", (48,))
    variant = busy_model(SMALL | change)
    k, table = picture(rng, 37, 34, quality=40)
    assert np.abs(restore_plane(variant, k, table) - whole(variant, k, table)).max() < 1e-5


@pytest.mark.slow
def test_bfloat16_is_tiled_to_its_own_rounding(rng, monkeypatch):
    monkeypatch.setattr(tiling, "TILE_SIDES", (32,))
    monkeypatch.setattr(tiling, "LONGEST_SIDE", 0)
    variant = busy_model(SMALL | {"dtype": "bfloat16"})
    k, table = picture(rng, 35, 33)
    exact = whole(Model(create_model(SMALL), variant.variables), k, table)
    rounded = whole(variant, k, table)
    difference = np.abs(restore_plane(variant, k, table) - rounded)
    assert difference.mean() < 0.5 * np.abs(rounded - exact).mean()


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_tiled_alike(rng, name, monkeypatch):
    monkeypatch.setattr(tiling, "TILE_SIDES", (32,))
    monkeypatch.setattr(tiling, "LONGEST_SIDE", 0)
    baseline = busy_model({"name": name}, gain=1.0)
    k, table = picture(rng, 34, 3)
    exact = whole(baseline, k, table)
    # Some stacks of random layers grow; rounding is relative to that.
    scale = max(1, np.abs(exact).max())
    assert np.abs(restore_plane(baseline, k, table) - exact).max() < 1e-5 * scale


def test_a_module_that_does_not_say_how_far_it_sees_runs_whole(model, rng, monkeypatch):
    monkeypatch.setattr(tiling, "TILE_SIDES", (16,))
    monkeypatch.setattr(tiling, "LONGEST_SIDE", 0)
    monkeypatch.setattr(type(model.module), "halo_blocks", None)
    k, table = picture(rng, 20, 17)
    assert np.abs(restore_plane(model, k, table) - whole(model, k, table)).max() < 1e-5


def test_batches_of_tiles_give_what_single_ones_give(model, rng, monkeypatch):
    monkeypatch.setattr(tiling, "TILE_SIDES", (32,))
    monkeypatch.setattr(tiling, "LONGEST_SIDE", 0)
    k, table = picture(rng, 10, 100)
    single = restore_plane(model, k, table)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(restore_plane(model, k, table), single, atol=1e-5)


@given(
    blocks=st.integers(1, 3000),
    halo=st.integers(0, 20),
    sides=st.sampled_from([tiling.TILE_SIDES, tiling.STRIP_SIDES, (48,)]),
)
@settings(max_examples=300, deadline=None)
def test_tiles_cover_an_axis_once_and_contain_the_halo_of_their_core(blocks, halo, sides):
    plan = plan_tiles(blocks, halo, sides)
    tiles = plan.tiles
    assert plan.length in sides
    assert [t.core_start for t in tiles] == [0, *(t.core_stop for t in tiles[:-1])]
    assert tiles[-1].core_stop == blocks
    for tile in tiles:
        assert tile.core_start < tile.core_stop
        assert tile.start <= max(0, tile.core_start - halo)
        assert tile.start + plan.length >= min(blocks, tile.core_stop + halo)
    if len(tiles) > 1:
        assert tiles[0].start == 0 and tiles[-1].start + plan.length == blocks


def test_few_shapes_are_compiled_for_many_sizes(model, rng):
    compiled = one_pass_program._cache_size
    before = compiled()
    for height, width in [(3, 5), (9, 2), (11, 13), (16, 16), (7, 1), (15, 14)]:
        restore_plane(model, *picture(rng, height, width))
    assert compiled() - before <= 1


def test_strength_leads_from_the_decoded_plane_to_the_estimate(model, rng):
    k, table = picture(rng, 5, 6)
    decoded = np.asarray(jpeg.decode(k, table)) / np.float32(255)
    full = restore_plane(model, k, table)
    np.testing.assert_allclose(restore_plane(model, k, table, strength=0.0), decoded, atol=1e-7)
    half = restore_plane(model, k, table, strength=0.5)
    np.testing.assert_allclose(half, (decoded + full) / 2, atol=1e-6)


@pytest.mark.parametrize("quality", [5, 10, 50, 90, 95, 100])
def test_a_projected_plane_quantises_to_the_files_coefficients(model, rng, quality):
    k, table = picture(rng, 14, 7, quality)
    plane = restore_plane(model, k, table, project=True)
    # By SciPy, in float64.
    blocks = plane.astype(np.float64).reshape(14, 8, 7, 8).transpose(0, 2, 1, 3) * 255 - 128
    exact = scipy.fft.dctn(blocks, axes=(2, 3), norm="ortho")
    np.testing.assert_array_equal(np.round(exact / table).reshape(14, 7, 64), k)
    free = restore_plane(model, k, table)
    assert np.abs(free - plane).max() > 0


def test_projecting_is_the_nearest_point_and_leaves_alone_what_lies_within(rng):
    k, table = picture(rng, 3, 3, quality=30)
    original = rng.uniform(0, 1, (24, 24)).astype(np.float32)
    k = np.asarray(jpeg.encode(to_uint8(original), table))
    inside = np.asarray(project_plane(jnp.asarray(original), k, table))
    again = np.asarray(project_plane(jnp.asarray(inside), k, table))
    np.testing.assert_allclose(again, inside, atol=1e-6)
    # Nearer to any point of the convex set than what was projected: the theorem of Pythagoras.
    outside = inside + rng.normal(0, 0.2, inside.shape).astype(np.float32)
    projected = np.asarray(project_plane(jnp.asarray(outside), k, table))
    assert np.linalg.norm(projected - inside) < np.linalg.norm(outside - inside)
    assert np.linalg.norm(projected - outside) <= np.linalg.norm(inside - outside)


def test_progress_adds_up(model, rng, monkeypatch):
    monkeypatch.setattr(tiling, "TILE_SIDES", (32,))
    monkeypatch.setattr(tiling, "LONGEST_SIDE", 0)
    steps = []
    restore_plane(model, *picture(rng, 60, 35), progress=steps.append)
    assert len(steps) > 3 and sum(steps) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(0, 4, 64), (4, 64), (4, 4, 63)])
def test_coefficients_of_another_shape_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"coefficients have shape .* expected \[h, w, 64\]"):
        restore_plane(model, np.zeros(shape, np.int32), np.ones((8, 8), np.int32))


def test_apply_is_pure(model, rng):
    k, table = picture(rng, 4, 4)
    y = jax.jit(jax.vmap(model.apply, in_axes=(None, 0, None)))(
        model.variables, jnp.stack([k, k]), jnp.asarray(table)
    )
    np.testing.assert_allclose(y[1], restore_plane(model, k, table), atol=1e-5)
    grads = jax.eval_shape(
        jax.grad(lambda params: jnp.sum(model.apply(params, k, table))), model.variables
    )
    assert jax.tree.structure(grads) == jax.tree.structure(model.variables)


def test_saved_weights_are_loaded(model, rng, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, model.variables, model.about)
    k, table = picture(rng, 4, 4)
    np.testing.assert_array_equal(
        restore_plane(load(path), k, table), restore_plane(model, k, table)
    )


def test_weights_of_another_network_are_refused_by_name(model, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, model.variables, {"model": SMALL | {"features": 6}})
    with pytest.raises(ValueError, match=r"don't fit the model DMCNN: .*g/conv1.* is \(.*not"):
        load(path)


def test_models_are_compared_and_hashed_by_identity(model):
    same = Model(model.module, model.variables, model.about)
    assert model == model and model != same
    assert {model: 1, same: 2}[model] == 1


@pytest.mark.parametrize("name", ["arcnn", "dncnn"])
def test_an_ensemble_keeps_the_border_of_a_picture_of_odd_size(rng, name):
    """A network of pixels, against its eight passes over the exact picture, turned."""
    config = {"name": name} | ({"depth": 4, "features": 8} if name == "dncnn" else {})
    model = busy_model(config, gain=1.0)
    k, table = picture(rng, 4, 5)
    height, width = 27, 34

    @jax.jit
    def run(decoded):
        passed = model.module.apply(
            model.variables, None, None, decoded[None, ..., None], method="restore_pixels"
        )
        return passed["image"][0, ..., 0]

    mean = np.zeros((height, width))
    for which in range(8):
        turned, q = dihedral.turn(k, table, which)
        decoded = np.asarray(jpeg.decode(turned, q)) / np.float32(255)
        # The exact picture, upright, and turned again.
        upright = dihedral.turn_back(decoded, which)[:height, :width]
        exact = upright[::-1] if which & 1 else upright
        exact = exact[:, ::-1] if which & 2 else exact
        exact = exact.T if which & 4 else exact
        mean += dihedral.turn_back(np.asarray(run(exact)), which) / 8
    found = restore_plane(model, k, table, ensemble=True, size=(height, width))
    np.testing.assert_allclose(found[:height, :width], mean, atol=1e-5)
    without = restore_plane(model, k, table, ensemble=True)
    assert np.abs(without[:height, :width] - mean).max() > 1e-3


def test_to_uint8_rounds_and_clips():
    np.testing.assert_array_equal(
        to_uint8(np.array([-0.2, 0.4 / 255, 0.6 / 255, 254.4 / 255, 1.3])), [0, 0, 1, 254, 255]
    )


def test_narrow_networks_have_larger_tiles():
    for features, largest in ((16, 144), (24, 144), (32, 128), (64, 96)):
        module = create_model({"name": "dmcnn", "features": features})
        sides = tiling.tile_sides(module)
        assert sides[: len(tiling.TILE_SIDES)] == tiling.TILE_SIDES
        assert max(sides) == largest
        # No more activations than the widest network has in its largest tile.
        assert features * largest**2 <= 64 * 96**2
    # Which overlap less: of 12 megapixels, a quarter less to compute.
    models = (Model(create_model({"name": "dmcnn", "features": f}), {}) for f in (24, 64))
    narrow, wide = (tiling.computed_pixels(model, 375, 500) for model in models)
    assert 64 * 375 * 500 < narrow < 0.85 * wide


@pytest.mark.parametrize("features", [24, 32, 64])
def test_overlaps_cost_about_half_the_picture(features):
    """Of those too large for one tile; with four sides it was 0.7 of them, at worst 1.3."""
    model = Model(create_model({"name": "dmcnn", "features": features}), {})
    sides = range(2 * tiling.TILE_SIDES[-1], 640)
    shares = [tiling.computed_pixels(model, side, side) / (8 * side) ** 2 for side in sides]
    assert max(shares) < 2.1 and np.mean(shares) < 1.65


@pytest.fixture
def use_few_shapes():
    yield tiling.use_few_shapes
    tiling.use_few_shapes(False)


def test_few_shapes_cover_small_pictures_with_sixteen(use_few_shapes):
    """Of 300 to 800 pixels a side; at the usual sides they are 25, for a hundredth less area."""
    module = create_model({"name": "dmcnn", "features": 24})
    blocks = [(rows, columns) for rows in range(38, 101, 3) for columns in range(38, 101, 3)]

    def tiles():
        plans = [tiling.plan_plane(module, *each) for each in blocks]
        areas = [math.prod(len(p.tiles) * p.length for p in pair) for pair in plans]
        return {tuple(p.length for p in pair) for pair in plans}, sum(areas)

    usual, area = tiles()
    longest = tiling.tile_sides(module)[-1], tiling.strip_sides()[-1]
    use_few_shapes(True)
    few, more = tiles()
    assert len(few) == 16 and len(usual) == 25
    assert more < 1.02 * area
    # Tiles of large pictures overlap no more than before.
    assert (tiling.tile_sides(module)[-1], tiling.strip_sides()[-1]) == longest
    assert max(tiling.chroma_tile_sides((2, 2))) == tiling.TILE_SIDES[-1] // 2


@pytest.mark.slow
def test_few_shapes_give_the_same_bits(use_few_shapes):
    pixels = np.random.default_rng(0).integers(0, 256, (22, 20, 3), np.uint8)
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels).resize((320, 340), Image.Resampling.BICUBIC)
    picture.save(buffer, "JPEG", quality=30)
    options = RestoreOptions(engine="jax", size="fast", trial=False)
    restorer, file = Restorer(None, options), jpeg.read(buffer.getvalue())
    restored = restorer.restore_planes(file)
    use_few_shapes(True)
    padded = restorer.restore_planes(file)
    assert all(restored.models)
    for one, other in zip(
        (*restored.luma, *restored.chroma), (*padded.luma, *padded.chroma), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_random_weights_are_what_flax_draws():
    """Compiled with less effort, to the same bits."""
    module, key = create_model({"name": "arcnn"}), jax.random.key(3)
    draw = jax.jit(module.init)
    expected = draw(key, jnp.zeros((1, 2, 2, 64), jnp.int32), jnp.ones((1, 8, 8), jnp.int32))
    jax.tree.map(np.testing.assert_array_equal, initialize(module, key), expected)
