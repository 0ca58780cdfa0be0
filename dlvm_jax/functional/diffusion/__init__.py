"""Diffusion: noise processes, what a network may predict, objectives, solvers, likelihoods."""

from dlvm_jax.functional.diffusion import process, schedules, targets

__all__ = ["process", "schedules", "targets"]
