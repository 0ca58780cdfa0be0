"""The aggregated posterior q(z) = 1/N sum_n q(z|x_n) of diagonal Gaussians, and the KL taken apart with it.

Exact over a whole data set; unbiased for q(z) from a minibatch with `stratified_log_weights`.  The density of q(z) itself is
`mixtures.normal_mixture_log_prob`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlvm_jax.functional.densities import normal_log_prob
from dlvm_jax.functional.numerics import as_integer, as_wide, check_covariance, sum_event
from dlvm_jax.functional.types import Array

__all__ = [
    "KLTerms",
    "gaussian_total_correlation",
    "stratified_log_weights",
    "total_correlation_terms",
]


class KLTerms(NamedTuple):
    """The three parts of the KL to the prior, each [*batch] in nats; they add up to log q(z|x) - log p(z)."""

    mutual_information: Array
    total_correlation: Array
    dimension_wise_kl: Array


def stratified_log_weights(batch: int, examples: int) -> Array:
    r"""Log-weights that make a minibatch represent the whole data set, a row for each of its examples.

    $w_{ii} = \frac1N,\quad w_{ij} = \frac{N-1}{N(B-1)}\ (j\ne i)$

    Row i is for a draw z of q(z|x_i): its own component has its true weight, and the others of a minibatch drawn without
    replacement share the rest, so that $\sum_j w_{ij}\,q(z|x_j)$ is unbiased for q(z), and exact for B = N.  The paper gives
    one of the others (N-B+1)/(N(B-1)) and the rest 1/(B-1): the same expectation, with more variance.  Equal weights 1/B
    without rows would be far from unbiased, since z is close to its own component.
    Shapes: `batch` B, `examples` N -> [B, B].  Raises ValueError unless 2 <= B <= N.
    Source: Chen et al. 2018 (beta-TCVAE; minibatch stratified sampling), averaged over the batch's order.

    >>> jnp.exp(stratified_log_weights(2, 4)).tolist()
    [[0.25, 0.75], [0.75, 0.25]]
    """
    batch, examples = as_integer(batch, "batch"), as_integer(examples, "examples")
    if not 2 <= batch <= examples:
        raise ValueError(f"stratified weights need 2 <= batch <= examples, got {batch} and {examples}")
    others = math.log((examples - 1) / (examples * (batch - 1)))
    return jnp.where(jnp.eye(batch, dtype=bool), -math.log(examples), others)


def total_correlation_terms(
    z: Array, mean: Array, log_std: Array, log_prior: Array, log_weights: Array | None = None
) -> KLTerms:
    r"""The KL to a factorised prior as index-code mutual information, total correlation and dimension-wise KL.

    $\log\frac{q(z|x)}{p(z)} = \log\frac{q(z|x)}{q(z)} + \log\frac{q(z)}{\prod_j q(z_j)} + \log\frac{\prod_j q(z_j)}{p(z)}$

    The means over data and draws are I(x; z), TC(z) and $\sum_j\mathrm{KL}(q(z_j)\Vert p(z_j))$.
    Shapes: `z` [*draws, B, M], row i a draw of q(z|x_i); `mean`, `log_std` [B, M]; `log_prior` [*draws, B], log p(z);
    `log_weights` [B, B] as of `stratified_log_weights`, or equal where the B examples are the whole data set
    -> `KLTerms` of [*draws, B], nats.  Raises ValueError where they do not fit together.
    Source: Chen et al. 2018 (beta-TCVAE), eq. 2.

    >>> same = jnp.zeros((4, 2))  # all posteriors equal: nothing but the KL to the prior N(1, I) is left
    >>> terms = total_correlation_terms(same, same, same, normal_log_prob(same, 1.0, 0.0))
    >>> [abs(round(float(term[0]), 4)) for term in terms]
    [0.0, 0.0, 1.0]
    """
    z, mean, log_std, log_prior = as_wide(z, mean, log_std, log_prior)
    square = (len(mean), len(mean))
    log_weights = jnp.full(square, -math.log(len(mean))) if log_weights is None else as_wide(log_weights)
    if mean.ndim != 2 or not mean.shape == log_std.shape == z.shape[-2:] or log_prior.shape != z.shape[:-1]:
        raise ValueError(
            "z is [*draws, B, M], mean and log_std are [B, M] and log_prior is [*draws, B], got shapes "
            f"{z.shape}, {mean.shape}, {log_std.shape}, {log_prior.shape}"
        )
    if log_weights.shape != square:
        raise ValueError(f"{len(mean)} examples need log_weights {square}, got shape {log_weights.shape}")
    each = normal_log_prob(z[..., None, :], mean, log_std, event_ndim=0)  # [*draws, B, B, M]
    joint = jax.nn.logsumexp(log_weights + sum_event(each, 1), axis=-1)
    product = sum_event(jax.nn.logsumexp(log_weights[..., None] + each, axis=-2), 1)
    own = normal_log_prob(z, mean, log_std)
    return KLTerms(own - joint, joint - product, product - log_prior)


def gaussian_total_correlation(covariance: Array) -> Array:
    r"""Total correlation of a Gaussian, the KL from the product of its marginals.

    $\mathrm{TC} = \tfrac12\big(\sum_i\log S_{ii} - \log|S|\big)$

    Shapes: `covariance` [*batch, D, D], symmetric positive definite (nan where it is not) -> [*batch], nats.
    Raises ValueError for a matrix that is not square or, unless it is traced, not symmetric.
    Source: Watanabe 1960, with the entropy of Cover & Thomas 2006, theorem 8.4.1.

    >>> round(float(gaussian_total_correlation(jnp.array([[1.0, 1.0], [1.0, 4.0]]))), 5)  # log(4 / 3) / 2
    0.14384
    """
    covariance = as_wide(covariance)
    check_covariance(covariance)
    scale = jax.lax.rsqrt(jnp.diagonal(covariance, axis1=-2, axis2=-1))
    tril = jnp.linalg.cholesky(covariance * scale[..., None] * scale[..., None, :])  # of the correlations
    return -sum_event(jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)), 1)
