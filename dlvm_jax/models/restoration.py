"""A hierarchical VAE as the prior of a restoration: its pass from x to the likelihood at the code of x."""

from collections.abc import Callable
from typing import Any

import jax

from dlvm_jax.models.top_down import TopDown

__all__ = ["autoencoder"]


def autoencoder(
    model: TopDown, params: Any, temperature: float = 1.0
) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    r"""The function x [*batch, *event] -> (mean, standard deviation) of the likelihood, for `functional.restoration.pnp`.

    The code of x is the mean of the posterior, layer by layer, where each group has the law q p^(1/t^2 - 1); the top latent
    has q.  A temperature below 1 draws the groups to their priors, and so regularises more.
    Of a discretised likelihood location and scale are taken, those of the law before it is rounded.

    What holds at the fixed point of `pnp`, with the exact encoder of a linear-Gaussian model:
    at temperature 1 it is the mode of p(x, z | y).  Below, with a pass x -> G x whose G is symmetric, it is the mode under a
    Gaussian prior of x of precision (I - G) / g^2.  With one group, whose prior does not depend on the top latent, this is
    the model with the tempered prior p(z)^(1/t^2).  With several it is not, as what the encoder says of a layer counts
    the layers below at temperature 1.

    Raises ValueError for a temperature that is not in (0, 1], and for a likelihood without a standard deviation.
    Source: Prost, Houdard, Almansa, Papadakis 2023, algorithm 1.
    """
    if not 0 < temperature <= 1:
        raise ValueError(f"a restoration has a temperature above 0 and at most 1, got {temperature}")
    likelihood, pull = model.likelihood, 1 / temperature**2 - 1
    if likelihood.std is None:
        raise ValueError(
            "a restoration needs a likelihood with a mean and a standard deviation of each element, and this one has none; "
            "train on levels, with likelihood='discretised-logistic'"
        )
    mean_of: Any = likelihood.mean
    std_of = likelihood.std

    def run(x):
        h, _ = model.state(params, model.infer(params, None, x, pull))
        return mean_of(params["likelihood"], h), std_of(params["likelihood"], h)

    return run
