"""Autoencoder losses: squared error, sparse and contractive penalties, the corruptions of denoising.

An encoder E maps x to a code z = E(x) and a decoder D maps it back.  A loss is one example's: the penalties below stand inside
the sum over examples, each with its own weight.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_float, as_wide, sum_event
from dlvm_jax.functional.types import Array, Key, Numeric

__all__ = [
    "contractive_penalty",
    "gaussian_corruption",
    "masking_corruption",
    "soft_threshold",
    "sparse_code",
    "sparse_penalty",
    "squared_error",
]


def squared_error(x: Array, reconstruction: Array, event_ndim: int = 1) -> Array:
    r"""Autoencoder loss of each example.

    $\|D(E(x)) - x\|_2^2 = \sum_i (D(E(x))_i - x_i)^2$

    Shapes: `x`, `reconstruction` broadcast to [*batch, *event] -> [*batch].  It is -2 log N(x | D(E(x)), I) up to a constant, so
    half of it is in nats; a mean over pixels in place of the sum would underweight it against any penalty.
    Source: Goodfellow, Bengio, Courville 2016, eq. 14.1.

    >>> squared_error(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0]))
    Array(5., dtype=float32)
    """
    x, reconstruction = as_wide(x, reconstruction)
    return sum_event(jnp.square(reconstruction - x), event_ndim)


def sparse_penalty(code: Array) -> Array:
    r"""Penalty of a sparse autoencoder, the l1 norm of the code.

    $\Omega(x) = \|E(x)\|_1 = \sum_j |E(x)_j|$

    The sparse loss is $\sum_n \big[\|D(E(x_n))-x_n\|_2^2 + \lambda\|E(x_n)\|_1\big]$, the penalty inside the sum (some lectures
    lose the brackets).  Small codes under a large decoder lower the penalty without being sparse: bound the decoder's scale
    (orthonormal or unit columns, weight decay) where that matters.
    Shapes: `code` [*batch, k] -> [*batch].  Source: Goodfellow, Bengio, Courville 2016, eq. 14.2.

    >>> sparse_penalty(jnp.array([3.0, -4.0]))
    Array(7., dtype=float32)
    """
    code = as_wide(code)
    return sum_event(code * jnp.sign(code), 1)  # |z| with slope 0 at 0; that of jnp.abs is 1 there


def soft_threshold(x: Array, threshold: Numeric) -> Array:
    r"""Soft-threshold, the proximal map of the l1 norm.

    $S_\tau(x) = \mathrm{sign}(x)\max(|x|-\tau, 0) = \arg\min_z \tfrac12(z-x)^2 + \tau|z|$

    Shapes: `x`, `threshold` broadcast -> their common shape.  Source: Donoho & Johnstone 1994.

    >>> soft_threshold(jnp.array([3.0, -3.0, 0.5]), 1.0)
    Array([ 2., -2.,  0.], dtype=float32)
    """
    x, threshold = as_wide(x, threshold)
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - threshold, 0)


def sparse_code(x: Array, dictionary: Array, penalty: Numeric) -> Array:
    r"""Best code of a sparse autoencoder whose decoder is linear with orthonormal columns, in closed form.

    $\arg\min_z \|Wz - x\|_2^2 + \lambda\|z\|_1 = S_{\lambda/2}(W^\top x),\ W^\top W = I$

    Half of the weight, since the squared error has no factor 1/2.  Orthonormality is the caller's to ensure.
    Shapes: `x` [*batch, D], `dictionary` W [D, k], `penalty` a weight or [k] weights -> [*batch, k].  Raises ValueError where
    they do not fit together.
    Source: Hastie, Tibshirani, Friedman 2009, table 3.4.

    >>> sparse_code(jnp.array([3.0, 0.5]), jnp.eye(2), 2.0)
    Array([2., 0.], dtype=float32)
    """
    x, dictionary, penalty = as_wide(x, dictionary, penalty)
    if dictionary.ndim != 2 or x.shape[-1] != len(dictionary):
        raise ValueError(
            f"x [*batch, D] needs a dictionary [D, k], got shapes {x.shape} and {dictionary.shape}"
        )
    return soft_threshold(jnp.matmul(x, dictionary, precision="highest"), penalty / 2)


def gaussian_corruption(key: Key, x: Array, std: Numeric) -> Array:
    r"""Additive Gaussian noise on the input of a denoising autoencoder.

    $\tilde x = x + \sigma\epsilon,\ \epsilon\sim\mathcal N(0, I)$

    The denoising loss is $\|D(E(\tilde x)) - x\|_2^2$ against the clean x; its best D(E(.)) of all functions is the posterior
    mean $\mathbb E[x\mid\tilde x] = \tilde x + \sigma^2\nabla\log p_\sigma(\tilde x)$ (Tweedie), p_sigma the density of x~.
    Shapes: `x` any, `std` broadcasts -> as `x`.  Source: Vincent et al. 2010, section 3.3.

    >>> gaussian_corruption(jax.random.key(0), jnp.ones(2), 0.0)
    Array([1., 1.], dtype=float32)
    """
    dtype = as_float(x).dtype
    x, std = as_wide(x, std)
    return (x + std * jax.random.normal(key, x.shape, x.dtype)).astype(dtype)  # narrow draws would be biased


def masking_corruption(key: Key, x: Array, rate: Numeric) -> Array:
    r"""Masking noise on the input of a denoising autoencoder: each element is zeroed with probability `rate`.

    $\tilde x = m\odot x,\ m_i\sim\mathrm{Bernoulli}(1-\rho)$

    Shapes: `x` any, `rate` in [0, 1] broadcasts -> as `x`.  Source: Vincent et al. 2010, section 3.3.

    >>> masking_corruption(jax.random.key(0), jnp.ones(2), 1.0)
    Array([0., 0.], dtype=float32)
    """
    x = as_float(x)
    kept = jax.random.bernoulli(key, 1 - as_wide(rate), x.shape)
    return jnp.where(kept, x, 0)


def contractive_penalty(encode: Callable[[Array], Array], x: Array, event_ndim: int = 1) -> Array:
    r"""Penalty of a contractive autoencoder, the squared Frobenius norm of the encoder's Jacobian.

    $\Omega(x) = \|\partial E(x)/\partial x\|_F^2 = \sum_j\sum_i (\partial E_j/\partial x_i)^2$

    One reverse pass a code unit, for all examples at once: `encode` must treat them independently (no batch normalisation).
    Shapes: `encode` maps [*batch, *event] -> [*batch, k]; `x` [*batch, *event] -> [*batch].
    Source: Rifai et al. 2011, eq. 1.

    >>> contractive_penalty(lambda x: 2 * x, jnp.ones((4, 3)))
    Array([12., 12., 12., 12.], dtype=float32)
    """
    x = as_float(x)
    code, pullback = jax.vjp(encode, x)
    units = jnp.eye(code.shape[-1], dtype=code.dtype)

    def row(unit):
        return sum_event(jnp.square(pullback(jnp.broadcast_to(unit, code.shape))[0]), event_ndim)

    block = max(1, 2**24 // max(1, x.size))  # each unit takes the memory of x
    if len(units) <= block:
        return jax.vmap(row)(units).sum(0)
    return jax.lax.map(jax.checkpoint(row), units, batch_size=block).sum(0)
