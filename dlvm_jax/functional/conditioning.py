r"""Gaussian conditioning: marginals, posteriors and conditionals of joint Gaussian distributions.

Full covariances are given by lower Cholesky factors (`scale_tril`), and factors are found from factors, by QR: a covariance
formed on the way would cost half the digits.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from dlvm_jax.functional.numerics import as_wide, check_factor, einsum
from dlvm_jax.functional.types import Array

__all__ = ["gaussian_condition", "gaussian_marginal", "gaussian_posterior"]


def lower_factor(root: Array) -> Array:
    """The lower-triangular L with positive diagonal and LL^T = RR^T, for R [n, k] of full rank n <= k."""
    upper = jnp.linalg.qr(root.T, mode="r")
    return (jnp.where(jnp.diagonal(upper) < 0, -1, 1)[:, None] * upper).T


def _check_model(mean, scale_tril, a, b, noise_tril):
    if a.ndim != 2 or not mean.ndim or a.shape != (*b.shape, mean.shape[-1]):
        raise ValueError(
            f"a map [m, n] of vectors x [*batch, n] needs an offset [m], got shapes {a.shape}, {mean.shape}, {b.shape}"
        )
    for tril, size in ((scale_tril, a.shape[1]), (noise_tril, a.shape[0])):
        check_factor(tril, size)
        if tril.ndim != 2:
            raise ValueError(
                f"expected one factor [n, n] for all examples, got shape {tril.shape}; vmap for more"
            )


def gaussian_marginal(
    mean: Array, scale_tril: Array, a: Array, b: Array, noise_tril: Array
) -> tuple[Array, Array]:
    r"""Marginal p(y) of a linear-Gaussian model with x ~ N(mu, Lambda^-1) and y | x ~ N(A x + b, L^-1).

    $p(y) = \mathcal N(y\mid A\mu+b,\ L^{-1}+A\Lambda^{-1}A^\top)$

    Shapes: `mean` [*batch, n], `scale_tril` [n, n] (Cholesky factor of $\Lambda^{-1}$), `a` [m, n], `b` [m], `noise_tril`
    [m, m] (of $L^{-1}$) -> mean [*batch, m], scale_tril [m, m].  Raises ValueError for other shapes and, unless they are
    traced, for factors that are not lower triangular.  Source: Bishop 2006, eq. 2.115.

    >>> gaussian_marginal(jnp.ones(1), 3 * jnp.eye(1), jnp.ones((1, 1)), jnp.ones(1), 4 * jnp.eye(1))
    (Array([2.], dtype=float32), Array([[5.]], dtype=float32))
    """
    mean, scale_tril, a, b, noise_tril = as_wide(mean, scale_tril, a, b, noise_tril)
    _check_model(mean, scale_tril, a, b, noise_tril)
    root = jnp.concatenate([einsum("ij,jk->ik", a, scale_tril), noise_tril], axis=1)
    return einsum("ij,...j->...i", a, mean) + b, lower_factor(root)


def gaussian_posterior(
    mean: Array, scale_tril: Array, a: Array, b: Array, noise_tril: Array, y: Array
) -> tuple[Array, Array]:
    r"""Posterior p(x | y) of a linear-Gaussian model with x ~ N(mu, Lambda^-1) and y | x ~ N(A x + b, L^-1).

    $p(x\mid y) = \mathcal N(x\mid \Sigma\{A^\top L(y-b)+\Lambda\mu\},\ \Sigma),\quad \Sigma = (\Lambda+A^\top LA)^{-1}$

    Shapes: as `gaussian_marginal`, and `y` [*batch, m] -> mean [*batch, n], scale_tril [n, n].  Raises ValueError alike.
    Source: Bishop 2006, eq. 2.116 and 2.117.

    >>> one = jnp.eye(1)
    >>> mean, tril = gaussian_posterior(jnp.zeros(1), one, one, jnp.zeros(1), one, jnp.ones(1))
    >>> round(float(mean[0]), 6), round(float(tril[0, 0] ** 2), 6)
    (0.5, 0.5)
    """
    mean, scale_tril, a, b, noise_tril, y = as_wide(mean, scale_tril, a, b, noise_tril, y)
    _check_model(mean, scale_tril, a, b, noise_tril)
    if y.shape[-1:] != b.shape:
        raise ValueError(f"expected y [*batch, {len(b)}], got shape {y.shape}")
    # in units of the prior and of the noise the model is y = B x + noise, B = N^-1 A S, and the precision I + B^T B
    white = solve_triangular(noise_tril, einsum("ij,jk->ik", a, scale_tril), lower=True)
    factor = lower_factor(jnp.concatenate([jnp.eye(white.shape[1], dtype=white.dtype), white.T], axis=1))
    root = solve_triangular(factor, scale_tril.T, lower=True).T  # root root^T = Sigma
    gain = einsum("ij,jk->ik", root, solve_triangular(factor, white.T, lower=True))
    gain = solve_triangular(noise_tril, gain.T, lower=True, trans=1).T
    residual = y - einsum("ij,...j->...i", a, mean) - b
    return mean + einsum("ij,...j->...i", gain, residual), lower_factor(root)


def gaussian_condition(
    mean: Array, scale_tril: Array, observed: Sequence[int], value: Array
) -> tuple[Array, Array]:
    r"""Conditional of a joint Gaussian on some of its coordinates; the others (a) keep their order.

    $p(x_a\mid x_b) = \mathcal N(\mu_a+\Sigma_{ab}\Sigma_{bb}^{-1}(x_b-\mu_b),\
        \Sigma_{aa}-\Sigma_{ab}\Sigma_{bb}^{-1}\Sigma_{ba})$

    Shapes: `mean` [*batch, n], `scale_tril` [n, n], `observed` k different indices b (a sequence of Python integers) or a mask
    of n booleans, `value` [*batch, k] -> mean [*batch, n - k], scale_tril [n - k, n - k].  Raises ValueError for indices out of
    range or repeated, and for other shapes.
    Source: Bishop 2006, eq. 2.81 and 2.82.

    >>> mean, tril = gaussian_condition(jnp.zeros(2), jnp.array([[1.0, 0], [3, 4]]), [0], jnp.ones(1))
    >>> float(mean[0]), float(tril[0, 0])
    (3.0, 4.0)
    """
    mean, scale_tril, value = as_wide(mean, scale_tril, value)
    check_factor(scale_tril, mean.shape[-1])
    size, given = scale_tril.shape[0], np.asarray(observed)
    if given.dtype == bool and given.shape == (size,):
        given = np.flatnonzero(given)
    elif given.ndim != 1 or (given.size and not np.issubdtype(given.dtype, np.integer)):
        raise ValueError(f"observed coordinates are a list of integers, got {observed}")
    given = given.astype(int)
    if value.shape[-1:] != given.shape:
        raise ValueError(
            f"{given.size} observed coordinates need values [*batch, {given.size}], got shape {value.shape}"
        )
    if len(set(given.tolist())) < given.size or not np.isin(given, np.arange(size)).all():
        raise ValueError(
            f"observed coordinates are different indices from 0 to {size - 1}, got {given.tolist()}"
        )
    rest = np.setdiff1d(np.arange(size), given)
    # with the observed rows first, the factor holds the answer: its last block, and a gain that needs no inverse of Sigma_bb
    factor, count = lower_factor(scale_tril[np.concatenate([given, rest])]), given.size
    gain = solve_triangular(factor[:count, :count], factor[count:, :count].T, lower=True, trans=1).T
    shift = einsum("ij,...j->...i", gain, value - mean[..., given])
    return mean[..., rest] + shift, factor[count:, count:]
