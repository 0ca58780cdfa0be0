"""Log-densities and samplers.

Every log-density sums exactly its event axes (the last `event_ndim`, one by default) and keeps the batch;
parameters broadcast against the value.  It is computed in float32 or wider.  That of a discrete law is NaN for a value that the
law cannot have, such as a fraction of a level.  Samplers take `(key, *parameters, shape)` and return `shape` + the parameters'
shape; the Gaussian ones are reparameterised.  Gaussians are parameterised by `log_std`; units are nats.
"""

import math

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import (
    LOG_2PI,
    as_float,
    as_integer,
    as_level,
    as_wide,
    check_factor,
    einsum,
    float_type,
    log1mexp,
    log_normal_cdf,
    log_normal_interval,
    sum_event,
)
from dlvm_jax.functional.types import Array, Key, Numeric, Shape

__all__ = [
    "bernoulli_log_prob",
    "bernoulli_sample",
    "bits_per_dim",
    "categorical_log_prob",
    "categorical_sample",
    "discretised_logistic_log_prob",
    "discretised_logistic_mixture_log_prob",
    "discretised_logistic_mixture_sample",
    "discretised_logistic_sample",
    "discretised_normal_log_prob",
    "discretised_normal_sample",
    "multivariate_normal_log_prob",
    "multivariate_normal_sample",
    "normal_log_prob",
    "normal_sample",
    "reparameterise",
]


def reparameterise(eps: Array, mean: Numeric, log_std: Numeric) -> Array:
    r"""The reparameterisation of a diagonal Gaussian.

    $z = \mu + e^{\log\sigma} \odot \epsilon$

    Shapes: `eps`, `mean`, `log_std` broadcast -> their common shape.
    Source: Kingma & Welling 2014, section 2.4.

    >>> reparameterise(jnp.array([1.0]), jnp.array([2.0]), jnp.array([0.0]))
    Array([3.], dtype=float32)
    """
    eps, mean, log_std = as_wide(eps, mean, log_std)
    return mean + jnp.exp(log_std) * eps


def normal_log_prob(x: Array, mean: Numeric, log_std: Numeric, event_ndim: int = 1) -> Array:
    r"""Log-density of a diagonal Gaussian.

    $\log\mathcal N(x\mid\mu,\sigma^2)
        = -\sum_i \big[\tfrac12 (x_i-\mu_i)^2/\sigma_i^2 + \log\sigma_i + \tfrac12\log 2\pi\big]$

    Shapes: `x`, `mean`, `log_std` broadcast to [*batch, *event] -> [*batch], nats.
    Source: Kingma & Welling 2014, appendix C.2; the third argument is a *log* standard deviation (the VAE code printed
    in some lectures passes 1 for a unit standard deviation; it must be 0).

    >>> float(normal_log_prob(jnp.zeros(1), 0.0, 0.0))
    -0.9189385175704956
    """
    x, mean, log_std = as_wide(x, mean, log_std)
    standard = (x - mean) * jnp.exp(-log_std)
    return sum_event(-0.5 * jnp.square(standard) - log_std - 0.5 * LOG_2PI, event_ndim)


def normal_sample(key: Key, mean: Numeric, log_std: Numeric, shape: Shape = ()) -> Array:
    r"""Reparameterised draw from a diagonal Gaussian.

    $z = \mu + \sigma\odot\epsilon,\ \epsilon\sim\mathcal N(0, I)$

    Shapes: `mean`, `log_std` broadcast to [*batch, *event] -> [*shape, *batch, *event].
    Source: Kingma & Welling 2014, section 2.4.

    >>> normal_sample(jax.random.key(0), jnp.zeros(3), 0.0, (2,)).shape
    (2, 3)
    """
    dtype = float_type(mean, log_std)
    mean, log_std = as_wide(mean, log_std)
    full = shape + jnp.broadcast_shapes(mean.shape, log_std.shape)
    # narrow draws would have a mean below zero, so they are rounded after
    return reparameterise(jax.random.normal(key, full, mean.dtype), mean, log_std).astype(dtype)


def multivariate_normal_log_prob(x: Array, mean: Array, scale_tril: Array) -> Array:
    r"""Log-density of a Gaussian with full covariance $\Sigma = LL^\top$.

    $\log\mathcal N(x\mid\mu,LL^\top)
        = -\tfrac12\|L^{-1}(x-\mu)\|^2 - \sum_i\log L_{ii} - \tfrac D2\log 2\pi$

    Shapes: `x`, `mean` [*batch, D], `scale_tril` [*batch, D, D] lower triangular with positive diagonal -> [*batch], nats.
    Raises ValueError for another shape and, unless it is traced, for a factor that is not lower triangular, such as a covariance.
    Source: Bishop 2006, eq. 2.43.

    >>> float(multivariate_normal_log_prob(jnp.zeros(2), jnp.zeros(2), jnp.eye(2)))
    -1.8378770351409912
    """
    x, mean, scale_tril = as_wide(x, mean, scale_tril)
    residual = x - mean
    check_factor(scale_tril, residual.shape[-1])
    residual = jnp.broadcast_to(residual, jnp.broadcast_shapes(residual.shape, scale_tril.shape[:-1]))
    if scale_tril.ndim == 2:  # one factor of all: its copies would not fit into memory
        columns = residual.reshape(-1, residual.shape[-1]).T
    else:
        columns = residual[..., None]
        scale_tril = jnp.broadcast_to(scale_tril, (*residual.shape, residual.shape[-1]))
    white = jax.lax.linalg.triangular_solve(scale_tril, columns, left_side=True, lower=True)
    white = (white.T if scale_tril.ndim == 2 else white).reshape(residual.shape)
    log_diagonal = jnp.log(jnp.diagonal(scale_tril, axis1=-2, axis2=-1))
    return sum_event(-0.5 * jnp.square(white) - log_diagonal - 0.5 * LOG_2PI, 1)


def multivariate_normal_sample(key: Key, mean: Array, scale_tril: Array, shape: Shape = ()) -> Array:
    r"""Reparameterised draw from a Gaussian with full covariance.

    $z = \mu + L\epsilon,\ \epsilon\sim\mathcal N(0, I)$

    Shapes: `mean` [*batch, D], `scale_tril` [*batch, D, D] -> [*shape, *batch, D].  Raises ValueError as
    `multivariate_normal_log_prob`.  Source: Bishop 2006, section 11.1.1.

    >>> multivariate_normal_sample(jax.random.key(0), jnp.zeros(2), jnp.eye(2), (5,)).shape
    (5, 2)
    """
    dtype = float_type(mean, scale_tril)
    mean, scale_tril = as_wide(mean, scale_tril)
    check_factor(scale_tril, scale_tril.shape[-1] if mean.ndim == 0 else mean.shape[-1])
    full = shape + jnp.broadcast_shapes(mean.shape, scale_tril.shape[:-1])
    eps = jax.random.normal(key, full, mean.dtype)
    return (mean + einsum("...ij,...j->...i", scale_tril, eps)).astype(dtype)


def bernoulli_log_prob(x: Array, logits: Array, event_ndim: int = 1) -> Array:
    r"""Log-probability of binary values under Bernoulli logits.

    $\log p(x\mid l) = \sum_i x_i l_i - \log(1+e^{l_i})$

    Shapes: `x` in {0, 1} and `logits` broadcast to [*batch, *event] -> [*batch], nats; finite for any finite logit.
    Grey values in (0, 1) give a cross-entropy, not a likelihood: binarise them first.  Others give NaN.
    Source: Kingma & Welling 2014, appendix C.1, in logits.

    >>> float(bernoulli_log_prob(jnp.ones(1), jnp.array([-200.0])))
    -200.0
    """
    x, logits = as_wide(x, logits)
    x = jnp.where((x >= 0) & (x <= 1), x, jnp.nan)
    return sum_event(x * logits - jax.nn.softplus(logits), event_ndim)


def bernoulli_sample(key: Key, logits: Array, shape: Shape = ()) -> Array:
    r"""Draw binary values, as the dtype of the logits.

    $x_i = 1\{u_i < \mathrm{sigmoid}(l_i)\},\ u_i\sim U(0,1)$

    Shapes: `logits` [*batch, *event] -> [*shape, *batch, *event].  Source: Kingma & Welling 2014, appendix C.1.

    >>> bernoulli_sample(jax.random.key(0), jnp.array([-100.0, 100.0]))
    Array([0., 1.], dtype=float32)
    """
    logits = as_float(logits)
    draw = jax.random.bernoulli(key, jax.nn.sigmoid(as_wide(logits)), shape + logits.shape)
    return draw.astype(logits.dtype)


def categorical_log_prob(x: Array, logits: Array, event_ndim: int = 1) -> Array:
    r"""Log-probability of integer levels under categorical logits.

    $\log p(x\mid l) = \sum_i l_{i,x_i} - \log\sum_k e^{l_{ik}}$

    Shapes: `x` in 0..K-1 [*batch, *event], `logits` [*batch, *event, K] -> [*batch], nats.
    Source: van den Oord et al. 2016 (PixelRNN), section 3.

    >>> float(categorical_log_prob(jnp.array([2]), jnp.zeros((1, 4))))
    -1.3862943649291992
    """
    log_probs = jax.nn.log_softmax(as_wide(logits), axis=-1)
    x = as_level(as_wide(x), log_probs.shape[-1])
    shape = jnp.broadcast_shapes(x.shape, log_probs.shape[:-1])
    log_probs = jnp.broadcast_to(log_probs, shape + log_probs.shape[-1:])
    index = jnp.broadcast_to(jnp.nan_to_num(x).astype(jnp.int32), shape)
    picked = jnp.take_along_axis(log_probs, index[..., None], axis=-1)[..., 0]
    return sum_event(jnp.where(jnp.isnan(x), jnp.nan, picked), event_ndim)


def categorical_sample(key: Key, logits: Array, shape: Shape = ()) -> Array:
    r"""Draw integer levels, as floats of at least 32 bits.

    $x_i \sim \mathrm{softmax}(l_i)$

    Shapes: `logits` [*batch, *event, K] -> [*shape, *batch, *event].  Source: Maddison et al. 2014 (Gumbel-max), eq. 2.

    >>> categorical_sample(jax.random.key(0), jnp.array([[0.0, 100.0]]))
    Array([1.], dtype=float32)
    """
    logits = as_wide(logits)
    return jax.random.categorical(key, logits, shape=shape + logits.shape[:-1]).astype(logits.dtype)


def _check_levels(levels):
    if as_integer(levels, "the number of levels") < 2:
        raise ValueError(f"a discretised density needs at least 2 levels, got {levels}")


def _bin_edges(x, mean, log_std, levels):
    """Standardised bin edges a < b and their distance, computed in units of bins so that neighbours share an edge."""
    _check_levels(levels)
    x, mean, log_std = as_wide(x, mean, log_std)
    x, width = as_level(x, levels), jnp.exp(-log_std) / levels
    a = (x - levels * mean) * width
    b = (x + 1 - levels * mean) * width
    return a, b, jnp.broadcast_to(width, a.shape)


def _with_tails(x, levels, first, middle, last):
    x = as_float(x)
    return jnp.where(x <= 0, first, jnp.where(x >= levels - 1, last, middle))


def discretised_logistic_log_prob(
    x: Array, mean: Numeric, log_scale: Numeric, levels: int = 256, event_ndim: int = 1
) -> Array:
    r"""Log-probability of levels 0..L-1 under a logistic density on [0, 1], cut into L bins; the end bins take the tails.

    $\log P(x=k) = \log\big[F(\tfrac{k+1}L) - F(\tfrac kL)\big],\quad
      F(b)-F(a) = \mathrm{sigmoid}(b)\,\mathrm{sigmoid}(-a)\,(1-e^{a-b})$

    The second form is exact and has no cancellation, for every scale and number of levels.
    Shapes: `x` in 0..L-1, `mean` and `log_scale` (of the data on [0, 1]) broadcast to [*batch, *event] -> [*batch], nats.
    Raises ValueError for fewer than two levels.  Source: Salimans et al. 2017 (PixelCNN++), eq. 2.

    >>> k = jnp.arange(256.0)[:, None]
    >>> bool(jnp.abs(jnp.exp(discretised_logistic_log_prob(k, 0.3, -4.0)).sum() - 1) < 1e-5)
    True
    """
    a, b, width = _bin_edges(x, mean, log_scale, levels)
    below, above = jax.nn.log_sigmoid(b), jax.nn.log_sigmoid(-a)
    return sum_event(_with_tails(x, levels, below, below + above + log1mexp(width), above), event_ndim)


def discretised_logistic_sample(
    key: Key, mean: Numeric, log_scale: Numeric, levels: int = 256, shape: Shape = ()
) -> Array:
    r"""Draw levels from a discretised logistic.

    $x = \mathrm{clip}(\lfloor L(\mu + s\,\mathrm{logit}\,u)\rfloor, 0, L-1),\ u\sim U(0,1)$

    Shapes: `mean`, `log_scale` broadcast to [*batch, *event] -> [*shape, *batch, *event], as floats.
    Source: Salimans et al. 2017, section 2.1.

    >>> discretised_logistic_sample(jax.random.key(0), jnp.array([0.5]), -9.0, levels=3)
    Array([1.], dtype=float32)
    """
    _check_levels(levels)
    mean, log_scale = as_wide(mean, log_scale)
    full = shape + jnp.broadcast_shapes(mean.shape, log_scale.shape)
    noise = jax.random.logistic(key, full, mean.dtype)
    return jnp.clip(jnp.floor(levels * reparameterise(noise, mean, log_scale)), 0, levels - 1)


def discretised_logistic_mixture_log_prob(
    x: Array, logits: Array, mean: Numeric, log_scale: Numeric, levels: int = 256, event_ndim: int = 1
) -> Array:
    r"""Log-probability of levels 0..L-1 under a mixture of discretised logistics for each element.

    $\log P(x) = \sum_i\log\sum_k \pi_{ik}\,P(x_i\mid\mu_{ik}, s_{ik}),\quad \pi_i = \mathrm{softmax}(l_i)$

    Shapes: `x` in 0..L-1 [*batch, *event]; `logits`, `mean`, `log_scale` (of the data on [0, 1]) [*batch, *event, K] ->
    [*batch], nats.  Raises ValueError for fewer than two levels.  Source: Salimans et al. 2017 (PixelCNN++), eq. 1 and 2.

    >>> three = jnp.zeros((1, 3))
    >>> single = discretised_logistic_log_prob(jnp.ones(1), 0.0, 0.0, 4)
    >>> bool(jnp.isclose(discretised_logistic_mixture_log_prob(jnp.ones(1), three, three, three, 4), single))
    True
    """
    x, logits, mean, log_scale = as_wide(x, logits, mean, log_scale)
    each = discretised_logistic_log_prob(x[..., None], mean, log_scale, levels, event_ndim=0)
    return sum_event(jax.nn.logsumexp(jax.nn.log_softmax(logits, -1) + each, axis=-1), event_ndim)


def discretised_logistic_mixture_sample(
    key: Key, logits: Array, mean: Numeric, log_scale: Numeric, levels: int = 256, shape: Shape = ()
) -> Array:
    r"""Draw levels from a mixture of discretised logistics: first the component of each element, then its level.

    $k_i\sim\mathrm{softmax}(l_i),\quad x_i \sim P(\cdot\mid\mu_{ik_i}, s_{ik_i})$

    Shapes: `logits`, `mean`, `log_scale` [*batch, *event, K] -> [*shape, *batch, *event], as floats.
    Source: Salimans et al. 2017, section 2.1.

    >>> discretised_logistic_mixture_sample(jax.random.key(0), jnp.zeros((5, 3)), 0.5, -9.0, 3).shape
    (5,)
    """
    key_component, key_level = jax.random.split(key)
    logits, mean, log_scale = as_wide(logits, mean, log_scale)
    full = jnp.broadcast_shapes(logits.shape, mean.shape, log_scale.shape)
    which = jax.random.categorical(key_component, jnp.broadcast_to(logits, full), shape=shape + full[:-1])
    which = which[..., None]

    def chosen(parameter):
        everywhere = jnp.broadcast_to(parameter, shape + full)
        return jnp.take_along_axis(everywhere, which, axis=-1)[..., 0]

    return discretised_logistic_sample(key_level, chosen(mean), chosen(log_scale), levels)


def discretised_normal_log_prob(
    x: Array, mean: Numeric, log_std: Numeric, levels: int = 256, event_ndim: int = 1
) -> Array:
    r"""Log-probability of levels 0..L-1 under a Gaussian on [0, 1], cut into L bins; the end bins take the tails.

    $\log P(x=k) = \log\big[\Phi\big(\tfrac{(k+1)/L-\mu}\sigma\big) - \Phi\big(\tfrac{k/L-\mu}\sigma\big)\big]$

    Shapes: `x` in 0..L-1, `mean` and `log_std` (of the data on [0, 1]) broadcast to [*batch, *event] -> [*batch], nats.
    Raises ValueError for fewer than two levels.  Source: Ho, Jain, Abbeel 2020, eq. 13.

    >>> k = jnp.arange(256.0)[:, None]
    >>> bool(jnp.abs(jnp.exp(discretised_normal_log_prob(k, 0.3, 1.0)).sum() - 1) < 1e-5)
    True
    """
    a, b, width = _bin_edges(x, mean, log_std, levels)
    middle = log_normal_interval(a, b, width)
    first, last = log_normal_cdf(b), log_normal_cdf(-a)
    return sum_event(_with_tails(x, levels, first, middle, last), event_ndim)


def discretised_normal_sample(
    key: Key, mean: Numeric, log_std: Numeric, levels: int = 256, shape: Shape = ()
) -> Array:
    r"""Draw levels from a discretised Gaussian.

    $x = \mathrm{clip}(\lfloor L(\mu+\sigma\epsilon)\rfloor, 0, L-1),\ \epsilon\sim\mathcal N(0,1)$

    Shapes: `mean`, `log_std` broadcast to [*batch, *event] -> [*shape, *batch, *event], as floats.
    Source: Ho, Jain, Abbeel 2020, section 3.3.

    >>> discretised_normal_sample(jax.random.key(0), jnp.array([0.5]), -9.0, levels=3)
    Array([1.], dtype=float32)
    """
    _check_levels(levels)
    mean, log_std = as_wide(mean, log_std)
    draw = normal_sample(key, mean, log_std, shape)
    return jnp.clip(jnp.floor(levels * draw), 0, levels - 1)


def bits_per_dim(log_prob: Numeric, event_shape: Shape, bin_width: float = 1.0) -> Array:
    r"""Bits per dimension of the *discrete* data behind a log-density.

    $\mathrm{bpd} = -\frac{\log p(x)}{D\log 2} - \log_2 h$

    Shapes: `log_prob` in nats, any -> same; `event_shape` gives $D$; `bin_width` $h$ is the distance between neighbouring
    data values as the density sees them (1 for probabilities of integer levels, 1/256 for 8-bit data scaled to [0, 1]).
    Raises ValueError for an empty event or a bin width that is not positive and finite.
    Source: Theis, van den Oord, Bethge 2016, section 3.1.

    >>> round(float(bits_per_dim(-28 * 28 * math.log(256.0), (28, 28))), 6)
    8.0
    """
    dims = math.prod(event_shape)
    if min(event_shape, default=1) < 1 or not 0 < bin_width < math.inf:
        raise ValueError(
            f"bits per dimension need a non-empty event and a positive bin width, got {event_shape}, {bin_width}"
        )
    return -as_wide(log_prob) / (dims * math.log(2)) - math.log2(bin_width)
