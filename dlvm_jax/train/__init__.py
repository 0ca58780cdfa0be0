"""Training: one engine for every model, with checkpoints, exact resume, progress and guards."""

from dlvm_jax.train import checkpoint, engine, loop, optimisers, order, parallel, run

__all__ = ["checkpoint", "engine", "loop", "optimisers", "order", "parallel", "run"]
