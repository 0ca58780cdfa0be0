"""Evaluation: likelihood records with protocol and standard error, diagnostics of latent spaces, and pictures.

Sub-modules load on first use: matplotlib with `pictures`, scikit-learn with `disentanglement` and `posteriors`.
"""

from typing import TYPE_CHECKING, Any

from dlvm_jax.lazy import attribute

if TYPE_CHECKING:
    from dlvm_jax.evaluate.likelihood import (
        Record,
        evaluate,
        evaluation_key,
        log_likelihood,
        paired,
    )
    from dlvm_jax.evaluate.units import active_units, units_of_layers

_PLACES = {
    **dict.fromkeys(("Record", "evaluate", "evaluation_key", "log_likelihood", "paired"), "likelihood"),
    **dict.fromkeys(("active_units", "units_of_layers"), "units"),
}
__all__ = [
    "Record",
    "active_units",
    "annealed",
    "baseline_code_lengths",
    "diagnostics",
    "disentanglement",
    "evaluate",
    "evaluation_key",
    "examples",
    "importance",
    "likelihood",
    "log_likelihood",
    "paired",
    "pictures",
    "posteriors",
    "resume",
    "units",
    "units_of_layers",
]


def __getattr__(name: str) -> Any:
    return attribute(__name__, name, __all__, _PLACES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
