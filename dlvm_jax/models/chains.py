"""Draws of a density that is known up to a constant, by Markov chains of the package `blackjax`, which is an extra."""

from collections.abc import Callable
from typing import Any

import jax

__all__ = ["nuts", "package"]

WARM_UP = 300  # steps in which a chain finds its step size and the scale of each coordinate
DOUBLINGS = 7  # of a path, at most: all chains wait for the longest one


def package() -> Any:
    """The package blackjax.  Raises ValueError where it is not installed."""
    try:
        import blackjax
    except ImportError:
        raise ValueError("Markov chains need blackjax: pip install 'dlvm_jax[mcmc]'") from None
    return blackjax


def nuts(key: jax.Array, log_density: Callable, start: jax.Array, count: int) -> jax.Array:
    """Draws of an unnormalised density on R^D by the no-U-turn sampler: so many of each chain, all chains at once.

    log_density: (u [D]) -> scalar, nats;  start: where the chains start, [M, D]

    Each chain finds its own step size and scales in a warm-up of 300 steps, whose windows are those of Stan.  -> [M, count, D].
    Raises ValueError where blackjax is not installed.
    Source: Hoffman & Gelman 2014.
    """
    blackjax = package()
    warm_up = blackjax.window_adaptation(
        blackjax.nuts, log_density, adaptation_info_fn=lambda *every: None, max_num_doublings=DOUBLINGS
    )

    def chain(key, start):
        key_warm_up, key_draws = jax.random.split(key)
        (state, found), _ = warm_up.run(key_warm_up, start, num_steps=WARM_UP)
        step = blackjax.nuts(log_density, **found).step

        def move(state, key):
            state, _ = step(key, state)
            return state, state.position

        return jax.lax.scan(move, state, jax.random.split(key_draws, count))[1]

    return jax.vmap(chain)(jax.random.split(key, len(start)), start)
