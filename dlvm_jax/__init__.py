"""Deep latent variable models in JAX.

`functional` and `exact` hold the mathematics, `nets` the Flax modules, `models` joins them into `Density`s, `train`
trains, `data` reads, `evaluate` measures.  Sub-packages load on first use, so importing the functional losses loads
JAX and nothing else.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["data", "evaluate", "exact", "formulas", "functional", "models", "nets", "train"]


def __getattr__(name):
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__():
    return sorted([*globals(), *__all__])
