"""What training minimises: `objective(params, key, batch) -> (loss, metrics)`, one scalar and a few more.

A batch is x, or the tuple (x, context).  Means over the batch are taken here and nowhere else.
"""

import jax

from dlvm_jax.functional import bounds
from dlvm_jax.models.density import require_kind

__all__ = ["importance_weighted", "log_weights", "maximum_likelihood", "preprocessed"]


def _unpack(batch):
    return batch if isinstance(batch, tuple) else (batch, None)


def maximum_likelihood(density, beta=1.0):
    """Minus the mean log-density, or its bound: the (beta-)ELBO for a VAE (Kingma & Welling 2014; Higgins et al. 2017).

    Metrics: "bound" (beta = 1, whatever beta is) and the density's terms.  Raises ValueError for a beta on a density
    without terms.
    """
    if beta != 1 and density.terms is None:
        raise ValueError(f"beta={beta} needs a density made of reconstruction and kl; this one has no terms")

    def objective(params, key, batch):
        x, context = _unpack(batch)
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

    def objective(params, key, batch):
        bound = bounds.renyi(weights(params, key, *_unpack(batch)), alpha).mean()
        return -bound, {"bound": bound}

    return objective


def preprocessed(objective, preprocess):
    """An objective of raw minibatches: `preprocess(key, raw) -> x` first (binarisation, dequantisation), its own key."""

    def wrapped(params, key, batch):
        key_data, key_model = jax.random.split(key)
        if isinstance(batch, tuple):
            return objective(params, key_model, (preprocess(key_data, batch[0]), *batch[1:]))
        return objective(params, key_model, preprocess(key_data, batch))

    return wrapped
