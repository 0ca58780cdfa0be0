"""Priors and posteriors known through a discriminator: the implicit optimal prior, and the adversarial autoencoder."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlvm_jax.functional import adversarial
from dlvm_jax.functional.numerics import log_mean_exp
from dlvm_jax.models.density import Density, Net, batch_of, join, standard_normal
from dlvm_jax.models.objectives import Objective, unpack
from dlvm_jax.models.vae import Parts, vae

__all__ = ["adversarial_autoencoder", "implicit_prior", "implicit_prior_objective"]

DRAWS = 256  # for the normaliser, and proposals of a sample


def implicit_prior(net: Net, dim: int) -> Density:
    r"""The prior $p(z) = \mathcal N(z; 0, I)\,e^{T(z)} / Z$, T a network: the log-ratio of aggregated posterior and N(0, I).

    net: [*batch, dim] -> [*batch]

    It is trained by `implicit_prior_objective` (density-ratio estimation), never through the bound.  The normaliser
    $Z = \mathbb E_{\mathcal N(0,I)}[e^{T}]$, 1 for the exact ratio, is bounded by $\log Z \le \hat Z - 1$ with the
    unbiased mean $\hat Z$ of 256 samples, so `log_prob` is an honest "bound".  Samples are drawn by importance resampling
    from as many proposals.
    Source: Takahashi et al. 2019 (implicit optimal prior); Lawson et al. 2019 (resampling).
    """
    base = standard_normal(dim)

    def log_prob(params, key, z, context=None):
        ratio = lambda z: net.apply(params, z)
        log_normaliser = log_mean_exp(ratio(base.sample({}, key, shape=(DRAWS,))[0]))
        return base.log_prob({}, None, z) + ratio(z) - (jnp.exp(log_normaliser) - 1)

    def sample(params, key, context=None, shape=()):
        key_proposal, key_choice = jax.random.split(key)
        proposals, _ = base.sample({}, key_proposal, shape=(*shape, *batch_of(context), DRAWS))
        which = jax.random.categorical(key_choice, net.apply(params, proposals), axis=-1)
        return jnp.take_along_axis(proposals, which[..., None, None], axis=-2)[..., 0, :], None

    return Density(net.init, sample, log_prob, "bound")


def _stopped(tree):
    return jax.lax.stop_gradient(tree)


def implicit_prior_objective(
    prior_net: Net, prior: Density, posterior: Density, decoder: Density
) -> Objective:
    """The ELBO under an `implicit_prior`, and the discriminator's loss that trains its ratio, as one scalar.

    The ELBO does not train the ratio, the discriminator does not train the posterior (Takahashi et al. 2019).
    Metrics "bound" (which here holds the discriminator's normaliser) and "discriminator".
    """
    parts = Parts(prior, posterior, decoder)
    model = vae(*parts)

    def objective(params, key, batch, step=None):
        x, context = unpack(batch)
        key_model, key_z, key_base = jax.random.split(key, 3)
        bound = model.log_prob({**params, "prior": _stopped(params["prior"])}, key_model, x, context).mean()
        z, _ = posterior.sample(_stopped(parts.tied(params))["posterior"], key_z, join(x, context))
        logits = lambda z: prior_net.apply(params["prior"], z)
        loss = adversarial.discriminator_loss(logits(z), logits(jax.random.normal(key_base, z.shape)))
        return loss - bound, {"bound": bound, "discriminator": loss}

    return objective


def adversarial_autoencoder(
    discriminator: Net, prior: Density, posterior: Density, decoder: Density, *, weight: float = 1.0
) -> tuple[Callable, Objective]:
    """Reconstruction, and a discriminator between posterior and prior samples in place of the KL (Makhzani et al. 2016).

    discriminator: [*batch, M] -> [*batch]
    weight: of the generator's loss

    Returns (init, objective); the parameters are those of the VAE, and "discriminator".  The loss is one scalar: gradients of
    the encoder's part stop at the discriminator, those of the discriminator's at the codes.  The result is evaluated as the VAE
    of the same parts.  Raises ValueError for parts that `vae` refuses.
    """
    parts = Parts(prior, posterior, decoder)
    vae(*parts)  # refuses parts that do not fit

    def init(key):
        key_parts, key_discriminator = jax.random.split(key)
        return {**parts.init(key_parts), "discriminator": discriminator.init(key_discriminator)}

    def objective(params, key, batch, step=None):
        x, context = unpack(batch)
        key_z, key_prior, key_lik = jax.random.split(key, 3)
        own = parts.tied(params)
        z, _ = posterior.sample(own["posterior"], key_z, join(x, context))
        reconstruction = decoder.log_prob(own["decoder"], key_lik, x, join(z, context)).mean()
        wanted = parts.prior_sample(own, key_prior, x, context)
        logits = lambda params, z: discriminator.apply(params, z)
        fooled = adversarial.generator_loss(logits(_stopped(params["discriminator"]), z))
        loss = adversarial.discriminator_loss(
            logits(params["discriminator"], _stopped(wanted)), logits(params["discriminator"], _stopped(z))
        )
        metrics = {"reconstruction": reconstruction, "generator": fooled, "discriminator": loss}
        return loss + weight * fooled - reconstruction, metrics

    return init, objective
