"""Optimisers and learning-rate schedules by name, made of Optax's."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlvm_jax.settings import pick

__all__ = ["OPTIMISERS", "SCHEDULES", "make"]


class Entry(NamedTuple):
    """An optimiser `make(learning_rate)`, or a schedule `make(peak, steps, warm_up)`, and what a help text says of it."""

    make: Callable
    help: str = ""


SUMMED = 20  # examples of a batch of Burda et al. 2016


def _adam_of_burda(learning_rate):
    """Adam as in the code of Burda, Grosse, Salakhutdinov 2016: second moments that start at one, of gradients summed over 20.

    beta1 = 0.99 and epsilon = 1e-4; here for the mean gradient, so epsilon and the moments are those of the sum brought down.
    """
    adam = optax.scale_by_adam(b1=0.99, eps=1e-4 / SUMMED)

    def init(params):
        state: Any = adam.init(params)
        return state._replace(nu=jax.tree.map(lambda x: jnp.full_like(x, SUMMED**-2), params))

    scaled = optax.GradientTransformation(init, adam.update)
    return optax.chain(scaled, optax.scale_by_learning_rate(learning_rate))


def _stages(peak, steps, warm_up):
    """Eight stages, each three times as long as the one before, whose rates fall to a tenth (Burda et al. 2016, section 5)."""
    if warm_up:
        raise ValueError(
            "the schedule 'stages' starts at its peak and has no warm-up; leave the warm-up at 0"
        )
    rates = [peak * round(10 ** (1 - stage / 7), 1) / 10 for stage in range(8)]
    ends = [round(steps * (3**stage - 1) / (3**8 - 1)) for stage in range(1, 8)]
    return optax.join_schedules([optax.constant_schedule(rate) for rate in rates], ends)


OPTIMISERS = {
    "adam": Entry(optax.adam),
    "adam-burda": Entry(_adam_of_burda, "of Burda et al. 2016, for gradients summed over 20 examples"),
    "adamax": Entry(optax.adamax),
    "adamw": Entry(optax.adamw),
    "rmsprop": Entry(optax.rmsprop),
    "sgd": Entry(optax.sgd),
}

SCHEDULES = {
    "constant": Entry(
        lambda peak, steps, warm_up: optax.linear_schedule(0.0, peak, warm_up) if warm_up else peak
    ),
    "cosine": Entry(
        lambda peak, steps, warm_up: optax.warmup_cosine_decay_schedule(0.0, peak, warm_up, steps),
        "falls to zero",
    ),
    "stages": Entry(_stages, "eight, each three times as long as the one before, Burda et al. 2016"),
}


def make(
    name: str,
    learning_rate: float,
    steps: int,
    *,
    schedule: str = "constant",
    warm_up: int = 0,
    clip: float | None = None,
) -> optax.GradientTransformation:
    """An Optax optimiser.

    name:          one of OPTIMISERS
    learning_rate: the peak of the schedule
    steps:         of the whole training, over which the schedule extends
    schedule:      one of SCHEDULES
    warm_up:       steps in which the learning rate rises to its peak
    clip:          the largest global norm of a gradient, or None for any

    Raises ValueError for an unknown name, or a learning rate, warm-up or clip that is impossible.
    """
    if not learning_rate > 0:
        raise ValueError(f"the learning rate must be positive, got {learning_rate}")
    if not 0 <= warm_up < steps:
        raise ValueError(f"the warm-up lies between 0 and the {steps} steps, got {warm_up}")
    if clip is not None and not clip > 0:
        raise ValueError(f"the global norm is clipped to a positive value, got {clip}")
    rate = pick(SCHEDULES, schedule, "schedule").make(learning_rate, steps, warm_up)
    optimiser = pick(OPTIMISERS, name, "optimiser").make(rate)
    return optimiser if clip is None else optax.chain(optax.clip_by_global_norm(clip), optimiser)
