"""Training: one engine for every model, with checkpoints, exact resume, progress and guards."""

from dlvm_jax.train import (
    checkpoint,
    config,
    cost,
    engine,
    loop,
    optimisers,
    order,
    parallel,
    run,
    validation,
)

__all__ = [
    "checkpoint",
    "config",
    "cost",
    "engine",
    "loop",
    "optimisers",
    "order",
    "parallel",
    "run",
    "validation",
]
