"""Bijections with their log-determinants: each a pair of pure functions, forward and inverse.

Both return (value, log-determinant of the map they compute); z is [*batch, D], the log-determinant [*batch], in nats.
Parameters are plain arrays that broadcast against the batch, so each example may have its own (an amortised flow).
"""

from dlvm_jax.functional.flows import (
    autoregressive,
    constraints,
    orthogonal,
    planar,
    radial,
    roots,
    sylvester,
)

__all__ = ["autoregressive", "constraints", "orthogonal", "planar", "radial", "roots", "sylvester"]
