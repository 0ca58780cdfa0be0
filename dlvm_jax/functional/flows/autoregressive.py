"""Affine autoregressive flows: each coordinate is scaled and shifted by functions of those before it.

A conditioner maps z [*batch, D] to (shift, log_scale), each [*batch, D], of which element i depends on z_1, ..., z_(i-1) only.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_wide, sum_event
from dlvm_jax.functional.types import Array

__all__ = ["autoregressive", "autoregressive_inverse", "forward_substitution", "gate"]

Conditioner = Callable[[Array], tuple[Array, Array]]


def gate(m: Array, s: Array) -> tuple[Array, Array]:
    r"""Shift and log-scale of the gated step of an inverse autoregressive flow.

    $\sigma = \mathrm{sigmoid}(s),\quad y = \sigma\odot z + (1-\sigma)\odot m$

    Shapes: `m`, `s` broadcast -> (shift $(1-\sigma)m$, log_scale $\log\sigma$), for `autoregressive`.  A large s is near
    the identity.  Source: Kingma et al. 2016, eq. 14.

    >>> gate(jnp.array([4.0]), jnp.array([0.0]))
    (Array([2.], dtype=float32), Array([-0.6931472], dtype=float32))
    """
    m, s = as_wide(m, s)
    return jax.nn.sigmoid(-s) * m, jax.nn.log_sigmoid(s)


def autoregressive(z: Array, conditioner: Conditioner) -> tuple[Array, Array]:
    r"""The affine autoregressive flow (IAF; its inverse is MAF) and its log-determinant: all coordinates in one pass.

    $y_i = \mu_i(z_{<i}) + \sigma_i(z_{<i})\,z_i,\quad \log|\det\tfrac{\partial y}{\partial z}| = \sum_i\log\sigma_i$

    Shapes: `z` [*batch, D], `conditioner(z)` -> (mu, log sigma), each [*batch, D] -> y [*batch, D], log_det [*batch].
    Source: Kingma et al. 2016, eq. 10 and 11.

    >>> autoregressive(jnp.array([3.0]), lambda z: (jnp.ones(1), jnp.zeros(1)))
    (Array([4.], dtype=float32), Array(0., dtype=float32))
    """
    z = as_wide(z)
    shift, log_scale = as_wide(*conditioner(z))
    return shift + jnp.exp(log_scale) * z, sum_event(log_scale, 1)


def forward_substitution(
    solve: Callable[[Array, Array, Array], tuple[Array, Array]], x: Array
) -> tuple[Array, Array]:
    r"""Solve a triangular system of equations, one coordinate after another, each once.

    $z_i = g_i(z_{<i}, x_i),\ i = 1,\ldots,D,\qquad \log|\det\tfrac{\partial z}{\partial x}| =
        \sum_i\log|\tfrac{\partial g_i}{\partial x_i}|$

    Shapes: `x` [*batch, D]; `solve(z, x_i [*batch], i)` -> (z_i, log-derivative), each [*batch], from z_1, ..., z_(i-1) in
    z [*batch, D], whose other coordinates are still zero -> z [*batch, D], log_det [*batch].
    Source: Papamakarios, Pavlakou, Murray 2017, eq. 3.

    >>> forward_substitution(lambda z, x, i: (x + z.sum(), jnp.zeros(())), jnp.ones(4))[0]
    Array([1., 2., 4., 8.], dtype=float32)
    """

    def fill(carry, column):
        z, log_det = carry
        x_i, i = column
        z_i, more = solve(z, x_i, i)
        return (z.at[..., i].set(z_i), log_det + more), None

    x = as_wide(x)
    start = (jnp.zeros_like(x), jnp.zeros(x.shape[:-1], x.dtype))
    return jax.lax.scan(fill, start, (jnp.moveaxis(x, -1, 0), jnp.arange(x.shape[-1])))[0]


def autoregressive_inverse(y: Array, conditioner: Conditioner) -> tuple[Array, Array]:
    r"""The inverse of the affine autoregressive flow, one coordinate after another, and the log-determinant of the inverse.

    $z_i = \frac{y_i - \mu_i(z_{<i})}{\sigma_i(z_{<i})},\ i = 1,\ldots,D$

    Shapes: `y` [*batch, D], `conditioner(z)` -> (mu, log sigma), each [*batch, D] -> z [*batch, D], log_det [*batch]; D
    evaluations of the conditioner.  Source: Kingma et al. 2016, section 3.

    >>> autoregressive_inverse(jnp.array([4.0]), lambda z: (jnp.ones(1), jnp.zeros(1)))
    (Array([3.], dtype=float32), Array(0., dtype=float32))
    """

    def solve(z, y_i, i):
        shift, log_scale = (values[..., i] for values in conditioner(z))
        return (y_i - shift) * jnp.exp(-log_scale), -log_scale

    return forward_substitution(solve, y)
