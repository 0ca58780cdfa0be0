"""Sums and logarithms that stay exact in float32."""

import jax
import jax.numpy as jnp

__all__ = ["inner_product", "log1mexp", "log_mean_exp", "runge_kutta", "sum_event"]


def as_float(x):
    """An array of a floating-point dtype: integers, such as levels in 8 bits, would wrap in sums."""
    return jnp.asarray(x, jnp.result_type(x, float))


def sum_event(values, event_ndim):
    r"""Sum over the event axes, accumulated in float32 or wider.

    $s_b = \sum_{i_1,\ldots,i_n} v_{b,i_1,\ldots,i_n}$ over the last `event_ndim` axes.

    Shapes: `values` [*batch, *event] -> [*batch].  Raises ValueError when there are fewer axes than `event_ndim`,
    or when it is negative.
    Source: Higham 1993, "The accuracy of floating point summation", on why the accumulator must be wide.

    >>> sum_event(jnp.ones((2, 3, 4)), 2)
    Array([12., 12.], dtype=float32)
    """
    values = jnp.asarray(values)
    if event_ndim < 0:
        raise ValueError(f"event_ndim counts trailing axes and cannot be negative, got {event_ndim}")
    if values.ndim < event_ndim:
        raise ValueError(
            f"expected at least {event_ndim} event axes, got shape {values.shape}; lower event_ndim or add axes"
        )
    wide = jnp.promote_types(values.dtype, jnp.float32)
    return jnp.sum(values, axis=tuple(range(values.ndim - event_ndim, values.ndim)), dtype=wide)


def inner_product(a, b):
    r"""Inner product of vectors on the last axis.

    $a^\top b = \sum_i a_i b_i$

    A contraction, which also serves for safety: where `a` is shared by thousands of rows of b, XLA 0.10 for CPU compiles
    `(a * b).sum(-1)[..., None] * a` to wrong numbers.
    Shapes: `a`, `b` broadcast to [*batch, D] -> [*batch], with full precision on every device.
    Source: Golub & Van Loan 2013, section 1.1.

    >>> inner_product(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))
    Array(11., dtype=float32)
    """
    return jnp.einsum("...i,...i->...", a, b, precision="highest")


def log1mexp(x):
    r"""Logarithm of one minus an exponential, accurate for every x > 0.

    $\log(1 - e^{-x})$

    Shapes: any -> same.  Gives -inf at x = 0.  Source: Maechler 2012, "Accurately computing log(1 - exp(-|a|))", eq. 7.

    >>> float(log1mexp(jnp.float32(1e-10))) == float(jnp.log(jnp.float32(1e-10)))
    True
    """
    small = x < 0.6931472
    near = jnp.log(-jnp.expm1(-jnp.where(small, x, 0.5)))
    far = jnp.log1p(-jnp.exp(-jnp.where(small, 1.0, x)))
    return jnp.where(small, near, far)


def log_mean_exp(values, axis=0):
    r"""Logarithm of a mean of exponentials.

    $\log \frac1K \sum_{k=1}^{K} e^{v_k}$

    Shapes: `values` [K, *batch] (K on `axis`) -> [*batch].  All -inf gives -inf, with a zero gradient.
    Source: Burda, Grosse, Salakhutdinov 2016, eq. 8.

    >>> float(log_mean_exp(jnp.array([1000.0, 1000.0])))
    1000.0
    """
    values = jnp.asarray(values)
    top = jax.lax.stop_gradient(jnp.max(values, axis=axis, keepdims=True))
    anchor = jnp.where(jnp.isfinite(top), top, 0.0)
    mean = jnp.mean(jnp.exp(values - anchor), axis=axis)
    near = (
        mean > 0.5
    )  # nearly equal values: log K would cancel, which Renyi bounds of order near 1 would magnify
    excess = jnp.where(near, jnp.mean(jnp.expm1(values - anchor), axis=axis), 0.0)
    far = jnp.log(jnp.where(near | (mean == 0), 1.0, mean))
    value = jnp.squeeze(anchor, axis) + jnp.where(near, jnp.log1p(excess), far)
    return jnp.where(mean == 0, -jnp.inf, value)


def runge_kutta(slope, state, times, span):
    r"""Solution of an ordinary differential equation by the classical method of order four.

    $y_{n+1} = y_n + \tfrac h6(k_1+2k_2+2k_3+k_4),\quad k_1 = f(y_n,t_n),\ k_2 = f(y_n+\tfrac h2k_1,t_{n+1/2}),\
    k_3 = f(y_n+\tfrac h2k_2,t_{n+1/2}),\ k_4 = f(y_n+hk_3,t_{n+1})$

    4 evaluations a step.  slope: (state, time) -> its rate, one tree of arrays like the other.  times: beginning, middle and end
    of all S steps, [2S + 1]; span: S h, negative on the way back.  Shapes: `state` -> alike, in its dtypes.  Raises ValueError
    for less than one step.  Source: Hairer, Norsett, Wanner 1993, section II.1, table 1.2.

    >>> round(float(runge_kutta(lambda y, t: y, jnp.float32(1.0), jnp.linspace(0.0, 1.0, 21), 1.0)), 4)
    2.7183
    """
    steps = len(times) // 2
    if steps < 1:
        raise ValueError(f"the solver takes at least one step, got {steps}")
    width = span / steps

    def move(state, change, size):
        return jax.tree.map(lambda value, rate: value + (size * rate).astype(value.dtype), state, change)

    def step(state, ends):
        start, middle, end = ends

        def stage(carry, inputs):  # each needs only the slope of the one before
            last, mean = carry
            time, share, weight = inputs
            last = slope(move(state, last, share * width), time)
            return (last, move(mean, last, weight)), None

        zero = jax.tree.map(jnp.zeros_like, state)
        shares, weights = (
            jnp.array(column, times.dtype) for column in ((0, 1 / 2, 1 / 2, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
        )
        stages = jnp.stack([start, middle, middle, end]), shares, weights
        (_, mean), _ = jax.lax.scan(stage, (zero, zero), stages)
        return move(state, mean, width), None

    return jax.lax.scan(step, state, (times[:-1:2], times[1::2], times[2::2]))[0]
