"""What flows on images need: squeezing, the checkerboard, the logit of grey values, and uniform dequantisation."""

import math

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_array, as_integer, as_level, as_wide, sum_event
from dlvm_jax.functional.types import Array, Key, Shape

__all__ = [
    "checkerboard_merge",
    "checkerboard_split",
    "depth_to_space",
    "dequantise",
    "logit",
    "logit_inverse",
    "space_to_depth",
    "squeeze",
    "unsqueeze",
]


def noise_steps(levels: int) -> int:
    """Steps of the noise of dequantisation: 2^15, and fewer beyond 256 levels, so that float32 holds level and noise."""
    return 2 ** min(15, 23 - (levels - 1).bit_length())


def check_tiles(shape: Shape, size: int) -> None:
    """Raise ValueError unless patches of `size` x `size` pixels tile images of a shape [*batch, H, W, C]."""
    if len(shape) < 3 or as_integer(size, "the size of patches") < 1 or shape[-3] % size or shape[-2] % size:
        raise ValueError(
            f"patches of {size} x {size} do not tile images [*batch, H, W, C] of shape {shape}; pad or crop"
        )


def space_to_depth(x: Array, size: int) -> Array:
    r"""Put each block of `size` x `size` pixels into one pixel of size^2 times the channels.

    $y_{i,j,(as+b)C+c} = x_{si+a,sj+b,c}$ for size s.

    Shapes: [*batch, H, W, C] -> [*batch, H/s, W/s, s^2 C].  Raises ValueError for sides that are no multiples of
    `size`.  Source: Shi et al. 2016, eq. 4.

    >>> space_to_depth(jnp.arange(4.0).reshape(2, 2, 1), 2).tolist()
    [[[0.0, 1.0, 2.0, 3.0]]]
    """
    x = as_array(x)
    check_tiles(x.shape, size)
    *batch, h, w, c = x.shape
    x = x.reshape(*batch, h // size, size, w // size, size, c)
    return jnp.moveaxis(x, -4, -3).reshape(*batch, h // size, w // size, size**2 * c)


def depth_to_space(y: Array, size: int) -> Array:
    r"""Undo `space_to_depth`: sub-pixel upsampling.

    $x_{si+a,sj+b,c} = y_{i,j,(as+b)C+c}$ for size s.

    Shapes: [*batch, H, W, s^2 C] -> [*batch, sH, sW, C].  Raises ValueError for channels that are no multiple of size^2.
    Source: Shi et al. 2016, eq. 4.

    >>> depth_to_space(jnp.arange(4.0).reshape(1, 1, 4), 2).tolist()
    [[[0.0], [1.0]], [[2.0], [3.0]]]
    """
    y = as_array(y)
    if y.ndim < 3 or as_integer(size, "the size of blocks") < 1 or y.shape[-1] % size**2:
        raise ValueError(
            f"blocks of {size} x {size} need channels [*batch, H, W, {size**2} C], got shape {y.shape}"
        )
    *batch, h, w, c = y.shape
    y = y.reshape(*batch, h, w, size, size, c // size**2)
    return jnp.moveaxis(y, -3, -4).reshape(*batch, size * h, size * w, c // size**2)


def squeeze(x: Array) -> tuple[Array, Array]:
    r"""Put each 2 x 2 block of pixels into one pixel of four times the channels.

    $y_{i,j,(2a+b)C+c} = x_{2i+a,2j+b,c},\quad \log|\det| = 0$

    Shapes: [*batch, H, W, C] -> [*batch, H/2, W/2, 4C], log_det [*batch].  Raises ValueError for odd sizes.
    Source: Dinh, Sohl-Dickstein, Bengio 2017, section 3.6.

    >>> squeeze(jnp.arange(4.0).reshape(2, 2, 1))[0].tolist()
    [[[0.0, 1.0, 2.0, 3.0]]]
    """
    x = as_array(x)
    return space_to_depth(x, 2), jnp.zeros(x.shape[:-3], jnp.promote_types(x.dtype, jnp.float32))


def unsqueeze(y: Array) -> tuple[Array, Array]:
    r"""Undo `squeeze`.

    $x_{2i+a,2j+b,c} = y_{i,j,(2a+b)C+c},\quad \log|\det| = 0$

    Shapes: [*batch, H, W, 4C] -> [*batch, 2H, 2W, C], log_det [*batch].  Raises ValueError for channels not in fours.
    Source: Dinh, Sohl-Dickstein, Bengio 2017, section 3.6.

    >>> unsqueeze(jnp.arange(4.0).reshape(1, 1, 4))[0].tolist()
    [[[0.0], [1.0]], [[2.0], [3.0]]]
    """
    y = as_array(y)
    return depth_to_space(y, 2), jnp.zeros(y.shape[:-3], jnp.promote_types(y.dtype, jnp.float32))


def _even_rows(height):
    return (jnp.arange(height) % 2 == 0)[:, None, None]


def checkerboard_split(x: Array) -> tuple[Array, Array]:
    r"""The black and the white squares of the checkerboard, for a coupling layer.

    $a_{i,j} = x_{i,2j+(i\bmod2)},\quad b_{i,j} = x_{i,2j+1-(i\bmod2)}$

    Shapes: [*batch, H, W, C] -> a, b, each [*batch, H, W/2, C].  Raises ValueError for an odd width.
    Source: Dinh, Sohl-Dickstein, Bengio 2017, section 3.4.

    >>> a, b = checkerboard_split(jnp.arange(4.0).reshape(2, 2, 1))
    >>> a.ravel().tolist(), b.ravel().tolist()
    ([0.0, 3.0], [1.0, 2.0])
    """
    x = as_array(x)
    if x.ndim < 3 or x.shape[-2] % 2:
        raise ValueError(
            f"checkerboard_split needs images [*batch, H, W, C] of even width, got shape {x.shape}; pad or crop"
        )
    *batch, h, w, c = x.shape
    pairs = x.reshape(*batch, h, w // 2, 2, c)
    left, right = pairs[..., 0, :], pairs[..., 1, :]
    even = _even_rows(h)
    return jnp.where(even, left, right), jnp.where(even, right, left)


def checkerboard_merge(a: Array, b: Array) -> Array:
    r"""Undo `checkerboard_split`.

    $x_{i,2j+(i\bmod2)} = a_{i,j},\quad x_{i,2j+1-(i\bmod2)} = b_{i,j}$

    Shapes: `a`, `b` [*batch, H, W/2, C] -> [*batch, H, W, C].  Source: Dinh, Sohl-Dickstein, Bengio 2017, section 3.4.

    >>> checkerboard_merge(jnp.array([[[0.0]], [[3.0]]]), jnp.array([[[1.0]], [[2.0]]])).ravel().tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    a, b = as_array(a), as_array(b)
    *batch, h, w, c = a.shape
    even = _even_rows(h)
    pairs = jnp.stack([jnp.where(even, a, b), jnp.where(even, b, a)], axis=-2)
    return pairs.reshape(*batch, h, 2 * w, c)


def _check_alpha(alpha):
    if not 0 <= alpha < 0.5:
        raise ValueError(f"alpha keeps grey values away from 0 and 1, a number in [0, 0.5), got {alpha}")


def logit(x: Array, alpha: float = 0.05, event_ndim: int = 3) -> tuple[Array, Array]:
    r"""From [0, 1] to the real line, the ends kept at a distance.

    $y = \log\frac p{1-p},\ p = \alpha+(1-2\alpha)x,\quad \log|\det| = \sum_i\log\frac{1-2\alpha}{p_i(1-p_i)}$

    Shapes: `x` [*batch, *event] in [0, 1] -> y alike, log_det [*batch].  Raises ValueError for alpha outside [0, 1/2).
    Source: Papamakarios, Pavlakou, Murray 2017, section 4.3; Dinh, Sohl-Dickstein, Bengio 2017, section 4.1 (one-sided).

    >>> logit(jnp.array([0.0, 0.5, 1.0]), event_ndim=1)[0].round(5)
    Array([-2.94444,  0.     ,  2.94444], dtype=float32)
    """
    _check_alpha(alpha)
    x = as_wide(x)
    low = jnp.log(alpha + (1 - 2 * alpha) * x)
    high = jnp.log(alpha + (1 - 2 * alpha) * (1 - x))  # 1 - p would lose the digits of a small alpha
    return low - high, sum_event(math.log1p(-2 * alpha) - low - high, event_ndim)


def logit_inverse(y: Array, alpha: float = 0.05, event_ndim: int = 3) -> tuple[Array, Array]:
    r"""The inverse of `logit`, and the log-determinant of the inverse.

    $x = \frac{p-\alpha}{1-2\alpha},\ p = \mathrm{sigmoid}(y),\quad \log|\det| = \sum_i\log\frac{p_i(1-p_i)}{1-2\alpha}$

    Shapes: `y` [*batch, *event] -> x alike, log_det [*batch]; x in [0, 1] for |y| up to logit(1 - alpha).  Raises ValueError as
    `logit`.  Source: Papamakarios, Pavlakou, Murray 2017, section 4.3.

    >>> logit_inverse(jnp.array([0.0]), event_ndim=1)[0]
    Array([0.5], dtype=float32)
    """
    _check_alpha(alpha)
    y = as_wide(y)
    x = (jax.nn.sigmoid(y) - alpha) / (1 - 2 * alpha)
    log_slope = jax.nn.log_sigmoid(y) + jax.nn.log_sigmoid(-y) - math.log1p(-2 * alpha)
    return x, sum_event(log_slope, event_ndim)


def dequantise(key: Key, x: Array, levels: int = 256, event_ndim: int = 3) -> tuple[Array, Array]:
    r"""Integer levels with uniform noise, on [0, 1), and the logarithm of the volume of their cell.

    $v = \frac{x+u}L,\ u\sim U[0,1)^D,\qquad \log P(x) \ge \mathbb E_u[\log p(v)] - D\log L$

    The noise takes the midpoints of 2^15 steps (of 2^7 for 2^16 levels): v is then exact in float32, and below 1, where a
    logit is infinite; noise of full precision rounds up to the next level now and then.
    The log-volume $-D\log L$ makes nats of the levels of nats of v: add it to log p(v).  The uniform density then has log2(L)
    bits per dimension.  Shapes: `x` in 0..L-1 [*batch, *event] -> v alike, log-volume [*batch].  Raises ValueError for
    fewer than one level or more than 2^16; what is no level gives NaN.  Source: Theis, van den Oord, Bethge 2016, section 3.1.

    >>> v, log_volume = dequantise(jax.random.key(0), jnp.full((1, 2, 2, 1), 128), levels=256)
    >>> bool(((v >= 0.5) & (v < 0.5 + 1 / 256)).all()), bool(jnp.isclose(log_volume[0], -4 * math.log(256)))
    (True, True)
    """
    if not 1 <= as_integer(levels, "the number of levels") <= 2**16:
        raise ValueError(f"there are 1 to 2^16 levels, which float32 can tell apart with noise, got {levels}")
    x = as_level(as_wide(x), levels)
    steps = noise_steps(levels)
    step = jax.random.bits(key, x.shape, jnp.uint16) // (2**16 // steps)
    v = (x + (step + jnp.asarray(0.5, x.dtype)) / steps) / levels
    dim = math.prod(x.shape[x.ndim - event_ndim :])
    return v, jnp.full(x.shape[: x.ndim - event_ndim], -dim * math.log(levels), x.dtype)
