"""The radial flow: expansion or contraction about a point."""

import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_wide, norm
from dlvm_jax.functional.types import Array, Numeric

__all__ = ["radial", "radial_inverse"]


def _stretch(r, alpha, beta, dim):
    """Factor of the offset at distance r from the centre, and the log-determinant."""
    h = 1 / (alpha + r)
    log_det = (dim - 1) * jnp.log1p(beta * h) + jnp.log1p(beta * alpha * jnp.square(h))
    return 1 + beta * h, log_det


def radial(z: Array, centre: Array, alpha: Numeric, beta: Numeric) -> tuple[Array, Array]:
    r"""The radial flow and its log-determinant.

    $y = z + \beta h\,(z-z_0),\ h = \frac1{\alpha+r},\ r = \|z-z_0\|,\quad
        \log|\det\tfrac{\partial y}{\partial z}| = (D-1)\log(1+\beta h) + \log(1 + \beta h + \beta h' r),\ h' = -h^2$

    Shapes: `z`, `centre` ($z_0$) broadcast to [*batch, D], `alpha` > 0 and `beta` to [*batch] -> y [*batch, D],
    log_det [*batch].  Invertible for $\beta > -\alpha$: take beta from `constraints.radial_beta_hat`.
    Source: Rezende & Mohamed 2015, eq. 14.

    >>> radial(jnp.array([1.0, 0.0]), jnp.zeros(2), 1.0, 2.0)[0]
    Array([2., 0.], dtype=float32)
    """
    z, centre, alpha, beta = as_wide(z, centre, alpha, beta)
    offset = z - centre
    factor, log_det = _stretch(norm(offset), alpha, beta, offset.shape[-1])
    return centre + factor[..., None] * offset, log_det


def radial_inverse(y: Array, centre: Array, alpha: Numeric, beta: Numeric) -> tuple[Array, Array]:
    r"""The inverse of the radial flow, in closed form, and the log-determinant of the inverse.

    $z = z_0 + \frac{y-z_0}{1+\beta h},\quad r = \tfrac12\big(s + \sqrt{s^2 + 4\alpha\rho}\big),
        \ s = \rho-\alpha-\beta,\ \rho = \|y-z_0\|$

    The distance r solves $\rho = r + \beta r/(\alpha+r)$, a quadratic equation.
    Shapes: `y`, `centre` broadcast to [*batch, D], `alpha`, `beta` to [*batch] -> z [*batch, D], log_det [*batch], minus that of
    `radial` at z.  Source: Rezende & Mohamed 2015, appendix A.2.

    >>> radial_inverse(jnp.array([2.0, 0.0]), jnp.zeros(2), 1.0, 2.0)[0]
    Array([1., 0.], dtype=float32)
    """
    y, centre, alpha, beta = as_wide(y, centre, alpha, beta)
    offset = y - centre
    rho = norm(offset)
    s = rho - alpha - beta
    larger = 0.5 * (jnp.where(s > 0, s, -s) + jnp.sqrt(jnp.square(s) + 4 * alpha * rho))
    r = jnp.where(s > 0, larger, alpha * rho / larger)  # the other form would cancel
    factor, log_det = _stretch(r, alpha, beta, offset.shape[-1])
    return centre + offset / factor[..., None], -log_det
