"""Estimates the error that quantisation left in a JPEG file, from its coefficients alone.

The coefficients of a photograph at a frequency follow a Laplace distribution closely (Lam and
Goodman, *A mathematical analysis of the DCT coefficient distributions for images*, IEEE Trans.
Image Processing 9, 2000). Here its rate λ grows as a power of the frequency, λ = a r^b with r =
√(u² + v²), so that it is defined even at frequencies where a file holds only zeros. a and b
maximise the likelihood of the file's integers.
"""

import numpy as np

from dmcnn_jax.jpeg.reader import Component


def expected_error(component: Component) -> float:
    """Returns the expected squared error of a decoded plane.

    Args:
        component: of a file.

    Returns:
        The mean over the samples, in squared grey levels. On photographs it is 1 to 2 times the
        true error, since textures vary over the picture.
    """
    k = np.abs(component.coefficients.reshape(-1, 64).astype(np.int32))
    q = component.table.reshape(64).astype(np.float64)
    blocks, sums = len(k), k.sum(axis=0, dtype=np.int64)
    nonzero = np.count_nonzero(k, axis=0)
    zero = blocks - nonzero
    rate = _rates(zero[1:], nonzero[1:], sums[1:], q[1:])
    inside = _zero_error(rate, q[1:])
    within = (zero[1:] * inside + nonzero[1:] * q[1:] ** 2 / 12) / blocks
    # DC coefficients extend over many steps, and are uniform within each.
    return float((q[0] ** 2 / 12 + within.sum()) / 64)


def _rates(zero: np.ndarray, nonzero: np.ndarray, sums: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Returns λ of each AC frequency, by maximum likelihood over a and b: float64 [63].

    With w = exp(-λ Q): P(k = 0) = 1 - √w, and P(|k| = m) = (1 - w) w^(m - 1/2).

    Args:
        zero: the number of zeros at each frequency.
        nonzero: the number of other coefficients.
        sums: the sum of their magnitudes.
        q: the steps.
    """
    v, u = np.divmod(np.arange(1, 64), 8)
    a = np.exp(np.linspace(-5, 3, 81))[:, None, None]
    b = np.linspace(0, 3, 31)[None, :, None]
    rate = a * np.hypot(u, v) ** b
    exponent = np.clip(rate * q, 1e-6, 60)
    likelihood = (
        zero * np.log(-np.expm1(-exponent / 2))
        + nonzero * np.log(-np.expm1(-exponent))
        - (sums - nonzero / 2) * exponent
    ).sum(axis=-1)
    best = np.unravel_index(np.argmax(likelihood), likelihood.shape)
    return rate[best]


def _zero_error(rate: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Returns E[x² | |x| < Q/2] of Laplace distributions."""
    half = q / 2
    t = rate * half
    with np.errstate(divide="ignore", invalid="ignore"):
        tail = np.exp(-t) * (half**2 + 2 * half / rate + 2 / rate**2)
        exact = (2 / rate**2 - tail) / -np.expm1(-t)
    return np.where(t < 1e-2, half**2 / 3, exact)  # variance of a uniform distribution
