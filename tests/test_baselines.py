"""The baselines against the papers' counts and fields, and against NumPy and SciPy."""

import importlib.util
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.fft
import scipy.ndimage
from networks import start

from dmcnn_jax import jpeg
from dmcnn_jax.evaluation.complexity import (
    count_weights,
    flops_per_pixel,
    positive_variables,
    receptive_field,
)
from dmcnn_jax.inference.model import Model, estimate
from dmcnn_jax.inference.plane import restore_plane
from dmcnn_jax.inference.variables import initialize, variable_shapes
from dmcnn_jax.models import MODELS, create_model
from dmcnn_jax.models.base import Network
from dmcnn_jax.models.baselines.influence import influence
from dmcnn_jax.models.baselines.tnrd import cosine_patterns
from dmcnn_jax.models.losses import half_sum_squares

CONFIGS = Path(__file__).parents[1] / "configs"

# Every layer of each, fewer channels. A network that is not here is tested as it is by default.
SMALL = {
    "arcnn": {},
    "cas_cnn": {"features": 4},
    "ddcn": {"features": 4, "depth": 3},
    "dncnn": {"features": 4, "depth": 5},
    "memnet": {"features": 4, "blocks": 2, "recursions": 2},
    "tnrd": {"strengths": (5.0, 1.0)},
}
# Kernels and all, of the full networks; published but for DDCN's, of which no count is.
WEIGHTS = {
    "arcnn": (106_448, 106_448 + 113),
    "cas_cnn": (5_140_864, 5_142_916),
    "ddcn": (1_033_920, 1_035_777),
    "dncnn": (664_704, 667_073),
    "memnet": (676_992, 695_497),
    "tnrd": (21_312, 21_312),
}
# Networks of luma, all that there are.
NETWORKS = [name for name in sorted(MODELS) if isinstance(create_model({"name": name}), Network)]
baselines = pytest.mark.parametrize("name", [name for name in NETWORKS if name != "dmcnn"])


def make(name, seed=0, **options):
    """A small network, and variables of which all do something."""
    module = create_model({"name": name, **(options or SMALL.get(name, {}))})
    variables = start(module, seed)
    rng = np.random.default_rng(seed + 1)

    def lively(x):
        deviation = (0.5 if x.ndim > 1 else 0.05) / np.sqrt(max(1, np.prod(x.shape[:-1])))
        return np.float32(x + rng.normal(0, deviation, x.shape))

    variables = jax.tree.map(lively, variables)
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])
    return module, variables


def pairs(shape, quality=20, seed=0):
    """Originals, uint8 [B, H, W], their coefficients and tables."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = scipy.ndimage.gaussian_filter(noise, (0, 2, 2))
    original = np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    tables = np.broadcast_to(np.asarray(jpeg.quality_table(quality)), (shape[0], 8, 8))
    return original, np.asarray(jpeg.encode(original, tables)), tables


def correlate(x, kernel, mode):
    """A convolution as networks mean it, x [H, W, in], kernel [h, w, in, out], odd sides."""
    outputs = [
        sum(
            scipy.ndimage.correlate(x[..., i], kernel[..., i, o], mode=mode)
            for i in range(x.shape[-1])
        )
        for o in range(kernel.shape[-1])
    ]
    return np.stack(outputs, axis=-1)


def blockwise(coefficients):
    """The inverse DCT of [h, w, 64], put together: [8h, 8w]."""
    rows, columns, _ = coefficients.shape
    blocks = coefficients.reshape(rows, columns, 8, 8)
    blocks = scipy.fft.idctn(blocks, axes=(2, 3), norm="ortho")
    return blocks.swapaxes(1, 2).reshape(8 * rows, 8 * columns)


def load_config(path, *arguments):
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*arguments)


def test_every_baseline_is_here():
    assert set(SMALL) == set(WEIGHTS) <= set(MODELS) - {"dmcnn"}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_networks_docstring_says_how_many_weights_it_has(name):
    module = create_model({"name": name})
    shapes = variable_shapes(module)
    stated = sys.modules[type(module).__module__].__doc__
    assert f"{count_weights(shapes['params']):,}" in stated


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_weights_are_as_many_as_published(name):
    shapes = variable_shapes(create_model({"name": name}))
    leaves = jax.tree.leaves(shapes["params"])
    kernels = sum(x.size for x in leaves if x.ndim > 1)
    assert (kernels, sum(x.size for x in leaves)) == WEIGHTS[name]


def test_published_forms():
    merged = create_model({"name": "dncnn", "batch_norm": False})
    shapes = variable_shapes(merged)
    assert set(shapes) == {"params"}
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 665_921
    cas = variable_shapes(create_model({"name": "cas_cnn"}))
    sides = [cas["params"].pop(name) for name in ("b4", "c4", "d4")]
    assert sum(x.size for x in jax.tree.leaves(cas)) == 5_133_697
    assert sum(x.size for x in jax.tree.leaves(sides)) == 9_219


@baselines
def test_estimates_and_loss(name):
    module, variables = make(name)
    original, k, q = pairs((2, 32, 40))
    estimates = jax.jit(module.apply)(variables, k, q)
    assert estimates["image"].shape == (2, 32, 40, 1)
    assert all(e.dtype == jnp.float32 for e in estimates.values())
    target = jnp.asarray(original[..., None], jnp.float32) / 255
    loss = module.loss(estimates, target)
    assert loss.shape == () and loss.dtype == jnp.float32 and np.isfinite(loss) and loss > 0
    perfect = dict.fromkeys(estimates, target)
    for factor, scale in ((2, "half"), (4, "quarter"), (8, "eighth")):
        if scale in estimates:
            assert estimates[scale].shape == (2, 32 // factor, 40 // factor, 1)
            cells = target.reshape(2, 32 // factor, factor, 40 // factor, factor, 1)
            perfect[scale] = cells.mean(axis=(2, 4))
    np.testing.assert_allclose(module.loss(perfect, target), 0, atol=1e-9)


@baselines
def test_what_lies_outside_the_image_does_not_matter(name):
    """A padded image gives what the exact size gives; tiles rest on that."""
    module, variables = make(name)
    _, k, q = pairs((1, 24, 32))
    exact = estimate(module, variables, k, q)["image"]
    padded = np.random.default_rng(1).integers(-9, 9, (1, 6, 7, 64))
    padded[:, 1:4, 2:6] = k
    mask = np.zeros((1, 6, 7, 1), bool)
    mask[:, 1:4, 2:6] = True
    image = jax.jit(module.apply)(variables, padded, q, mask=mask)["image"]
    np.testing.assert_allclose(image[:, 8:32, 16:48], exact, atol=1e-5)


@pytest.mark.parametrize("name", ["arcnn", "dncnn", "memnet"])
def test_published_pixel_networks_see_the_exact_size(name):
    """As their authors ran them; blocks reach beyond an image whose sides are no multiples of 8."""
    module, variables = make(name)
    _, k, q = pairs((1, 24, 32))
    decoded = jnp.asarray(jpeg.decode(k, q), jnp.float32)[..., None] / 255
    restore = jax.jit(partial(module.apply, method="restore_pixels"))
    exact = restore(variables, k, q, decoded[:, :21, :27])["image"]
    restored = restore_plane(Model(module, variables), k[0], q[0], size=(21, 27))
    np.testing.assert_allclose(restored[:21, :27], exact[0, ..., 0], atol=1e-5)
    blocks = restore_plane(Model(module, variables), k[0], q[0])
    assert np.abs(blocks[:21, :27] - exact[0, ..., 0]).max() > 1e-4


@baselines
def test_nothing_is_seen_beyond_the_halo(name):
    module, variables = make(name)
    halo = module.halo_blocks
    if halo is None:
        pytest.skip(f"{name} does not say how far it sees, and is never tiled")
    halo = sum(halo) if isinstance(halo, tuple) else halo
    side = 2 * halo + 3
    _, k, q = pairs((1, 8 * side, 8 * side))
    changed = k.copy()
    changed[:, halo + 1, halo + 1, 0] += 2
    apply = jax.jit(lambda k: module.apply(variables, k, q)["image"][0, ..., 0])
    seen = np.asarray(apply(k) != apply(changed))
    inside = np.zeros_like(seen)
    inside[8:-8, 8:-8] = True
    assert seen.any() and not (seen & ~inside).any()


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("arcnn", {}, 19),
        ("dmcnn", {"features": 4, "dct_features": 4}, 145),
        pytest.param(*("dmcnn", {"features": 4, "dct_branch": False}, 145), marks=pytest.mark.slow),
        ("dmcnn", {"features": 4, "dct_branch": False, "dilations": (1, 1, 1)}, 57),
        pytest.param(*("dncnn", {"features": 3, "depth": 20}, 41), marks=pytest.mark.slow),
        pytest.param(*("ddcn", {"features": 3, "depth": 10}, 41), marks=pytest.mark.slow),
        pytest.param(
            *("tnrd", {"strengths": (10.0, 5.0, 1.0, 1.0), "reaction": False}, 49),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("memnet", {"features": 2, "blocks": 6, "recursions": 6}, 149), marks=pytest.mark.slow
        ),
        pytest.param("cas_cnn", {"features": 2}, 84, marks=pytest.mark.slow),
    ],
)
def test_receptive_fields(name, options, field):
    module = create_model({"name": name, **options})
    assert receptive_field(module, positive_variables(module)) == field


def test_what_depends_on_nothing_has_no_receptive_field():
    module, variables = make("arcnn")
    assert receptive_field(module, jax.tree.map(jnp.zeros_like, variables)) == 0


@baselines
def test_a_step_of_training(name):
    module, variables = make(name)
    original, k, q = pairs((4, 32, 32), quality=10)
    target = jnp.asarray(original[..., None], jnp.float32) / 255
    params, stats = variables["params"], {c: v for c, v in variables.items() if c != "params"}
    optimizer = optax.adam(1e-4)
    state = optimizer.init(params)

    def loss_fn(params, stats):
        estimates, stats = module.apply(
            {"params": params, **stats}, k, q, train=True, mutable=list(stats)
        )
        return module.loss(estimates, target), stats

    @jax.jit
    def step(params, stats, state):
        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, stats)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), stats, state, loss, grads

    losses, before = [], stats
    for _ in range(8):
        params, stats, state, loss, grads = step(params, stats, state)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), stats, before)
    assert all(jax.tree.leaves(moved))
    if name in SMALL:
        assert bool(stats) == (name in ("dncnn", "memnet"))


def test_dncnn_is_scipys():
    module, variables = make("dncnn")
    _, k, q = pairs((1, 24, 16))
    image = estimate(module, variables, k, q)["image"][0, ..., 0]
    params, stats = jax.tree.map(np.float64, (variables["params"], variables["batch_stats"]))
    decoded = np.asarray(jpeg.decode(k, q))[0] / 255
    x = decoded[..., None]
    for i in range(1, 6):
        layer = params[f"conv{i}"]
        y = correlate(x, layer["kernel"], mode="constant") + layer.get("bias", 0)
        if f"norm{i}" in params:
            norm, moments = params[f"norm{i}"], stats[f"norm{i}"]
            y = (y - moments["mean"]) / np.sqrt(moments["var"] + 1e-5)
            y = y * norm["scale"] + norm["bias"]
        x = np.maximum(y, 0) if i < 5 else y
    np.testing.assert_allclose(image, decoded - x[..., 0], atol=1e-5)


def test_arcnn_is_scipys():
    module, variables = make("arcnn")
    _, k, q = pairs((1, 16, 24))
    image = estimate(module, variables, k, q)["image"][0, ..., 0]
    x = np.asarray(jpeg.decode(k, q))[0][..., None] / 255
    for i in range(1, 5):
        layer = jax.tree.map(np.float64, variables["params"][f"conv{i}"])
        x = correlate(x, layer["kernel"], mode="nearest") + layer["bias"]
        x = np.maximum(x, 0) if i < 4 else x
    np.testing.assert_allclose(image, x[..., 0], atol=1e-5)


def test_tnrd_is_scipys():
    module, variables = make("tnrd")
    _, k, q = pairs((1, 24, 32), quality=10)
    image = estimate(module, variables, k, q)["image"][0, ..., 0]
    steps = q[0].reshape(64).astype(np.float64)
    dequantised = k[0] * steps
    u = np.clip(blockwise(dequantised), -128, 128)
    centres = np.arange(-310, 311, 10)
    for stage in ("stage1", "stage2"):
        p = jax.tree.map(np.float64, variables["params"][stage])
        x = u.copy()
        for i in range(48):
            basis = [
                scipy.fft.idctn(np.eye(49)[j].reshape(7, 7), norm="ortho") for j in range(1, 49)
            ]
            mixture = p["filters"][:, i]
            kernel = np.tensordot(mixture / np.linalg.norm(mixture), basis, 1)
            response = scipy.ndimage.correlate(u, kernel, mode="reflect")
            bumps = np.exp(-((response[..., None] - centres) ** 2) / 200)
            x -= scipy.ndimage.correlate(
                bumps @ p["influence"][:, i], kernel[::-1, ::-1], mode="reflect"
            )
        blocks = x.reshape(3, 8, 4, 8).swapaxes(1, 2)
        coefficients = scipy.fft.dctn(blocks, axes=(2, 3), norm="ortho").reshape(3, 4, 64)
        clamped = np.clip(coefficients, dequantised - 0.4 * steps, dequantised + 0.4 * steps)
        u = blockwise(clamped)
    np.testing.assert_allclose(image * 255 - 128, u, atol=2e-2)


def test_tnrd_starts_as_published():
    patterns = cosine_patterns().reshape(49, 48)
    np.testing.assert_allclose(patterns.T @ patterns, np.eye(48), atol=1e-6)
    np.testing.assert_allclose(patterns.sum(axis=0), 0, atol=1e-5)
    module = create_model({"name": "tnrd"})
    params = initialize(module, jax.random.key(0))["params"]
    z = jnp.linspace(-250, 250, 101)[:, None].repeat(48, 1)
    for stage, strength in enumerate((10, 5, 1, 1), start=1):
        layer = params[f"stage{stage}"]
        np.testing.assert_array_equal(layer["filters"], np.eye(48))
        wanted = strength * 2 * z / (400 + z**2)
        np.testing.assert_allclose(influence(z, layer["influence"]), wanted, atol=0.012 * strength)


def test_influence_is_a_sum_of_gaussians(rng):
    z = rng.uniform(-500, 500, (2, 1300, 3)).astype(np.float32)  # not whole chunks
    weights = rng.normal(size=(63, 3)).astype(np.float32)
    centres = np.arange(-310, 311, 10.0)[:, None]

    def plain(z, weights):
        return (weights * jnp.exp(-((z[..., None, :] - centres) ** 2) / 200)).sum(axis=-2)

    np.testing.assert_allclose(influence(z, weights), plain(z, weights), atol=2e-5)
    for argument in (0, 1):
        ours, theirs = (
            jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), argument)(z, weights)
            for f in (influence, plain)
        )
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_tnrd_learns_only_where_its_reaction_lets_it():
    module, variables = make("tnrd", strengths=(1.0,))
    _, k, q = pairs((1, 16, 16))

    @jax.jit
    @jax.grad
    def slope(params):
        return jnp.sum(jnp.sin(9 * module.apply({"params": params}, k, q)["image"]))

    def gradient(factor):
        params = jax.tree.map(jnp.asarray, variables["params"])
        params["stage1"]["influence"] = factor * params["stage1"]["influence"]
        image = estimate(module, {"params": params}, k, q)["image"][..., 0]
        moved = jpeg.dct(image * 255 - 128) - jpeg.dequantize(k, q)
        free = jnp.abs(moved) < 0.399 * q.reshape(1, 1, 1, 64)
        largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(slope(params)))
        return largest, float(free.mean())

    assert gradient(1.0)[0] > 1e-3
    # A diffusion so strong that nearly all coefficients end at the ends of their intervals.
    strong, free = gradient(1e6)
    assert free < 0.01 and strong < 1e-2 * gradient(1.0)[0]


def test_arcnns_last_layer_learns_at_a_tenth(monkeypatch):
    module, variables = make("arcnn")
    original, k, q = pairs((1, 32, 32))
    target = jnp.asarray(original[..., None], jnp.float32) / 255

    def gradient():
        loss = lambda p: module.loss(module.apply({"params": p}, k, q), target)  # noqa: E731
        return jax.jit(jax.grad(loss))(variables["params"])

    scaled = gradient()
    monkeypatch.setattr("dmcnn_jax.models.baselines.arcnn.scale_gradient", lambda x, factor: x)
    plain = gradient()

    def compare(found, expected):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())

    for layer in ("conv1", "conv2", "conv3", "conv4"):
        factor = 0.1 if layer == "conv4" else 1
        jax.tree.map(lambda a, b, f=factor: compare(a, f * b), scaled[layer], plain[layer])


def test_arcnns_loss_leaves_out_what_padding_reaches():
    module, _ = make("arcnn")
    target = jnp.zeros((2, 40, 48, 1))
    border = jnp.ones_like(target).at[:, 9:-9, 9:-9].set(0)
    assert float(module.loss({"image": border}, target)) == 0
    assert float(module.loss({"image": target + 1}, target)) == pytest.approx(22 * 30 / 2)
    with pytest.raises(ValueError, match="patch_sizes to 24"):
        module.loss({"image": target[:, :16, :16]}, target[:, :16, :16])


def test_half_sum_squares():
    a, b = jnp.zeros((2, 3, 5, 1)), jnp.ones((2, 3, 5, 1))
    assert float(half_sum_squares(a, b)) == 7.5


def test_ddcn_leaves_the_interval_at_a_tenth():
    module, variables = make("ddcn")
    _, k, q = pairs((1, 32, 32), quality=60)
    lower, upper = jpeg.interval(k, q, margin=0.0)

    def coefficients(variables):
        dct = estimate(module, variables, k, q)["dct"][..., 0]
        return np.asarray(jpeg.dct(dct * 255 - 128))

    once = coefficients(variables)
    last = variables["params"]["f"]["conv3"]
    outside = (once < lower - 0.05) | (once > upper + 0.05)
    assert outside.any()
    # Twice the correction: what lies outside goes on at the slope.
    variables["params"]["f"]["conv3"] = jax.tree.map(lambda x: 2 * x, last)
    twice = coefficients(variables)
    centre = np.asarray(jpeg.dequantize(k, q))
    half = np.asarray(upper) - centre
    excess = np.abs(once - centre) - half
    free = half + 10 * excess  # what the branch itself answered
    expected = half + 0.1 * (2 * free - half)
    np.testing.assert_allclose(
        np.abs(twice - centre)[outside], expected[outside], rtol=1e-3, atol=0.02
    )


def test_memnets_recursions_share_their_convolutions():
    module, variables = make("memnet")
    params = variables["params"]
    assert sum("block1_conv" in name for name in params) == 2
    assert sum("block1_norm" in name for name in params) == 2 * 2 + 2
    assert params["block2_gate"]["kernel"].shape == (1, 1, (2 + 2) * 4, 4)
    _, k, q = pairs((1, 16, 16))
    estimates = estimate(module, variables, k, q)
    weights = variables["params"]["sum"]
    expected = weights[0] * estimates["block1"] + weights[1] * estimates["block2"]
    np.testing.assert_allclose(estimates["image"], expected, atol=1e-6)
    fresh = initialize(module, jax.random.key(0))["params"]["sum"]
    np.testing.assert_allclose(fresh, 0.5)


@baselines
def test_flops_are_xlas(name):
    module, variables = make(name)
    ours = flops_per_pixel(module, variables, side=256)
    k = jax.ShapeDtypeStruct((1, 32, 32, 64), jnp.int32)
    q = jax.ShapeDtypeStruct((1, 8, 8), jnp.int32)
    apply = jax.jit(lambda v, k, q: module.apply(v, k, q)["image"])
    theirs = apply.lower(variables, k, q).cost_analysis()["flops"] / 256**2
    # XLA's count has sums, rectifiers and the integer decoder in it, and no taps on padding.
    assert 0.5 * theirs < ours < 1.02 * theirs


def test_flops_by_hand():
    shapes = variable_shapes(create_model({"name": "dncnn", "batch_norm": False}))
    module = create_model({"name": "dncnn", "batch_norm": False})
    assert flops_per_pixel(module, shapes) == 2 * 664_704
    shapes = variable_shapes(create_model({"name": "arcnn"}))
    # Its convolutions have a row more, see `convolve_inside`.
    flops = flops_per_pixel(create_model({"name": "arcnn"}), shapes)
    assert 2 * 106_448 < flops < 1.005 * 2 * 106_448


def test_flops_of_the_network_for_photographs_by_hand():
    """Those of luma's network, of the U-Net's convolutions, and of DCTs around them."""
    module = create_model({"name": "photo"})
    shapes = variable_shapes(module)
    total = flops_per_pixel(module, shapes)
    of_luma = flops_per_pixel(module.luma_network(), {"params": shapes["frozen"]["luma"]})
    half = 9 * 17 * 64 + 2 * 2 * 9 * 64**2 + 9 * 64 * 12
    quarter = 4 * 64 * 128 + 2 * 2 * 9 * 128**2 + 128 * 4 * 64
    eighth = 4 * 128 * 192 + 3 * 2 * 9 * 192**2 + 192 * 4 * 128 + 64 * 192
    of_chroma_blocks = 128 * 4 * 192
    of_layers = 2 * (half / 4 + quarter / 16 + eighth / 64 + of_chroma_blocks / 256)
    assert of_layers == 233_504
    assert 0 < total - of_luma - of_layers < 1000
    assert round(total / 1000) == 490


@pytest.mark.parametrize("recipe", ["paper", "cpu", "gpu", "minutes-own"])
@pytest.mark.parametrize("name", ["arcnn", "cas_cnn", "ddcn", "dncnn3", "memnet", "tnrd"])
def test_configurations(name, recipe):
    from dmcnn_jax.config.validation import validate_config

    config = load_config(CONFIGS / f"{name}.py", recipe)
    validate_config(config)
    create_model(config.model)
    assert config.name == (name if recipe == "paper" else f"{name}-{recipe}")


@pytest.mark.parametrize("budget", ["cpu", "time"])
def test_budgets_are_the_same_for_all(budget):
    configs = [
        load_config(CONFIGS / f"{name}.py", budget)
        for name in ("arcnn", "cas_cnn", "ddcn", "dncnn3", "memnet", "tnrd", "ablations/full")
    ]
    for config in configs[1:]:
        assert config.train == configs[0].train and config.schedule == configs[0].schedule
        assert config.quality == 10 and config.quality_range == ()
    with pytest.raises(ValueError, match="unknown budget 'tpu'; expected one of 'minutes', 'cpu'"):
        load_config(CONFIGS / "arcnn.py", "tpu")


@pytest.mark.parametrize("name", ["arcnn", "memnet", "tnrd"])
def test_a_budget_with_a_networks_own_optimizer(name):
    def config(recipe):
        return load_config(CONFIGS / f"{name}.py", recipe)

    paper = config("lbfgs" if name == "tnrd" else "paper")
    own, shared = config("cpu-own"), config("cpu")
    assert own.train.optimizer == paper.train.optimizer
    rate = paper.train.learning_rate
    if name == "arcnn":  # its loss is a sum over the inner pixels of a patch
        rate *= (40 - 18) ** 2 / (own.train.patch_sizes[0] - 18) ** 2
    assert own.train.learning_rate == pytest.approx(rate)
    assert shared.train.optimizer == "adam" != own.train.optimizer

    def pixels(train):
        return train.patch_sizes[0] ** 2 * train.batch_sizes[0] * train.stage_steps[0]

    assert pixels(own.train) == pixels(shared.train)


def test_a_search_for_the_rate_cannot_follow_a_clock():
    with pytest.raises(ValueError, match="'time-own': the optimizer 'lbfgs' searches for its rate"):
        load_config(CONFIGS / "tnrd.py", "time-own")
    own = load_config(CONFIGS / "memnet.py", "time-own")
    assert (own.schedule.name, own.schedule.clock) == ("clock", "processor")
    assert (own.train.optimizer, own.train.learning_rate) == ("sgd", 0.1)


ABLATIONS = sorted(p.stem for p in (CONFIGS / "ablations").glob("*.py") if p.stem != "full")


def test_all_ablations_are_here():
    assert len(ABLATIONS) == 9


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_one_thing(name):
    from dmcnn_jax.config.validation import validate_config

    base = load_config(CONFIGS / "ablations" / "full.py", "cpu")
    config = load_config(CONFIGS / "ablations" / f"{name}.py", "cpu")
    validate_config(config)
    module, full = create_model(config.model), create_model(base.model)
    differing = {
        field
        for field in full.__dataclass_fields__
        if field not in ("parent", "name") and getattr(module, field) != getattr(full, field)
    }
    # A fixed r is two fields: that it is, and its value.
    assert len(differing - {"learn_residual"}) <= 1 and differing
    assert differing <= {"residual", "learn_residual"} or len(differing) == 1
    for field in ("name", "model"):
        del config[field], base[field]
    assert config == base


@pytest.mark.slow
@baselines
def test_trains_resumes_evaluates_and_restores(name, tmp_path):
    """Through the same functions as DMCNN, by its configuration."""
    from PIL import Image

    from dmcnn_jax.config import default_config
    from dmcnn_jax.evaluation.protocol import evaluate_folder
    from dmcnn_jax.inference.model import load
    from dmcnn_jax.inference.plane import restore_plane
    from dmcnn_jax.training.loop import train

    originals, _, _ = pairs((3, 64, 64))
    (tmp_path / "images").mkdir()
    for i, original in enumerate(originals):
        Image.fromarray(original).save(tmp_path / "images" / f"{i}.png")

    def config(steps):
        config = load_config(CONFIGS / f"{'dncnn3' if name == 'dncnn' else name}.py")
        config.model.update(SMALL[name])
        config.data.update({"source": str(tmp_path / "images"), "tile": 64, "validation_images": 1})
        config.train.update({"patch_sizes": (32,), "batch_sizes": (4,), "stage_steps": (steps,)})
        config.train.update({"validate_every": 2, "log_every": 1})
        assert set(config) == set(default_config())
        return config

    train(config(2), tmp_path / "cut")
    train(config(4), tmp_path / "cut")
    train(config(4), tmp_path / "whole")
    cut, whole = (load(tmp_path / run / "last.safetensors") for run in ("cut", "whole"))
    assert cut.about["step"] == 4
    if config(4).schedule.name != "cosine":  # whose rate follows the number of steps
        jax.tree.map(np.testing.assert_array_equal, cut.variables, whole.variables)
    results = evaluate_folder(load(tmp_path / "cut"), tmp_path / "images", 10)
    assert np.isfinite(results["mean"]["model"]["psnr"])
    _, k, q = pairs((1, 24, 40))
    assert restore_plane(whole, k[0], q[0]).shape == (24, 40)
