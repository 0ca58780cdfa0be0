"""Evaluation: likelihood records with protocol and standard error, diagnostics of latent spaces, and pictures."""

from dlvm_jax.evaluate import (
    annealed,
    baseline_code_lengths,
    diagnostics,
    disentanglement,
    importance,
    likelihood,
    pictures,
)
from dlvm_jax.evaluate.likelihood import Record, active_units, evaluate

__all__ = [
    "Record",
    "active_units",
    "annealed",
    "baseline_code_lengths",
    "diagnostics",
    "disentanglement",
    "evaluate",
    "importance",
    "likelihood",
    "pictures",
]
