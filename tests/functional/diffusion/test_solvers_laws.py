"""Output laws on Gaussian data, read off the samplers themselves: published tables and orders of convergence."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from dlvm_jax.exact import diffusion as exact
from dlvm_jax.functional.diffusion import schedules
from dlvm_jax.functional.diffusion.ancestral import ancestral, ddim
from dlvm_jax.functional.diffusion.dpm import dpm_multistep, dpm_sde, dpm_singlestep
from dlvm_jax.functional.diffusion.ode import edm_heun, runge_kutta
from dlvm_jax.functional.diffusion.process import alpha, sigma
from dlvm_jax.functional.diffusion.sde import euler_maruyama, langevin, langevin_size, predictor_corrector
from dlvm_jax.functional.diffusion.solvers import (
    equal_times,
    karras_times,
    log_snr_times,
    sample,
    table_times,
)
from tests.functional.common import checks

pytestmark = pytest.mark.usefixtures("x64")

MEAN, COVARIANCE = np.array([0.7, -1.2]), np.array([[0.9, 0.5], [0.5, 0.4]])


def scalar_law(variance):
    return exact.gaussian(jnp.zeros(1), variance * jnp.eye(1))


def build(process, law, make):
    return make(process, functools.partial(exact.denoiser, law, process))


def propagator(solver, dim):
    """(times, mean, covariance) -> mean and covariance put out: each step's Jacobians, compiled once for all grids."""
    _flat, unravel = ravel_pytree(solver.init(jnp.zeros(dim)))
    start = jax.jacobian(lambda x: ravel_pytree(solver.init(x))[0])(jnp.zeros(dim))

    @jax.jit
    def advance(flat, covariance, t, s):
        step = lambda flat, z: ravel_pytree(solver.step(unravel(flat), t, s, z))[0]
        z = jnp.zeros((solver.draws, dim))
        a, b = jax.jacfwd(step, (0, 1))(flat, z)
        b = b.reshape(len(flat), solver.draws * dim)
        return step(flat, z), a @ covariance @ a.T + b @ b.T

    def run(times, mean, covariance):
        times = np.asarray(times)
        carry = ravel_pytree(solver.init(jnp.asarray(mean, float)))[0], start @ covariance @ start.T
        for t, s in itertools.pairwise(times):
            carry = advance(*carry, t, s)
        return carry[0][:dim], carry[1][:dim, :dim]

    return run


def chain():
    return schedules.from_recursion(schedules.linear_betas(1000))


@checks(ancestral)
@pytest.mark.parametrize(
    "variance, data, expected",
    [("small", 0.25, 0.984501), ("large", 0.25, 1.003008), ("small", 1, 0.991067), ("large", 1, 0.999900)],
)
def test_ancestral_table(variance, data, expected):
    process = chain()
    make = functools.partial(ancestral, variance=variance)
    run = propagator(build(process, scalar_law(data), make), 1)
    _, out = run(equal_times(process, 1000, clean=True), np.zeros(1), jnp.eye(1))
    assert float(out[0, 0]) / data == pytest.approx(expected, abs=6e-7)  # six printed decimals


@checks(ddim)
@pytest.mark.parametrize(
    "data, expected",
    [
        (0.25, {10: 0.52305, 20: 0.74115, 50: 0.89082, 100: 0.94419, 1000: 0.99399}),
        (1.0, {10: 0.66355, 20: 0.82482, 50: 0.92811, 100: 0.96369, 1000: 0.99625}),
    ],
)
def test_ddim_table(data, expected):
    process = chain()
    run = propagator(build(process, scalar_law(data), ddim), 1)
    for steps, value in expected.items():
        _, out = run(table_times(process, steps), np.zeros(1), jnp.eye(1))
        assert float(out[0, 0]) / data == pytest.approx(value, abs=6e-6), steps  # five printed decimals


@checks(runge_kutta, edm_heun, dpm_multistep)
@pytest.mark.parametrize(
    "make, expected",
    [
        (functools.partial(runge_kutta, method="euler"), (0.54781, 0.69900, 0.84608, 0.92972, 0.96466)),
        (functools.partial(runge_kutta, method="heun"), (1.70608, 1.27814, 1.05527, 1.00977, 1.00231)),
        (edm_heun, (1.70608, 1.27814, 1.05527, 1.00977, 1.00231)),
        (ddim, (0.54781, 0.69900, 0.84608, 0.92972, 0.96466)),
        (dpm_multistep, (1.01539, 1.15723, 1.06230, 1.01040, 1.00238)),
    ],
)
def test_edm_table(make, expected):
    process, data = schedules.edm(), 0.25
    run = propagator(build(process, scalar_law(data), make), 1)
    for steps, value in zip((6, 9, 18, 40, 80), expected, strict=True):
        _, out = run(karras_times(process, steps), np.zeros(1), (data + 80.0**2) * jnp.eye(1))
        assert float(jnp.sqrt(out[0, 0] / data)) == pytest.approx(value, abs=6e-6), steps


@checks(euler_maruyama)
@pytest.mark.parametrize(
    "churn, expected",
    [
        (1.0, {250: 1.469e-3, 500: 7.248e-4, 1000: 3.6000e-4, 2000: 1.7941e-4, 4000: 8.955e-5}),
        (0.0, {250: -8.957e-4, 500: -4.519e-4, 1000: -2.2694e-4, 2000: -1.1373e-4, 4000: -5.693e-5}),
    ],
)
def test_euler_maruyama_table(churn, expected):
    process, data = schedules.variance_preserving()._replace(t_min=1e-3), 0.25
    exact_at = lambda t: alpha(process, t) ** 2 * data + sigma(process, t) ** 2
    make = functools.partial(euler_maruyama, churn=churn)
    run = propagator(build(process, scalar_law(data), make), 1)
    for steps, value in expected.items():
        _, out = run(equal_times(process, steps), np.zeros(1), exact_at(1.0) * jnp.eye(1))
        assert float(out[0, 0] - exact_at(1e-3)) == pytest.approx(value, rel=5e-4), steps  # four digits


def orders(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


PROCESSES = {
    "preserving": schedules.variance_preserving()._replace(t_min=0.02),
    "edm": schedules.edm(0.05, 20.0),
    "straight": schedules.rectified()._replace(t_min=0.03, t_max=0.97),
}
DETERMINISTIC = {
    "euler": (functools.partial(runge_kutta, method="euler"), 1),
    "heun": (functools.partial(runge_kutta, method="heun"), 2),
    "rk4": (functools.partial(runge_kutta, method="rk4"), 4),
    "edm": (edm_heun, 2),
    "ddim": (ddim, 1),
    "maruyama": (functools.partial(euler_maruyama, churn=0.0), 1),
    **{
        f"dpm {form} {order}": (functools.partial(dpm_singlestep, order=order, form=form), order)
        for form in ("data", "noise")
        for order in (1, 2, 3)
    },
    **{
        f"dpm {form} {order}m": (functools.partial(dpm_multistep, order=order, form=form), order)
        for form in ("data", "noise")
        for order in (2, 3)
    },
}


ONE_AND_ALL = [
    pytest.param(name, marks=() if name == "preserving" else pytest.mark.slow) for name in PROCESSES
]


@checks(dpm_singlestep)
@pytest.mark.parametrize("name", ONE_AND_ALL)
@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_deterministic_orders(solver, name):
    process, law = PROCESSES[name], exact.gaussian(MEAN, COVARIANCE)
    make, order = DETERMINISTIC[solver]
    if solver.endswith(
        "3m"
    ):  # its first term is small: on half the range the steps are short enough to see it
        process = process._replace(t_min=process.t_min**0.5 * process.t_max**0.5)
    solver = build(process, law, make)
    step = jax.jit(solver.step)
    low, high = (jnp.eye(2) * sigma(process, t) + 0.5 for t in (process.t_min, process.t_max))
    for x, way in ((high, 1), (low, -1)):  # sample, encode
        errors = []
        # The rate shows once steps are short; at N = 320 the error of order 4 is near 1e-9, above rounding.
        for steps in (80, 160, 320):
            times = np.asarray(log_snr_times(process, steps))[::way]
            state = solver.init(x)
            for t, s in itertools.pairwise(times):
                state = step(state, t, s, None)
            errors.append(
                float(jnp.abs(state[0] - exact.ode_map(law, process, x, times[0], times[-1])).max())
            )
        assert np.abs(orders(errors)[1:] - order).max() < 0.15, (errors, orders(errors))


STOCHASTIC = {
    "small": (ancestral, 1),
    "large": (functools.partial(ancestral, variance="large"), 1),
    "ddim .5": (functools.partial(ddim, eta=0.5), 1),
    "ddim 1": (functools.partial(ddim, eta=1.0), 1),
    "maruyama": (euler_maruyama, 1),
    "maruyama .5": (functools.partial(euler_maruyama, churn=0.5), 1),
    "dpm sde": (dpm_sde, 2),
}


@checks(dpm_sde)
@pytest.mark.parametrize("name", ONE_AND_ALL)
@pytest.mark.parametrize("solver", STOCHASTIC)
def test_weak_orders(solver, name):
    process, law = PROCESSES[name], exact.gaussian(MEAN, COVARIANCE)
    make, order = STOCHASTIC[solver]
    marginals = [
        (alpha(process, t) * MEAN, alpha(process, t) ** 2 * COVARIANCE + sigma(process, t) ** 2 * jnp.eye(2))
        for t in (process.t_max, process.t_min)
    ]
    run = propagator(build(process, law, make), 2)
    errors = []
    for steps in (160, 320, 640):
        got = run(log_snr_times(process, steps), *marginals[0])
        errors.append([float(jnp.abs(g - e).max()) for g, e in zip(got, marginals[1], strict=True)])
    # The mean starts at its exact value and a linear score keeps it nearly or wholly exact: only the covariance has a rate.
    assert np.abs(orders(errors)[1:, 1] - order).max() < 0.15, (errors, orders(errors))
    assert errors[-1][0] < max(10 * errors[-1][1], 1e-12)


@checks(sample)
@pytest.mark.parametrize("make", [dpm_sde, edm_heun, functools.partial(dpm_multistep, order=3)])
def test_sample_has_the_law_of_its_steps(make):
    """The scan, its given noise and the clean end: read off `sample` as a whole."""
    process, law = schedules.edm(), exact.gaussian(MEAN, COVARIANCE)
    solver, times = build(process, law, make), karras_times(process, 9)
    start = 80.0**2 * jnp.eye(2)
    out = exact.output_law(
        lambda x, z: sample(solver, times, x, z[:, : solver.draws]), jnp.ones(2), start, (9, 1)
    )
    for whole, steps in zip(out, propagator(solver, 2)(times, np.ones(2), start), strict=True):
        np.testing.assert_allclose(whole, steps, rtol=1e-10, atol=1e-10)


@checks(edm_heun)
@pytest.mark.parametrize("high, raised", [(float("inf"), 4.8), (3.0, 4.0)])
def test_law_of_a_step_with_churn(high, raised):
    """With nothing to denoise: noise of S_noise times what is missing to the raised level, then x / level is kept.

    Above S_max the level stays."""
    solver = edm_heun(schedules.edm(), lambda x, t: 0 * x, churn=0.2, high=high, inflation=1.5)
    one = lambda x, z: solver.step(solver.init(x), 4.0, 3.0, z)[0]
    mean, covariance = exact.output_law(one, jnp.array([2.0]), 5.0 * jnp.eye(1), (1,))
    added = 1.5**2 * (raised**2 - 4.0**2)
    np.testing.assert_allclose(mean[0], 2.0 * 3 / raised, rtol=1e-9)
    np.testing.assert_allclose(covariance[0, 0], (5.0 + added) * (3 / raised) ** 2, rtol=1e-9)


@checks(predictor_corrector)
def test_law_of_a_corrected_step():
    """Two Langevin maps and one of Euler and Maruyama, composed by hand: each has a draw of its own."""
    process, t, s = schedules.edm(), 2.0, 1.5
    denoise = lambda x, t: x / (1 + t**2)  # data N(0, 1): the score is -x / (1 + t^2)
    solver = predictor_corrector(process, denoise, euler_maruyama(process, denoise), 0.5, 2)
    one = lambda x, z: solver.step(solver.init(x), t, s, z)[0]
    _, covariance = exact.output_law(one, jnp.zeros(1), 3.0 * jnp.eye(1), (3,))
    size = 2 * 0.5**2 * t**2
    keep, square = 1 - size / (1 + t**2), 2 * t  # g^2 = 2 t
    expected = 3.0
    for _ in range(2):
        expected = keep**2 * expected + 2 * size
    expected = (1 - square * (t - s) / (1 + t**2)) ** 2 * expected + square * (t - s)
    np.testing.assert_allclose(covariance[0, 0], expected, rtol=1e-9)


@checks(langevin)
@pytest.mark.parametrize("variance, size, expected", [(0.7, 0.1, 0.753846), (0.7, 0.01, 0.705036)])
def test_langevin_stationary_variance(variance, size, expected):
    """The map's coefficients, read off by unit vectors, fix the stationary variance exactly."""
    x, zero = jnp.ones(1), jnp.zeros(1)
    a = langevin(x, -x / variance, size, zero)[0]
    b = langevin(zero, zero, size, x)[0]
    assert float(b**2 / (1 - a**2)) == pytest.approx(variance / (1 - size / (2 * variance)), rel=1e-12)
    assert float(b**2 / (1 - a**2)) == pytest.approx(expected, abs=1e-6)


@checks(langevin_size)
def test_langevin_size_is_the_rule_of_the_norms_for_pure_noise():
    """2 r^2 |z|^2 / |score|^2 with the score -z / sigma of a point that is noise alone."""
    process, t, z = schedules.variance_preserving(), 0.3, jnp.array([0.3, -2.0, 1.0])
    score = -z / sigma(process, t)
    expected = 2 * 0.16**2 * jnp.sum(z**2) / jnp.sum(score**2)
    assert float(langevin_size(process, t, 0.16)) == pytest.approx(float(expected), rel=1e-12)
