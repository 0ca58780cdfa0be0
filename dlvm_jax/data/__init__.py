"""Data sets by name, under named protocols.

`load("mnist")` gives arrays, the transformation training applies to a raw minibatch, and the protocol with its hash.
TensorFlow Datasets is imported only when a set is asked for.
"""

from dlvm_jax.data import factors
from dlvm_jax.data.loading import Data, Spec, load, names, protocols
from dlvm_jax.data.protocol import Protocol

__all__ = ["Data", "Protocol", "Spec", "factors", "load", "names", "protocols"]
