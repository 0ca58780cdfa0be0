"""What training minimises: `objective(params, key, batch, step=None) -> (loss, metrics)`, one scalar and a few more.

A batch is x, or the tuple (x, context).  Means over the batch are taken here and nowhere else.  The engine passes the step of
training, which a warm-up needs; without it, as in validation, an objective is what it becomes at the end.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from dlvm_jax.functional import bounds
from dlvm_jax.models.density import Density, require_kind

__all__ = [
    "Objective",
    "importance_weighted",
    "log_weights",
    "negative_elbo",
    "negative_log_likelihood",
    "preprocessed",
    "reverse_kl",
    "split",
    "transformed",
    "unpack",
    "warm_up",
]

# (params, key, batch, step=None) -> (loss, metrics)
Objective: TypeAlias = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


def unpack(batch: Any) -> tuple[jax.Array, Any]:
    """(x, context) of a batch; the context is None where there is none."""
    return batch if isinstance(batch, tuple) else (batch, None)


def warm_up(objective_of: Callable[[Any], Objective], final: float, steps: int) -> Objective:
    """An objective with a weight that grows linearly from 0 to `final`.

    objective_of: (weight) -> the objective
    steps: until the weight is final;  without a step (in validation) it is final too

    Raises ValueError for steps < 1.  Source: the beta warm-up of Bowman et al. 2016 and Sonderby et al. 2016.
    """
    if steps < 1:
        raise ValueError(f"a warm-up takes at least one step, got {steps}; leave it out for none")

    def objective(params, key, batch, step=None):
        weight = final if step is None else final * jnp.minimum(step / steps, 1.0)
        return objective_of(weight)(params, key, batch, step)

    return objective


def negative_log_likelihood(density: Density) -> Objective:
    """Minus the mean log-density, or its bound: maximum likelihood.

    Metrics: "bound", and the density's terms where it has them (then it is `negative_elbo`).
    """
    if density.terms is not None:
        return negative_elbo(density)

    def objective(params, key, batch, step=None):
        bound = density.log_prob(params, key, *unpack(batch)).mean()
        return -bound, {"bound": bound}

    return objective


def negative_elbo(density: Density, beta: float = 1.0) -> Objective:
    """Minus the mean (beta-)ELBO of a density made of a reconstruction and a KL, as a VAE's is.

    beta: weight of the KL (Higgins et al. 2017); 1 is the ELBO (Kingma & Welling 2014)

    Metrics: "bound" (the ELBO, whatever beta is), "reconstruction" and "kl".  The rates of many layers are left to evaluation.
    Raises ValueError for a density without these terms, such as a flow.
    """
    if density.terms is None:
        raise ValueError(
            "an ELBO needs a density made of reconstruction and kl, and this one has no terms; "
            "use negative_log_likelihood"
        )

    def objective(params, key, batch, step=None):
        x, context = unpack(batch)
        terms = density.terms(params, key, x, context)
        reconstruction, kl = terms["reconstruction"].mean(), terms["kl"].mean()
        metrics = {"bound": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}
        return beta * kl - reconstruction, metrics

    return objective


def log_weights(density: Density, samples: int) -> Callable:
    """K log-weights of each example: `(params, key, x, context=None) -> [K, *batch]`.

    density: of kind "exact" or "weight";  samples: K

    What does not depend on the random key (an encoder, say) is computed once.
    Raises ValueError for a "bound" (also for K = 1: its log_prob is not a weight).
    """
    require_kind(density, ("exact", "weight"), "an importance-weighted bound")
    if samples < 1:
        raise ValueError(f"an importance-weighted bound needs at least one sample, got {samples}")

    def weights(params, key, x, context=None):
        keys = jax.random.split(key, samples)
        return jax.vmap(lambda k: density.log_prob(params, k, x, context))(keys)

    return weights


def importance_weighted(density: Density, samples: int, alpha: float = 0.0) -> Objective:
    """Minus the mean importance-weighted bound of K samples (Burda et al. 2016), or Renyi's of order alpha (Li & Turner 2016).

    Metric: "bound".  Raises ValueError where `log_weights` does.
    """
    weights = log_weights(density, samples)

    def objective(params, key, batch, step=None):
        bound = bounds.renyi(weights(params, key, *unpack(batch)), alpha).mean()
        return -bound, {"bound": bound}

    return objective


def reverse_kl(density: Density, log_density: Callable, beta: float = 1.0) -> Objective:
    """KL(q || p) up to the constant of an unnormalised target: the mean of log q(x) - beta log p~(x) over samples x of q.

    density: q;  log_density: x -> log p~(x)
    beta: below 1 it flattens the target (`warm_up`)

    As many samples as the batch has rows; what the rows hold is not looked at.
    Metric: "reverse_kl" (beta = 1, whatever beta is).
    Raises ValueError unless the density is exact and its samples carry gradients.
    Source: Rezende & Mohamed 2015, eq. 15, and its annealing.
    """
    require_kind(density, ("exact",), "the reverse KL")
    if not density.reparameterised:
        raise ValueError("the reverse KL needs samples that carry gradients; this density's do not")

    def objective(params, key, batch, step=None):
        rows = len(jax.tree.leaves(batch)[0])
        x, log_q = density.sample(params, key, shape=(rows,))
        log_q = density.log_prob(params, None, x) if log_q is None else log_q
        log_p = log_density(x)
        return (log_q - beta * log_p).mean(), {"reverse_kl": (log_q - log_p).mean()}

    return objective


def transformed(objective: Objective, prepare: Callable) -> Objective:
    """The objective of what `prepare(key, batch)` -> (key, batch) makes of a batch."""
    return lambda params, key, batch, step=None: objective(params, *prepare(key, batch), step)


def preprocessed(objective: Objective, preprocess: Callable) -> Objective:
    """An objective of raw minibatches: first `preprocess(key, raw) -> x` with a key of its own (binarisation, dequantisation)."""

    def prepare(key, batch):
        key_data, key_model = jax.random.split(key)
        if isinstance(batch, tuple):
            return key_model, (preprocess(key_data, batch[0]), *batch[1:])
        return key_model, preprocess(key_data, batch)

    return transformed(objective, prepare)


def split(objective: Objective, how: Callable) -> Objective:
    """An objective of batches that `how(batch)` first cuts into (x, context), such as an image into known and unknown parts."""
    return transformed(objective, lambda key, batch: (key, how(batch)))
