"""Deep latent variable models in JAX.

`functional` and `exact` hold the mathematics, `nets` the Flax modules, `models` joins them into `Density`s, `train` trains,
`data` reads, `evaluate` measures, `coding` compresses.  Sub-packages load on first use, so importing the functional losses
loads JAX and nothing else.
"""

from typing import Any

from dlvm_jax.lazy import attribute

__version__ = "0.1.0"
__all__ = [
    "coding",
    "data",
    "evaluate",
    "exact",
    "formulas",
    "functional",
    "models",
    "nets",
    "recipes",
    "train",
]


def __getattr__(name: str) -> Any:
    return attribute(__name__, name, __all__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
