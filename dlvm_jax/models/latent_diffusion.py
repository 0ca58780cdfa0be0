"""Diffusion in the latent space of a VAE: as its prior, trained with it or alone over a frozen encoder.

`models.diffusion.bound_density` of vectors is the cross-entropy that trains a prior together with the posterior; the same
parameters as an `ode_density` are an exact prior, under which importance weighting is legal.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from dlvm_jax.functional.diffusion import process, targets
from dlvm_jax.functional.numerics import as_wide
from dlvm_jax.models.density import Density, check_shape
from dlvm_jax.models.diffusion import Denoiser
from dlvm_jax.models.objectives import Objective, transformed
from dlvm_jax.models.spaces import REALS

__all__ = ["encoded", "mixed", "standardised"]


def mixed(model: Denoiser, weight: float = 0.5) -> Denoiser:
    r"""A denoiser that leaves that of N(0, I) as far as it has learned to: the mixed score.

    $\hat x_0 = (1-m)\,\frac{\alpha_t}{\alpha_t^2+\sigma_t^2}\,x_t + m\,\hat x_0^{net}(x_t, t)$

    m in (0, 1) is the sigmoid of a trained number for each coordinate, starting at `weight`.  Weights that sum to one mix any
    target alike: in epsilon and under a variance-preserving process, $(1-m)\sigma_tx_t + m\,\hat\epsilon$.
    Source: Vahdat, Kreis, Kautz 2021 (LSGM), section 3.2.
    """
    if not 0 < weight < 1:
        raise ValueError(f"the weight of the network in a mixed score is in (0, 1), got {weight}")
    start = float(jnp.log(weight) - jnp.log1p(-weight))

    def init(key):
        return {**model.init(key), "mixing": jnp.full(model.event_shape, start)}

    def denoise(params, x, t, context=None, key=None):
        m = jax.nn.sigmoid(params["mixing"])
        skip = targets.preconditioning(model.process(params), t, 1.0).skip
        return (1 - m) * process.expand_to_event(skip, x) * x + m * model.denoise(params, x, t, context, key)

    return model._replace(init=init, denoise=denoise)


def standardised(density: Density, mean: jax.Array, std: jax.Array) -> Density:
    r"""The density of z = mean + std u for u of a density: $\log p(z) = \log p_u((z-\mu)/s) - \sum_i\log s_i$.

    mean, std: of the event's shape.  It gives the diffusion of latent vectors, which are of any scale, data of variance one
    (Rombach et al. 2022, section 4.3.2, for one scale).  Raises ValueError for a std that is not positive, for a mean and std of
    different shapes, or one number, for vectors of another shape, and for a density of a curved space.
    """
    if density.space != REALS:
        raise ValueError(f"only vectors of R^M are standardised, got a density on {density.space}")
    if jnp.shape(mean) != jnp.shape(std) or not jnp.ndim(std):
        raise ValueError(
            f"mean and std must have the event's shape, got {jnp.shape(mean)} and {jnp.shape(std)}; repeat a common scale"
        )
    mean, std = as_wide(mean), as_wide(std)
    wrong = (std <= 0) | ~jnp.isfinite(std)
    if not isinstance(wrong, Tracer) and wrong.any():
        raise ValueError(f"a standard deviation is positive and finite, got {std}")
    log_volume = jnp.log(std).sum()

    def sample(params, key, context=None, shape=()):
        u, log_prob = density.sample(params, key, context, shape)
        return mean + std * u, None if log_prob is None else log_prob - log_volume

    def log_prob(params, key, z, context=None):
        z = check_shape(z, mean.shape)
        return density.log_prob(params, key, (z - mean) / std, context) - log_volume

    return Density(density.init, sample, log_prob, density.kind, reparameterised=density.reparameterised)


def encoded(objective: Objective, posterior: Density, params: Any) -> Objective:
    """An objective of latent vectors as one of data: each batch is drawn from a frozen posterior q(z | x).

    Where the data have a context, both see it: q(z | x, c), and the objective of (z, c).
    With the data's z it minimises the cross-entropy of the aggregated posterior and a prior, the only part of the ELBO that
    depends on the prior: the second of two stages.
    """

    def encode(key, batch):
        key_encode, key_objective = jax.random.split(key)
        z, _ = posterior.sample(params, key_encode, batch)
        return key_objective, (z, *batch[1:]) if isinstance(batch, tuple) else z

    return transformed(objective, encode)
