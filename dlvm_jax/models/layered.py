"""Objectives of densities with several latent layers, whose `terms` hold the KL of each layer ("rates")."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from dlvm_jax.functional import hierarchical
from dlvm_jax.models.density import Density
from dlvm_jax.models.objectives import Objective, unpack

__all__ = ["layered_elbo"]


def layered_elbo(
    density: Density, beta: Any = 1.0, free_nats: float = 0.0, sizes: Sequence[float] | None = None
) -> Objective:
    r"""Minus the ELBO whose layers are weighed one by one.

    $-\mathbb E[\log p(x|z)] + \beta\sum_l\gamma_l\max(\lambda,\mathbb E_x[\mathrm{KL}_l])$

    beta:      weight of the whole KL
    free_nats: lambda, what each layer may spend for nothing (Kingma et al. 2016, eq. 15)
    sizes:     what each layer is expected to carry: gamma_l balances them while beta is below 1 (Vahdat & Kautz 2020,
               appendix A); None: gamma_l = 1

    Metrics: "bound" (the ELBO), "reconstruction", "kl".
    Raises ValueError for a density of one layer.
    """

    def objective(params, key, batch, step=None):
        terms = density.terms(params, key, *unpack(batch)) if density.terms else {}
        if "rates" not in terms:
            raise ValueError("layers are weighed where a density has several; use negative_elbo")
        rates = terms["rates"]
        if sizes is not None:
            balanced = rates * hierarchical.balancing_coefficients(rates, jnp.asarray(sizes))
            rates = jnp.where(jnp.asarray(beta) < 1, balanced, rates)
        log_lik, kl = terms["reconstruction"].mean(), terms["kl"].mean()
        loss = beta * hierarchical.free_bits(rates, free_nats) - log_lik
        return loss, {"bound": log_lik - kl, "reconstruction": log_lik, "kl": kl}

    return objective
