"""Adversarial losses on logits.  The optimal discriminator is the log-ratio of two densities."""

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_wide
from dlvm_jax.functional.types import Array

__all__ = ["discriminator_loss", "generator_loss"]


def discriminator_loss(logits_real: Array, logits_fake: Array) -> Array:
    r"""Binary cross-entropy of a discriminator; at its optimum the logit is the log-ratio of the densities.

    $\mathcal L_D = \mathbb E_{p}[\log(1+e^{-d(x)})] + \mathbb E_{q}[\log(1+e^{d(x)})],\quad
        d^*(x) = \log\frac{p(x)}{q(x)}$

    The optimal value is $\log 4 - 2\,\mathrm{JSD}(p, q)$.
    Shapes: logits of samples of p [N] and of q [P] -> scalar, nats.
    Source: Goodfellow et al. 2014, eq. 1 and proposition 1; Sugiyama, Suzuki, Kanamori 2012, chapter 4.

    >>> round(float(discriminator_loss(jnp.zeros(3), jnp.zeros(2))), 6)
    1.386294
    """
    logits_real, logits_fake = as_wide(logits_real, logits_fake)
    return jnp.mean(jax.nn.softplus(-logits_real)) + jnp.mean(jax.nn.softplus(logits_fake))


def generator_loss(logits_fake: Array) -> Array:
    r"""Non-saturating loss of a generator.

    $\mathcal L_G = \mathbb E_{q}[\log(1+e^{-d(x)})]$

    Shapes: logits [P] -> scalar, nats.  Source: Goodfellow et al. 2014, section 3 (maximise log D(G(z))).

    >>> round(float(generator_loss(jnp.zeros(3))), 6)
    0.693147
    """
    return jnp.mean(jax.nn.softplus(-as_wide(logits_fake)))
