"""Evaluation: likelihood records with protocol and standard error, diagnostics of latent spaces, and pictures.

Sub-modules load on first use: matplotlib with `pictures`, scikit-learn with `disentanglement`.
"""

from typing import Any

from dlvm_jax.lazy import attribute

_MODULES = (
    "annealed",
    "baseline_code_lengths",
    "diagnostics",
    "disentanglement",
    "importance",
    "likelihood",
    "pictures",
    "resume",
)
_MEMBERS = dict.fromkeys(
    ("Record", "active_units", "evaluate", "evaluation_key", "log_likelihood", "paired"), "likelihood"
)
__all__ = sorted([*_MODULES, *_MEMBERS])


def __getattr__(name: str) -> Any:
    return attribute(__name__, name, _MODULES, _MEMBERS)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
