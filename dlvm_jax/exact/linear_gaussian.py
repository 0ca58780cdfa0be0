r"""The linear-Gaussian model: z ~ N(0, I_M), x = W z + mu + noise, noise ~ N(0, sigma^2 I_D).

Probabilistic PCA with its parameters given.  Evidence and posterior come from the M x M matrix
$M = W^\top W + \sigma^2 I$, in O(DM + M^2) an example.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlvm_jax.functional.densities import LOG_2PI, multivariate_normal_sample, normal_sample

__all__ = ["LinearGaussian", "log_evidence", "posterior", "sample"]


class LinearGaussian(NamedTuple):
    """Weights `w` [D, M], mean `mean` [D] and the logarithm of the noise's standard deviation, `log_std` []."""

    w: jax.Array
    mean: jax.Array
    log_std: jax.Array


def _cholesky(model):
    r"""Cholesky factor of $M = W^\top W + \sigma^2 I$."""
    gram = jnp.einsum("di,dj->ij", model.w, model.w, precision="highest")
    return jnp.linalg.cholesky(gram + jnp.exp(2 * model.log_std) * jnp.eye(gram.shape[0], dtype=gram.dtype))


def _project(model, x):
    r"""$L^{-1} W^\top (x-\mu)$ with $LL^\top = M$."""
    projected = jnp.einsum("dm,...d->...m", model.w, x - model.mean, precision="highest")
    factor = _cholesky(model)
    return factor, jax.scipy.linalg.solve_triangular(factor, projected[..., None], lower=True)[..., 0]


def _backward(factor, white):
    r"""$L^{-\top}$ times `white`: with the result of `_project`, the posterior mean."""
    return jax.scipy.linalg.solve_triangular(factor, white[..., None], lower=True, trans=1)[..., 0]


def log_evidence(model, x):
    r"""Exact log-evidence.

    $\log\mathcal N(x\mid\mu, C),\quad C = WW^\top+\sigma^2I,\quad C^{-1} = \sigma^{-2}I - \sigma^{-2}WM^{-1}W^\top,
        \quad \log|C| = (D-M)\log\sigma^2 + \log|M|$

    Shapes: `x` [*batch, D] -> [*batch], nats.  Source: Tipping & Bishop 1999, eq. 4 and section 3.1 (lectures that print
    $\sigma^{-1}I$ as the first term of $C^{-1}$ err; it is $\sigma^{-2}I$).

    >>> model = LinearGaussian(jnp.zeros((1, 1)), jnp.zeros(1), jnp.float32(0))
    >>> round(float(log_evidence(model, jnp.zeros(1))), 6)
    -0.918939
    """
    dim, latent = model.w.shape
    factor, white = _project(model, x)
    z = _backward(factor, white)
    # (x-mu)^T C^-1 (x-mu) as a sum of squares, the minimum over z: C^-1 written out cancels in float32 for small noise
    residual = x - model.mean - jnp.einsum("dm,...m->...d", model.w, z, precision="highest")
    square = jnp.sum(jnp.square(residual * jnp.exp(-model.log_std)), -1) + jnp.sum(jnp.square(z), -1)
    log_det = 2 * (dim - latent) * model.log_std + 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))
    return -0.5 * (square + log_det + dim * LOG_2PI)


def posterior(model, x):
    r"""Exact posterior p(z | x), as mean and Cholesky factor of the covariance.

    $\mathcal N(M^{-1}W^\top(x-\mu),\ \sigma^2M^{-1})$

    Shapes: `x` [*batch, D] -> mean [*batch, M], scale_tril [M, M].  Source: Tipping & Bishop 1999, eq. 6 (the covariance is
    $\sigma^2M^{-1}$; the $\sigma^{-2}M$ printed in some lectures is the precision).

    >>> model = LinearGaussian(jnp.ones((1, 1)), jnp.zeros(1), jnp.float32(0))
    >>> round(float(posterior(model, jnp.ones(1))[0][0]), 6)
    0.5
    """
    factor, white = _project(model, x)
    mean = _backward(factor, white)
    inverse = jax.scipy.linalg.solve_triangular(
        factor, jnp.eye(factor.shape[0], dtype=factor.dtype), lower=True
    )
    covariance = jnp.exp(2 * model.log_std) * jnp.einsum("ki,kj->ij", inverse, inverse, precision="highest")
    return mean, jnp.linalg.cholesky(covariance)


def sample(model, key, shape=()):
    r"""Ancestral sample (x, z).

    $z\sim\mathcal N(0,I),\ x\sim\mathcal N(Wz+\mu,\sigma^2I)$

    Shapes: -> x [*shape, D], z [*shape, M].  Source: Tipping & Bishop 1999, eq. 1.

    >>> model = LinearGaussian(jnp.ones((3, 2)), jnp.zeros(3), jnp.float32(0))
    >>> [a.shape for a in sample(model, jax.random.key(0), (5,))]
    [(5, 3), (5, 2)]
    """
    key_z, key_x = jax.random.split(key)
    latent = model.w.shape[1]
    identity = jnp.eye(latent, dtype=model.w.dtype)
    z = multivariate_normal_sample(key_z, jnp.zeros(latent, model.w.dtype), identity, shape)
    mean = jnp.einsum("dm,...m->...d", model.w, z, precision="highest") + model.mean
    return normal_sample(key_x, mean, model.log_std), z
