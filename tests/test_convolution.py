"""Convolutions and their gradients against PyTorch's, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dmcnn_jax.models import products
from dmcnn_jax.models.convolution import (
    convolve,
    convolve_inside,
    kernel_gradient,
    narrow_kernel_gradient,
    use_products,
)
from dmcnn_jax.models.deconvolution import (
    deconvolve,
    deconvolve_by_dilation,
    gradients_by_striding,
)

SIDES = st.tuples(st.integers(0, 3), st.integers(0, 3))


def by_torch(x, kernel, stride, padding, dilation, cotangent):
    """The result, and the gradients by the image and by the kernel of its sum by the cotangent."""
    torch = pytest.importorskip("torch")

    def tensor(array, *order):
        array = np.ascontiguousarray(array.transpose(order))
        return torch.from_numpy(array).double().requires_grad_()

    image, weights = tensor(x, 0, 3, 1, 2), tensor(kernel, 3, 2, 0, 1)
    (top, bottom), (left, right) = padding
    padded = torch.nn.functional.pad(image, (left, right, top, bottom))
    y = torch.nn.functional.conv2d(padded, weights, None, stride, 0, dilation)
    y.backward(tensor(cotangent, 0, 3, 1, 2).detach())
    return (
        y.detach().permute(0, 2, 3, 1),
        image.grad.permute(0, 2, 3, 1),
        weights.grad.permute(2, 3, 1, 0),
    )


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("channels", [3, 9])
@pytest.mark.parametrize("stride, dilation", [(1, 1), (1, 4), (2, 1)])
def test_gradients_for_any_batch(rng, batch, channels, stride, dilation):
    x = rng.normal(size=(batch, 10, 12, channels)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, channels, 2)).astype(np.float32)
    padding = ((dilation, dilation),) * 2
    y, gradients = jax.vjp(
        lambda *xs: convolve(*xs, stride=stride, padding=padding, dilation=dilation), x, kernel
    )
    cotangent = rng.normal(size=y.shape).astype(np.float32)
    expected = by_torch(x, kernel, stride, padding, dilation, cotangent)
    for one, other in zip((y, *jax.jit(gradients)(cotangent)), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@given(
    batch=st.integers(1, 4),
    size=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    taps=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    padding=st.tuples(SIDES, SIDES),
    step=st.sampled_from([(1, 1), (1, 2), (1, 4), (2, 1), (3, 1)]),
)
@settings(max_examples=40, deadline=None)
def test_gradient_by_the_kernel(batch, size, taps, padding, step):
    stride, dilation = step
    reach = [
        length + sum(sides) - dilation * (count - 1) - 1
        for length, sides, count in zip(size, padding, taps, strict=True)
    ]
    assume(min(reach) >= 0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *size, 3)).astype(np.float32)
    kernel = rng.normal(size=(*taps, 3, 2)).astype(np.float32)
    cotangent = rng.normal(size=(batch, *[r // stride + 1 for r in reach], 2)).astype(np.float32)
    expected = by_torch(x, kernel, stride, padding, dilation, cotangent)[2]
    for function in (kernel_gradient, narrow_kernel_gradient)[: 2 if stride == 1 else 1]:
        gradient = jax.jit(function, static_argnums=(0, 1))
        found = gradient((stride, padding, dilation), kernel.shape, x, cotangent)
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("size, channels", [((7, 7), (9, 1)), ((1, 1), (3, 2)), ((2, 4), (1, 8))])
def test_kernel_inside_the_image(rng, size, channels, exact):
    x = rng.normal(size=(2, 9, 11, channels[0])).astype(np.float32)
    kernel = rng.normal(size=(*size, *channels)).astype(np.float32)
    y, gradients = jax.vjp(lambda *xs: convolve_inside(*xs, exact=exact), x, kernel)
    cotangent = rng.normal(size=y.shape).astype(np.float32)
    expected = by_torch(x, kernel, 1, ((0, 0), (0, 0)), 1, cotangent)
    for one, other in zip((y, *jax.jit(gradients)(cotangent)), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_other_devices_are_told_to_compute_in_float32():
    def program(platform, exact):
        shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, 8, 8, 2), (3, 3, 2, 2))]
        function = jax.jit(lambda *xs: convolve_inside(*xs, exact=exact))
        return jax.export.export(function, platforms=[platform])(*shapes).mlir_module()

    for platform in ("cpu", "cuda", "tpu"):
        for exact in (False, True):
            told = "HIGHEST" in program(platform, exact)
            assert told == (exact and platform != "cpu")


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_cpus_have_a_gradient_of_their_own(platform):
    def loss(x, kernel):
        return jnp.sum(convolve(x, kernel, padding=((1, 1), (1, 1))))

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((3, 8, 8, 16), (3, 3, 16, 8))]
    exported = jax.export.export(jax.jit(jax.grad(loss, 1)), platforms=[platform])(*shapes)
    # One convolution either way: elsewhere over both axes of the image, on a CPU over one.
    (line,) = [
        line for line in exported.mlir_module().splitlines() if "stablehlo.convolution" in line
    ]
    assert ("[b, 0, f]x[0, i, o]->[b, 0, f]" in line) == (platform == "cpu")


def test_takes_what_jax_does_to_functions(rng):
    x = rng.normal(size=(2, 2, 12, 12, 8)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 8, 4)).astype(np.float32)

    def loss(kernel, x):
        return jnp.sum(convolve(x, kernel, padding=((1, 1), (1, 1))) ** 2)

    each = jax.vmap(jax.grad(loss), (None, 0))(kernel, x)
    for one, alone in zip(each, x, strict=True):
        np.testing.assert_allclose(one, jax.grad(loss)(kernel, alone), rtol=1e-4, atol=1e-3)
    # The loss is a quadratic form: its second derivative along a direction is its gradient there.
    direction = rng.normal(size=kernel.shape).astype(np.float32)
    along = jax.grad(lambda k: jnp.vdot(jax.grad(loss)(k, x[0]), direction))(kernel)
    np.testing.assert_allclose(along, jax.grad(loss)(direction, x[0]), rtol=1e-3, atol=1e-2)


def transposed_by_torch(x, kernel, cotangent):
    """What PyTorch's transposed convolution gives, and its gradients, in float64."""
    torch = pytest.importorskip("torch")

    def tensor(array, *order):
        return (
            torch.from_numpy(np.ascontiguousarray(array.transpose(order))).double().requires_grad_()
        )

    image, weights = tensor(x, 0, 3, 1, 2), tensor(kernel, 2, 3, 0, 1)
    y = torch.nn.functional.conv_transpose2d(image, weights, None, 2, 1)
    y.backward(tensor(cotangent, 0, 3, 1, 2).detach())
    return (
        y.detach().permute(0, 2, 3, 1),
        image.grad.permute(0, 2, 3, 1),
        weights.grad.permute(2, 3, 0, 1),
    )


@pytest.mark.slow
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
@settings(max_examples=6, deadline=None)
def test_transposed_convolution_on_every_platform(size, channels):
    rng = np.random.default_rng([*size, *channels])
    x = rng.normal(size=(*size, channels[0])).astype(np.float32)
    kernel = rng.normal(size=(4, 4, *channels)).astype(np.float32)
    cotangent = rng.normal(size=(size[0], 2 * size[1], 2 * size[2], channels[1])).astype(np.float32)
    expected = transposed_by_torch(x, kernel, cotangent)
    here, pullback = jax.vjp(deconvolve, x, kernel)
    there = deconvolve_by_dilation(x, kernel)
    results = [(here, *pullback(cotangent)), (there, *gradients_by_striding(x, kernel, cotangent))]
    for result in results:
        for one, other in zip(result, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


def test_accelerators_get_one_transposed_convolution():
    """Four phases on a CPU; elsewhere one convolution, and two for its gradient."""

    def step(x, kernel):
        y, pullback = jax.vjp(deconvolve, x, kernel)
        return y, pullback(y)

    traced = jax.jit(step).trace(jnp.ones((2, 8, 8, 16)), jnp.ones((4, 4, 16, 9)))
    for platform, count in (("cuda", 3), ("tpu", 3)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == count
    assert traced.lower(lowering_platforms=("cpu",)).as_text().count("stablehlo.convolution") > 3


@pytest.mark.slow
@given(
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(4, 15), st.integers(4, 15)),
    taps=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(SIDES, SIDES),
    step=st.sampled_from([(1, 1), (1, 2), (1, 4), (2, 1), (3, 1), (2, 2)]),
)
@settings(max_examples=10, deadline=None)
def test_convolutions_as_matrix_products(batch, size, taps, padding, step):
    stride, dilation = step
    reach = [
        side + sum(pads) - dilation * (tap - 1)
        for side, pads, tap in zip(size, padding, taps, strict=True)
    ]
    assume(min(reach) > 0)
    rng = np.random.default_rng([batch, *size, *taps])
    x = rng.normal(size=(batch, *size, 3)).astype(np.float32)
    kernel = rng.normal(size=(*taps, 3, 2)).astype(np.float32)
    options = stride, padding, dilation
    y = products.convolve(options, jnp.asarray(x), jnp.asarray(kernel))
    cotangent = rng.normal(size=y.shape).astype(np.float32)
    found = products.gradients(options, *map(jnp.asarray, (x, kernel, cotangent)))
    expected = by_torch(x, kernel, stride, padding, dilation, cotangent)
    for one, other in zip((y, *found), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_gpus_can_be_told_to_use_matrix_products():
    def lowered(platform):
        def step(x, kernel, deep):
            def loss(x, kernel, deep):
                y = deconvolve(convolve(x, kernel, padding=((1, 1), (1, 1))), deep)
                return jnp.sum(jnp.square(y))

            return jax.grad(loss, (0, 1, 2))(x, kernel, deep)

        shapes = jnp.ones((2, 8, 8, 9)), jnp.ones((3, 3, 9, 9)), jnp.ones((4, 4, 9, 9))
        traced = jax.jit(step).trace(*shapes)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    assert "stablehlo.convolution" in lowered("cuda")
    use_products(True)
    try:
        assert "stablehlo.convolution" not in lowered("cuda")
        assert "stablehlo.dot_general" in lowered("cuda")
        assert "stablehlo.convolution" in lowered("tpu")
    finally:
        use_products(False)


def test_gpus_get_products_for_the_gradient_of_dilated_kernels(rng):
    """XLA would make it a convolution whose kernel is as large as the image."""
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in ((2, 9, 8, 9), (3, 3, 9, 9)))

    def lowered(platform, dilation):
        def by_kernel(x, kernel):
            padding = ((dilation, dilation),) * 2
            y, pullback = jax.vjp(
                lambda kernel: convolve(x, kernel, padding=padding, dilation=dilation), kernel
            )
            return pullback(y)

        traced = jax.jit(by_kernel).trace(x, kernel)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return text.count("stablehlo.convolution"), text.count("stablehlo.dot_general")

    assert lowered("cuda", 1) == lowered("tpu", 1) == lowered("tpu", 4) == (2, 0)
    assert lowered("cuda", 4) == (1, 1)


def test_every_way_gives_the_same(rng):
    """One shape of each; the slow tests compare many with PyTorch."""
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in ((2, 6, 7, 3), (3, 3, 3, 4)))
    options = 1, ((2, 2), (2, 2)), 2
    y, pullback = jax.vjp(
        lambda x, kernel: convolve(x, kernel, padding=options[1], dilation=2), x, kernel
    )
    found = products.convolve(options, x, kernel), *products.gradients(options, x, kernel, y)
    for one, other in zip(found, (y, *pullback(y)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    deep = rng.normal(size=(4, 4, 3, 2)).astype(np.float32)
    y, pullback = jax.vjp(deconvolve, x, deep)
    found = deconvolve_by_dilation(x, deep), *gradients_by_striding(x, deep, y)
    for one, other in zip(found, (y, *pullback(y)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
