"""Losses of simulation-based inference on a simulator of three parameters and four outcomes, everything enumerated."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional import adversarial, sbi
from tests.functional.common import checks

PRIOR = np.array([0.2, 0.3, 0.5])
PROPOSAL = np.array([0.6, 0.3, 0.1])
LIKELIHOOD = np.random.RandomState(0).dirichlet(np.ones(4), 3)
EVIDENCE = PRIOR @ LIKELIHOOD
RATIO = np.log(LIKELIHOOD / EVIDENCE)  # f(theta, x)
POSTERIOR = RATIO + np.log(PRIOR)[:, None]
BY_X = np.array([0.7, -1.0, 0.3, 2.0])  # c(x)


def outcomes(parameters):
    """Every x with every choice of parameters: [n], [parameters, n]."""
    every = np.array(list(itertools.product(range(4), *[range(3)] * parameters))).T
    return every[0], every[1:]


def expected(loss, table, proposal, parameters):
    """The mean loss of `parameters` parameters, the first with x from the joint, the others drawn from the proposal."""
    x, thetas = outcomes(parameters)
    return proposal[thetas].prod(0) * LIKELIHOOD[thetas[0], x] @ loss(table[thetas, x], thetas)


def slope(mean_loss, table):
    """The largest slope of an expected loss in an entry of the table."""
    return float(abs(jax.jit(jax.grad(mean_loss))(jnp.asarray(table))).max())


@checks(sbi.contrastive_loss, sbi.atomic_loss)
def test_the_optimum_of_a_contrast_is_the_ratio_or_the_posterior_up_to_c_of_x(x64):
    """The loss is convex in the table, so a slope of zero is its minimum; the posterior is that of the prior for any proposal."""
    mean = lambda table: expected(lambda f, _: sbi.contrastive_loss(f), table, PRIOR, 3)
    assert slope(mean, RATIO) < 1e-14 and slope(mean, RATIO + BY_X) < 1e-14
    assert slope(mean, 0 * RATIO) > 0.01
    atomic = lambda f, thetas: sbi.atomic_loss(f, np.log(PRIOR)[thetas])
    mean = lambda table: expected(atomic, table, PROPOSAL, 2)
    assert slope(mean, POSTERIOR) < 1e-14 and slope(mean, RATIO) > 0.01
    np.testing.assert_allclose(mean(POSTERIOR + BY_X), mean(POSTERIOR), rtol=1e-14)
    with pytest.raises(ValueError, match=r"among at least two parameters \[M, \*batch\], got shape \(1, 5\)"):
        sbi.contrastive_loss(jnp.zeros((1, 5)))


@checks(sbi.weighted_loss)
def test_the_optimum_under_a_proposal_is_the_posterior_under_the_prior(x64):
    """Its value there is the posterior's mean entropy; the table is of logits, normalised over the parameters."""

    def mean(logits):
        log_q = jax.nn.log_softmax(logits, axis=0)
        loss = lambda f, i: sbi.weighted_loss(f[0], np.log(PRIOR)[i[0]], np.log(PROPOSAL)[i[0]])
        return expected(loss, log_q, PROPOSAL, 1)

    assert slope(mean, POSTERIOR) < 1e-14 and slope(mean, RATIO) > 0.01
    entropy = -(np.exp(POSTERIOR) * POSTERIOR).sum(0) @ EVIDENCE
    assert float(mean(POSTERIOR)) == pytest.approx(entropy, rel=1e-12)
    prior = jnp.zeros(())
    assert jax.grad(lambda p: sbi.weighted_loss(jnp.float64(-1.0), p, prior))(prior) == 0


@checks(sbi.ratio_loss)
@pytest.mark.parametrize("gamma", [2.0, 0.5])
def test_the_optimum_of_nre_c_is_the_ratio_itself(x64, gamma):
    """Two parameters of each class; c(x) is no longer free."""

    x, thetas = outcomes(2)
    product = PRIOR[thetas].prod(0)
    independent, dependent = product * EVIDENCE[x], product * LIKELIHOOD[thetas[0], x]

    def mean(table):  # the two terms have laws of their own: each is taken with the other's logits constant
        logits = table[thetas, x]
        none = independent @ sbi.ratio_loss(logits, 0 * logits, gamma)
        return none + dependent @ sbi.ratio_loss(0 * logits, logits, gamma)

    assert slope(mean, RATIO) < 1e-14
    assert slope(mean, RATIO + BY_X) > 0.001 and slope(mean, 0 * RATIO) > 0.001


def test_nre_c_has_the_two_others_as_limits():
    """gamma = 1 with K = 1 is half of NRE-A; the rest of the other limit is of order K / gamma."""
    joint, marginal = jnp.array([[1.3, -0.4, 30.0]]), jnp.array([[0.2, 2.0, -30.0]])
    both = sbi.ratio_loss(marginal, joint).mean()
    assert float(both) == pytest.approx(
        float(adversarial.discriminator_loss(joint[0], marginal[0])) / 2, 1e-6
    )
    logits = jnp.array([[1.3, -0.4], [0.2, 0.1], [-1.0, 2.0]])
    np.testing.assert_allclose(
        sbi.ratio_loss(0 * logits, logits, 1e6), sbi.contrastive_loss(logits), atol=5e-5
    )
    with pytest.raises(ValueError, match=r"both alike, and gamma is a number, got \(2,\), \(3,\) and \(\)"):
        sbi.ratio_loss(jnp.zeros(2), jnp.zeros(3))


@checks(sbi.balance)
def test_the_exact_ratio_is_balanced():
    """Each outcome stands as often among the logits as its probability, of sixteenths, says."""
    joint = np.array([[3, 1], [2, 10]]) / 16
    product = joint.sum(1, keepdims=True) * joint.sum(0)
    ratio = np.log(joint / product)
    rows = lambda p, table: np.repeat(table.ravel(), np.round(256 * p.ravel()).astype(int))
    assert float(sbi.balance(rows(joint, ratio), rows(product, ratio))) < 1e-12
    bold = 2 * ratio
    total = (joint / (1 + np.exp(-bold)) + product / (1 + np.exp(-bold))).sum()
    value = float(sbi.balance(rows(joint, bold), rows(product, bold)))
    assert value == pytest.approx((total - 1) ** 2, rel=1e-4) and value > 1e-4


@checks(sbi.truncation)
def test_the_truncated_region_of_a_gaussian_is_a_disc():
    """Of N(0, I) in the plane the disc of radius^2 -2 log(epsilon) leaves out epsilon: 5 deviations of the quantile, 6e-7."""
    draws = jax.random.normal(jax.random.key(0), (20_000, 2, 2)) * jnp.array([1.0, 3.0])[:, None]
    log_q = -0.5 * jnp.square(draws / jnp.array([1.0, 3.0])[:, None]).sum(-1) - jnp.log(
        2 * jnp.pi * jnp.array([1.0, 9.0])
    )
    for left_out in (0.1, 0.01):
        expected = np.log(left_out / (2 * np.pi * np.array([1, 9])))  # the density there
        error = 5 * np.sqrt((1 - left_out) / (left_out * 20_000))  # of log epsilon
        assert (abs(sbi.truncation(log_q, left_out) - expected) < error).all()
    np.testing.assert_array_equal(sbi.truncation(log_q, 0.0), log_q.min(0))
