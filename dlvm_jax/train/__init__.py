"""Training: one engine for every model, with checkpoints, exact resume, progress and guards."""

from dlvm_jax.train import checkpoint, cost, engine, loop, optimisers, order, parallel, run, validation

__all__ = ["checkpoint", "cost", "engine", "loop", "optimisers", "order", "parallel", "run", "validation"]
