"""What a VAE does with its latent space: rate and distortion, ELBO surgery, use of the units, holes.

All is of the N examples given, held fixed: the aggregated posterior q(z) = 1/N sum_n q(z|x_n) is summed exactly, the
standard errors are those of the draws of z, and the mutual information cannot exceed log N.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.evaluate.examples import as_precise_as, check_examples
from dlvm_jax.evaluate.units import ACTIVE, posterior_means
from dlvm_jax.functional import divergences
from dlvm_jax.functional.divergences import MonteCarlo
from dlvm_jax.functional.mixtures import normal_mixture_log_prob
from dlvm_jax.models.density import check_event
from dlvm_jax.models.objectives import unpack
from dlvm_jax.models.vae import Parts, vae

__all__ = ["Diagnostics", "diagnose", "unit_kl"]

# A unit whose KL is below so many nats for at least this share of the examples has collapsed.
COLLAPSED = (0.01, 0.99)
INSIDE = 0.99  # mass of the aggregated posterior in the region outside of which prior draws fall into a hole


class Diagnostics(NamedTuple):
    """The figures of `diagnose`; likelihoods, KLs and information in nats.

    examples, draws: number of examples, and of draws for each
    rate: mean KL(q(z|x) || p(z)) = mutual_information + marginal_kl
    distortion: mean of -log p(x|z) (Alemi et al. 2018)
    mutual_information: I_q(x; z)
    marginal_kl: KL(q(z) || p(z)) (Hoffman & Johnson 2016, section 2)
    hole: share of prior draws outside the region {log q(z) > t} that holds 99% of q(z); 0.01 where q(z) = p(z); its error is
        that of the prior's draws, with t as it was estimated
    mean_variance [M]: Var_x(E_q[z_i|x]), above 0.01 in an active unit (Burda et al. 2016, section 5.3)
    unit_kl [M]: mean KL of each unit
    collapsed_units: those with less than 0.01 nats for 99% of the examples (Lucas et al. 2019)

    The last three are None where the densities do not have them (no mean; not both diagonal Gaussians).
    """

    examples: int
    draws: int
    rate: MonteCarlo
    distortion: MonteCarlo
    mutual_information: MonteCarlo
    marginal_kl: MonteCarlo
    hole: MonteCarlo
    mean_variance: np.ndarray | None
    unit_kl: np.ndarray | None
    collapsed_units: int | None

    @property
    def active_units(self) -> int | None:
        """Number of active units, or None."""
        return None if self.mean_variance is None else int((self.mean_variance > ACTIVE).sum())

    def line(self) -> str:
        """The figures as one line of text."""

        def of(estimate, digits=2):
            return f"{estimate.value:.{digits}f} +- {estimate.standard_error:.{digits}f}"

        parts = [
            f"rate {of(self.rate)} = I(x;z) {of(self.mutual_information)} + KL(q(z)||p) {of(self.marginal_kl)}",
            f"distortion {of(self.distortion)} nats",
            f"hole {of(self.hole, 3)}",
        ]
        for name, count in (("active", self.active_units), ("collapsed", self.collapsed_units)):
            if count is not None:
                parts.append(f"{count} {name} units")
        about = f"{self.examples} examples, log N = {math.log(self.examples):.2f}, {self.draws} draws"
        return f"{'; '.join(parts)} ({about})"


def unit_kl(parts: Parts, params: Any, x: Any) -> jax.Array:
    """KL(q(z_i|x_n) || p(z_i)) of each example and latent unit, [N, M] nats; x is [N, *event], or (x, context).

    Raises ValueError unless prior and posterior are diagonal Gaussians, the only ones whose KL is a sum over units.
    """
    if parts.posterior.normal is None or parts.prior.normal is None:
        raise ValueError("the KL of single units needs a diagonal Gaussian prior and posterior; use the rate")
    params, (_, context) = parts.tied(params), unpack(x)
    q, p = parts.posterior.normal(params["posterior"], x), parts.prior.normal(params["prior"], context)
    check_event(q[0], p[0].shape[-1])
    return divergences.kl_normal(*q, *p, event_ndim=0)


@lru_cache(maxsize=8)
def _draw(parts, draws, block):
    """Jitted (params, key, x) -> z [N, draws, *latent], and log p(x|z), log p(z), log q(z|x), each [N, draws]."""
    prior, posterior, decoder = parts

    def one(params, key, x):
        key_z, key_lik, key_prior = jax.random.split(key, 3)
        z, log_posterior = posterior.sample(params["posterior"], key_z, x[None], (draws,))
        z, log_posterior = z[:, 0], log_posterior[:, 0]
        repeated = jnp.broadcast_to(x, (draws, *x.shape))
        log_lik = decoder.log_prob(params["decoder"], key_lik, repeated, z)
        return z, log_lik, prior.log_prob(params["prior"], key_prior, z), log_posterior

    def run(params, key, x):
        keys = jax.random.split(key, len(x))
        return jax.lax.map(lambda each: one(params, *each), (keys, x), batch_size=block)

    return jax.jit(run)


@lru_cache(maxsize=8)
def _aggregate(posterior, block):
    """Jitted (params, x [N, *event], z [S, *latent]) -> log q(z) [S], the exact mixture over the N examples."""

    def run(params, x, z):
        if posterior.normal is not None:
            q = posterior.normal(params, x)
            log_q = lambda z: normal_mixture_log_prob(z, *q)
        else:

            def log_q(z):
                each = posterior.log_prob(params, None, jnp.broadcast_to(z, (len(x), *z.shape)), x)
                return jax.nn.logsumexp(each) - math.log(len(x))

        return jax.lax.map(log_q, z, batch_size=block)

    return jax.jit(run)


def _mean(values):
    """Mean of [N, draws] with the standard error of the draws alone, the N examples held fixed."""
    variance = values.var(axis=1, ddof=1).sum() / values.shape[1]
    return MonteCarlo(float(values.mean()), math.sqrt(variance) / len(values))


def diagnose(
    parts: Parts, params: Any, x: np.ndarray, *, key: jax.Array, draws: int = 10, block: int = 100
) -> Diagnostics:
    """`Diagnostics` of a VAE.

    x: [N, *event] as the model sees them
    draws: of z for each example
    block: examples (and draws) computed at a time

    The aggregated posterior costs N^2 draws densities: a thousand examples are a good number.  A prior or decoder that only
    bounds its density makes rate, marginal KL and distortion upper bounds, and leaves the mutual information exact.
    Raises ValueError for fewer than two draws or examples, for values outside of the decoder's space, and for (x, context),
    where each example has its own prior.
    """
    if isinstance(x, tuple):
        raise ValueError("ELBO surgery is of one aggregated posterior; use a VAE without a context")
    if draws < 2 or len(x) < 2:
        raise ValueError(f"diagnostics need at least two draws and examples, got {draws} and {len(x)}")
    vae(*parts)  # refuses parts that do not fit
    check_examples(parts.decoder.space, x)
    examples, own = jnp.asarray(as_precise_as(params, x)), parts.tied(params)
    key_draws, key_prior = jax.random.split(key)
    with jax.default_matmul_precision("highest"):
        z, *logs = _draw(parts, draws, block)(own, key_draws, examples)
        flat = z.reshape(-1, *z.shape[2:])
        from_prior, _ = parts.prior.sample(own["prior"], key_prior, None, (len(flat),))
        aggregate = _aggregate(parts.posterior, block)
        log_q = lambda z: np.asarray(aggregate(own["posterior"], examples, z), float)
        inside, outside = log_q(flat), log_q(from_prior)
        units = None
        if parts.posterior.normal is not None and parts.prior.normal is not None:
            units = np.asarray(unit_kl(parts, params, examples), float)
    log_lik, log_prior, log_posterior = (np.asarray(value, float) for value in logs)
    log_aggregate = inside.reshape(log_prior.shape)
    share = float((outside < np.quantile(inside, 1 - INSIDE)).mean())
    means = parts.posterior.mean and posterior_means(parts.posterior, own["posterior"], examples)
    return Diagnostics(
        examples=len(x),
        draws=draws,
        rate=_mean(log_posterior - log_prior),
        distortion=_mean(-log_lik),
        mutual_information=_mean(log_posterior - log_aggregate),
        marginal_kl=_mean(log_aggregate - log_prior),
        hole=MonteCarlo(share, math.sqrt(share * (1 - share) / len(outside))),
        mean_variance=None if means is None else means.var(axis=0),
        unit_kl=None if units is None else units.mean(0),
        collapsed_units=None
        if units is None
        else int(((units < COLLAPSED[0]).mean(0) >= COLLAPSED[1]).sum()),
    )
