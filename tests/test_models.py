"""DMCNN against its definition: layers, receptive fields, counts of weights, rectifier, loss."""

import importlib.util
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from networks import start

from dmcnn_jax import jpeg
from dmcnn_jax.inference.model import estimate
from dmcnn_jax.inference.variables import initialize, variable_shapes
from dmcnn_jax.models import create_model, table_conditioning
from dmcnn_jax.models.base import Network
from dmcnn_jax.models.dmcnn import DMCNN, DCTBranch, PixelBranch
from dmcnn_jax.models.layers import Deconv, PReLU, conv
from dmcnn_jax.models.losses import average_pool

CONFIGS = Path(__file__).parents[1] / "configs"

# Weights of each configuration of DMCNN, biases and slopes included.
WEIGHTS = {
    "qf20": 4_426_628,
    "qf10": 4_426_628,
    "fast_qf20": 4_426_628,
    "fast_qf10": 4_426_628,
    "small_qf20": 659_708,
    "small_qf10": 659_708,
    "wide_qf20": 4_426_628,
    "medium_qf20": 1_995_236,
    "medium_any": 2_066_084,
    "quickstart": 306_452,
}


def load_config(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def positive(shapes, scale=0.3):
    """Weights of such shapes, without cancellation: what is seen has a gradient, nothing else."""
    rng = np.random.default_rng(0)

    def fill(x):
        fan_in = max(1, np.prod(x.shape[:-1]))
        return np.float32(rng.uniform(0.5, 1.0, x.shape) * (4 * scale / fan_in))

    filled = jax.tree.map(fill, shapes)
    # Slopes near one: what a rectifier passes must not die out over fifteen of them.
    return jax.tree_util.tree_map_with_path(
        lambda path, x: np.ones_like(x) if "slope" in jax.tree_util.keystr(path) else x, filled
    )


def lively(module):
    """Variables whose last layers are as large as the others: the network does something."""
    rng = np.random.default_rng(1)

    def more(x):
        deviation = 0.05 / np.sqrt(max(1, np.prod(x.shape[:-1]) / 9))
        return np.float32(x + rng.normal(0, deviation, x.shape))

    return jax.tree.map(more, start(module))


def some_jpeg(rng, blocks=(6, 8), batch=2, quality=20):
    # Away from black and white, where C is clipped.
    smooth = np.add.outer(np.arange(blocks[0] * 8), np.arange(blocks[1] * 8)) + 64.0
    noise = rng.normal(0, 12, (batch, *smooth.shape))
    original = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    table = np.broadcast_to(jpeg.quality_table(quality), (batch, 8, 8))
    return original, jpeg.encode(original, table), jnp.asarray(table)


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_number_of_weights(name):
    module = create_model(load_config(name).model)
    assert count(variable_shapes(module)) == WEIGHTS[name]


def test_kernel_weights_are_those_of_the_design():
    params = variable_shapes(DMCNN())["params"]
    kernels = {
        branch: sum(
            np.prod(layer["kernel"].shape)
            for name, layer in params[branch].items()
            if "kernel" in layer and not name.startswith("head")
        )
        for branch in "fg"
    }
    assert kernels == {"f": 1_179_648, "g": 3_237_568}


def test_number_of_layers():
    params = variable_shapes(DMCNN(features=4))["params"]
    assert {k for k in params["f"] if k.startswith("conv")} == {f"conv{i}" for i in range(1, 10)}
    layers = {k for k in params["g"] if "conv" in k}
    assert layers == {f"conv{i}" for i in (*range(1, 10), 11, 13, 14, 15)} | {
        "deconv10",
        "deconv12",
    }


def extent(gradient, axis):
    """First and last index along an axis where a gradient is not zero."""
    other = tuple(i for i in range(gradient.ndim) if i != axis)
    (seen,) = np.nonzero(np.any(np.asarray(gradient) != 0, axis=other))
    return seen[0], seen[-1]


def test_pixel_branch_sees_145_pixels_at_every_phase():
    module = PixelBranch(2, (2, 4, 8), True, False, jnp.float32)
    x = jnp.ones((1, 156, 156, 2))
    variables = positive(jax.eval_shape(module.init, jax.random.key(0), x, None, None))

    @jax.jit
    def gradient(row, column):
        return jax.grad(lambda x: module.apply(variables, x, None, None)[0][0, row, column, 0])(x)

    # Two of each phase of the strides, 2 · 2: all positions of a cell of the quarter scale see the
    # same, so that tiles that begin at multiples of 4 need 72 pixels around them.
    for i in range(76, 84):
        expected = (i // 4 * 4 - 72, i // 4 * 4 + 72)
        assert extent(gradient(i, 80), 1) == expected
        assert extent(gradient(80, i), 2) == expected


def test_dct_branch_sees_41_blocks():
    module = DCTBranch(2, (2, 4, 8), False)
    k, table = jnp.ones((1, 50, 50, 64)), jnp.ones((1, 8, 8), jnp.int32)
    variables = positive(jax.eval_shape(module.init, jax.random.key(0), k, table, None))
    seen = jax.jit(jax.grad(lambda k: module.apply(variables, k, table, None)[0, 25, 24].sum()))(k)
    assert extent(seen, 1) == (5, 45)
    assert extent(seen, 2) == (4, 44)


def test_a_network_without_a_second_pass_is_refused_when_it_is_made():
    class Half(Network):
        """Has no restore_pixels."""

    with pytest.raises(TypeError, match="restore_pixels"):
        Half()


def test_network_sees_472_pixels():
    module = DMCNN(features=2, rectifier="none")
    blocks = 70
    table = jnp.ones((1, 8, 8), jnp.int32)
    zeros = jnp.zeros((1, blocks, blocks, 64), jnp.int32)
    variables = positive(variable_shapes(module))
    # Not the same for each coefficient, else some pixel of the basis images is a sum of zero.
    kernel = variables["params"]["f"]["conv9"]["kernel"]
    noise = np.random.default_rng(1).uniform(0.5, 1, kernel.shape).astype(np.float32)
    variables["params"]["f"]["conv9"]["kernel"] = kernel * noise

    def output(k):
        dct = module.apply(variables, k, table, method="restore_coefficients")
        return module.apply(variables, zeros, table, dct, method="restore_pixels")["image"][
            0, 280, 280, 0
        ]

    seen = jax.jit(jax.grad(output))(jnp.ones((1, blocks, blocks, 64)))
    for axis in (1, 2):
        first, last = extent(seen, axis)
        assert (last - first + 1) * 8 == 472


@pytest.mark.parametrize("channels, features", [(1, 1), (3, 2), (5, 8)])
def test_deconvolution_by_its_definition(rng, channels, features):
    x = rng.normal(size=(2, 5, 4, channels)).astype(np.float32)
    module = Deconv(features)
    variables = module.init(jax.random.key(0), x)
    kernel = np.asarray(variables["params"]["kernel"])
    bias = rng.normal(size=features).astype(np.float32)
    variables["params"]["bias"] = bias

    # Input m reaches output 2m - 1 + t through tap t.
    full = np.zeros((2, 2 * 5 + 2, 2 * 4 + 2, features))
    for m in range(5):
        for n in range(4):
            for s in range(4):
                for t in range(4):
                    full[:, 2 * m + s, 2 * n + t] += x[:, m, n] @ kernel[s, t]
    expected = full[:, 1:-1, 1:-1] + bias
    np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-5)


def test_deconvolution_keeps_the_variance(rng):
    x = rng.normal(size=(4, 16, 16, 64)).astype(np.float32)
    module = Deconv(64)
    y = module.apply(module.init(jax.random.key(0), x), x)[:, 2:-2, 2:-2]
    # He initialisation doubles it, for a rectifier to halve.
    assert 1.8 < float(jnp.var(y)) < 2.2


def test_convolution_of_stride_2_is_centred():
    x = jnp.zeros((1, 8, 8, 1)).at[0, 4, 4, 0].set(1)
    module = conv(1, stride=2, use_bias=False)
    kernel = jnp.arange(1.0, 10).reshape(3, 3, 1, 1)
    y = module.apply({"params": {"kernel": kernel}}, x)
    # Output 2 looks at inputs 3, 4, 5: the middle tap, 5, meets the one.
    assert float(y[0, 2, 2, 0]) == 5


def test_prelu_has_a_slope_for_each_channel():
    x = jnp.array([[-2.0, -2.0], [3.0, 3.0]])
    y = PReLU().apply({"params": {"slope": jnp.array([0.1, 0.5])}}, x)
    np.testing.assert_allclose(y, [[-0.2, -1.0], [3.0, 3.0]], rtol=1e-6)


def test_starts_from_the_jpeg(rng):
    _, k, table = some_jpeg(rng)
    module = DMCNN(features=4)
    estimates = estimate(module, initialize(module, jax.random.key(0)), k, table)
    decoded = np.asarray(jpeg.decode(k, table))[..., None] / 255
    np.testing.assert_allclose(estimates["jpeg"], decoded, atol=1e-7)
    # But for the rounding and clipping that C has and ÕD has not, and last layers near zero.
    assert np.abs(estimates["image"] - decoded).mean() < 1 / 255
    for i, name in ((1, "half"), (2, "quarter")):
        reduced = average_pool(jnp.asarray(decoded), 2**i)
        assert np.abs(estimates[name] - reduced).mean() < 1 / 255


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rectifier_keeps_the_interval(rng, dtype):
    _, k, table = some_jpeg(rng)
    module = DMCNN(features=4, dtype=dtype)
    variables = lively(DMCNN(features=4))
    last = variables["params"]["f"]["conv9"]
    last["kernel"] = 100 * last["kernel"]
    dct = np.asarray(estimate(module, variables, k, table)["dct"])[..., 0]
    blocks = (dct * 255 - 128.0).reshape(2, 6, 8, 8, 8).swapaxes(2, 3)
    found = scipy.fft.dctn(blocks, axes=(-2, -1), norm="ortho").reshape(2, 6, 8, 64)
    distance = np.abs(found - np.asarray(k) * np.asarray(table).reshape(2, 1, 1, 64))
    limit = np.asarray(table).reshape(2, 1, 1, 64) / 2 + 0.25
    assert (distance <= limit + 2e-3).all()
    # And it was not idle.
    assert (distance > limit - 2e-3).mean() > 0.1


def test_rectifiers_by_their_definitions(rng):
    _, k, table = some_jpeg(rng, quality=50)
    variables = lively(DMCNN(features=4))
    last = variables["params"]["f"]["conv9"]
    last["kernel"] = 100 * last["kernel"]

    def coefficients(rectifier):
        module = DMCNN(features=4, rectifier=rectifier)
        restore = jax.jit(partial(module.apply, method="restore_coefficients"))
        dct = restore(variables, k, table)
        return np.asarray(jpeg.dct(dct[..., 0] * 255 - 128))

    steps = np.asarray(table).reshape(2, 1, 1, 64)
    free, centre = coefficients("none"), np.asarray(k) * steps
    half = steps / 2 + 0.25
    clipped = np.clip(free, centre - half, centre + half)
    np.testing.assert_allclose(coefficients("interval"), clipped, atol=5e-3)
    np.testing.assert_allclose(coefficients("leaky"), clipped + 0.1 * (free - clipped), atol=5e-3)
    decoded = np.asarray(jpeg.dct(np.asarray(jpeg.decode(k, table), np.float32) - 128))
    around = np.clip(free, decoded - half, decoded + half)
    np.testing.assert_allclose(coefficients("decoded"), around, atol=5e-3)


@pytest.mark.parametrize(
    "options",
    [{}, {"condition_on_table": True}, {"dct_branch": False}, {"dilations": (1, 1, 1)}],
)
def test_mask_makes_padding_invisible(rng, options):
    _, k, table = some_jpeg(rng, blocks=(5, 7), batch=1)
    module = DMCNN(features=4, **options)
    variables = lively(module)
    exact = estimate(module, variables, k, table)
    padded = jnp.asarray(rng.integers(-9, 9, (1, 11, 12, 64)), jnp.int32)
    padded = padded.at[:, 2:7, 3:10].set(k)
    mask = jnp.zeros((1, 11, 12, 1), bool).at[:, 2:7, 3:10].set(True)
    within = jax.jit(module.apply)(variables, padded, table, mask=mask)["image"][:, 16:56, 24:80]
    np.testing.assert_allclose(within, exact["image"], atol=1e-6)
    assert np.abs(exact["image"] - exact["jpeg"]).max() > 0.01


def test_loss_by_equation_7(rng):
    original, k, table = some_jpeg(rng)
    o = original[..., None] / 255.0
    module = DMCNN(features=4)
    estimates = estimate(module, lively(module), k, table)
    e = {name: np.asarray(x, np.float64) for name, x in estimates.items()}

    def pooled(factor):
        b, h, w, _ = o.shape
        return o.reshape(b, h // factor, factor, w // factor, factor, 1).mean((2, 4))

    expected = (
        ((e["image"] - o) ** 2).mean()
        + 0.618 * ((e["half"] - pooled(2)) ** 2).mean()
        + 0.618**2 * ((e["quarter"] - pooled(4)) ** 2).mean()
        + 0.9 * ((e["dct"] - o) ** 2).mean()
    )
    assert float(module.loss(estimates, jnp.asarray(o, jnp.float32))) == pytest.approx(
        expected, rel=1e-5
    )


def test_relative_loss_weighs_each_example_by_its_jpeg(rng):
    original, k, table = some_jpeg(rng)
    o = original[..., None] / 255.0
    module = DMCNN(features=4, relative_loss=True)
    variables = lively(DMCNN(features=4))

    def loss(*parts):
        estimates = estimate(module, variables, *parts[1:])
        return float(module.loss(estimates, jnp.asarray(parts[0], jnp.float32))), estimates

    one, estimates = loss(o[:1], k[:1], table[:1])
    jpeg_error = ((np.asarray(estimates["jpeg"], np.float64) - o[:1]) ** 2).mean()
    absolute = float(DMCNN(features=4).loss(estimates, jnp.asarray(o[:1], jnp.float32)))
    assert one == pytest.approx(absolute / (jpeg_error + 1e-6), rel=1e-4)
    # Of a batch it is the mean of those of its examples.
    singles = [loss(o[i : i + 1], k[i : i + 1], table[i : i + 1])[0] for i in range(len(o))]
    assert len(o) > 1
    assert loss(o, k, table)[0] == pytest.approx(np.mean(singles), rel=1e-4)


def test_r_weighs_both_inputs(rng):
    _, k, table = some_jpeg(rng)
    module = DMCNN(features=4)
    variables = start(module)
    assert float(variables["params"]["r"]) == 0.5
    variables["params"]["g"] = jax.tree.map(jnp.zeros_like, variables["params"]["g"])
    variables["params"]["r"] = jnp.float32(0.25)
    e = estimate(module, variables, k, table)
    np.testing.assert_allclose(e["image"], 0.25 * e["dct"] + 0.75 * e["jpeg"], atol=1e-6)
    fixed = DMCNN(features=4, learn_residual=False, residual=1.0)
    assert "r" not in variable_shapes(fixed)["params"]


def test_bfloat16_stays_near_float32(rng):
    _, k, table = some_jpeg(rng)
    variables = lively(DMCNN(features=4))
    full = estimate(DMCNN(features=4), variables, k, table)
    half = estimate(DMCNN(features=4, dtype=jnp.bfloat16), variables, k, table)
    # Between D and D⁻¹ all is float32: the same bits.
    np.testing.assert_array_equal(full["dct"], half["dct"])
    assert half["image"].dtype == jnp.float32
    assert 0 < np.abs(full["image"] - half["image"]).max() < 0.02


def test_condition_on_table_starts_as_identity(rng):
    _, k, table = some_jpeg(rng)
    plain, conditioned = DMCNN(features=4), DMCNN(features=4, condition_on_table=True)
    variables = start(conditioned)
    shared = {
        "params": {
            branch: {n: v for n, v in layers.items() if not n.startswith("table")}
            if branch != "r"
            else layers
            for branch, layers in variables["params"].items()
        }
    }
    np.testing.assert_allclose(
        estimate(conditioned, variables, k, table)["image"],
        estimate(plain, shared, k, table)["image"],
        atol=1e-6,
    )
    variables = lively(conditioned)
    other = [estimate(conditioned, variables, k, q)["dct"] for q in (table, 2 * table)]
    assert np.abs(np.subtract(*other)).max() > 1e-3


@pytest.mark.parametrize("shape, channels", [((2, 64), {1: 4, 6: 3}), ((2, 2, 66), {2: 5})])
def test_the_table_s_perceptron_follows_its_formula(rng, shape, channels):
    class Modulated(nn.Module):
        """Scales and shifts ones, at each layer."""

        @nn.compact
        def __call__(self, encoding):
            modulate = table_conditioning.modulate_by_table(encoding, channels)
            other = modulate(9, jnp.full((2, 1, 1, 1), 7.0))
            return other, [modulate(i, jnp.full((2, 1, 1, n), 3.0)) for i, n in channels.items()]

    encoding = rng.normal(size=shape).astype(np.float32)
    shapes = jax.eval_shape(Modulated().init, jax.random.key(0), encoding)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    other, modulated = Modulated().apply(variables, encoding)
    params = variables["params"]
    assert table_conditioning.modulated_layers(params) == sorted(channels)

    def dense(x, name):
        return x @ params[name]["kernel"] + params[name]["bias"]

    hidden = dense(encoding, "table_dense").reshape(2, -1, 64).mean(axis=1)
    code = np.maximum(hidden, 0) + params["table_prelu"]["slope"] * np.minimum(hidden, 0)
    for found, layer in zip(modulated, channels, strict=True):
        scale, shift = np.split(dense(code, f"table_dense{layer}"), 2, axis=-1)
        np.testing.assert_allclose(found[:, 0, 0], 3 * (1 + scale) + shift, rtol=1e-4, atol=1e-4)
    assert (other == 7).all()


def test_tables_are_encoded_by_logarithms():
    steps = np.array([1, 2, 16, 255], np.int32)
    table = np.resize(steps, (1, 8, 8))
    expected = np.resize(np.log2(steps / 16) / 2, 64)
    for numpy in (np, jnp):
        found = table_conditioning.encode_table(numpy.asarray(table), numpy)
        np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    both = table_conditioning.encode_tables(np.stack([table[0], table[0]])[None], (1, 2))
    np.testing.assert_allclose(both, [[[*expected, 0, 1]] * 2], rtol=1e-6)


def test_unknown_models_and_fields_are_named():
    with pytest.raises(ValueError, match=r"model\.name is 'dmcn'; expected one of: .*dmcnn"):
        create_model({"name": "dmcn"})
    with pytest.raises(ValueError, match=r"has no field 'width'; it has: .*features"):
        create_model({"name": "dmcnn", "width": 3})
    with pytest.raises(ValueError, match="dtype is 'float16'"):
        create_model({"name": "dmcnn", "dtype": "float16"})
    with pytest.raises(ValueError, match="rectifier is 'hard'; expected one of"):
        variable_shapes(create_model({"name": "dmcnn", "rectifier": "hard"}))


@pytest.mark.parametrize("layer", ["conv", "deconv", "prelu"])
def test_sums_over_pixels_are_float32_in_bfloat16(layer):
    """Of 65,536 ones: a sum in bfloat16 would stop at 256."""
    x = -jnp.ones((1, 256, 256, 1), jnp.bfloat16)
    make = {
        "conv": lambda: conv(1, dtype=jnp.bfloat16),
        "deconv": lambda: Deconv(1, dtype=jnp.bfloat16),
        "prelu": PReLU,
    }
    module = make[layer]()
    params = jax.tree.map(jnp.zeros_like, module.init(jax.random.key(0), x)["params"])

    def total(params):
        y = module.apply({"params": params}, x)
        assert y.dtype == jnp.bfloat16
        return jnp.sum(y.astype(jnp.float32))

    # Without the compiler, which might widen sums of its own accord.
    with jax.disable_jit():
        gradients = jax.grad(total)(params)
    found = gradients["slope"] if layer == "prelu" else gradients["bias"]
    expected = {"conv": 256**2, "deconv": 512**2, "prelu": -(256**2)}[layer]
    assert found.dtype == jnp.float32
    assert float(found[0]) == expected
