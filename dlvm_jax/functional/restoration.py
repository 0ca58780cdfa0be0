r"""Restoration of x from y = A x + N(0, s^2 I) with a hierarchical VAE as prior (PnP-HVAE, Prost et al. 2023).

The joint density p(y | x) p(x | z) p(z) is maximised in turn: z by the encoder, then x by the data step, which is a linear
problem where p(x | z) is Gaussian.  `observe` is A, as in `diffusion.inverse`, which has masks, blurs and averages.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlvm_jax.functional.diffusion import inverse
from dlvm_jax.functional.numerics import as_wide
from dlvm_jax.functional.types import Array, Numeric

__all__ = ["Restored", "data_step", "data_step_masked", "pnp"]


def data_step(
    observe: Callable[[Array], Array],
    y: Array,
    std: Numeric,
    mean: Array,
    scale: Numeric,
    iterations: int = 50,
    *,
    event_ndim: int,
) -> Array:
    r"""The point between an observation and a guess, by conjugate gradients.

    $\arg\min_x \frac{\|y-Ax\|^2}{2s^2}+\sum_i\frac{(x_i-m_i)^2}{2g_i^2}
        = m + GA^\top(AGA^\top+s^2I)^{-1}(y-Am),\quad G=\mathrm{diag}(g^2)$

    observe: A, a linear function of x [*batch, *event] of any shape
    std: s, of the noise;  mean, scale: m and g, a guess of x and how far it may be off
    iterations: of conjugate gradients; as many as y has entries make it exact, as many as A G A^T has eigenvalues are enough
    event_ndim: the last event_ndim axes of x are one example, one system
    Shapes: `y` [*batch, *obs] or [*obs], mean [*batch, *event], std broadcasts with y, scale with x -> as mean.
    Raises ValueError where y does not have the shape of `observe`.
    Source: Prost, Houdard, Almansa, Papadakis 2023, section 4.

    >>> data_step(lambda x: x[..., :1], jnp.array([3.0]), 1.0, jnp.array([1.0, 5.0]), 1.0, event_ndim=1).tolist()
    [2.0, 5.0]
    """
    y, std, mean, scale = as_wide(y, std, mean, scale)
    observed = observe(mean)
    if y.shape != observed.shape[observed.ndim - y.ndim :]:
        raise ValueError(f"observe gives shape {observed.shape}, but the observation y has {y.shape}")
    transpose = jax.linear_transpose(observe, mean)
    adjoint = lambda v: transpose(v)[0]
    covariance = lambda v: jnp.square(scale) * v
    weighed = inverse.solve(
        observe, adjoint, covariance, std, y - observed, iterations, mean.ndim, event_ndim
    )
    return mean + covariance(adjoint(weighed))


def data_step_masked(mask: Array, y: Array, std: Numeric, mean: Array, scale: Numeric) -> Array:
    r"""The data step of a mask, in closed form.

    $x_i = m_i + \frac{a_ig_i^2}{a_i^2g_i^2+s^2}\,(y_i-a_im_i)$

    mask: a, one where y is known and zero elsewhere;  the others: as of `data_step`
    Noise of standard deviation zero puts y in where it is known.
    Shapes: all broadcast to [*batch, *event] -> the same.  Source: Prost et al. 2023, section 4, for a diagonal A.

    >>> data_step_masked(jnp.array([1.0, 0.0]), jnp.array([3.0, 0.0]), 1.0, jnp.array([1.0, 5.0]), 1.0).tolist()
    [2.0, 5.0]
    """
    mask, y, std, mean, scale = as_wide(mask, y, std, mean, scale)
    total = jnp.square(mask * scale) + jnp.square(std)
    gain = jnp.where(total > 0, mask * jnp.square(scale) / jnp.where(total > 0, total, 1), 0)
    return mean + gain * (y - mask * mean)


class Restored(NamedTuple):
    """What the alternation gives.

    x:          [*batch, *event]
    residual:   [*batch], the largest change of an element in the last iteration
    iterations: [*batch], how many were made
    """

    x: Array
    residual: Array
    iterations: Array


def pnp(
    autoencode: Callable[[Array], tuple[Array, Array]],
    step: Callable[[Array, Array], Array],
    start: Array,
    iterations: int = 500,
    tolerance: float = 1e-4,
    *,
    event_ndim: int,
) -> Restored:
    r"""Plug-and-play restoration: a pass through a model and a data step in turn, until x stays.

    $(m^k,g^k)=D(E(x^k)),\quad x^{k+1}=\arg\min_x\frac{\|y-Ax\|^2}{2s^2}+\sum_i\frac{(x_i-m^k_i)^2}{2(g^k_i)^2}$

    autoencode: x -> (mean m, standard deviation g) of the likelihood at the code of x
    step: (m, g) -> x, `data_step` or `data_step_masked` with the observation
    start: x^0;  iterations: at most;  tolerance: of `Restored.residual`, in the units of x; an example that reaches it rests

    A fixed point has A^T (A x - y) / s^2 + (x - m) / g^2 = 0.  Where the model is Gaussian and the code its posterior's mode,
    that is the mode of p(x, z | y), whose x is the posterior's mean.  The error left is residual r / (1 - r) where each
    iteration shrinks it by r, so a tolerance far below the error that matters is wise.  A trained model need not shrink it:
    then all iterations are made, and the residual says so.
    Shapes: start [*batch, *event] -> `Restored`.  Raises ValueError for less than one iteration, and for more event axes
    than x has.
    Source: Prost, Houdard, Almansa, Papadakis 2023, algorithm 2.

    >>> halved, between = lambda x: (x / 2, jnp.ones_like(x)), lambda m, g: (m + 3.0) / 2
    >>> pnp(halved, between, jnp.zeros(1), event_ndim=1).x.round(3).tolist()
    [2.0]
    """
    x = as_wide(start)
    if iterations < 1:
        raise ValueError(f"a restoration takes at least one iteration, got {iterations}")
    if not 0 <= event_ndim <= x.ndim:
        raise ValueError(f"x of {x.ndim} axes does not have {event_ndim} event axes")
    batch, event = x.shape[: x.ndim - event_ndim], tuple(range(x.ndim - event_ndim, x.ndim))

    def moving(found):
        return (found.residual > tolerance) & (found.iterations < iterations)

    def body(found):
        moves = moving(found)
        new = step(*autoencode(found.x)).astype(x.dtype)
        change = jnp.max(jnp.abs(new - found.x), axis=event)
        return Restored(
            jnp.where(jnp.expand_dims(moves, event), new, found.x),
            jnp.where(moves, change, found.residual),
            found.iterations + moves,
        )

    begin = Restored(x, jnp.full(batch, jnp.inf, x.dtype), jnp.zeros(batch, jnp.int32))
    return jax.lax.while_loop(lambda found: jnp.any(moving(found)), body, begin)
