"""The network of chroma, and how it is run over whole planes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmcnn_jax import finish, inference, jpeg
from dmcnn_jax.models import chroma, create_model, decode, example
from dmcnn_jax.models.chroma import ChromaInput

MODEL = {"name": "chroma", "features": 4, "dilations": (1, 2, 1)}


@pytest.fixture(scope="module")
def model():
    """A network whose weights all do something."""
    module = create_model(MODEL)
    variables = jax.jit(lambda key: inference.initialize(module, key))(jax.random.key(0))
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return inference.Model(module, jax.tree.unflatten(tree, leaves))


def plane_of(rng, height, width, step):
    """Coefficients, tables and a guide of a plane of blocks."""
    k = np.zeros((2, height, width, 64), np.int16)
    k[..., :10] = rng.integers(-4, 5, (2, height, width, 10))
    tables = np.stack([jpeg.quality_table(q, jpeg.STANDARD_CHROMA) for q in (30, 60)])
    guide = rng.uniform(0, 255, (8 * step[0] * height, 8 * step[1] * width)).astype(np.float32)
    return k, tables, guide


@pytest.mark.parametrize("step", [(1, 1), (1, 2), (2, 2), (4, 1)])
@pytest.mark.parametrize("size", [(8, 16), (3, 5), (1, 2), (1, 1)])
def test_upsampling_is_libjpegs(rng, step, size):
    """Against NumPy's, which is tested against libjpeg."""
    plane = rng.uniform(0, 255, (1, 8 * size[0], 8 * size[1], 2)).astype(np.float32)
    ours = jax.jit(chroma.upsample, static_argnums=1)(plane, step)
    for c in range(2):
        expected = finish.upsample(plane[0, ..., c], step)
        np.testing.assert_allclose(ours[0, ..., c], expected, atol=1e-4)


@pytest.mark.parametrize("step", [(1, 1), (1, 2), (2, 2)])
def test_projection_gives_the_coefficients_back(rng, step):
    """The average over samples quantises to k, and nothing that does is nearer."""
    k, tables, _ = plane_of(rng, 4, 3, step)
    shape = (1, 8 * step[0] * 4, 8 * step[1] * 3, 2)
    image = jnp.asarray(rng.uniform(0, 1, shape).astype(np.float32))
    project = jax.jit(chroma.project, static_argnums=3)
    projected = np.asarray(project(image, k[None], tables[None], -0.01))

    def coefficients(picture):
        cells = picture[0].reshape(32, step[0], 24, step[1], 2).mean(axis=(1, 3)) * 255
        blocks = finish.to_blocks(cells[..., 0]), finish.to_blocks(cells[..., 1])
        return (np.stack(blocks) - 128) @ jpeg.BASIS_IMAGES.reshape(64, 64).T

    found = np.rint(coefficients(projected) / tables.reshape(2, 1, 64))
    np.testing.assert_array_equal(found, k.reshape(2, -1, 64))
    # Of a convex set the nearest point p to x is the one with (x - p)·(y - p) <= 0 for all y in it.
    other = np.asarray(project(jnp.full(shape, 0.5), k[None], tables[None], -0.01))
    inner = np.sum((np.asarray(image) - projected) * (other - projected), dtype=np.float64)
    assert inner <= 1e-3 * np.sum(np.square(image - projected))
    again = project(jnp.asarray(projected), k[None], tables[None], -0.01)
    np.testing.assert_allclose(again, projected, atol=1e-6)


@pytest.mark.parametrize("step", [(1, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("size", [(1, 1), (2, 13), (11, 5), (19, 9)])
def test_tiles_give_what_the_whole_does(model, rng, monkeypatch, step, size):
    monkeypatch.setattr(inference, "TILE_SIDES", (8, 16))
    k, tables, guide = plane_of(rng, *size, step)
    assert all(halo < 8 // max(step) for halo in model.module.halo(step))
    given = ChromaInput(k[None], guide[None, ..., None] / 255)
    whole = inference.estimate(model.module, model.params, given, tables[None])["image"]
    tiled = inference.restore_chroma(model, k, tables, guide, step)
    assert tiled.shape == (2, *guide.shape)
    np.testing.assert_allclose(tiled / 255, np.moveaxis(np.asarray(whole[0]), -1, 0), atol=1e-5)


def test_halo_is_what_a_block_depends_on(model, rng):
    """Beyond it nothing counts, and at its end something does."""
    for step in chroma.STEPS:
        k, tables, guide = plane_of(rng, 9, 9, step)
        guide = jnp.asarray(guide[None, ..., None] / 255)

        def middle(guide, k=k, tables=tables, step=step):
            found = model.module.apply(model.params, ChromaInput(k[None], guide), tables[None])
            inner = found["image"][:, 32 * step[0] : 40 * step[0], 32 * step[1] : 40 * step[1]]
            return inner.sum()

        depends = np.asarray(jax.jit(jax.grad(middle))(guide))[0, ..., 0] != 0
        for axis, halo in enumerate(model.module.halo(step)):
            (where,) = np.nonzero(depends.any(axis=1 - axis))
            unit = 8 * step[axis]
            assert unit * (4 - halo) <= where.min()
            assert where.max() < unit * (5 + halo)


def test_a_transposed_picture_gives_the_transpose(model, rng):
    """4:4:0 is 4:2:2 turned."""
    k, tables, guide = plane_of(rng, 3, 4, (1, 2))
    upright = inference.restore_chroma(model, k, tables, guide, (1, 2), project=True)
    turned = k.reshape(2, 3, 4, 8, 8).transpose(0, 2, 1, 4, 3).reshape(2, 4, 3, 64)
    flat = inference.restore_chroma(
        model, turned, tables.swapaxes(1, 2), guide.T, (2, 1), project=True
    )
    np.testing.assert_allclose(flat, upright.swapaxes(1, 2), atol=1e-3)


def test_strength_and_sampling_are_checked(model, rng):
    k, tables, guide = plane_of(rng, 2, 2, (2, 2))
    none = inference.restore_chroma(model, k, tables, guide, (2, 2), strength=0.0)
    middle = np.stack([finish.upsample(plane, (2, 2)) for plane in middles(k, tables)])
    np.testing.assert_allclose(none, middle, atol=1e-3)
    with pytest.raises(ValueError, match=r"step is \(4, 1\)"):
        inference.restore_chroma(model, k, tables, guide, (4, 1))


def middles(k, tables):
    x = k * tables.reshape(2, 1, 1, 64).astype(np.float32)
    return np.clip(np.asarray(jpeg.idct(x)) + 128, 0, 255)


def test_untrained_is_what_libjpeg_decodes(rng):
    """The first weights change next to nothing, whatever the table."""
    module = create_model({"name": "chroma", "rectify": False})
    variables = jax.jit(lambda key: inference.initialize(module, key))(jax.random.key(0))
    k, tables, guide = plane_of(rng, 4, 4, (2, 2))
    given = ChromaInput(k[None], guide[None, ..., None] / 255)
    estimates = inference.estimate(module, variables, given, tables[None])
    image = np.asarray(estimates["image"]) * 255
    decoded = np.asarray(decode(module, given, tables[None]))
    assert np.abs(np.clip(image, 0, 255) - decoded).max() < 8
    assert np.abs(image - decoded).mean() < 1
    assert example(module)[0].step == (2, 2)
