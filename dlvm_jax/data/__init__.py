"""Data sets by name, path or array, under named protocols.

`load("mnist")`, `load("faces.npy")` and `from_arrays(x)` give arrays, the transformation that training applies to a raw
minibatch, and the protocol with its hash.  TensorFlow Datasets, scikit-learn and Pillow are imported only when they are needed.
"""

from dlvm_jax.data import factors
from dlvm_jax.data.arrays import from_arrays
from dlvm_jax.data.dataset import Data, Rows, Spec
from dlvm_jax.data.loading import load, names, protocols
from dlvm_jax.data.protocol import TRANSFORMS, Protocol

__all__ = [
    "TRANSFORMS",
    "Data",
    "Protocol",
    "Rows",
    "Spec",
    "factors",
    "from_arrays",
    "load",
    "names",
    "protocols",
]
