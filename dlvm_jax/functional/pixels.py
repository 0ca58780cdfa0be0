"""Pixels whose channels depend on each other: a mixture of discretised logistics for a whole pixel (PixelCNN++)."""

import jax
import jax.numpy as jnp

from dlvm_jax.functional.densities import discretised_logistic_log_prob, discretised_logistic_sample
from dlvm_jax.functional.numerics import as_wide, sum_event
from dlvm_jax.functional.types import Array, Key, Shape

__all__ = [
    "pixel_mixture_log_prob",
    "pixel_mixture_mean",
    "pixel_mixture_sample",
    "pixel_mixture_tables",
]


def _check(logits, mean, log_scale, coupling):
    wanted = (*logits.shape[-1:], *mean.shape[-1:])
    for name, array, shape in (
        ("mean", mean, wanted),
        ("log_scale", log_scale, wanted),
        ("coupling", coupling, (*wanted, wanted[-1])),
    ):
        if array.shape[-len(shape) :] != shape:
            raise ValueError(
                f"{name} has the last axes {shape} for {wanted[0]} components of {wanted[1]} channels, "
                f"got an array of shape {array.shape}"
            )


def _located(mean, coupling, x, levels):
    """Means of all channels given the levels of the earlier ones, with the middle of a bin on [-1/2, 1/2]."""
    centred = (x + 0.5) / levels - 0.5
    return mean + jnp.sum(jnp.tril(coupling, -1) * centred[..., None, :], axis=-1)


def _in_turn(mean, coupling, levels, value):
    """The levels of all channels, one after the other: `value` of (channel, its location)."""
    x = jnp.zeros_like(mean)
    for c in range(mean.shape[-1]):
        x = x.at[..., c].set(value(c, _located(mean, coupling, x, levels)[..., c]))
    return x


def pixel_mixture_log_prob(
    x: Array,
    logits: Array,
    mean: Array,
    log_scale: Array,
    coupling: Array,
    levels: int = 256,
    event_ndim: int = 1,
) -> Array:
    r"""Log-probability of pixels of C channels, levels 0..L-1, under a mixture whose components see all channels.

    $\log P(x) = \sum_i\log\sum_k\pi_{ik}\prod_c P\big(x_{ic}\mid\mu_{ikc} + \sum_{d<c} A_{ikcd}\,\tilde x_{id},\ s_{ikc}\big),
      \quad \tilde x = \tfrac{x+1/2}L - \tfrac12$

    P is the discretised logistic.  A channel's mean moves with the true levels of the channels before it.
    Shapes: `x` [*batch, *pixels, C]; `logits` [*batch, *pixels, K]; `mean`, `log_scale` (of the data on [0, 1])
    [*batch, *pixels, K, C]; `coupling` [*batch, *pixels, K, C, C], read below its diagonal -> [*batch], nats.
    event_ndim: axes of pixels.
    Raises ValueError for other shapes, and for fewer than two levels.  Source: Salimans et al. 2017 (PixelCNN++), section 2.2.

    >>> x, flat = jnp.array([[3.0, 5.0]]), jnp.zeros((1, 4, 2))
    >>> alone = discretised_logistic_log_prob(x, 0.0, 0.0, 8, event_ndim=2)
    >>> mixed = pixel_mixture_log_prob(x, jnp.zeros((1, 4)), flat, flat, jnp.zeros((1, 4, 2, 2)), 8)
    >>> bool(jnp.isclose(mixed, alone))
    True
    """
    x, logits, mean, log_scale, coupling = as_wide(x, logits, mean, log_scale, coupling)
    _check(logits, mean, log_scale, coupling)
    x = x[..., None, :]  # the same for all components
    location = _located(mean, coupling, x, levels)
    each = discretised_logistic_log_prob(x, location, log_scale, levels, event_ndim=1)
    return sum_event(jax.nn.logsumexp(jax.nn.log_softmax(logits, -1) + each, axis=-1), event_ndim)


def pixel_mixture_tables(
    x: Array, logits: Array, mean: Array, log_scale: Array, coupling: Array, levels: int = 256
) -> Array:
    r"""Log-probabilities of all levels of each channel, given the channels of its pixel before it.

    $\log P(x_c = l\mid x_{<c}) = \log\frac{\sum_k\pi_k\prod_{d<c}P_{kd}(x_d)\,P_{kc}(l)}{\sum_k\pi_k\prod_{d<c}P_{kd}(x_d)}$

    Shapes: as in `pixel_mixture_log_prob` -> [*batch, *pixels, C, L], nats.  Raises ValueError for other shapes.
    Source: Salimans et al. 2017, section 2.2.

    >>> flat = jnp.zeros((4, 2))
    >>> tables = pixel_mixture_tables(jnp.array([3.0, 5.0]), jnp.zeros(4), flat, flat, jnp.zeros((4, 2, 2)), 8)
    >>> tables.shape, bool(jnp.allclose(jnp.exp(tables).sum(-1), 1))
    ((2, 8), True)
    """
    x, logits, mean, log_scale, coupling = as_wide(x, logits, mean, log_scale, coupling)
    _check(logits, mean, log_scale, coupling)
    location = _located(mean, coupling, x[..., None, :], levels)
    at = lambda x: discretised_logistic_log_prob(x, location, log_scale, levels, event_ndim=0)
    seen = at(x[..., None, :])  # [*pixels, K, C]
    earlier = jnp.cumsum(jnp.roll(seen, 1, -1).at[..., 0].set(0.0), -1)
    before = jax.nn.log_softmax(logits, -1)[..., None] + earlier
    every = jax.vmap(at, out_axes=-1)(jnp.arange(levels, dtype=x.dtype))  # [*pixels, K, C, L]
    weights = jax.nn.log_softmax(before, axis=-2)[..., None]
    return jax.nn.logsumexp(weights + every, axis=-3)


def pixel_mixture_sample(
    key: Key,
    logits: Array,
    mean: Array,
    log_scale: Array,
    coupling: Array,
    levels: int = 256,
    shape: Shape = (),
) -> Array:
    r"""Draw pixels: first the component of each, then its channels one after the other.

    $k\sim\mathrm{softmax}(l),\quad x_c \sim P\big(\cdot\mid\mu_{kc} + \sum_{d<c} A_{kcd}\,\tilde x_d,\ s_{kc}\big)$

    Shapes: as in `pixel_mixture_log_prob` -> [*shape, *batch, *pixels, C], as floats.
    Raises ValueError for other shapes.  Source: Salimans et al. 2017, section 2.2.

    >>> flat = jnp.full((5, 2, 3), -9.0)
    >>> pixel_mixture_sample(jax.random.key(0), jnp.zeros((5, 2)), flat, flat, jnp.zeros((5, 2, 3, 3)), 8).shape
    (5, 3)
    """
    logits, mean, log_scale, coupling = as_wide(logits, mean, log_scale, coupling)
    _check(logits, mean, log_scale, coupling)
    key_component, key_level = jax.random.split(key)
    which = jax.random.categorical(key_component, logits, shape=shape + logits.shape[:-1])

    def chosen(parameter):  # of the component that was drawn
        trailing = parameter.ndim - logits.ndim
        index = which.reshape(*which.shape, *(1,) * (trailing + 1))
        everywhere = jnp.broadcast_to(parameter, shape + parameter.shape)
        return jnp.take_along_axis(everywhere, index, axis=which.ndim).squeeze(which.ndim)

    mean, log_scale, coupling = chosen(mean), chosen(log_scale), chosen(coupling)
    keys = jax.random.split(key_level, mean.shape[-1])
    draw = lambda c, location: discretised_logistic_sample(keys[c], location, log_scale[..., c], levels)
    return _in_turn(mean, coupling, levels, draw)


def pixel_mixture_mean(logits: Array, mean: Array, coupling: Array, levels: int = 256) -> Array:
    r"""The mean of pixels, where every component's channels are put at their locations, one after the other.

    $\sum_k\pi_k\,\mathrm{clip}(L m_{kc} - \tfrac12, 0, L-1),\quad m_{kc} = \mu_{kc} + \sum_{d<c} A_{kcd}\,(m_{kd} - \tfrac12)$

    It is exact but for what rounding and the ends of the scale change.
    Shapes: as in `pixel_mixture_log_prob` -> [*batch, *pixels, C].
    Raises ValueError for other shapes.  Source: Salimans et al. 2017, section 2.2.

    >>> pixel_mixture_mean(jnp.zeros(2), jnp.array([[0.25], [0.75]]), jnp.zeros((2, 1, 1)), 8)
    Array([3.5], dtype=float32)
    """
    logits, mean, coupling = as_wide(logits, mean, coupling)
    _check(logits, mean, mean, coupling)
    located = lambda c, location: jnp.clip(levels * location - 0.5, 0, levels - 1)
    each = _in_turn(mean, coupling, levels, located)
    return jnp.sum(jax.nn.softmax(logits, -1)[..., None] * each, axis=-2)
