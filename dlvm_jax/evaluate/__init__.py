"""Evaluation: likelihood records with protocol and standard error, diagnostics of latent spaces, and pictures."""

from dlvm_jax.evaluate import (
    annealed,
    diagnostics,
    disentanglement,
    importance,
    likelihood,
    pictures,
    simple_codes,
)
from dlvm_jax.evaluate.likelihood import Record, active_units, evaluate

__all__ = [
    "Record",
    "active_units",
    "annealed",
    "diagnostics",
    "disentanglement",
    "evaluate",
    "importance",
    "likelihood",
    "pictures",
    "simple_codes",
]
