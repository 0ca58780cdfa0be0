"""Bounds on, and estimates of, the log-evidence log p(x).

Everything is built from log-weights log w = log p(x|z) + log p(z) - log q(z|x) at samples z ~ q(z|x), stacked on the
leading axis.  Results keep the batch and are in nats; means over data are taken by the caller.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dlvm_jax.functional.numerics import as_wide, log_mean_exp
from dlvm_jax.functional.types import Array, Numeric, Shape

__all__ = [
    "Evidence",
    "Weights",
    "accumulate",
    "dreg",
    "elbo",
    "elbo_sampled",
    "empty_weights",
    "evidence",
    "importance_weighted",
    "log_weight",
    "naive_evidence",
    "renyi",
    "summarise",
]


def _check_samples(name, log_w):
    if not log_w.ndim:
        raise ValueError(f"{name} has the samples on its first axis, [samples, *batch], got one number")


def log_weight(log_lik: Array, log_prior: Array, log_posterior: Array) -> Array:
    r"""Logarithm of the importance weight of a latent sample.

    $\log w = \log p(x\mid z) + \log p(z) - \log q(z\mid x)$

    Shapes: all broadcast -> same, nats.  Source: Burda, Grosse, Salakhutdinov 2016, eq. 8.

    >>> float(log_weight(-1.0, -2.0, -1.5))
    -1.5
    """
    log_lik, log_prior, log_posterior = as_wide(log_lik, log_prior, log_posterior)
    return log_lik + log_prior - log_posterior


def elbo(log_lik: Array, kl: Array, beta: Numeric = 1.0) -> Array:
    r"""Evidence lower bound with the KL given (analytic or estimated); beta-ELBO for beta other than 1.

    $\mathcal L_\beta = \mathbb E_{q(z\mid x)}[\log p(x\mid z)] - \beta\,\mathrm{KL}(q(z\mid x)\,\|\,p(z))$

    Shapes: `log_lik` [S, *batch] at S samples of q, `kl` [*batch] -> [*batch], nats.  A lower bound on log p(x) only for
    beta >= 1.  Raises ValueError for a log_lik without the axis of samples, or of another batch.
    Source: Kingma & Welling 2014, eq. 7; Higgins et al. 2017, eq. 4.

    >>> elbo(jnp.array([[-3.0], [-1.0]]), jnp.array([0.5]))
    Array([-2.5], dtype=float32)
    """
    log_lik, kl, beta = as_wide(log_lik, kl, beta)
    _check_samples("log_lik", log_lik)
    if log_lik.shape[1:] != kl.shape:
        raise ValueError(
            f"log_lik is [samples, *batch] and kl is [*batch], got shapes {log_lik.shape} and {kl.shape}; "
            "of one sample give log_lik[None]"
        )
    return jnp.mean(log_lik, axis=0) - beta * kl


def elbo_sampled(log_lik: Array, log_prior: Array, log_posterior: Array, beta: Numeric = 1.0) -> Array:
    r"""Evidence lower bound with the KL estimated from the same samples.

    $\mathcal L_\beta = \frac1S\sum_s \log p(x\mid z_s) - \beta\,[\log q(z_s\mid x) - \log p(z_s)],
        \ z_s\sim q(z\mid x)$

    Shapes: each [S, *batch] -> [*batch], nats.  With the exact posterior and beta = 1 every single sample gives log p(x).
    Raises ValueError for different shapes, or none.
    Source: Kingma & Welling 2014, eq. 6.

    >>> elbo_sampled(jnp.array([-1.0]), jnp.array([-2.0]), jnp.array([-1.5]))
    Array(-1.5, dtype=float32)
    """
    log_lik, log_prior, log_posterior, beta = as_wide(log_lik, log_prior, log_posterior, beta)
    _check_samples("log_lik", log_lik)
    if not log_lik.shape == log_prior.shape == log_posterior.shape:
        raise ValueError(
            "log_lik, log_prior and log_posterior are all [samples, *batch], got shapes "
            f"{log_lik.shape}, {log_prior.shape}, {log_posterior.shape}"
        )
    return jnp.mean(log_lik - beta * (log_posterior - log_prior), axis=0)


def naive_evidence(log_lik: Array) -> Array:
    r"""Log-evidence by averaging the likelihood over samples of the prior.

    $\log\hat p(x) = \log\frac1S\sum_s p(x\mid z_s),\ z_s\sim p(z)$

    The likelihood estimate is unbiased, its logarithm is biased low (so this is a stochastic lower bound), badly so in
    many dimensions.  Shapes: `log_lik` [S, *batch] -> [*batch], nats.
    Source: Mohamed & Lakshminarayanan 2016, section 2; the logarithm is often left out of the printed formula.

    >>> bool(jnp.isclose(naive_evidence(jnp.log(jnp.array([0.5, 1.5]))), 0.0, atol=1e-6))
    True
    """
    log_lik = as_wide(log_lik)
    _check_samples("log_lik", log_lik)
    return log_mean_exp(log_lik)


def importance_weighted(log_w: Array) -> Array:
    r"""Importance-weighted bound (IWAE); equals the ELBO for K = 1 and rises to log p(x) with K.

    $\mathcal L_K = \log\frac1K\sum_{k=1}^K w_k,\ z_k\sim q(z\mid x)$

    Its plain gradient is the weight-averaged one, $\sum_k \tilde w_k\nabla\log w_k$.  Only legal when $E[w] = p(x)$: with an
    analytic KL or a diffusion bound inside the weight the result may lie far above log p(x).
    Shapes: `log_w` [K, *batch] -> [*batch], nats.  Source: Burda, Grosse, Salakhutdinov 2016, eq. 8 and 13.

    >>> bool(jnp.isclose(importance_weighted(jnp.log(jnp.array([0.5, 1.5]))), 0.0, atol=1e-6))
    True
    """
    log_w = as_wide(log_w)
    _check_samples("log_w", log_w)
    return log_mean_exp(log_w)


def renyi(log_w: Array, alpha: float) -> Array:
    r"""Renyi variational bound of order alpha.

    $\mathcal L_\alpha = \frac1{1-\alpha}\log\frac1K\sum_k w_k^{1-\alpha}$

    alpha -> 1 is the ELBO, alpha = 0 the importance-weighted bound; for alpha < 0 it can exceed log p(x).
    Shapes: `log_w` [K, *batch], `alpha` a Python float -> [*batch], nats.  Source: Li & Turner 2016, eq. 7 and 11.

    >>> renyi(jnp.array([-3.0, -1.0]), 1.0)
    Array(-2., dtype=float32)
    """
    log_w = as_wide(log_w)
    _check_samples("log_w", log_w)
    if alpha == 1:
        return jnp.mean(log_w, axis=0)
    return log_mean_exp((1 - alpha) * log_w) / (1 - alpha)


@jax.custom_jvp
def _scale_gradient(z, weight):
    return z


@_scale_gradient.defjvp
def _scale_tangent(primals, tangents):
    z, weight = primals
    return z, tangents[0] * weight


def dreg(log_weight_fn: Callable[[Array], Array], z: Array) -> Array:
    r"""Importance-weighted bound whose gradient is doubly reparameterised (DReG).

    $\nabla_\theta = \sum_k\tilde w_k\,\partial_\theta\log w_k,\quad
      \nabla_\phi = \sum_k\tilde w_k^2\,\frac{\partial\log w_k}{\partial z_k}\frac{\partial z_k}{\partial\phi},
      \quad \tilde w_k = w_k/\textstyle\sum_j w_j$

    Same expected gradient as `importance_weighted`, with a signal-to-noise ratio that does not fall with K.
    `log_weight_fn(z)` returns log w and must hold the posterior's parameters constant (stop-gradient) where they enter
    log q; `z` are reparameterised samples; the value is the bound.
    Shapes: `z` [K, *batch, M], log w [K, *batch] -> [*batch], nats.  Raises ValueError where they do not fit together.
    Source: Tucker, Lawson, Gu, Maddison 2019, eq. 8.

    >>> dreg(lambda z: -z[..., 0], jnp.zeros((4, 2, 1)))
    Array([0., 0.], dtype=float32)
    """
    z = as_wide(z)
    first = as_wide(log_weight_fn(z))
    if not first.ndim or first.shape != z.shape[: first.ndim]:
        raise ValueError(
            f"z of shape {z.shape} has log-weights of its first axes, [samples, *batch], got shape {first.shape}"
        )
    weight = jax.lax.stop_gradient(jax.nn.softmax(first, axis=0))
    spread = weight.reshape(weight.shape + (1,) * (z.ndim - weight.ndim))
    log_w = as_wide(log_weight_fn(_scale_gradient(z, jnp.broadcast_to(spread, z.shape))))
    surrogate = jnp.sum(
        jnp.where(weight > 0, weight * log_w, 0.0), axis=0
    )  # a weight of zero may have log w = -inf
    return jax.lax.stop_gradient(importance_weighted(log_w) - surrogate) + surrogate


class Evidence(NamedTuple):
    """Estimate of log p(x), its standard error and the effective sample size, each [*batch]."""

    log_evidence: Array
    standard_error: Array
    effective_sample_size: Array


class Weights(NamedTuple):
    """Running sums of importance weights, safe against overflow: everything is relative to `log_max`."""

    count: Array
    log_max: Array
    total: Array
    total_squares: Array


def empty_weights(shape: Shape = (), dtype: DTypeLike = jnp.float32) -> Weights:
    r"""Running sums of no weight at all.

    $n = 0,\ \sum_k w_k = \sum_k w_k^2 = 0$

    Shapes: `shape` is the batch -> `Weights` of [*shape].  Source: Milakov & Gimelshein 2018 (streaming softmax), algorithm 3.

    >>> empty_weights((2,)).count
    Array([0., 0.], dtype=float32)
    """
    zero = as_wide(jnp.zeros(shape, dtype))
    return Weights(zero, jnp.full_like(zero, -jnp.inf), zero, zero)


def accumulate(weights: Weights, log_w: Array) -> Weights:
    r"""Add a chunk of log-weights to running sums, so that thousands of samples need no memory.

    $m' = \max(m, \max_k\log w_k),\quad S' = S e^{m-m'} + \sum_k e^{\log w_k - m'}$

    Shapes: `weights` of [*batch], `log_w` [K, *batch] -> `Weights` of [*batch].  Raises ValueError for another batch.
    Source: Milakov & Gimelshein 2018, algorithm 3.

    >>> float(accumulate(empty_weights(), jnp.array([0.0, 0.0])).total)
    2.0
    """
    *sums, log_w = as_wide(*weights, log_w)
    weights = Weights(*sums)
    _check_samples("log_w", log_w)
    if log_w.shape[1:] != weights.total.shape:
        raise ValueError(
            f"running sums of a batch {weights.total.shape} take log-weights [samples, *batch], got shape {log_w.shape}"
        )
    log_max = jax.lax.stop_gradient(jnp.maximum(weights.log_max, jnp.max(log_w, axis=0)))  # it cancels
    anchor = jnp.where(jnp.isfinite(log_max), log_max, 0.0)
    rescale, relative = jnp.exp(weights.log_max - anchor), jnp.exp(log_w - anchor)
    return Weights(
        weights.count + log_w.shape[0],
        log_max,
        weights.total * rescale + jnp.sum(relative, axis=0),
        weights.total_squares * rescale**2 + jnp.sum(relative**2, axis=0),
    )


def summarise(weights: Weights) -> Evidence:
    r"""Evidence estimate from running sums of weights.

    $\log\hat p = \log\frac1K\sum_k w_k,\quad
      \mathrm{se} \approx \frac{\mathrm{sd}(w)}{\sqrt K\,\bar w},\quad
      \mathrm{ESS} = \frac{(\sum_k w_k)^2}{\sum_k w_k^2}$

    The standard error is the delta method's; trust it only when the ESS is well above 1.  It needs K >= 2, and is NaN for one.
    Where every weight is zero the log-evidence is -inf, its standard error infinite and the ESS 0; the gradients of evidence and
    ESS are zero there.
    Shapes: `Weights` of [*batch] -> `Evidence` of [*batch], nats.  Source: Owen 2013, "Monte Carlo theory", eq. 9.6 and 9.13.

    >>> summarise(accumulate(empty_weights(), jnp.zeros(8))).effective_sample_size
    Array(8., dtype=float32)
    """
    count, log_max, total, squares = as_wide(*weights)
    none = squares == 0
    ess = jnp.where(none, 0.0, total**2 / jnp.where(none, 1.0, squares))
    relative_variance = jnp.maximum(count / ess - 1, 0.0) / (count - 1)
    log_mean = jnp.log(jnp.where(none, 1.0, total / count))
    return Evidence(log_max + log_mean, jnp.sqrt(relative_variance), ess)


def evidence(log_w: Array) -> Evidence:
    r"""Evidence estimate with standard error and effective sample size from all log-weights at once.

    $\log\hat p(x) = \log\frac1K\sum_k w_k$ with the errors of `summarise`.

    Shapes: `log_w` [K, *batch] -> `Evidence` of [*batch], nats.  Source: Owen 2013, "Monte Carlo theory", chapter 9.

    >>> float(evidence(jnp.zeros(4)).log_evidence)
    0.0
    """
    log_w = as_wide(log_w)
    _check_samples("log_w", log_w)
    return summarise(accumulate(empty_weights(log_w.shape[1:], log_w.dtype), log_w))
