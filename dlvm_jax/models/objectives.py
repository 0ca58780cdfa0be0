"""What training minimises: `objective(params, key, batch, step=None) -> (loss, metrics)`, one scalar and a few more.

A batch is x, or the tuple (x, context).  Means over the batch are taken here and nowhere else.  The engine passes the step of
training, which a warm-up needs; without it, as in validation, an objective is what it becomes at the end.
"""

import jax
import jax.numpy as jnp

from dlvm_jax.functional import bounds
from dlvm_jax.models.density import require_kind

__all__ = [
    "importance_weighted",
    "log_weights",
    "negative_elbo",
    "preprocessed",
    "reverse_kl",
    "split",
    "transformed",
    "unpack",
    "warm_up",
]


def unpack(batch):
    """(x, context) of a batch; the context is None where there is none."""
    return batch if isinstance(batch, tuple) else (batch, None)


def warm_up(objective_of, final, steps):
    """An objective whose weight grows linearly from 0 to `final` over so many steps: `objective_of(weight)` is the objective.

    The beta warm-up of Bowman et al. 2016 and Sonderby et al. 2016.  Without a step (in validation) the weight is final.
    Raises ValueError for steps < 1.
    """
    if steps < 1:
        raise ValueError(f"a warm-up takes at least one step, got {steps}; leave it out for none")

    def objective(params, key, batch, step=None):
        weight = final if step is None else final * jnp.minimum(step / steps, 1.0)
        return objective_of(weight)(params, key, batch, step)

    return objective


def negative_elbo(density, beta=1.0):
    """Minus the mean log-density, or its bound: the (beta-)ELBO for a VAE (Kingma & Welling 2014; Higgins et al. 2017).

    Metrics: "bound" (beta = 1, whatever beta is) and the density's terms.  Raises ValueError for a beta on a density
    without terms.
    """
    if density.terms is None and not (isinstance(beta, (int, float)) and beta == 1):
        raise ValueError(f"beta={beta} needs a density made of reconstruction and kl; this one has no terms")

    def objective(params, key, batch, step=None):
        x, context = unpack(batch)
        if density.terms is None:
            bound = density.log_prob(params, key, x, context).mean()
            return -bound, {"bound": bound}
        terms = {name: value.mean() for name, value in density.terms(params, key, x, context).items()}
        loss = beta * terms["kl"] - terms["reconstruction"]
        return loss, {"bound": terms["reconstruction"] - terms["kl"], **terms}

    return objective


def log_weights(density, samples):
    """K log-weights of each example, `(params, key, x, context=None) -> [K, *batch]`, from a density of kind "weight".

    What does not depend on the random key (an encoder, say) is computed once.  Raises ValueError for a "bound" (also for
    K = 1: its log_prob is not a weight).
    """
    require_kind(density, ("exact", "weight"), "an importance-weighted bound")
    if samples < 1:
        raise ValueError(f"an importance-weighted bound needs at least one sample, got {samples}")

    def weights(params, key, x, context=None):
        keys = jax.random.split(key, samples)
        return jax.vmap(lambda k: density.log_prob(params, k, x, context))(keys)

    return weights


def importance_weighted(density, samples, alpha=0.0):
    """Minus the mean importance-weighted bound of K samples (Burda et al. 2016), or Renyi's of order alpha (Li & Turner 2016)."""
    weights = log_weights(density, samples)

    def objective(params, key, batch, step=None):
        bound = bounds.renyi(weights(params, key, *unpack(batch)), alpha).mean()
        return -bound, {"bound": bound}

    return objective


def reverse_kl(density, log_density, beta=1.0):
    """KL(q || p) up to the constant of an unnormalised target: the mean of log q(x) - beta log p~(x) over samples x of q.

    As many samples as the batch has rows; what the rows hold is not looked at.  beta below 1 flattens the target (`warm_up`).
    Metric: "reverse_kl" (beta = 1, whatever beta is).  Source: Rezende & Mohamed 2015, eq. 15, and its annealing.
    Raises ValueError unless the density is exact and its samples carry gradients.
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


def transformed(objective, prepare):
    """The objective of what `prepare(key, batch)` -> (key, batch) makes of a batch."""
    return lambda params, key, batch, step=None: objective(params, *prepare(key, batch), step)


def preprocessed(objective, preprocess):
    """An objective of raw minibatches: `preprocess(key, raw) -> x` first (binarisation, dequantisation), its own key."""

    def prepare(key, batch):
        key_data, key_model = jax.random.split(key)
        if isinstance(batch, tuple):
            return key_model, (preprocess(key_data, batch[0]), *batch[1:])
        return key_model, preprocess(key_data, batch)

    return transformed(objective, prepare)


def split(objective, how):
    """An objective of batches that `how(batch)` first cuts into (x, context), such as an image into known and unknown parts."""
    return transformed(objective, lambda key, batch: (key, how(batch)))
