"""The variational autoencoder: a density made of three densities.

Draw z from the posterior; the log-weight is log p(x|z) + log p(z) - log q(z|x).  The result is a `Density` again, so a VAE
can be the prior of another.
"""

import jax

from dlvm_jax.functional import bounds, densities, divergences
from dlvm_jax.models.density import Density, require_kind

__all__ = ["dreg", "vae"]


def _join(x, context):
    """What a part is conditioned on: the variable alone, or with the context."""
    return x if context is None else (x, context)


def _kind(prior, decoder, kl):
    unbiased = prior.kind != "bound" and decoder.kind != "bound"
    return "weight" if unbiased and kl == "sampled" else "bound"


def vae(prior, posterior, decoder, kl="sampled"):
    """The VAE p(x) = E_p(z) p(x|z) with posterior q(z|x), as a `Density` (Kingma & Welling 2014, eq. 6 and 7).

    `kl="sampled"` gives a "weight" (if prior and decoder are no bounds), `kl="analytic"` a "bound" of lower variance, for
    Gaussian prior and posterior.  `prior` is sampled and scored under the context, `posterior` under x (with the context),
    `decoder` under z (with the context).  Raises ValueError for a posterior that is not exact, or a KL with no closed form.
    """
    require_kind(posterior, ("exact",), "a posterior")
    for part, role in ((prior, "a prior"), (decoder, "a decoder")):
        require_kind(part, ("exact", "weight", "bound"), role)
    if kl not in ("sampled", "analytic"):
        raise ValueError(f"kl is 'sampled' or 'analytic', got {kl!r}")
    if kl == "analytic" and (prior.normal is None or posterior.normal is None):
        raise ValueError("an analytic KL needs a Gaussian prior and posterior; use kl='sampled'")

    def init(key):
        keys = jax.random.split(key, 3)
        return {
            "prior": prior.init(keys[0]),
            "posterior": posterior.init(keys[1]),
            "decoder": decoder.init(keys[2]),
        }

    def draw(params, key, condition, context):
        """A latent sample and its KL, with one pass through the posterior's network."""
        key_z, key_prior = jax.random.split(key)
        if kl == "analytic":
            q = posterior.normal(params["posterior"], condition)
            z = densities.normal_sample(key_z, *q)
            return z, divergences.kl_normal(*q, *prior.normal(params["prior"], context))
        z, log_posterior = posterior.sample(params["posterior"], key_z, condition)
        return z, log_posterior - prior.log_prob(params["prior"], key_prior, z, context)

    def terms(params, key, x, context=None):
        key_latent, key_lik = jax.random.split(key)
        z, divergence = draw(params, key_latent, _join(x, context), context)
        log_lik = decoder.log_prob(params["decoder"], key_lik, x, _join(z, context))
        return {"reconstruction": log_lik, "kl": divergence}

    def log_prob(params, key, x, context=None):
        parts = terms(params, key, x, context)
        return parts["reconstruction"] - parts["kl"]

    def sample(params, key, context=None, shape=()):
        key_z, key_x = jax.random.split(key)
        z, _ = prior.sample(params["prior"], key_z, context, shape)
        return decoder.sample(params["decoder"], key_x, _join(z, context))[0], None

    return Density(init, sample, log_prob, _kind(prior, decoder, kl), terms=terms)


def dreg(prior, posterior, decoder, samples):
    """Training objective: the importance-weighted bound with doubly reparameterised gradients (Tucker et al. 2019, eq. 8).

    `(params, key, batch) -> (loss, metrics)` for the parameters of `vae(prior, posterior, decoder)`.  Raises ValueError
    where importance weights would not be unbiased.
    """
    require_kind(vae(prior, posterior, decoder), ("weight",), "an importance-weighted bound")

    def objective(params, key, batch):
        x, context = batch if isinstance(batch, tuple) else (batch, None)
        key_z, key_lik, key_prior = jax.random.split(key, 3)
        condition = _join(x, context)
        z, _ = posterior.sample(params["posterior"], key_z, condition, (samples,))
        held = jax.lax.stop_gradient(params["posterior"])

        def log_weight(z):
            return bounds.log_weight(
                decoder.log_prob(params["decoder"], key_lik, x, _join(z, context)),
                prior.log_prob(params["prior"], key_prior, z, context),
                posterior.log_prob(held, None, z, condition),
            )

        value = bounds.dreg(log_weight, z).mean()
        return -value, {"bound": value}

    return objective
