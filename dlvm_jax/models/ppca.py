"""Probabilistic PCA as a density, and EM as an objective that the training engine descends."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dlvm_jax.functional import linear_gaussian
from dlvm_jax.functional.linear_gaussian import LinearGaussian
from dlvm_jax.functional.numerics import as_integer
from dlvm_jax.models.density import Density, batch_of, check_shape

__all__ = ["em_objective", "ppca"]


def _flat(x: jax.Array, event_shape: tuple[int, ...]) -> jax.Array:
    """Events as vectors: [*batch, *event] -> [*batch, D].  Raises ValueError for other events."""
    x = check_shape(x, event_shape)
    return x.reshape(*x.shape[: x.ndim - len(event_shape)], math.prod(event_shape))


def ppca(event_shape: Sequence[int], latent_dim: int, mean: ArrayLike = 0.0) -> Density:
    r"""Probabilistic PCA, exact: $p(x)=\mathcal N(x\mid\mu,\ WW^\top+\sigma^2I)$; its parameters are a `LinearGaussian`.

    event_shape: of x, whose D elements are one vector to the model
    mean: [D], where $\mu$ starts; W starts at random with columns of norm about one, $\sigma$ at one

    A mean that starts wrong along a column of W is hardly moved by gradients: give that of the data.
    Source: Tipping & Bishop 1999, eq. 6.
    """
    event_shape = tuple(event_shape)
    size, latent_dim = math.prod(event_shape), as_integer(latent_dim, "the latent dimension")

    def init(key):
        w = jax.random.normal(key, (size, latent_dim)) / math.sqrt(size)
        return LinearGaussian(w, jnp.broadcast_to(jnp.asarray(mean, w.dtype), size), jnp.zeros(()))

    def log_prob(params, key, x, context=None):
        return linear_gaussian.log_evidence(params, _flat(x, event_shape))

    def sample(params, key, context=None, shape=()):
        x, _ = linear_gaussian.sample(params, key, (*shape, *batch_of(context)))
        return x.reshape(*x.shape[:-1], *event_shape), linear_gaussian.log_evidence(params, x)

    return Density(
        init, sample, log_prob, "exact", lambda params, context=None: params.mean.reshape(event_shape)
    )


def em_objective(event_shape: Sequence[int]) -> Callable:
    r"""An objective that plain gradient descent of rate one turns into EM: $\tfrac12|\theta-\theta_{\rm EM}(\theta)|^2$.

    With the second term held constant its gradient is $\theta-\theta_{\rm EM}(\theta)$, so that a step from $\theta$ ends at the
    EM update.  The batch is all of the training set.  Metric "bound": the mean log-evidence before the step.
    Source: Tipping & Bishop 1999, eq. 29 and 30.
    """
    event_shape = tuple(event_shape)

    def objective(params, key, batch, step=None):
        x = _flat(batch, event_shape).astype(params.w.dtype)
        updated = jax.lax.stop_gradient(linear_gaussian.ppca_em_step(params, x))
        distance = jax.tree.map(lambda old, new: 0.5 * jnp.sum(jnp.square(old - new)), params, updated)
        evidence = jax.lax.stop_gradient(linear_gaussian.log_evidence(params, x).mean())
        return sum(jax.tree.leaves(distance)), {"bound": evidence}

    return objective
