"""A small discrete latent model, exact by enumeration: z in {0..K-1}, x in {0,1}^D, independent given z."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlvm_jax.functional.densities import bernoulli_log_prob, bernoulli_sample
from dlvm_jax.functional.numerics import as_integer, as_wide
from dlvm_jax.functional.types import Array, Key, Shape

__all__ = ["DiscreteMixture", "all_binary", "log_evidence", "log_joint", "posterior", "sample"]


class DiscreteMixture(NamedTuple):
    """Prior logits [K] over the latent and decoder logits [K, D] of the bits."""

    prior_logits: Array
    logits: Array


def all_binary(dim: int) -> Array:
    r"""Every binary vector of a length.

    $\{0,1\}^D$ in counting order.

    Shapes: -> [2^D, D] float.  Raises ValueError above 20 dimensions.  Source: enumeration.

    >>> all_binary(2).tolist()
    [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    if not 1 <= as_integer(dim, "the number of dimensions") <= 20:
        raise ValueError(f"enumeration needs 1 to 20 binary dimensions, got {dim}")
    return ((jnp.arange(2**dim)[:, None] >> jnp.arange(dim)[::-1]) & 1).astype(float)


def _checked(model):
    prior_logits, logits = as_wide(*model)
    if prior_logits.ndim != 1 or logits.ndim != 2 or len(logits) != len(prior_logits):
        raise ValueError(
            f"a model has prior logits [K] and logits [K, D], got shapes {prior_logits.shape} and {logits.shape}"
        )
    return DiscreteMixture(prior_logits, logits)


def log_joint(model: DiscreteMixture, x: Array) -> Array:
    r"""Joint log-probability of x and every latent value.

    $\log p(x, z=k) = \log\pi_k + \sum_i\log p(x_i\mid l_{ki})$

    Shapes: `x` [*batch, D] -> [*batch, K], nats; NaN for x other than bits, or grey values.  Raises ValueError for other shapes.
    Source: Bishop 2006, eq. 9.48.

    >>> model = DiscreteMixture(jnp.zeros(2), jnp.zeros((2, 3)))
    >>> bool(jnp.allclose(log_joint(model, jnp.zeros(3)), -4 * jnp.log(2.0)))
    True
    """
    model, x = _checked(model), as_wide(x)
    if x.shape[-1:] != model.logits.shape[1:]:
        raise ValueError(f"this model is of {model.logits.shape[1]} bits, got shape {x.shape}")
    return jax.nn.log_softmax(model.prior_logits) + bernoulli_log_prob(x[..., None, :], model.logits)


def log_evidence(model: DiscreteMixture, x: Array) -> Array:
    r"""Exact log-evidence by summing over the latent.

    $\log p(x) = \log\sum_k p(x, z=k)$

    Shapes: `x` [*batch, D] -> [*batch], nats.  Source: Bishop 2006, eq. 9.47.

    >>> model = DiscreteMixture(jnp.zeros(2), jnp.ones((2, 3)))
    >>> bool(jnp.isclose(jnp.exp(log_evidence(model, all_binary(3))).sum(), 1.0))
    True
    """
    return jax.nn.logsumexp(log_joint(model, x), axis=-1)


def posterior(model: DiscreteMixture, x: Array) -> Array:
    r"""Exact posterior over the latent, as normalised logits.

    $\log p(z=k\mid x) = \log p(x, z=k) - \log p(x)$

    Shapes: `x` [*batch, D] -> [*batch, K].  Source: Bishop 2006, eq. 9.13.

    >>> model = DiscreteMixture(jnp.zeros(2), jnp.zeros((2, 3)))
    >>> bool(jnp.allclose(posterior(model, jnp.ones(3)), jnp.log(0.5)))
    True
    """
    return jax.nn.log_softmax(log_joint(model, x), axis=-1)


def sample(model: DiscreteMixture, key: Key, shape: Shape = ()) -> tuple[Array, Array]:
    r"""Ancestral sample (x, z).

    $z\sim\mathrm{Cat}(\pi),\ x_i\sim\mathrm{Bernoulli}(\mathrm{sigmoid}(l_{zi}))$

    Shapes: -> x [*shape, D], z [*shape] integers.  Source: Bishop 2006, section 9.3.3.

    >>> model = DiscreteMixture(jnp.zeros(2), jnp.zeros((2, 3)))
    >>> sample(model, jax.random.key(0), (5,))[0].shape
    (5, 3)
    """
    model = _checked(model)
    key_z, key_x = jax.random.split(key)
    z = jax.random.categorical(key_z, model.prior_logits, shape=shape)
    return bernoulli_sample(key_x, model.logits[z]), z
