"""Evaluation: likelihood records with protocol and standard error, and pictures."""

from dlvm_jax.evaluate import likelihood, pictures
from dlvm_jax.evaluate.likelihood import Record, active_units, evaluate

__all__ = ["Record", "active_units", "evaluate", "likelihood", "pictures"]
