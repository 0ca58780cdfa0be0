"""The hierarchy of two linear-Gaussian models, against dense linear algebra and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from dlvm_jax.exact import linear_gaussian
from dlvm_jax.functional import densities
from tests.functional.common import checks


def hierarchy():
    """Two latent dimensions over three over five, and the joint Gaussian of (z2, z1, x) by its definition."""
    rng = np.random.RandomState(3)
    top, bottom = (
        linear_gaussian.LinearGaussian(*map(jnp.asarray, (rng.randn(n, m), rng.randn(n), log_std)))
        for n, m, log_std in ((3, 2, -0.4), (5, 3, -0.9))
    )
    (w2, m2, s2), (w1, m1, s1) = (tuple(map(np.asarray, model)) for model in (top, bottom))
    # (z2, z1, x) as a linear map of independent standard normals
    root = np.zeros((10, 10))
    root[:2, :2] = np.eye(2)
    root[2:5] = np.hstack([w2, np.exp(s2) * np.eye(3), np.zeros((3, 5))])
    root[5:] = np.hstack([w1 @ root[2:5, :5], np.exp(s1) * np.eye(5)])
    return top, bottom, np.concatenate([np.zeros(2), m2, w1 @ m2 + m1]), root @ root.T


def conditional(mean, covariance, of, given, value):
    """The textbook conditional of a joint Gaussian, with the inverse of a block of the covariance."""
    of, given = list(of), list(given)
    gain = np.linalg.solve(covariance[np.ix_(given, given)], covariance[np.ix_(given, of)]).T
    right = covariance[np.ix_(of, of)] - gain @ covariance[np.ix_(given, of)]
    return mean[of] + (value - mean[given]) @ gain.T, right


@checks(
    linear_gaussian.hierarchy_log_evidence,
    linear_gaussian.hierarchy_posterior,
    linear_gaussian.hierarchy_conditional,
)
def test_hierarchy_equals_conditioning_the_joint_gaussian(x64):
    """1e-11: rounding of 1e-16 times condition numbers of at most 1e4."""
    top, bottom, mean, joint = hierarchy()
    x, z2 = np.random.RandomState(1).randn(7, 5), np.random.RandomState(2).randn(7, 2)
    expected = scipy.stats.multivariate_normal(mean[5:], joint[5:, 5:]).logpdf(x)
    np.testing.assert_allclose(
        linear_gaussian.hierarchy_log_evidence(top, bottom, x), expected, rtol=1e-11, atol=1e-11
    )
    upper = conditional(mean, joint, [0, 1], range(5, 10), x)
    lower = conditional(mean, joint, [2, 3, 4], [0, 1, *range(5, 10)], np.hstack([z2, x]))
    for ours, right in (
        (linear_gaussian.hierarchy_posterior(top, bottom, x), upper),
        (linear_gaussian.hierarchy_conditional(top, bottom, x, z2), lower),
    ):
        np.testing.assert_allclose(ours[0], right[0], atol=1e-11)
        np.testing.assert_allclose(ours[1] @ ours[1].T, right[1], atol=1e-11)


def test_hierarchy_without_its_upper_level_is_ppca(x64):
    """p(z1 | z2) that does not look at z2, and is standard normal: what is left is the lower model."""
    top, bottom, _, _ = hierarchy()
    blind = linear_gaussian.LinearGaussian(0 * top.w, 0 * top.mean, 0 * top.log_std)
    x = np.random.RandomState(1).randn(7, 5)
    np.testing.assert_allclose(
        linear_gaussian.hierarchy_log_evidence(blind, bottom, x),
        linear_gaussian.log_evidence(bottom, x),
        rtol=1e-12,
    )
    mean, tril = linear_gaussian.hierarchy_posterior(blind, bottom, x)
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    np.testing.assert_allclose(tril, np.eye(2), atol=1e-12)
    ours = linear_gaussian.hierarchy_conditional(blind, bottom, x, np.ones((7, 2)))
    for one, other in zip(ours, linear_gaussian.posterior(bottom, x), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-11)


def test_top_down_posterior_makes_every_weight_the_evidence(x64):
    """log p(x | z1) + log p(z1 | z2) + log p(z2) - log q(z1 | x, z2) - log q(z2 | x) at any draw."""
    top, bottom, _, _ = hierarchy()
    key_x, key_2, key_1 = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(key_x, (6, 5))
    law_2 = linear_gaussian.hierarchy_posterior(top, bottom, x)
    z2 = densities.multivariate_normal_sample(key_2, *law_2)
    law_1 = linear_gaussian.hierarchy_conditional(top, bottom, x, z2)
    z1 = densities.multivariate_normal_sample(key_1, *law_1)
    log_joint = (
        densities.normal_log_prob(x, z1 @ bottom.w.T + bottom.mean, bottom.log_std)
        + densities.normal_log_prob(z1, z2 @ top.w.T + top.mean, top.log_std)
        + densities.normal_log_prob(z2, 0.0, 0.0)
    )
    log_q = densities.multivariate_normal_log_prob(z1, *law_1) + densities.multivariate_normal_log_prob(
        z2, *law_2
    )
    truth = linear_gaussian.hierarchy_log_evidence(top, bottom, x)
    np.testing.assert_allclose(log_joint - log_q, truth, rtol=1e-11)
