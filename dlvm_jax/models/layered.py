"""Objectives of densities with several latent layers: the KL of each layer weighed ("rates"), and spectral norms."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dlvm_jax.functional import hierarchical
from dlvm_jax.models.density import Density
from dlvm_jax.models.objectives import Objective, unpack

__all__ = ["layered_elbo", "singular_vectors", "spectral"]

ITERATIONS = 4  # of the power iteration in each step (Vahdat & Kautz 2020, code)


def layered_elbo(
    density: Density, beta: Any = 1.0, free_nats: float | None = None, sizes: Sequence[float] | None = None
) -> Objective:
    r"""Minus the ELBO whose layers are weighed one by one.

    $-\mathbb E[\log p(x|z)] + \beta\sum_l\gamma_l\max(\lambda,\mathbb E_x[\mathrm{KL}_l])$

    beta:      weight of the whole KL
    free_nats: lambda, what each layer may spend for nothing (Kingma et al. 2016, eq. 15); None: no maximum, which would cut
               off the KL of a batch that is estimated below zero
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
        weighed = rates.sum(-1).mean() if free_nats is None else hierarchical.free_bits(rates, free_nats)
        loss = beta * weighed - log_lik
        return loss, {"bound": log_lik - kl, "reconstruction": log_lik, "kl": kl}

    return objective


def _kernels(params: Any) -> dict[str, Any]:
    """The kernels of convolutions by their place, [*stack, height, width, inputs, outputs]."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("kernel") and len(leaf.shape) >= 4:
            found[name] = leaf
    return found


def _matrix(kernel: jax.Array) -> jax.Array:
    """[*stack, height, width, inputs, outputs] -> [*stack, outputs, everything else]."""
    return jnp.moveaxis(kernel, -1, -4).reshape(*kernel.shape[:-4], kernel.shape[-1], -1)


def singular_vectors(params: Any, key: jax.Array) -> dict[str, jax.Array]:
    """Random left singular vectors of all convolutions, from which `spectral` starts.

    params: parameters, or their shapes.  Raises ValueError where there are no convolutions.
    """
    kernels = _kernels(params)
    if not kernels:
        raise ValueError("spectral norms are of convolutions, and this model has none; leave them out")
    keys = jax.random.split(key, len(kernels))
    return {
        name: jax.random.normal(k, (*kernel.shape[:-4], kernel.shape[-1]))
        for (name, kernel), k in zip(kernels.items(), keys, strict=True)
    }


def spectral(objective: Objective, weight: float) -> Objective:
    """An objective plus `weight` times the sum of the largest singular values of all convolutions (Vahdat & Kautz 2020, eq. 4).

    Its parameters are a pair: those of the objective, and the singular vectors of a power iteration, which are no parameters
    and are handed on as the metric "variables".  Metric: "spectral", the sum.
    """

    def regularised(params, key, batch, step=None):
        params, vectors = params
        loss, metrics = objective(params, key, batch, step)
        found = {
            name: hierarchical.power_iteration(_matrix(kernel), vectors[name], ITERATIONS)
            for name, kernel in _kernels(params).items()
        }
        total = sum(jnp.sum(norm) for norm, _ in found.values())
        following = {name: vector for name, (_, vector) in found.items()}
        return loss + weight * total, {**metrics, "spectral": total, "variables": following}

    return regularised
