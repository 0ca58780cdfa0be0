"""Random times: their distributions, and means that importance sampling leaves as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax.functional.diffusion import objectives, schedules, times
from dlvm_jax.functional.diffusion import process as p
from tests.functional.common import checks
from tests.functional.diffusion.test_objectives import PROCESSES, VARIANCE, error_of_the_best


@checks(times.stratified_uniform)
def test_stratified_numbers_cover_evenly_and_are_uniform():
    draws = jax.vmap(lambda key: times.stratified_uniform(key, 8))(jax.random.split(jax.random.key(0), 2000))
    assert draws.shape == (2000, 8) and (draws >= 0).all() and (draws < 1).all()
    np.testing.assert_array_equal(
        jnp.sort(jnp.floor(draws * 8)), jnp.broadcast_to(jnp.arange(8.0), (2000, 8))
    )
    for entry in range(8):  # false alarms 8e-4
        assert scipy.stats.kstest(np.asarray(draws[:, entry]), "uniform").pvalue > 1e-4
    # variance of the mean of u^2 over B = 8: 4 / 45 / B for independent draws, (f(1) - f(0))^2 / (12 B^2) for these; its
    # estimate from 2000 means has a relative standard error of 2 % (a flat law), five of them
    np.testing.assert_allclose(jnp.var(jnp.mean(draws**2, axis=1)), 1 / (12 * 64), rtol=0.1)


@checks(times.uniform_times)
def test_uniform_times_cover_interval_and_table():
    edges = jnp.array([0.0, 0.5, 1 - 2**-24])
    np.testing.assert_allclose(times.uniform_times(PROCESSES["edm"], edges), [0.002, 40.001, 80.0], rtol=1e-6)
    chain = schedules.from_recursion(schedules.linear_betas(1000))
    steps = times.uniform_times(chain, jnp.append((jnp.arange(1000) + 0.5) / 1000, 1 - 2**-24)) * 1000
    np.testing.assert_allclose(steps, np.append(np.arange(1, 1001), 1000), rtol=1e-6)


@checks(times.log_normal_times)
def test_log_normal_times_are_log_normal(x64):
    u = jnp.array([0.0, 0.01, 0.3, 0.99])
    got = times.log_normal_times(u, -0.4, 1.0)
    np.testing.assert_allclose(got[1:], scipy.stats.lognorm(1.0, scale=np.exp(-0.4)).ppf(u[1:]), rtol=1e-9)
    assert got[0] >= 0 and jnp.isfinite(got).all()


def test_importance_times_leave_the_mean_and_lower_the_variance(x64):
    """Likelihood-weighted loss of a perfect network, integrated over u by the midpoint rule on 4e5 cells.

    Its closed form is (1/2) ln((1 + s^2 SNR_max) / (1 + s^2 SNR_min)).  Uniform times have 40 times the variance of times
    drawn from -d log-SNR / dt; the other density is no good, and unbiased all the same."""
    process = PROCESSES["preserving"]
    span = process.t_max - process.t_min
    snr = lambda t: jnp.exp(process.log_snr(t))
    ends = 1 + VARIANCE * snr(jnp.array([process.t_min, process.t_max]))
    integral = 0.5 * jnp.log(ends[0] / ends[1])
    loss = lambda t: objectives.weight("likelihood", process, t) * error_of_the_best(process, t) * span
    u = (jnp.arange(400_000) + 0.5) / 400_000
    edges = jnp.geomspace(process.t_min, process.t_max, 401)
    fall = lambda t: (p.diffusion(process, t) / p.sigma(process, t)) ** 2
    loss, variances = jax.jit(loss), {}
    for name, density in {
        "flat": lambda t: t * 0 + 1,
        "fall": fall,
        "odd": lambda t: 1 + jnp.sin(9 * t) ** 2,
    }.items():
        t, w = times.importance_times(u, density, edges)
        assert (jnp.diff(t) >= -1e-12).all() and t.min() >= process.t_min and t.max() <= process.t_max
        np.testing.assert_allclose(jnp.mean(w), 1, rtol=1e-3)
        # the midpoint rule sees a loss that rises to 1e5 over cells of 2.5e-6 badly unless t crowds there
        np.testing.assert_allclose(jnp.mean(w * loss(t)), integral, rtol=1e-4 if name == "fall" else 2e-2)
        variances[name] = float(jnp.var(w * loss(t)))
    assert variances["flat"] / variances["fall"] > 40
    flat, w = times.importance_times(u, lambda t: t * 0 + 1, edges)
    np.testing.assert_allclose(flat, times.uniform_times(process, u), rtol=1e-9)
    np.testing.assert_allclose(w, 1, rtol=1e-9)


@checks(times.importance_times)
def test_importance_times_follow_their_density():
    """Masses 3/4 on [0, 1] and 1/4 on [1, 3]; a weight is the density of uniform times, 1/3, over this one."""
    density = lambda t: jnp.where(t < 1, 6.0, 1.0)
    t, w = times.importance_times(jnp.linspace(0, 1, 9), density, jnp.array([0.0, 1.0, 3.0]))
    np.testing.assert_allclose(t, [0, 1 / 6, 1 / 3, 0.5, 2 / 3, 5 / 6, 1, 2, 3], atol=1e-6)
    np.testing.assert_allclose(w[:6], (1 / 3) / (3 / 4), rtol=1e-6)
    np.testing.assert_allclose(w[-2:], (1 / 3) / (1 / 8), rtol=1e-6)


BAD = [
    (lambda t: t, [0.0], "at least two edges"),
    (jnp.ones_like, [2.0, 1.0], "edges rise"),
    (jnp.cos, [0.0, 4.0], "density is positive"),
]


def test_bad_edges_and_densities_are_refused():
    for density, edges, message in BAD:
        with pytest.raises(ValueError, match=message):
            times.importance_times(jnp.zeros(1), density, jnp.array(edges))
