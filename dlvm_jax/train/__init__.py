"""Training: one engine for every model, with checkpoints, exact resume, progress and guards.

`fit` trains a recipe on data and `load` reads what it trained.  The modules below them serve a model of one's own.  All load
on first use.
"""

import importlib

_FROM = {"Fitted": "fitting", "TrainConfig": "config", "fit": "fitting", "load": "fitting"}
_MODULES = (
    "checkpoint",
    "config",
    "cost",
    "engine",
    "export",
    "fitted",
    "fitting",
    "loop",
    "optimisers",
    "order",
    "parallel",
    "run",
    "skipping",
    "stream",
    "trees",
    "validation",
)
__all__ = [*_FROM, *_MODULES]


def __getattr__(name):
    if name in _FROM:
        return getattr(importlib.import_module(f"{__name__}.{_FROM[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__():
    return sorted([*globals(), *__all__])
