"""Benchmark simulators: their equations against SciPy's solver, their likelihoods against published posteriors."""

import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from dlvm_jax.data import simulators
from dlvm_jax.exact import simulators as exact

KEY = jax.random.key(0)


def narrow():
    return exact.gaussian_linear(2)._replace(low=np.full(2, -0.5), high=np.full(2, 0.5))


def longer():
    return exact.gaussian_linear(2)._replace(low=np.full(3, -np.inf), high=np.full(3, np.inf))


def fewer():
    return exact.gaussian_linear(2)._replace(simulate=lambda key, theta: theta[1:])


def silent():
    return exact.gaussian_linear(2)._replace(prior_log_prob=None, simulate=None)


def unknown():
    return exact.gaussian_linear(2)._replace(prior_sample=lambda key, shape: jnp.full((*shape, 2), jnp.nan))


def separate():
    return exact.gaussian_linear(2)._replace(prior_log_prob=lambda theta: -(theta**2))


def endless():
    return exact.two_moons()._replace(low=np.full(2, -np.inf), high=np.full(2, np.inf))


def solved(slope, start, times):
    result = scipy.integrate.solve_ivp(
        lambda t, y: slope(y), (0, times[-1]), start, t_eval=times, rtol=1e-9, atol=1e-12, method="LSODA"
    )
    return result.y


def test_sir_is_binomial_around_the_solution():
    """Against SciPy to 2e-4; the mean of 2,000 simulations within 5 standard errors; the log-likelihood by SciPy."""
    simulator, theta = simulators.sir(), np.array([0.6, 0.15], np.float32)
    beta, gamma = theta.astype(float)
    n, times = 1e6, 17.0 * np.arange(10)
    infected = solved(
        lambda y: [-beta * y[0] * y[1] / n, beta * y[0] * y[1] / n - gamma * y[1]], [n - 1, 1], times
    )
    law = scipy.stats.binom(1000, infected[1] / n)
    x = np.asarray(jax.jit(simulator.simulate)(KEY, jnp.broadcast_to(theta, (2000, 2))))
    assert (abs(x.mean(0) - law.mean()) < 5 * law.std() / np.sqrt(2000) + 2e-4 * law.mean()).all()
    assert x.std(0)[4] == pytest.approx(law.std()[4], rel=0.1)
    np.testing.assert_allclose(simulator.log_likelihood(theta, x[0]), law.logpmf(x[0]).sum(), rtol=1e-3)


def test_lotka_volterra_is_log_normal_around_the_solution():
    """Against SciPy: 2,000 simulations within 5 standard errors of the logarithm; the log-likelihood by SciPy."""
    simulator, theta = simulators.lotka_volterra(), np.array([0.7, 0.04, 0.9, 0.05], np.float32)
    a, b, c, d = theta.astype(float)
    slope = lambda y: [a * y[0] - b * y[0] * y[1], d * y[0] * y[1] - c * y[1]]
    populations = solved(slope, [30, 1], 2.1 * np.arange(10)).ravel()
    x = np.asarray(jax.jit(simulator.simulate)(KEY, jnp.broadcast_to(theta, (2000, 4))))
    assert (abs(np.log(x).mean(0) - np.log(populations)) < 5 * 0.1 / np.sqrt(2000) + 1e-3).all()
    law = scipy.stats.lognorm(0.1, scale=populations)
    np.testing.assert_allclose(simulator.log_likelihood(theta, x[0]), law.logpdf(x[0]).sum(), rtol=2e-3)


def test_the_log_normal_prior_is_scipys():
    simulator = simulators.sir()
    theta = np.asarray(simulator.prior_sample(KEY, (2000,)))
    laws = [scipy.stats.lognorm(s, scale=m) for m, s in ((0.4, 0.5), (0.125, 0.2))]
    for column, law in enumerate(laws):
        assert scipy.stats.kstest(theta[:, column], law.cdf).pvalue > 1e-4
    expected = sum(law.logpdf(theta[:, i]) for i, law in enumerate(laws))
    np.testing.assert_allclose(simulator.prior_log_prob(theta), expected, rtol=1e-4, atol=1e-5)
    assert simulator.prior_log_prob(jnp.array([-1.0, 1.0])) == -np.inf


def test_bernoulli_glm_has_the_gradient_of_its_statistic():
    """The score x - E[x | theta] has mean zero: x of 4,000 simulations within 5 standard errors of V^T s(V theta)."""
    design = np.random.RandomState(0).randn(100, 4)
    simulator = simulators.bernoulli_glm(design)
    theta = jnp.array([0.5, -0.3, 0.2, 0.1])
    x = simulator.simulate(KEY, jnp.broadcast_to(theta, (4000, 4)))
    score = np.asarray(jax.vmap(jax.grad(simulator.log_likelihood), (None, 0))(theta, x))
    assert (abs(score.mean(0)) < 5 * score.std(0) / np.sqrt(4000)).all()
    fisher = design.T @ ((lambda p: p * (1 - p))(1 / (1 + np.exp(-design @ theta)))[:, None] * design)
    np.testing.assert_allclose(np.cov(score.T), fisher, atol=0.12 * abs(fisher).max())
    assert np.var(simulator.prior_sample(KEY, (4000,))[:, 0]) == pytest.approx(2.0, rel=0.12)


def published(name):
    if not os.environ.get("DLVM_DATA") or simulators.reference(name) is None:
        pytest.skip("published posteriors need DLVM_DATA")
    return simulators.reference(name)


@pytest.mark.parametrize(
    "name", ["two_moons", "gaussian_mixture", "gaussian_linear_uniform", "gaussian_linear"]
)
def test_exact_samplers_agree_with_published_draws(name):
    """First and second moments of 10,000 draws of each of ten observations within 6 deviations: false alarm 1e-6.

    The published draws of two_moons and gaussian_mixture are by rejection; 10,000 draws are independent.
    """
    there, simulator = published(name), simulators.simulator(name)
    draw = jax.jit(lambda key, x: simulator.posterior_sample(key, x, 10_000))
    for x, theirs in zip(there.observations, there.posterior, strict=True):
        ours = np.asarray(draw(KEY, x))
        for power in (lambda t: t, lambda t: t**2, lambda t: t * np.roll(t, 1, -1)):
            a, b = power(ours), power(theirs)
            assert (abs(a.mean(0) - b.mean(0)) < 6 * np.sqrt((a.var(0) + b.var(0)) / 10_000)).all()
        if simulator.posterior_log_prob is not None:
            assert np.isfinite(simulator.posterior_log_prob(theirs, x)).mean() > 0.9999


@pytest.mark.parametrize("name", ["sir", "slcp", "bernoulli_glm", "lotka_volterra"])
def test_published_draws_are_of_prior_times_likelihood(name):
    """Stein's identity E[d(h p)/d theta / p] = 0, with h zero at the ends of the support; 1,000 draws of two observations.

    Within 6 standard errors, false alarm 1e-7.  A likelihood with a wrong scale fails.
    """
    there, simulator = published(name), simulators.simulator(name)

    def window(theta):  # (high - theta)(theta - low), theta, or 1
        low, high = simulator.low, simulator.high
        if np.isfinite(high).all():
            return (high - theta) * (theta - low)
        return theta if np.isfinite(low).all() else jnp.ones_like(theta)

    @jax.jit
    def stein(theta, x):
        joint = lambda theta: simulator.prior_log_prob(theta) + simulator.log_likelihood(theta, x)
        slope = jax.vmap(jax.grad(joint))(theta)
        divergence = jax.vmap(lambda t: jnp.diag(jax.jacfwd(window)(t)))(theta)
        return window(theta) * slope + divergence

    for x, theta in zip(there.observations[:2], there.posterior[:2, ::10], strict=True):
        value = np.asarray(stein(theta, x))
        assert (abs(value.mean(0)) < 6 * value.std(0) / np.sqrt(len(value))).all()


def test_spikes_have_the_statistic_and_its_posterior():
    design = np.random.RandomState(0).randn(100, 4).astype(np.float32)
    whole, raw = simulators.bernoulli_glm(design), simulators.bernoulli_glm(design, raw=True)
    theta = raw.prior_sample(KEY, (20,))
    x, spikes = whole.simulate(KEY, theta), raw.simulate(KEY, theta)
    assert set(np.unique(spikes)) == {0, 1}
    np.testing.assert_allclose(spikes @ design, x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(raw.log_likelihood(theta, spikes), whole.log_likelihood(theta, x), rtol=1e-4)


def test_distractors_hide_slcp_and_are_students():
    """Published observations hold those of slcp; the first distractor by SciPy's Student laws, false alarm 1e-4."""
    there, simple = published("slcp_distractors"), published("slcp")
    simulator, theta = simulators.slcp_distractors(), jnp.broadcast_to(simple.parameters[0], (3000, 5))
    law = simulators._published("slcp_distractors")
    back = np.argsort(law["permutation"])
    np.testing.assert_array_equal(there.observations[:, back[:8]], simple.observations)
    x = np.asarray(simulator.simulate(KEY, theta))[:, back]
    np.testing.assert_allclose(
        simulator.log_likelihood(theta[:3], there.observations[:3]),
        simulators.simulator("slcp").log_likelihood(theta[:3], simple.observations[:3]),
        rtol=1e-6,
    )
    spread = np.sqrt((law["scale_tril"][:, 0] ** 2).sum(-1))
    each = [scipy.stats.t(df, m, s) for df, m, s in zip(law["df"], law["loc"][:, 0], spread, strict=True)]
    cdf = lambda value: sum(w * one.cdf(value) for w, one in zip(law["weights"], each, strict=True))
    assert law["weights"].sum() == pytest.approx(1) and scipy.stats.kstest(x[:, 8], cdf).pvalue > 1e-4
    assert abs(np.corrcoef(np.argsort(np.argsort(x[:, [0, 8]], 0), 0).T)[0, 1]) < 5 / np.sqrt(3000)


def test_what_is_not_there_is_said(monkeypatch):
    monkeypatch.delenv("DLVM_DATA", raising=False)
    assert simulators.reference("slcp") is None
    with pytest.raises(FileNotFoundError, match=r"posteriors of bernoulli_glm are not here .* set DLVM_DATA"):
        simulators.simulator("bernoulli_glm")
    with pytest.raises(ValueError, match=r"unknown task 'two_moon'.*did you mean 'two_moons'"):
        simulators.simulator("two_moon")


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "narrow",
            r"parameters of .*narrow lie outside of its support, low=\[-0.5, -0.5\] to high=.*; mend low",
        ),
        ("longer", r"draws theta \[N, D\] for low and high \[D\], got shapes \(60, 2\), \(3,\) and \(3,\)"),
        ("unknown", "60 of 60 parameters that the prior of .*unknown draws are not finite; mend it"),
        ("separate", r"one log-density for each theta, \[N\] for \[N, D\], got shape \(2, 2\) for \(2, 2\)"),
        ("silent", "needs a function for prior_log_prob, simulate"),
        ("fewer", r"must simulate x \[N, C\] for theta \(60, 2\), got shape \(59, 2\)"),
    ],
)
def test_a_prior_or_simulator_that_does_not_fit_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        simulators.dataset(f"{__name__}:{name}", 40, tested=20)


def test_a_prior_that_ends_before_it_says_is_warned_of():
    with pytest.warns(
        UserWarning, match=r"the prior of .*endless is zero in places between low=\[-inf, -inf\]"
    ):
        simulators.dataset(f"{__name__}:endless", 40, tested=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("gaussian_linear", "two_moons", "lotka_volterra"):
            made = simulators.simulator(name)
            simulators._check_prior(name, made, made.prior_sample(KEY, (100,)))
