"""Objectives at the exact network equal closed forms, whatever is predicted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional.diffusion import objectives, schedules, targets
from dlvm_jax.functional.diffusion import process as p
from tests.functional.common import central_difference, checks

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


@checks(objectives.weight)
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


@checks(objectives.denoising_loss)
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


@checks(objectives.denoising_loss)
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


def test_unknown_weight_is_refused():
    with pytest.raises(ValueError, match="a weight is one of x0, epsilon"):
        objectives.weight("snr", PROCESSES["edm"], 1.0)
