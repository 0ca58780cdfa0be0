"""The VampPrior: the posterior's mixture over pseudo-inputs (Tomczak & Welling 2018)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dlvm_jax.functional import mixtures
from dlvm_jax.functional.numerics import as_array
from dlvm_jax.models.density import Density, batch_of

__all__ = ["vamp"]


def vamp(posterior: Density, pseudo_inputs: ArrayLike, scale: float = 1.0, train: bool = True) -> Density:
    r"""The prior $p(z) = \frac1K\sum_k q(z\mid u_k)$, u_k pseudo-inputs (Tomczak & Welling 2018, eq. 9).

    posterior: an exact conditional density, whose parameters the prior shares (`Density.share`)
    pseudo_inputs: [K, *event], where the u_k start, in [0, scale]: training examples, or noise
    scale: the largest input
    train: whether the u_k are trained, as scale * sigmoid of a free array (a hard clip would stop learning at the ends)

    With every training example as a fixed pseudo-input it is the aggregated posterior.  All are encoded once a step.
    """
    if not np.isfinite(pseudo_inputs).all():
        raise ValueError("pseudo-inputs are finite, got NaN or infinity")
    pseudo_inputs = jnp.asarray(pseudo_inputs, jnp.float32)
    count = pseudo_inputs.shape[0]
    if count < 1:
        raise ValueError("a VampPrior needs at least one pseudo-input, got none")
    if train and not (pseudo_inputs.min() >= 0 and pseudo_inputs.max() <= scale):
        raise ValueError(
            f"trained pseudo-inputs start in [0, {scale:g}], got {pseudo_inputs.min():g} to {pseudo_inputs.max():g}; "
            "give their scale, or train=False"
        )

    def init(key):
        if not train:
            return {}
        fraction = jnp.clip(pseudo_inputs / scale, 0.02, 0.98)
        return {"pseudo_inputs": jnp.log(fraction) - jnp.log1p(-fraction)}

    def inputs(params):
        return scale * jax.nn.sigmoid(params["pseudo_inputs"]) if train else pseudo_inputs

    def log_prob(params, key, z, context=None):
        if posterior.normal is not None:
            return mixtures.normal_mixture_log_prob(z, *posterior.normal(params["posterior"], inputs(params)))
        z = as_array(z)
        pairs = jnp.broadcast_to(z[..., None, :], (*z.shape[:-1], count, z.shape[-1]))
        each = posterior.log_prob(params["posterior"], None, pairs, inputs(params))
        return jax.nn.logsumexp(each, axis=-1) - jnp.log(count)

    def sample(params, key, context=None, shape=()):
        key_component, key_z = jax.random.split(key)
        full = shape + batch_of(context)
        which = jax.random.randint(key_component, full, 0, count)
        flat, _ = posterior.sample(params["posterior"], key_z, inputs(params)[which.reshape(-1)])
        z = flat.reshape(*full, -1)
        return z, log_prob(params, None, z)

    def mixture(params):
        mean, log_std = posterior.normal(params["posterior"], inputs(params))
        return mean, log_std, jnp.full(count, -jnp.log(count))

    known = mixture if posterior.normal else None
    return Density(init, sample, log_prob, "exact", space=posterior.space, share=_share, mixture=known)


def _share(params, posterior_params):
    """The prior's parameters together with the posterior's."""
    return {**params, "posterior": posterior_params}
