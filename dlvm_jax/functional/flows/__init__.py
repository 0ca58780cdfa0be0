"""Bijections with their log-determinants: each a pair of pure functions, forward and inverse.

Both return (value, log-determinant of the map they compute); z is [*batch, D], the log-determinant [*batch], in nats.  The maps
of one number or angle (`spline`, `circle`, `monotonic`) work elementwise: z and log-derivative are [*batch] alike.
Parameters are plain arrays that broadcast against the batch, so each example may have its own (an amortised flow).
"""

from dlvm_jax.functional.flows import (
    autoregressive,
    circle,
    constraints,
    continuous,
    image,
    linear,
    monotonic,
    orthogonal,
    planar,
    radial,
    roots,
    sphere,
    spline,
    sylvester,
)

__all__ = [
    "autoregressive",
    "circle",
    "constraints",
    "continuous",
    "image",
    "linear",
    "monotonic",
    "orthogonal",
    "planar",
    "radial",
    "roots",
    "sphere",
    "spline",
    "sylvester",
]
