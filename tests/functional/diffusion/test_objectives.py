"""Objectives at the exact network equal closed forms, whatever is predicted; laws of t are unbiased."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax.functional.diffusion import objectives, schedules, targets, times
from dlvm_jax.functional.diffusion import process as p
from tests.functional.common import central_difference

PROCESSES = {
    "preserving": schedules.variance_preserving(),
    "sub_preserving": schedules.sub_variance_preserving(),
    "exploding": schedules.variance_exploding(),
    "edm": schedules.edm(),
    "rectified": schedules.rectified(),
}
MEAN, VARIANCE = 0.7, 0.25  # of one-dimensional Gaussian data


def nodes(process, t):
    """Gauss-Hermite nodes of (x_0, eps) and their weights: expectations of squares of linear functions are exact."""
    z, w = np.polynomial.hermite_e.hermegauss(3)
    x0, eps = (grid.reshape(-1, 1) for grid in np.meshgrid(MEAN + np.sqrt(VARIANCE) * z, z))
    x0, eps = jnp.asarray(x0), jnp.asarray(eps)
    return x0, p.diffuse(process, x0, t, eps), np.outer(w, w).ravel() / (2 * np.pi)


def gain(process, t):
    a, noise = p.alpha(process, t), p.sigma(process, t)
    return a * VARIANCE / (a**2 * VARIANCE + noise**2)


def denoised(process, x_t, t):
    return MEAN + gain(process, t) * (x_t - p.alpha(process, t) * MEAN)


def error_of_the_best(process, t):
    """Posterior variance of x_0 given x_t."""
    return VARIANCE * (1 - p.alpha(process, t) * gain(process, t))


@pytest.mark.parametrize("name", PROCESSES)
def test_weight_is_the_known_function_of_signal_to_noise(name, x64):
    process = PROCESSES[name]
    t = process.t_min + (process.t_max - process.t_min) * jnp.array([0.1, 0.5, 0.9])
    a, noise = p.alpha(process, t), p.sigma(process, t)
    snr = (a / noise) ** 2
    wanted = {
        "x0": jnp.ones(3),
        "epsilon": snr,
        "score": snr / noise**2,
        "v": snr * (a + noise**2 / a) ** 2,
        "velocity": snr * (noise * jax.vmap(jax.grad(lambda t: 0.5 * process.log_snr(t)))(t)) ** 2,
        "likelihood": 0.5 * (p.diffusion(process, t) / noise) ** 2 * snr,
        "min_snr": jnp.where(snr < 5, snr, 5.0),
        "edm": ((a * 0.5) ** 2 + noise**2) / (0.5 * noise) ** 2,
    }
    assert set(wanted) == set(objectives.WEIGHTS)
    for kind, value in wanted.items():
        np.testing.assert_allclose(objectives.weight(kind, process, t), value, rtol=1e-9, err_msg=kind)
    if name in ("edm", "exploding"):  # the table of the paper
        np.testing.assert_allclose(wanted["edm"], (noise**2 + 0.25) / (noise * 0.5) ** 2, rtol=1e-12)
    # likelihood weighting is g^2 / 2 on the squared error of the score
    of_score = wanted["likelihood"] / wanted["score"]
    np.testing.assert_allclose(of_score, 0.5 * p.diffusion(process, t) ** 2, rtol=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("kind", objectives.WEIGHTS)
def test_expected_loss_of_the_exact_network(name, kind, x64):
    """Expectation over (x_0, eps) = weight times posterior variance, for every target; no linear change improves it."""
    process = PROCESSES[name]
    t = process.t_min + 0.37 * (process.t_max - process.t_min)
    x0, x_t, weights = nodes(process, t)
    factor = objectives.weight(kind, process, t)
    best = denoised(process, x_t, t)
    for target in targets.TARGETS:

        def loss(change, target=target):
            prediction = targets.from_x0(process, target, best + change[0] + change[1] * x_t, x_t, t)
            return weights @ objectives.denoising_loss(process, target, prediction, x0, x_t, t, factor)

        value, slope = jax.value_and_grad(loss)(jnp.zeros(2))
        np.testing.assert_allclose(value, factor * error_of_the_best(process, t), rtol=1e-8)
        # normal equations; the loss's curvature is 2 w E[x_t^2], rounding of it is the scale of zero
        np.testing.assert_allclose(slope, 0, atol=1e-10 * factor * (1 + jnp.square(x_t).max()))
        assert loss(jnp.array([0.1, 0.0])) > value and loss(jnp.array([0.0, -0.1])) > value


def test_simple_loss_of_ho_and_a_batch_of_times(x64):
    process = PROCESSES["preserving"]
    rng = np.random.RandomState(0)
    x0, eps, guess = (jnp.asarray(rng.randn(3, 2, 4)) for _ in range(3))
    t = jnp.array([0.1, 0.5, 0.9])
    x_t = p.diffuse(process, x0, t, eps)
    w = objectives.weight("epsilon", process, t)
    loss = objectives.denoising_loss(process, "epsilon", guess, x0, x_t, t, w, event_ndim=2)
    np.testing.assert_allclose(loss, jnp.square(eps - guess).sum((1, 2)), rtol=1e-9)


def test_gradient_against_central_differences(x64):
    process, t = PROCESSES["rectified"], jnp.array([0.2, 0.7])
    rng = np.random.RandomState(1)
    x0, eps, guess = (jnp.asarray(rng.randn(2, 3)) for _ in range(3))
    x_t = p.diffuse(process, x0, t, eps)
    for target in targets.TARGETS:
        for kind in objectives.WEIGHTS:
            w = objectives.weight(kind, process, t)
            loss = lambda v: objectives.denoising_loss(process, target, v, x0, x_t, t, w).sum()  # noqa: B023
            np.testing.assert_allclose(
                jax.grad(loss)(guess), central_difference(loss, guess), rtol=2e-6, atol=1e-6
            )


def test_preconditioned_network_regresses_on_unit_variance(x64):
    """Under the EDM weight the loss is the plain squared error of the raw network, whose target has variance one."""
    process, t = PROCESSES["edm"], 3.0
    x0, x_t, weights = nodes(process, t)
    x0, x_t = x0 - MEAN, x_t - MEAN
    c = targets.preconditioning(process, t, np.sqrt(VARIANCE))
    raw = 0.3 * x_t**2
    loss = objectives.denoising_loss(
        process, "x0", c.skip * x_t + c.out * raw, x0, x_t, t, objectives.weight("edm", process, t)
    )
    target = (x0 - c.skip * x_t) / c.out
    np.testing.assert_allclose(loss, jnp.square(target - raw)[:, 0], rtol=1e-10)
    np.testing.assert_allclose(weights @ jnp.square(target)[:, 0], 1, rtol=1e-10)
    np.testing.assert_allclose(weights @ jnp.square(c.input * x_t)[:, 0], 1, rtol=1e-10)


@pytest.mark.parametrize("name", PROCESSES)
def test_single_precision_at_the_smallest_time(name):
    """A unit error in epsilon costs D and no error costs nothing, though eps must be recovered from x_t.

    Three roundings of numbers below |x| = 4, each 6e-8 |x|, over sigma: so well is eps known, by any network too."""
    process = PROCESSES[name]
    t = process.t_min
    x0, eps = jax.random.normal(jax.random.key(0), (2, 100, 8))
    x_t = p.diffuse(process, x0, t, eps)
    known = 3 * 6e-8 * 4 / float(p.sigma(process, t))
    for kind in ("epsilon", "v", "likelihood", "edm"):
        w = objectives.weight(kind, process, t)
        per_eps = w / objectives.weight("epsilon", process, t)
        off = objectives.denoising_loss(process, "epsilon", eps + 1, x0, x_t, t, w)
        on = objectives.denoising_loss(process, "epsilon", eps, x0, x_t, t, w)
        np.testing.assert_allclose(off, 8 * per_eps, rtol=2 * known + known**2 + 1e-6)
        assert (on <= 8 * known**2 * per_eps).all()


# ---------------------------------------------------------------- laws of t


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


def test_uniform_times_cover_interval_and_table():
    edges = jnp.array([0.0, 0.5, 1 - 2**-24])
    np.testing.assert_allclose(times.uniform_times(PROCESSES["edm"], edges), [0.002, 40.001, 80.0], rtol=1e-6)
    chain = schedules.from_recursion(schedules.linear_betas(1000))
    steps = times.uniform_times(chain, jnp.append((jnp.arange(1000) + 0.5) / 1000, 1 - 2**-24)) * 1000
    np.testing.assert_allclose(steps, np.append(np.arange(1, 1001), 1000), rtol=1e-6)


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


def test_importance_times_follow_their_density():
    """Masses 3/4 on [0, 1] and 1/4 on [1, 3]; a weight is the density of uniform times, 1/3, over this one."""
    density = lambda t: jnp.where(t < 1, 6.0, 1.0)
    t, w = times.importance_times(jnp.linspace(0, 1, 9), density, jnp.array([0.0, 1.0, 3.0]))
    np.testing.assert_allclose(t, [0, 1 / 6, 1 / 3, 0.5, 2 / 3, 5 / 6, 1, 2, 3], atol=1e-6)
    np.testing.assert_allclose(w[:6], (1 / 3) / (3 / 4), rtol=1e-6)
    np.testing.assert_allclose(w[-2:], (1 / 3) / (1 / 8), rtol=1e-6)


BAD = [
    (lambda: objectives.weight("snr", PROCESSES["edm"], 1.0), "a weight is one of x0, epsilon"),
    (lambda: times.importance_times(jnp.zeros(1), lambda t: t, jnp.zeros(1)), "at least two edges"),
    (lambda: times.importance_times(jnp.zeros(1), jnp.ones_like, jnp.array([2.0, 1.0])), "edges rise"),
    (lambda: times.importance_times(jnp.zeros(1), jnp.cos, jnp.array([0.0, 4.0])), "density is positive"),
]


def test_bad_input_is_named():
    for call, message in BAD:
        with pytest.raises(ValueError, match=message):
            call()
