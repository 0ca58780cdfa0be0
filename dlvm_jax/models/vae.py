"""The variational autoencoder: a density made of three densities.

Draw z from the posterior; the log-weight is log p(x|z) + log p(z) - log q(z|x).  The result is a `Density` again, so a VAE
can be the prior of another.
"""

import math
from typing import Any, NamedTuple

import jax

from dlvm_jax.functional import bounds, densities, divergences
from dlvm_jax.functional.numerics import as_array
from dlvm_jax.models.density import Density, check_event, join, require_kind
from dlvm_jax.models.objectives import Objective, unpack

__all__ = ["Parts", "dreg", "vae"]


class Parts(NamedTuple):
    """What a VAE is made of; `vae(*parts)` joins them.

    prior, posterior, decoder: the three `Density`s
    """

    prior: Density
    posterior: Density
    decoder: Density

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh parameters of the three parts, {"prior", "posterior", "decoder"}."""
        keys = jax.random.split(key, 3)
        return {
            "prior": self.prior.init(keys[0]),
            "posterior": self.posterior.init(keys[1]),
            "decoder": self.decoder.init(keys[2]),
        }

    def tied(self, params: Any) -> Any:
        """The parameters, with the posterior's among the prior's where it uses them too (a VampPrior)."""
        if self.prior.share is None:
            return params
        return {**params, "prior": self.prior.share(params["prior"], params["posterior"])}

    def prior_sample(self, params: Any, key: jax.Array, x: jax.Array, context: Any) -> jax.Array:
        """A draw of the prior for each example of x; `params` already tied."""
        return self.prior.sample(params["prior"], key, context, (len(x),) if context is None else ())[0]


def _kind(prior, decoder, kl):
    unbiased = prior.kind != "bound" and decoder.kind != "bound"
    return "weight" if unbiased and kl == "sampled" else "bound"


def vae(prior: Density, posterior: Density, decoder: Density, *, kl: str = "sampled") -> Density:
    """The VAE p(x) = E_p(z) p(x|z) with posterior q(z|x), as a `Density` (Kingma & Welling 2014, eq. 6 and 7).

    prior: p(z), under the context where there is one
    posterior: q(z | x), under x, or (x, context);  decoder: p(x | z), under z, or (z, context)
    kl: "sampled" gives a "weight" (if prior and decoder are no bounds); "analytic" gives a "bound" of lower variance, for
        Gaussian prior and posterior

    Raises ValueError for a posterior that is not exact or of another space than the prior, or a KL with no closed form.
    """
    require_kind(posterior, ("exact",), "a posterior")
    if not posterior.reparameterised:
        raise ValueError(
            "a posterior learns through its samples, got a density whose samples carry no gradient of its parameters"
        )
    for part, role in ((prior, "a prior"), (decoder, "a decoder")):
        require_kind(part, ("exact", "weight", "bound"), role)
    if prior.space != posterior.space:
        raise ValueError(
            f"prior and posterior need one latent space, got a prior on {prior.space} and a posterior on {posterior.space}"
        )
    if kl not in ("sampled", "analytic"):
        raise ValueError(f"kl is 'sampled' or 'analytic', got {kl!r}")
    if kl == "analytic" and (prior.normal is None or posterior.normal is None):
        raise ValueError("an analytic KL needs a Gaussian prior and posterior; use kl='sampled'")

    parts = Parts(prior, posterior, decoder)

    def draw(params, key, condition, context):
        """A latent sample and its KL, with one pass through the posterior's network."""
        key_z, key_prior = jax.random.split(key)
        if kl == "analytic":
            q = posterior.normal(params["posterior"], condition)
            p = prior.normal(params["prior"], context)
            check_event(q[0], p[0].shape[-1])
            return densities.normal_sample(key_z, *q), divergences.kl_normal(*q, *p)
        z, log_posterior = posterior.sample(params["posterior"], key_z, condition)
        return z, log_posterior - prior.log_prob(params["prior"], key_prior, z, context)

    def terms(params, key, x, context=None):
        params, x = parts.tied(params), as_array(x)
        key_latent, key_lik = jax.random.split(key)
        z, divergence = draw(params, key_latent, join(x, context), context)
        log_lik = decoder.log_prob(params["decoder"], key_lik, x, join(z, context))
        return {"reconstruction": log_lik, "kl": divergence}

    def log_prob(params, key, x, context=None):
        both = terms(params, key, x, context)
        return both["reconstruction"] - both["kl"]

    def sample(params, key, context=None, shape=()):
        params = parts.tied(params)
        key_z, key_x = jax.random.split(key)
        count = math.prod(shape)
        z, _ = prior.sample(params["prior"], key_z, context, (count,))
        if context is None:
            x, _ = decoder.sample(params["decoder"], key_x, z)
        else:  # the decoder's context has one batch axis
            keys = jax.random.split(key_x, count)
            x, _ = jax.vmap(lambda k, z: decoder.sample(params["decoder"], k, (z, context)))(keys, z)
        return x.reshape(*shape, *x.shape[1:]), None

    return Density(parts.init, sample, log_prob, _kind(prior, decoder, kl), terms=terms, space=decoder.space)


def dreg(prior: Density, posterior: Density, decoder: Density, *, samples: int) -> Objective:
    """Training objective: the importance-weighted bound with doubly reparameterised gradients (Tucker et al. 2019, eq. 8).

    For the parameters of `vae(prior, posterior, decoder)`.  Metric: "bound".
    Raises ValueError where importance weights would not be unbiased, and for samples < 1.
    """
    require_kind(vae(prior, posterior, decoder), ("weight",), "an importance-weighted bound")
    if samples < 1:
        raise ValueError(f"an importance-weighted bound needs at least one sample, got {samples}")
    parts = Parts(prior, posterior, decoder)

    def objective(params, key, batch, step=None):
        params = parts.tied(params)
        x, context = unpack(batch)
        key_z, key_lik, key_prior = jax.random.split(key, 3)
        condition = join(x, context)
        z, _ = posterior.sample(params["posterior"], key_z, condition, (samples,))
        stopped = jax.lax.stop_gradient(params["posterior"])

        def log_joint(z, key_lik, key_prior):
            log_lik = decoder.log_prob(params["decoder"], key_lik, x, join(z, context))
            return log_lik, prior.log_prob(params["prior"], key_prior, z, context)

        def log_weight(z):
            if prior.kind == decoder.kind == "exact":
                both = log_joint(z, None, None)
            else:  # what is drawn inside is drawn for each z
                both = jax.vmap(log_joint)(
                    z, *(jax.random.split(key, samples) for key in (key_lik, key_prior))
                )
            return bounds.log_weight(*both, posterior.log_prob(stopped, None, z, condition))

        value = bounds.dreg(log_weight, z).mean()
        return -value, {"bound": value}

    return objective
