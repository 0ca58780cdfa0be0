"""Simulators: each law against quadrature, moments or SciPy, each posterior against Bayes' rule and its own draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax.exact import simulators
from dlvm_jax.functional import calibration
from tests.functional.common import checks, chi_square_p, quadrature

KEY = jax.random.key(0)
SMALL = {
    "gaussian_mixture": simulators.gaussian_mixture(),
    "gaussian_linear_uniform": simulators.gaussian_linear_uniform(2),
    "two_moons": simulators.two_moons(),
    "gaussian_linear": simulators.gaussian_linear(2),
}


@checks(
    simulators.two_moons,
    simulators.gaussian_mixture,
    simulators.gaussian_linear_uniform,
    simulators.gaussian_linear,
)
@pytest.mark.parametrize(
    "name", ["two_moons", "gaussian_linear_uniform", "gaussian_mixture", "gaussian_linear"]
)
def test_draws_of_the_posterior_are_calibrated(name):
    """Prior, simulator and exact sampler agree: ranks of theta_1, theta_2, their sum and distance are uniform.

    4,000 pairs of 19 draws each, false alarm 4e-5; draws that are too wide fail.
    """
    simulator = SMALL[name]

    @jax.jit
    def p_values(scale):
        keys = jax.random.split(KEY, 3)
        theta = simulator.prior_sample(keys[0], (4000,))
        x = simulator.simulate(keys[1], theta)
        one = lambda inputs: simulator.posterior_sample(
            *inputs, 19
        )  # one after another: some reject for long
        draws = jnp.moveaxis(jax.lax.map(one, (jax.random.split(keys[2], 4000), x)), 1, 0)
        draws = x[:, :2] + scale * (draws - x[:, :2])
        statistics = lambda t: jnp.concatenate(
            [t, t.sum(-1, keepdims=True), jnp.linalg.norm(t, axis=-1, keepdims=True)], -1
        )
        ranks = calibration.rank(statistics(theta), statistics(draws))
        return calibration.rank_uniformity(ranks, 19, 20)[1]

    assert (p_values(1.0) > 1e-5).all()
    if name != "gaussian_linear":
        assert p_values(1.5).min() < 1e-5


@pytest.mark.parametrize("name", ["two_moons", "gaussian_mixture"])
def test_a_simulator_draws_from_its_likelihood(name):
    """Counts of 20,000 draws in 12 x 12 cells by quadrature, whose error shifts no cell by a tenth; false alarm 1e-4."""
    simulator, theta = SMALL[name], jnp.array([0.3, -0.5])
    edges = {
        "two_moons": (np.linspace(0.1, 0.26, 13), np.linspace(-0.7, -0.43, 13)),
        "gaussian_mixture": (np.linspace(-3, 4, 13), np.linspace(-4, 3, 13)),
    }[name]
    x = np.asarray(simulator.simulate(KEY, jnp.broadcast_to(theta, (20_000, 2))))
    grids = [(e[:-1, None] + np.diff(e)[:, None] * (np.arange(40) + 0.5) / 40).ravel() for e in edges]
    points = np.stack(np.meshgrid(*grids, indexing="ij"), -1)
    density = np.exp(jax.jit(simulator.log_likelihood)(theta, points), dtype=np.float64)
    cell = np.diff(edges[0])[0] * np.diff(edges[1])[0]
    cells = density.reshape(12, 40, 12, 40).mean((1, 3)) * cell
    counts = np.histogram2d(*x.T, bins=edges)[0]
    assert 0.98 < cells.sum() < 1.001
    cells, counts = np.append(cells, max(0.0, 1 - cells.sum())), np.append(counts, 20_000 - counts.sum())
    assert chi_square_p(counts, cells / cells.sum()) > 1e-4


@pytest.mark.parametrize("name", ["gaussian_mixture", "gaussian_linear_uniform"])
def test_a_posterior_on_a_box_is_bayes_rule(name):
    """Normalised by quadrature with the box as its support, for an observation near a corner."""
    simulator = SMALL[name]
    x = jnp.asarray(simulator.high - 0.05, jnp.float32)
    width = 9 * (0.4 if name == "gaussian_linear_uniform" else 1.0)
    nodes, weights = quadrature(0.0, 1.0, 300)
    points = simulator.high[0] - min(width, 2 * simulator.high[0]) * nodes**2
    weights = weights * 2 * nodes * min(width, 2 * simulator.high[0])
    theta = np.stack(np.meshgrid(points, points, indexing="ij"), -1).astype(np.float32)
    posterior = np.exp(simulator.posterior_log_prob(theta, x), dtype=np.float64)
    joint = np.exp(simulator.prior_log_prob(theta) + simulator.log_likelihood(theta, x), dtype=np.float64)
    assert weights @ posterior @ weights == pytest.approx(1, abs=2e-3)
    np.testing.assert_allclose(posterior, joint / (weights @ joint @ weights), rtol=3e-3, atol=1e-30)
    assert simulator.posterior_log_prob(simulator.high + 0.01, x) == -np.inf


def test_the_gaussian_posterior_is_bayes_rule():
    """The evidence is N(x | 0, 1/5), whatever theta."""
    simulator, (theta, x) = SMALL["gaussian_linear"], jax.random.normal(KEY, (2, 50, 2))
    joint = simulator.prior_log_prob(theta) + simulator.log_likelihood(theta, x)
    evidence = scipy.stats.norm(0, 0.2**0.5).logpdf(x).sum(-1)
    np.testing.assert_allclose(joint - simulator.posterior_log_prob(theta, x), evidence, rtol=1e-4, atol=1e-4)


@checks(simulators.slcp)
def test_slcp_is_four_points_of_a_gaussian():
    """The likelihood by SciPy, mean and covariance of 20,000 draws within 5 deviations (false alarm 2e-5)."""
    simulator, theta = simulators.slcp(), jnp.array([0.7, -2.9, -1.0, -0.9, 0.6])
    s1, s2, rho = 1.0, 0.81, np.tanh(0.6)
    law = scipy.stats.multivariate_normal(theta[:2], [[s1**2, rho * s1 * s2], [rho * s1 * s2, s2**2]])
    x = simulator.simulate(KEY, jnp.broadcast_to(theta, (5_000, 5)))
    expected = law.logpdf(np.asarray(x[:20]).reshape(20, 4, 2)).sum(-1)
    np.testing.assert_allclose(simulator.log_likelihood(theta, x[:20]), expected, rtol=1e-4, atol=1e-3)
    points = np.asarray(x).reshape(-1, 2)
    error = 5 / np.sqrt(20_000)
    assert (abs(points.mean(0) - law.mean) < error * np.sqrt(np.diag(law.cov))).all()
    assert (
        abs(np.cov(points.T) - law.cov) < error * np.sqrt(law.cov**2 + np.outer(*[np.diag(law.cov)] * 2))
    ).all()
    assert np.corrcoef(x[:, 0], x[:, 2])[0, 1] == pytest.approx(0, abs=5 / np.sqrt(5000))
    narrow = theta.at[2].set(0.0)
    assert np.isfinite(jax.grad(simulator.log_likelihood)(narrow, x[0])).all()


@checks(simulators.uniform_prior)
def test_a_uniform_prior_is_uniform():
    prior = simulators.uniform_prior([-1.0, 0.0], [1.0, 3.0])
    theta = np.asarray(prior["prior_sample"](KEY, (5000,)))
    for column, (low, width) in enumerate([(-1, 2), (0, 3)]):
        assert scipy.stats.kstest(theta[:, column], "uniform", (low, width)).pvalue > 1e-4
    np.testing.assert_allclose(
        prior["prior_log_prob"](jnp.array([[0.0, 1.0], [0.0, 3.1]])), [-np.log(6), -np.inf]
    )
    with pytest.raises(
        ValueError, match=r"a box has corners low < high, \[D\] each, got \[1.0\] and \[0.0\]"
    ):
        simulators.uniform_prior([1.0], [0.0])


@checks(simulators.repeated)
def test_several_observations_multiply_likelihoods_and_narrow_the_posterior():
    """Bayes' rule for three observations: joint / posterior depends on x alone; draws have the posterior's moments.

    1,000 draws, 5 deviations, false alarm 2e-5.
    """
    for name in ("gaussian_linear", "gaussian_linear_uniform"):
        simulator = simulators.repeated(SMALL[name], 3)
        theta = simulator.prior_sample(KEY, (50,))
        x = simulator.simulate(KEY, theta)
        assert x.shape == (50, 6) and np.unique(x[0]).size == 6
        assert simulators.repeated(simulator, 2).simulate(KEY, theta).shape == (50, 12)
        one = SMALL[name].log_likelihood(theta[:, None], x.reshape(50, 3, 2)).sum(-1)
        np.testing.assert_allclose(simulator.log_likelihood(theta, x), one, rtol=1e-4, atol=1e-4)
        joint = simulator.prior_log_prob(theta) + simulator.log_likelihood(theta, x[0])
        evidence = joint - simulator.posterior_log_prob(theta, x[0])
        np.testing.assert_allclose(evidence, evidence[0], rtol=1e-4, atol=1e-3)
    simulator = simulators.repeated(SMALL["gaussian_linear"], 3)
    draws = np.asarray(simulator.posterior_sample(KEY, x[0], 1000))
    mean, std = 0.75 * x[0].reshape(3, 2).mean(0), np.sqrt(0.1 / 4)
    assert (abs(draws.mean(0) - mean) < 5 * std / np.sqrt(1000)).all()
    assert (abs(draws.std(0) / std - 1) < 5 / np.sqrt(2000)).all()
    moons = simulators.repeated(SMALL["two_moons"], 2)
    theta = moons.prior_sample(KEY, (4,))
    x = moons.simulate(KEY, theta)
    each = sum(SMALL["two_moons"].log_likelihood(theta, x[:, 2 * i : 2 * i + 2]) for i in (0, 1))
    np.testing.assert_allclose(moons.log_likelihood(theta, x), each, rtol=1e-5)
    assert moons.posterior_sample is None
    with pytest.raises(ValueError, match="at least one observation, got 0"):
        simulators.repeated(simulator, 0)
