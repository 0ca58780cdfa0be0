"""ODE likelihood against exact densities; Hutchinson over all probes; dequantisation against bin masses."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax.exact import diffusion as exact
from dlvm_jax.functional.diffusion import likelihood, ode, schedules
from dlvm_jax.functional.diffusion import process as p
from tests.functional.common import checks

PROCESSES = {
    "rectified": schedules.rectified(),
    "exploding": schedules.variance_exploding(),
    "preserving": schedules.variance_preserving(),
    "sub_preserving": schedules.sub_variance_preserving(),
    "edm": schedules.edm(),
    "linear_log_snr": schedules.linear_log_snr(),
}
MEAN, COVARIANCE = np.array([0.7, -1.2]), np.array([[1.0, 0.6], [0.6, 0.5]])
POINTS = np.random.RandomState(0).randn(5, 2)


def gaussian():
    return exact.gaussian(jnp.asarray(MEAN), jnp.asarray(COVARIANCE))


def mixture():
    return exact.mixture(
        jnp.array([0.3, 0.7]),
        jnp.array([[-1.0, 0.5], [1.0, -0.5]]),
        jnp.array([[[0.2, 0.1], [0.1, 0.3]], [[0.3, -0.2], [-0.2, 0.4]]]),
    )


def evaluate(law, process, x, **settings):
    """Log-likelihood with the exact denoiser and the exact law at the end of the path."""
    denoise = lambda x, t: exact.denoiser(law, process, x, t)
    prior = lambda x: exact.log_marginal(law, process, x, process.t_max)
    return likelihood.log_likelihood(process, denoise, x, prior=prior, **settings)


@checks(likelihood.log_likelihood)
@pytest.mark.parametrize("name", PROCESSES)
def test_gaussian_equals_the_exact_density(name, x64):
    """Correlated data with a mean: log q(x at t_min) and where the ODE carries x; truncation at 200 steps is 6e-7."""
    process, x = PROCESSES[name], jnp.asarray(POINTS)
    log_prob, end = evaluate(gaussian(), process, x, steps=200)
    np.testing.assert_allclose(log_prob, exact.log_marginal(gaussian(), process, x, process.t_min), rtol=1e-6)
    moved = exact.ode_map(gaussian(), process, x, process.t_min, process.t_max)
    np.testing.assert_allclose(end, moved, rtol=1e-6, atol=1e-6 * p.sigma(process, process.t_max))


@pytest.mark.parametrize("name", PROCESSES)
def test_mixture_equals_the_exact_density(name, x64):
    process, x = PROCESSES[name], jnp.asarray(POINTS)
    log_prob, _ = evaluate(mixture(), process, x, steps=200)
    np.testing.assert_allclose(log_prob, exact.log_marginal(mixture(), process, x, process.t_min), rtol=1e-6)


def test_error_is_of_order_four(x64):
    process, x = PROCESSES["preserving"], jnp.asarray(POINTS)
    truth = exact.log_marginal(mixture(), process, x, process.t_min)
    errors = [jnp.abs(evaluate(mixture(), process, x, steps=n)[0] - truth).max() for n in (40, 80, 160)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert (np.abs(orders - 4) < 0.6).all(), orders


@checks(ode.probability_flow)
@pytest.mark.parametrize("name", PROCESSES)
def test_probability_flow_is_drift_less_half_the_score(name, x64):
    process, x = PROCESSES[name], jnp.asarray(POINTS)
    law, t = mixture(), process.t_min + 0.4 * (process.t_max - process.t_min)
    got = ode.probability_flow(process, lambda x, t: exact.denoiser(law, process, x, t), x, t)
    score = exact.score(law, process, x, t)
    np.testing.assert_allclose(
        got, p.drift(process, t) * x - 0.5 * p.diffusion(process, t) ** 2 * score, rtol=1e-8
    )


def test_hutchinson_over_all_probes(x64):
    """The path does not depend on the probe, so the mean over all Rademacher probes is exact.

    For a Gaussian the Jacobians of all times commute and their integral is (1/2) log(C_T C_0^-1): variance in closed form."""
    process, x = PROCESSES["preserving"], jnp.asarray(POINTS)
    probes = [jnp.broadcast_to(jnp.array(v), x.shape) for v in itertools.product([-1.0, 1.0], repeat=2)]
    each = jnp.stack([evaluate(gaussian(), process, x, steps=100, probe=probe)[0] for probe in probes])
    np.testing.assert_allclose(each.mean(0), evaluate(gaussian(), process, x, steps=100)[0], rtol=1e-12)
    values, axes = np.linalg.eigh(COVARIANCE)
    at = lambda t: p.alpha(process, t) ** 2 * values + p.sigma(process, t) ** 2
    jacobian = axes @ np.diag(0.5 * np.log(at(process.t_max) / at(process.t_min))) @ axes.T
    np.testing.assert_allclose(each.var(0), 2 * 2 * jacobian[0, 1] ** 2, rtol=1e-6)
    assert jacobian[0, 1] ** 2 > 0.1


def test_the_process_has_a_prior_and_an_event_any_shape(x64):
    process, x = PROCESSES["exploding"], jnp.asarray(POINTS[:4])
    denoise = lambda x, t: exact.denoiser(gaussian(), process, x, t)
    log_prob, end = likelihood.log_likelihood(process, denoise, x, steps=50)
    flat, _ = evaluate(gaussian(), process, x, steps=50)
    difference = p.prior_log_prob(process, end) - exact.log_marginal(gaussian(), process, end, 1.0)
    np.testing.assert_allclose(log_prob - flat, difference, atol=1e-12)
    pairs = x.reshape(2, 2, 2)
    whole, _ = likelihood.log_likelihood(process, denoise, pairs, steps=50, event_ndim=2)
    np.testing.assert_allclose(whole, log_prob.reshape(2, 2).sum(1), rtol=1e-12)


def test_cut_off_is_a_choice(x64):
    process, x = PROCESSES["preserving"]._replace(t_min=1e-2), jnp.asarray(POINTS)
    log_prob, _ = evaluate(gaussian(), process, x, steps=100)
    np.testing.assert_allclose(log_prob, exact.log_marginal(gaussian(), process, x, 1e-2), atol=1e-6)


@pytest.mark.parametrize("name", PROCESSES)
def test_single_precision(name):
    """100 steps in float32, from t_min: the sum of rounding stays below 1e-3 nats."""
    process, x = PROCESSES[name], jnp.asarray(POINTS, jnp.float32)
    log_prob, _ = jax.jit(lambda x: evaluate(gaussian(), process, x, steps=100))(x)
    assert log_prob.dtype == jnp.float32
    with jax.enable_x64(True):
        truth = exact.log_marginal(gaussian(), process, jnp.asarray(POINTS), process.t_min)
    np.testing.assert_allclose(log_prob, truth, atol=1e-3)


@checks(likelihood.dequantised_log_prob)
def test_dequantised_probability_is_unbiased_and_tightens(x64):
    """Two elements of eight levels: the exact mass of a bin; a mean over 4000 keys within 4.5 standard errors (1e-5)."""
    law, levels = scipy.stats.norm(0.1, 0.2), 8
    x = jnp.array([[3.0, 5.0]])
    log_prob = lambda y: (-0.5 * jnp.square((y - 0.1) / 0.2) - jnp.log(0.2 * jnp.sqrt(2 * jnp.pi))).sum(-1)
    edges = 2 * np.array([[3.0, 4.0], [5.0, 6.0]]) / levels - 1
    mass = np.prod(np.diff(law.cdf(edges), axis=1))
    keys = jax.random.split(jax.random.key(0), 4000)
    bounds = {}
    for draws in (1, 20):
        each = jax.vmap(lambda key, k=draws: likelihood.dequantised_log_prob(key, log_prob, x, levels, k)[0])(
            keys
        )
        weights = np.exp(each)
        assert abs(weights.mean() - mass) < 4.5 * weights.std() / np.sqrt(len(keys))
        bounds[draws] = each.mean()
    assert bounds[1] < bounds[20] < np.log(mass)
    with pytest.raises(ValueError, match="at least one draw"):
        likelihood.dequantised_log_prob(keys[0], log_prob, x, levels, 0)
    assert np.log(mass) - bounds[20] < 0.1 * (np.log(mass) - bounds[1])


def test_dequantised_levels_stay_below_the_next_one():
    """The last level of 256 with the uniform density on [-1, 1) and none beyond: -log 256 from each of a million elements.

    Noise of full float32 precision rounds 255 + u to 256 for one draw in 130,000, which is y = 1."""
    inside = lambda y: jnp.where((y > -1) & (y < 1), -jnp.log(2.0), -jnp.inf).sum(-1)
    for level in (0, 255):
        x = jnp.full((1_000_000, 1), level)
        log_prob = jax.jit(lambda key, x: likelihood.dequantised_log_prob(key, inside, x))(
            jax.random.key(0), x
        )
        np.testing.assert_allclose(log_prob, -np.log(256), rtol=1e-6)


def test_half_precision_points_have_a_single_precision_likelihood():
    """The path, its times and the log-determinant are float32; a probe may be of integers."""
    process, x = PROCESSES["linear_log_snr"], jnp.asarray(POINTS, jnp.bfloat16)
    law = exact.gaussian(np.zeros(2), 0.5 * np.eye(2))  # a diagonal Jacobian: every Rademacher probe is exact
    denoise = lambda x, t: exact.denoiser(law, process, x, t)
    prior = lambda x: exact.log_marginal(law, process, x, process.t_max)
    truth = (
        scipy.stats.norm(0, np.sqrt(0.5)).logpdf(np.asarray(x, np.float64)).sum(1)
    )  # noise of t_min: below 1e-5
    for probe in (None, np.array([[1, -1]] * 5)):
        log_prob, end = likelihood.log_likelihood(process, denoise, x, probe=probe, prior=prior)
        assert log_prob.dtype == end.dtype == jnp.float32
        np.testing.assert_allclose(log_prob, truth, atol=1e-3)


def test_likelihood_refuses_integer_points():
    with pytest.raises(
        ValueError, match=r"needs points of a floating dtype, got int32; .*dequantised_log_prob"
    ):
        likelihood.log_likelihood(PROCESSES["edm"], lambda x, t: 0.5 * x, jnp.zeros((3, 2), jnp.int32))
