"""Optimisers and learning-rate schedules by name, made of Optax's."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlvm_jax.settings import pick
from dlvm_jax.train.skipping import skip_updates

__all__ = ["OPTIMISERS", "SCHEDULES", "make"]


class Entry(NamedTuple):
    """An optimiser or a schedule by name.

    make: (learning_rate), also (learning_rate, weight_decay=...) where that is in `uses`; of a schedule (peak, steps, warm_up)
    help: what a help text says of it;  uses: settings that belong to it
    """

    make: Callable
    help: str = ""
    uses: tuple[str, ...] = ()


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


def _adamax_of_nvae(learning_rate, weight_decay=3e-4):
    """Adamax as in the code of Vahdat & Kautz 2020: epsilon = 1e-3, with an L2 penalty, not a decoupled decay."""
    decay, adamax = optax.add_decayed_weights(weight_decay), optax.adamax(learning_rate, eps=1e-3)
    return optax.chain(decay, adamax)


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
    "adamax-nvae": Entry(
        _adamax_of_nvae, "of Vahdat & Kautz 2020, epsilon 1e-3, L2 penalty 3e-4", ("weight_decay",)
    ),
    "adamw": Entry(optax.adamw, "weight decay 1e-4", ("weight_decay",)),
    "adamw-vdvae": Entry(
        functools.partial(optax.adamw, b2=0.9, weight_decay=0.01),
        "of Child 2021, beta2 0.9, weight decay 0.01",
        ("weight_decay",),
    ),
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
    weight_decay: float | None = None,
    clip: float | None = None,
    skip: float | None = None,
) -> optax.GradientTransformation:
    """An Optax optimiser.

    name:          one of OPTIMISERS
    learning_rate: the peak of the schedule
    steps:         of the whole training, over which the schedule extends
    schedule:      one of SCHEDULES
    warm_up:       steps in which the learning rate rises to its peak
    weight_decay:  instead of the optimiser's usual one, None to keep that
    clip:          the largest global norm of a gradient, or None for any
    skip:          the global norm of a gradient, before clipping, above which an update is left out (see `skip_updates`), or None

    Raises ValueError for an unknown name, a learning rate, warm-up, clip or skip that is impossible, and a weight decay of an
    optimiser that has none.
    """
    if not learning_rate > 0:
        raise ValueError(f"the learning rate must be positive, got {learning_rate}")
    if not 0 <= warm_up < steps:
        raise ValueError(f"the warm-up lies between 0 and the {steps} steps, got {warm_up}")
    if clip is not None and not clip > 0:
        raise ValueError(f"the global norm is clipped to a positive value, got {clip}")
    rate = pick(SCHEDULES, schedule, "schedule").make(learning_rate, steps, warm_up)
    entry = pick(OPTIMISERS, name, "optimiser")
    if weight_decay is not None and "weight_decay" not in entry.uses:
        having = ", ".join(other for other, its in OPTIMISERS.items() if "weight_decay" in its.uses)
        raise ValueError(f"the optimiser {name!r} has no weight decay, got {weight_decay}; {having} have one")
    optimiser = entry.make(rate) if weight_decay is None else entry.make(rate, weight_decay=weight_decay)
    if clip is not None:
        optimiser = optax.chain(optax.clip_by_global_norm(clip), optimiser)
    return optimiser if skip is None else skip_updates(optimiser, skip)
