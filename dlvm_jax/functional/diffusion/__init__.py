"""Diffusion: noise processes, what a network may predict, objectives and bounds, samplers, likelihoods."""

from dlvm_jax.functional.diffusion import (
    ancestral,
    dpm,
    guidance,
    inverse,
    likelihood,
    objectives,
    ode,
    process,
    quantised,
    schedules,
    score_matching,
    sde,
    solvers,
    targets,
    times,
    variational,
)

__all__ = [
    "ancestral",
    "dpm",
    "guidance",
    "inverse",
    "likelihood",
    "objectives",
    "ode",
    "process",
    "quantised",
    "schedules",
    "score_matching",
    "sde",
    "solvers",
    "targets",
    "times",
    "variational",
]
