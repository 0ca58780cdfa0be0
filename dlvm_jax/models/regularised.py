"""Objectives that weigh the parts of the KL anew: free bits, InfoVAE (with WAE-MMD), total correlation.

Each is `(params, key, batch) -> (loss, metrics)` for the parameters of `vae(*parts)`, with the plain ELBO of the same draw
among the metrics: as "bound" where it is what training aims at, so that validation may choose by it, else as "elbo".
"""

import functools

import jax
import jax.numpy as jnp

from dlvm_jax.functional import densities, divergences, hierarchical
from dlvm_jax.functional import total_correlation as correlation
from dlvm_jax.models.density import Density, check_event, join
from dlvm_jax.models.objectives import Objective, unpack
from dlvm_jax.models.vae import Parts, vae

__all__ = ["free_bits", "info", "total_correlation"]


def _gaussian(part, use, role="posterior"):
    if part.normal is None:
        raise ValueError(f"{use} needs a diagonal Gaussian {role}")


def free_bits(
    prior: Density, posterior: Density, decoder: Density, *, nats: float, beta: float = 1.0
) -> Objective:
    r"""The ELBO in which each latent unit may have `nats` of KL at no cost.

    $\mathbb E[\log p(x|z)] - \beta\sum_i\max(\lambda, \mathbb E_x[\mathrm{KL}_i])$, the mean over the minibatch inside the
    maximum (Kingma et al. 2016, eq. 15).  Needs Gaussian prior and posterior; the decoder may be of any kind.
    """
    _gaussian(posterior, "free bits")
    _gaussian(prior, "free bits", "prior")
    if nats < 0:
        raise ValueError(f"free bits are at least 0 nats, got {nats}")
    parts = Parts(prior, posterior, decoder)

    def objective(params, key, batch, step=None):
        x, context = unpack(batch)
        own = parts.tied(params)
        key_z, key_lik = jax.random.split(key)
        q = posterior.normal(own["posterior"], join(x, context))
        z = densities.normal_sample(key_z, *q)
        log_lik = decoder.log_prob(own["decoder"], key_lik, x, join(z, context)).mean()
        p = prior.normal(own["prior"], context)
        check_event(q[0], p[0].shape[-1])
        unit = divergences.kl_normal(*q, *p, event_ndim=0)
        unit = unit.mean(range(unit.ndim - 1))  # of each latent unit
        loss = beta * hierarchical.free_bits(unit, nats) - log_lik
        return loss, {"bound": log_lik - unit.sum(), "reconstruction": log_lik, "kl": unit.sum()}

    return objective


def info(
    prior: Density, posterior: Density, decoder: Density, *, kl_weight: float, mmd_weight: float
) -> Objective:
    r"""InfoVAE: the KL weighed anew, and a divergence between the aggregated posterior and the prior (Zhao et al. 2019).

    $\mathbb E[\log p(x|z)] - a\,\mathrm{KL}(q(z|x)\Vert p(z)) - b\,\mathrm{MMD}^2(q(z), p(z))$; in the paper's letters
    a = 1 - alpha and b = alpha + lambda - 1.  a = 0 is the Wasserstein autoencoder with MMD (Tolstikhin et al. 2018,
    algorithm 2), with the reconstruction a log-likelihood.  The kernel is the inverse multiquadratic of scale C = 2M;
    the estimate is the U-statistic.  Raises ValueError for parts that `vae` refuses and weights below zero.
    """
    if kl_weight < 0 or mmd_weight < 0:
        raise ValueError(f"the weights of KL and MMD are at least 0, got {kl_weight} and {mmd_weight}")
    parts = Parts(prior, posterior, decoder)
    vae(*parts)  # refuses parts that do not fit

    def objective(params, key, batch, step=None):
        x, context = unpack(batch)
        own = parts.tied(params)
        key_z, key_lik, key_prior, key_other = jax.random.split(key, 4)
        z, log_posterior = posterior.sample(own["posterior"], key_z, join(x, context))
        log_lik = decoder.log_prob(own["decoder"], key_lik, x, join(z, context)).mean()
        kl = (log_posterior - prior.log_prob(own["prior"], key_prior, z, context)).mean()
        other = parts.prior_sample(own, key_other, x, context)
        kernel = functools.partial(divergences.inverse_multiquadratic_kernel, scale=2.0 * z.shape[-1])
        discrepancy = divergences.mmd(z, other, kernel)
        loss = kl_weight * kl + mmd_weight * discrepancy - log_lik
        metrics = {"elbo": log_lik - kl, "reconstruction": log_lik, "kl": kl, "mmd": discrepancy}
        return loss, metrics

    return objective


def total_correlation(
    prior: Density, posterior: Density, decoder: Density, *, beta: float, examples: int
) -> Objective:
    r"""beta-TCVAE: the KL in three parts, of which the total correlation of the latent units has the weight beta.

    $\mathbb E[\log p(x|z)] - I(x; z) - \beta\,\mathrm{TC}(z) - \sum_j\mathrm{KL}(q(z_j)\Vert p(z_j))$, the parts by minibatch
    stratified sampling out of so many training `examples` (Chen et al. 2018, eq. 4).  beta = 1 is the ELBO.  Needs Gaussian
    prior and posterior, and batches of at least two; a context would give each example a prior of its own, and is refused.
    """
    _gaussian(posterior, "total correlation")
    _gaussian(prior, "total correlation", "prior")
    parts = Parts(prior, posterior, decoder)

    def objective(params, key, batch, step=None):
        x, context = unpack(batch)
        if context is not None:
            raise ValueError("total correlation is of one aggregated posterior; use a VAE without a context")
        own = parts.tied(params)
        key_z, key_lik = jax.random.split(key)
        mean, log_std = posterior.normal(own["posterior"], x)
        z = densities.normal_sample(key_z, mean, log_std)
        log_lik = decoder.log_prob(own["decoder"], key_lik, x, z).mean()
        log_prior = prior.log_prob(own["prior"], None, z)
        weights = correlation.stratified_log_weights(len(x), examples)
        terms = correlation.total_correlation_terms(z, mean, log_std, log_prior, weights)
        terms = jax.tree.map(jnp.mean, terms)
        kl = sum(terms)
        loss = kl + (beta - 1) * terms.total_correlation - log_lik
        return loss, {"bound": log_lik - kl, "reconstruction": log_lik, "kl": kl, **terms._asdict()}

    return objective
