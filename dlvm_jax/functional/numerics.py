"""Sums and logarithms that stay exact in float32."""

import math
import operator
from collections.abc import Callable
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from dlvm_jax.functional.types import Array, Key, Numeric, Shape

__all__ = [
    "inner_product",
    "log1mexp",
    "log_mean_exp",
    "log_normal_cdf",
    "log_normal_interval",
    "runge_kutta",
    "sum_event",
]

LOG_2PI = math.log(2 * math.pi)
GAUSS_NODES, GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(8)


def as_array(x: Any) -> Any:
    """A list or a tuple of numbers as an array; anything else as it is."""
    return jnp.asarray(x) if isinstance(x, list | tuple) else x


def float_type(*values: ArrayLike) -> Any:
    """The floating-point type of arithmetic with all values: integers and Python numbers take that of the others."""
    return jnp.result_type(*map(as_array, values), float)


def as_float(x: ArrayLike) -> Array:
    """An array of real numbers: integers and booleans become the default float, floats keep their type.

    Integers, such as levels in 8 bits, would wrap in sums.  Raises ValueError for complex numbers, keys and text.
    """
    x = as_array(x)
    dtype = getattr(x, "dtype", None) or jnp.result_type(x)
    if not any(jnp.issubdtype(dtype, kind) for kind in (np.floating, np.integer, np.bool_)):
        raise ValueError(
            f"expected real numbers, got an array of type {dtype}; take the real part of complex ones"
        )
    return jnp.asarray(x, jnp.result_type(x, float))


@overload
def as_wide(value: ArrayLike, /) -> Array: ...
@overload
def as_wide(*values: ArrayLike) -> tuple[Array, ...]: ...
def as_wide(*values: ArrayLike) -> Array | tuple[Array, ...]:
    """Arrays of one floating-point type of at least 32 bits, that of their arithmetic; a single one by itself.

    Narrower floats would lose nats in sums.  Raises ValueError as `as_float`.
    """
    real = [as_float(value) for value in values]
    dtype = jnp.promote_types(float_type(*values), jnp.float32)
    wide = tuple(value.astype(dtype) for value in real)
    return wide[0] if len(wide) == 1 else wide


def draw_normal(key: Key, shape: Shape, dtype: DTypeLike = float) -> Array:
    """Standard normal numbers of a dtype, drawn in float32 at least: in bfloat16 they have 128 values and a mean below zero."""
    wide = jnp.promote_types(jax.dtypes.canonicalize_dtype(dtype), jnp.float32)
    return jax.random.normal(key, shape, wide).astype(dtype)


def as_mask(mask: ArrayLike) -> Array:
    """A mask of booleans: true where it is not zero, whatever its type."""
    return as_float(mask) != 0


def as_level(x: Array, levels: int) -> Array:
    """Levels 0..L-1 of floats, and NaN for other values."""
    return jnp.where((x >= 0) & (x < levels) & (x == jnp.floor(x)), x, jnp.nan)


def as_integer(value: Any, name: str) -> int:
    """A Python integer; raises ValueError for floats, such as 2.0, and for traced values."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is an integer, known when tracing, got {value!r}") from None


def check_factor(scale_tril: Array, dim: int) -> None:
    """Raise ValueError unless this is [*batch, D, D] and, where it is not traced, lower triangular."""
    if scale_tril.ndim < 2 or scale_tril.shape[-2:] != (dim, dim):
        raise ValueError(
            f"vectors of {dim} numbers need a lower Cholesky factor [*batch, {dim}, {dim}], got shape {scale_tril.shape}"
        )
    # in NumPy: under jit an operation of JAX would trace what is concrete
    if not isinstance(scale_tril, Tracer) and np.triu(np.asarray(scale_tril), 1).any():
        raise ValueError(
            "expected a lower Cholesky factor, got a matrix that is not lower triangular; of a covariance take "
            "jnp.linalg.cholesky"
        )


def check_covariance(covariance: Array) -> None:
    """Raise ValueError unless this is [*batch, D, D] and, where it is not traced, symmetric up to rounding."""
    if covariance.ndim < 2 or covariance.shape[-1] != covariance.shape[-2]:
        raise ValueError(f"a covariance is a square matrix, got shape {covariance.shape}")
    if not isinstance(covariance, Tracer):
        known = np.asarray(covariance)
        skew = np.abs(known - np.swapaxes(known, -1, -2))
        if skew.size and skew.max() > 1e-4 * np.abs(known).max():
            raise ValueError(
                "expected a covariance, got a matrix that is not symmetric; of a factor L take L @ L.T"
            )


def unit_scale(x: Array) -> Array:
    """A power of two near the largest entry of each vector, [*batch, 1], by which to divide without rounding; 1 for zero.

    No gradient goes through it: it is for functions that give the same whatever it is.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    limits = jnp.finfo(x.dtype)
    exponent = jnp.clip(jnp.frexp(largest)[1], limits.minexp + 1, limits.maxexp - 2)
    return jnp.ldexp(jnp.ones_like(largest), jnp.where(largest > 0, exponent, 0))


def norm(x: Array) -> Array:
    """Euclidean norm of vectors on the last axis, of any length, [*batch]; with gradient zero at zero."""
    scale = unit_scale(x)
    square = jnp.sum(jnp.square(x / scale), axis=-1)
    some = square != 0
    return jnp.where(some, scale[..., 0] * jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)


def einsum(subscripts: str, *arrays: Array) -> Array:
    """`jnp.einsum` at full precision: a product in TF32 would spoil log-determinants."""
    return jnp.einsum(subscripts, *arrays, precision="highest")


def sum_event(values: Array, event_ndim: int) -> Array:
    r"""Sum over the event axes, accumulated in float32 or wider.

    $s_b = \sum_{i_1,\ldots,i_n} v_{b,i_1,\ldots,i_n}$ over the last `event_ndim` axes.

    Shapes: `values` [*batch, *event] -> [*batch].  Raises ValueError when there are fewer axes than `event_ndim`,
    or when it is negative.
    Source: Higham 1993, "The accuracy of floating point summation", on why the accumulator must be wide.

    >>> sum_event(jnp.ones((2, 3, 4)), 2)
    Array([12., 12.], dtype=float32)
    """
    values, event_ndim = as_wide(values), as_integer(event_ndim, "event_ndim")
    if event_ndim < 0:
        raise ValueError(f"event_ndim counts trailing axes and cannot be negative, got {event_ndim}")
    if values.ndim < event_ndim:
        raise ValueError(
            f"expected at least {event_ndim} event axes, got shape {values.shape}; lower event_ndim or add axes"
        )
    return jnp.sum(values, axis=tuple(range(values.ndim - event_ndim, values.ndim)))


def inner_product(a: Array, b: Array) -> Array:
    r"""Inner product of vectors on the last axis.

    $a^\top b = \sum_i a_i b_i$

    A contraction, which also serves for safety: where `a` is shared by thousands of rows of b, XLA 0.10 for CPU compiles
    `(a * b).sum(-1)[..., None] * a` to wrong values.
    Shapes: `a`, `b` broadcast to [*batch, D] -> [*batch], with full precision on every device.
    Source: Golub & Van Loan 2013, section 1.1.

    >>> inner_product(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))
    Array(11., dtype=float32)
    """
    a, b = as_wide(a, b)
    return jnp.einsum("...i,...i->...", a, b, precision="highest")


def log1mexp(x: Array) -> Array:
    r"""Logarithm of one minus an exponential, accurate for every x > 0.

    $\log(1 - e^{-x})$

    Shapes: any -> same.  Gives -inf at x = 0.  Source: Maechler 2012, "Accurately computing log(1 - exp(-|a|))", eq. 7.

    >>> float(log1mexp(jnp.float32(1e-10))) == float(jnp.log(jnp.float32(1e-10)))
    True
    """
    x = as_wide(x)
    small = x < 0.6931472
    near = jnp.log(-jnp.expm1(-jnp.where(small, x, 0.5)))
    far = jnp.log1p(-jnp.exp(-jnp.where(small, 1.0, x)))
    return jnp.where(small, near, far)


def log_mean_exp(values: Array, axis: int = 0) -> Array:
    r"""Logarithm of a mean of exponentials.

    $\log \frac1K \sum_{k=1}^{K} e^{v_k}$

    Shapes: `values` [K, *batch] (K on `axis`) -> [*batch].  All -inf gives -inf, with a zero gradient.
    Source: Burda, Grosse, Salakhutdinov 2016, eq. 8.

    >>> float(log_mean_exp(jnp.array([1000.0, 1000.0])))
    1000.0
    """
    values = as_wide(values)
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


@jax.custom_jvp
def _mills(x):
    """Phi(x) / phi(x) for x <= 0: erfc near zero, Laplace's continued fraction below -8."""
    near = x > -8
    small, large = jnp.where(near, x, -1.0), jnp.where(near, 8.0, -x)
    centre = math.sqrt(math.pi / 2) * jax.lax.erfc(-math.sqrt(0.5) * small) * jnp.exp(0.5 * jnp.square(small))
    u = 1 / jnp.square(large)
    above, above_next, below, below_next = 1.0, 1.0, 0.0, 1.0
    for n in range(1, 21):  # 1 / (t + 1 / (t + 2 / (t + ...))), right to double precision from t = 8
        above, above_next = above_next, above_next + n * u * above
        below, below_next = below_next, below_next + n * u * below
    return jnp.where(near, centre, below_next / (large * above_next))


@_mills.defjvp
def _mills_tangent(primals, tangents):
    (x,), (dx,) = primals, tangents
    value = _mills(x)
    return value, (1 + x * value) * dx


def log_normal_cdf(x: Array) -> Array:
    r"""Logarithm of the standard normal distribution function.

    $\log\Phi(x) = \log\int_{-\infty}^x\varphi(u)\,du$

    Its gradient phi / Phi is right even in tails so far that both underflow.
    Shapes: any -> same.  Source: Abramowitz & Stegun 1964, eq. 26.2.14 (the continued fraction).

    >>> round(float(log_normal_cdf(jnp.float32(0.0))), 6)
    -0.693147
    """
    x = as_wide(x)
    tail = x < 0
    low, high = jnp.where(tail, x, -1.0), jnp.where(tail, 1.0, x)
    lower = -0.5 * jnp.square(low) - 0.5 * LOG_2PI + jnp.log(_mills(low))
    return jnp.where(tail, lower, jnp.log1p(-jax.scipy.special.ndtr(-high)))


def log_normal_interval(a: Array, b: Array, width: Array) -> Array:
    r"""Log-probability of an interval under the standard normal law.

    $\log[\Phi(b) - \Phi(a)],\quad b = a + w$

    Narrow intervals are integrated by Gauss-Legendre, where the two values of Phi would cancel; wide ones take Mills ratios in
    the lower tail.  The width is an argument, since b - a has lost its digits where a is large.
    Shapes: `a`, `b`, `width` alike -> same.  Source: Abramowitz & Stegun 1964, eq. 25.4.29 and 26.2.14.

    >>> round(float(jnp.exp(log_normal_interval(jnp.float32(-1.0), jnp.float32(1.0), jnp.float32(2.0)))), 5)
    0.68269
    """
    a, b, width = as_wide(a, b, width)
    centre = 0.5 * (a + b)
    narrow = width * (1 + jnp.abs(centre)) < 2
    m, w = jnp.where(narrow, centre, 0.0), jnp.where(narrow, width, 1.0)
    # integral over the bin of phi(m + u) / phi(m) = exp(-m u - u^2 / 2); the remainder is below 3e-12 here (eq. 25.4.30)
    terms = [
        wt * jnp.exp(-m * w * t / 2 - jnp.square(w * t) / 8)
        for t, wt in zip(GAUSS_NODES.tolist(), GAUSS_WEIGHTS.tolist(), strict=True)
    ]
    quadrature = -0.5 * jnp.square(m) - 0.5 * LOG_2PI + jnp.log(w / 2) + jnp.log(sum(terms))
    flip = centre > 0  # work in the lower tail
    low, high = jnp.where(flip, -b, a), jnp.where(flip, -a, b)
    straddles = high > 0
    l, h = (jnp.where(narrow | straddles, safe, edge) for safe, edge in ((-2.0, low), (-1.0, high)))
    gap = jnp.where(narrow | straddles, 1.0, width * jnp.abs(centre))  # (l^2 - h^2) / 2, which would cancel
    tail = -0.5 * jnp.square(h) - 0.5 * LOG_2PI + jnp.log(_mills(h) - _mills(l) * jnp.exp(-gap))
    l, h = (jnp.where(~narrow & straddles, edge, safe) for safe, edge in ((-1.0, low), (1.0, high)))
    middle = jnp.log(jax.scipy.special.ndtr(h) - jax.scipy.special.ndtr(l))
    return jnp.where(narrow, quadrature, jnp.where(straddles, middle, tail))


def runge_kutta(slope: Callable[[Any, Array], Any], state: Any, times: Array, span: Numeric) -> Any:
    r"""Solution of an ordinary differential equation by the classical method of order four.

    $y_{n+1} = y_n + \tfrac h6(k_1+2k_2+2k_3+k_4),\quad k_1 = f(y_n,t_n),\ k_2 = f(y_n+\tfrac h2k_1,t_{n+1/2}),\
    k_3 = f(y_n+\tfrac h2k_2,t_{n+1/2}),\ k_4 = f(y_n+hk_3,t_{n+1})$

    4 evaluations a step.
    slope: (state, time) -> the state's rate of change, the same tree of arrays.
    times: beginning, middle and end of all S steps, [2S + 1].
    span: S h, negative on the way back.
    Shapes: `state` -> alike, in its dtypes.  Raises ValueError for less than one step.
    Source: Hairer, Norsett, Wanner 1993, section II.1, table 1.2.

    >>> round(float(runge_kutta(lambda y, t: y, jnp.float32(1.0), jnp.linspace(0.0, 1.0, 21), 1.0)), 4)
    2.7183
    """
    state, times = jax.tree.map(as_float, state), as_float(times)
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
            rates = slope(move(state, last, share * width), time)
            last = jax.tree.map(lambda value, rate: rate.astype(value.dtype), state, rates)
            return (last, move(mean, last, weight)), None

        zero = jax.tree.map(jnp.zeros_like, state)
        shares, weights = (
            jnp.array(column, times.dtype) for column in ((0, 1 / 2, 1 / 2, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
        )
        stages = jnp.stack([start, middle, middle, end]), shares, weights
        (_, mean), _ = jax.lax.scan(stage, (zero, zero), stages)
        return move(state, mean, width), None

    return jax.lax.scan(step, state, (times[:-1:2], times[1::2], times[2::2]))[0]
