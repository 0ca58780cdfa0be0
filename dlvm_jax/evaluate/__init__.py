"""Evaluation: likelihood records with protocol and standard error, diagnostics of latent spaces, and pictures.

Sub-modules load on first use: matplotlib with `pictures`, scikit-learn with `disentanglement` and `posteriors`.
"""

from typing import TYPE_CHECKING, Any

from dlvm_jax.lazy import attribute

if TYPE_CHECKING:
    from dlvm_jax.evaluate.likelihood import (
        Record,
        active_units,
        evaluate,
        evaluation_key,
        log_likelihood,
        paired,
    )

_FUNCTIONS = ("Record", "active_units", "evaluate", "evaluation_key", "log_likelihood", "paired")
__all__ = [
    "Record",
    "active_units",
    "annealed",
    "baseline_code_lengths",
    "diagnostics",
    "disentanglement",
    "evaluate",
    "evaluation_key",
    "importance",
    "likelihood",
    "log_likelihood",
    "paired",
    "pictures",
    "posteriors",
    "resume",
]


def __getattr__(name: str) -> Any:
    return attribute(__name__, name, __all__, {function: "likelihood" for function in _FUNCTIONS})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
