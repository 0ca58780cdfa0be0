"""Optimisers and learning-rate schedules by name, all from Optax."""

import optax

__all__ = ["OPTIMISERS", "SCHEDULES", "make"]

OPTIMISERS = {
    "adam": optax.adam,
    "adamax": optax.adamax,
    "adamw": optax.adamw,
    "rmsprop": optax.rmsprop,
    "sgd": optax.sgd,
}

SCHEDULES = {
    "constant": lambda peak, steps, warm_up: optax.linear_schedule(0.0, peak, warm_up) if warm_up else peak,
    "cosine": lambda peak, steps, warm_up: optax.warmup_cosine_decay_schedule(0.0, peak, warm_up, steps),
}


def _pick(table, name, what):
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; there are {', '.join(sorted(table))}")
    return table[name]


def make(name, learning_rate, steps, *, schedule="constant", warm_up=0, clip=None):
    """An Optax optimiser: clipping by global norm (None for none), then `name` under a schedule over `steps`.

    Raises ValueError for an unknown name, or a learning rate, warm-up or clip that is impossible.
    """
    if not learning_rate > 0:
        raise ValueError(f"the learning rate must be positive, got {learning_rate}")
    if not 0 <= warm_up < steps:
        raise ValueError(f"the warm-up lies between 0 and the {steps} steps, got {warm_up}")
    if clip is not None and not clip > 0:
        raise ValueError(f"the global norm is clipped to a positive value, got {clip}")
    rate = _pick(SCHEDULES, schedule, "schedule")(learning_rate, steps, warm_up)
    optimiser = _pick(OPTIMISERS, name, "optimiser")(rate)
    return optimiser if clip is None else optax.chain(optax.clip_by_global_norm(clip), optimiser)
