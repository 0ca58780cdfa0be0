"""Kullback-Leibler divergences in closed form and by Monte Carlo, and the maximum mean discrepancy.

The former are KL(q || p) in nats, sum the event axes (the last `event_ndim`) and keep the batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_wide, check_factor, sum_event
from dlvm_jax.functional.types import Array, Numeric

__all__ = [
    "MonteCarlo",
    "inverse_multiquadratic_kernel",
    "kl_bernoulli",
    "kl_categorical",
    "kl_monte_carlo",
    "kl_multivariate_normal",
    "kl_normal",
    "kl_standard_normal",
    "mmd",
    "rbf_kernel",
]


class MonteCarlo(NamedTuple):
    """An estimate and its standard error, both [*batch]."""

    value: Numeric
    standard_error: Numeric


def kl_normal(
    mean_q: Numeric, log_std_q: Numeric, mean_p: Numeric, log_std_p: Numeric, event_ndim: int = 1
) -> Array:
    r"""KL between two diagonal Gaussians.

    $\mathrm{KL} = \sum_i \log\frac{\sigma_{p,i}}{\sigma_{q,i}}
        + \frac{\sigma_{q,i}^2+(\mu_{q,i}-\mu_{p,i})^2}{2\sigma_{p,i}^2} - \frac12$

    Shapes: all broadcast to [*batch, *event] -> [*batch], nats.  `expm1` keeps it accurate near q = p.
    Source: Kingma & Welling 2014, appendix B (for a standard p).

    >>> float(kl_normal(jnp.ones(1), 0.0, jnp.zeros(1), 0.0))
    0.5
    """
    mean_q, log_std_q, mean_p, log_std_p = as_wide(mean_q, log_std_q, mean_p, log_std_p)
    log_ratio = log_std_q - log_std_p
    distance = (mean_q - mean_p) * jnp.exp(-log_std_p)
    return sum_event(0.5 * (jnp.expm1(2 * log_ratio) - 2 * log_ratio + jnp.square(distance)), event_ndim)


def kl_standard_normal(mean: Numeric, log_std: Numeric, event_ndim: int = 1) -> Array:
    r"""KL of a diagonal Gaussian from the standard normal.

    $\mathrm{KL} = \tfrac12\sum_i \mu_i^2 + \sigma_i^2 - 1 - \log\sigma_i^2$

    Shapes: `mean`, `log_std` broadcast to [*batch, *event] -> [*batch], nats.
    Source: Kingma & Welling 2014, appendix B.

    >>> float(kl_standard_normal(jnp.array([3.0, 4.0]), jnp.zeros(2)))
    12.5
    """
    return kl_normal(mean, log_std, 0.0, 0.0, event_ndim)


def kl_multivariate_normal(mean_q: Array, tril_q: Array, mean_p: Array, tril_p: Array) -> Array:
    r"""KL between two Gaussians with full covariances $L_qL_q^\top$ and $L_pL_p^\top$.

    $\mathrm{KL} = \tfrac12\big[\|L_p^{-1}L_q\|_F^2 + \|L_p^{-1}(\mu_q-\mu_p)\|^2 - D\big]
        + \sum_i\log L_{p,ii} - \log L_{q,ii}$

    Shapes: means [*batch, D], lower Cholesky factors [*batch, D, D] -> [*batch], nats.  Raises ValueError as
    `densities.multivariate_normal_log_prob`.
    Source: Rasmussen & Williams 2006, eq. A.23.

    >>> float(kl_multivariate_normal(jnp.ones(2), jnp.eye(2), jnp.zeros(2), jnp.eye(2)))
    1.0
    """
    mean_q, tril_q, mean_p, tril_p = as_wide(mean_q, tril_q, mean_p, tril_p)
    difference = (mean_q - mean_p)[..., None]
    for tril in (tril_q, tril_p):
        check_factor(tril, difference.shape[-2])
    matrix = jnp.broadcast_shapes(tril_q.shape, tril_p.shape, (*difference.shape[:-1], difference.shape[-2]))
    tril_q, tril_p = jnp.broadcast_to(tril_q, matrix), jnp.broadcast_to(tril_p, matrix)
    both = jnp.concatenate([tril_q, jnp.broadcast_to(difference, (*matrix[:-1], 1))], axis=-1)
    white = jax.lax.linalg.triangular_solve(tril_p, both, left_side=True, lower=True)
    log_diagonal = [jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)) for tril in (tril_p, tril_q)]
    return 0.5 * (sum_event(jnp.square(white), 2) - matrix[-1]) + sum_event(
        log_diagonal[0] - log_diagonal[1], 1
    )


def kl_bernoulli(logits_q: Array, logits_p: Array, event_ndim: int = 1) -> Array:
    r"""KL between Bernoulli distributions given by logits.

    $\mathrm{KL} = \sum_i q_i\,(l^q_i-l^p_i) + \log(1+e^{l^p_i}) - \log(1+e^{l^q_i}),\ q_i=\mathrm{sigmoid}(l^q_i)$

    Computed as $q_i\log\frac{q_i}{p_i} + (1-q_i)\log\frac{1-q_i}{1-p_i}$, where large logits do not cancel.
    Shapes: broadcast to [*batch, *event] -> [*batch], nats.  Source: Bishop 2006, eq. 1.113 for two outcomes.

    >>> float(kl_bernoulli(jnp.zeros(1), jnp.zeros(1)))
    0.0
    """
    logits_q, logits_p = as_wide(logits_q, logits_p)

    def part(sign):
        log_ratio = jax.nn.log_sigmoid(sign * logits_q) - jax.nn.log_sigmoid(sign * logits_p)
        return jax.nn.sigmoid(sign * logits_q) * log_ratio

    return sum_event(part(1) + part(-1), event_ndim)


def kl_categorical(logits_q: Array, logits_p: Array, event_ndim: int = 1) -> Array:
    r"""KL between categorical distributions given by logits.

    $\mathrm{KL} = \sum_i\sum_k q_{ik}(\log q_{ik}-\log p_{ik})$

    Shapes: broadcast to [*batch, *event, K] -> [*batch], nats; a category with $q = 0$ counts nothing.  Raises ValueError for
    different K.
    Source: Bishop 2006, eq. 1.113.

    >>> round(float(kl_categorical(jnp.array([[50.0, 0.0]]), jnp.zeros((1, 2)))), 6)
    0.693147
    """
    logits_q, logits_p = as_wide(logits_q, logits_p)
    if logits_q.shape[-1] != logits_p.shape[-1]:
        raise ValueError(
            f"both laws need as many categories, got shapes {logits_q.shape} and {logits_p.shape}"
        )
    log_q, log_p = jax.nn.log_softmax(logits_q, axis=-1), jax.nn.log_softmax(logits_p, axis=-1)
    possible = log_q > -jnp.inf
    log_ratio = jnp.where(possible, jnp.where(possible, log_q, 0.0) - log_p, 0.0)
    return sum_event(jnp.exp(log_q) * log_ratio, event_ndim + 1)


def kl_monte_carlo(log_q: Array, log_p: Array) -> MonteCarlo:
    r"""Monte-Carlo KL from samples of q, with its standard error.

    $\widehat{\mathrm{KL}} = \frac1S\sum_s \log q(z_s) - \log p(z_s),\ z_s\sim q$

    Shapes: `log_q`, `log_p` [S, *batch], the log-densities at the S samples -> `MonteCarlo` of [*batch], nats; the
    standard error needs S >= 2.  Raises ValueError for different shapes.  Source: Kingma & Welling 2014, eq. 6.

    >>> kl_monte_carlo(jnp.array([1.0, 3.0]), jnp.zeros(2)).value
    Array(2., dtype=float32)
    """
    log_q, log_p = as_wide(log_q, log_p)
    if log_q.shape != log_p.shape or not log_q.ndim:
        raise ValueError(
            f"log-densities of samples have one shape [samples, *batch], got {log_q.shape} and {log_p.shape}"
        )
    log_ratio = log_q - log_p
    return MonteCarlo(log_ratio.mean(0), log_ratio.std(0, ddof=1) / jnp.sqrt(log_ratio.shape[0]))


_BLOCK = 2**22  # numbers that are held at once


def _square_distances(x, y):
    """Squared distances between rows, [N, P], as a sum of squares: expanding it into products would cancel.

    In blocks of rows of x, whose differences are computed again for the gradient: all at once take D times the memory.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"a kernel is of samples [N, D] and [P, D], got shapes {x.shape} and {y.shape}")
    row = jax.checkpoint(lambda x: jnp.sum(jnp.square(x - y), axis=-1))
    return jax.lax.map(row, x, batch_size=max(1, _BLOCK // max(1, y.size)))


def rbf_kernel(x: Array, y: Array, bandwidth: Numeric) -> Array:
    r"""Gaussian kernel between the rows of two samples.

    $k(x,y) = \exp\big(-\tfrac{\|x-y\|^2}{2 h^2}\big)$

    Shapes: `x` [N, D], `y` [P, D] -> [N, P].  Raises ValueError for others.  Source: Gretton et al. 2012, section 3.

    >>> rbf_kernel(jnp.zeros((1, 2)), jnp.zeros((1, 2)), 1.0)
    Array([[1.]], dtype=float32)
    """
    x, y, bandwidth = as_wide(x, y, bandwidth)
    return jnp.exp(-0.5 * _square_distances(x, y) / bandwidth**2)


def inverse_multiquadratic_kernel(x: Array, y: Array, scale: Numeric) -> Array:
    r"""Inverse multiquadratic kernel between the rows of two samples, with heavier tails than the Gaussian.

    $k(x,y) = \frac{C}{C+\|x-y\|^2}$

    Shapes: `x` [N, D], `y` [P, D] -> [N, P]; for a standard normal latent the paper takes $C = 2D$.  Raises ValueError for
    others.
    Source: Tolstikhin et al. 2018 (WAE), section 4.

    >>> inverse_multiquadratic_kernel(jnp.zeros((1, 2)), jnp.ones((1, 2)), 2.0)
    Array([[0.5]], dtype=float32)
    """
    x, y, scale = as_wide(x, y, scale)
    return scale / (scale + _square_distances(x, y))


def mmd(x: Array, y: Array, kernel: Callable[[Array, Array], Array]) -> Array:
    r"""Unbiased estimate of the squared maximum mean discrepancy; it may be negative, and must not be clamped.

    $\widehat{\mathrm{MMD}}^2 = \frac{1}{N(N-1)}\sum_{i\ne j}k(x_i,x_j) + \frac{1}{P(P-1)}\sum_{i\ne j}k(y_i,y_j)
        - \frac{2}{NP}\sum_{i,j}k(x_i,y_j)$

    Shapes: samples `x` [N, D] and `y` [P, D], `kernel(a, b)` -> matrix; -> scalar.  Raises ValueError for others and for
    fewer than two examples.  Source: Gretton et al. 2012, eq. 3.

    >>> samples = jnp.eye(2)
    >>> float(mmd(samples, samples, lambda a, b: rbf_kernel(a, b, 1.0))) < 0
    True
    """
    x, y = as_wide(x, y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"the MMD is of samples [N, D] and [P, D], got shapes {x.shape} and {y.shape}")
    n, p = len(x), len(y)
    if min(n, p) < 2:
        raise ValueError(f"the unbiased MMD needs at least two examples of each, got {n} and {p}")

    def within(a, count):
        matrix = kernel(a, a)
        return (jnp.sum(matrix) - jnp.trace(matrix)) / (count * (count - 1))

    return within(x, n) + within(y, p) - 2 * jnp.mean(kernel(x, y))
