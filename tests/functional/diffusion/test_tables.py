"""Processes by a table under continuous time, and every solver at both ends of the time of every process."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.exact import diffusion as exact
from dlvm_jax.functional.diffusion import likelihood, ode, schedules, solvers
from dlvm_jax.functional.diffusion import process as p
from tests.functional.common import checks
from tests.functional.diffusion.test_solvers import SOLVERS

MEAN, VARIANCE = 1.3, 0.6
X = np.array([[0.9], [2.4], [-1.0]])


def general():
    """A chain that neither preserves nor explodes."""
    steps = np.arange(40)
    return schedules.from_recursion(0.01 + 0.002 * steps, 0.98 - 0.003 * steps)


def exploding():
    return schedules.from_recursion(np.diff(np.geomspace(0.1, 20.0, 40) ** 2, prepend=0.0), np.ones(40))


TABLES = {
    "short": lambda: schedules.from_recursion(schedules.linear_betas(50, 0.002, 0.4)),
    "cosine": lambda: schedules.from_recursion(schedules.cosine_betas(100)),
    "ddpm": lambda: schedules.from_recursion(schedules.linear_betas()),
    "exploding": exploding,
    "general": general,
}


def law():
    return exact.gaussian(jnp.full(1, MEAN), VARIANCE * jnp.eye(1))


def denoiser(process):
    return functools.partial(exact.denoiser, law(), process)


@pytest.mark.parametrize("name", TABLES)
def test_one_smooth_function_of_time(name, x64):
    """Slopes are continuous over the steps, log-SNR falls everywhere, and what preserves variance does so between them.

    A second difference over a step is h f'' where the slope is continuous, and the jump of the slope where it is not."""
    process = TABLES[name]()
    fine = jnp.linspace(0, 1, 20 * process.steps + 1)[1:]
    levels = np.asarray(process.log_snr(fine))
    assert np.isfinite(levels).all() and (np.diff(levels) < 0).all()
    knots, h = jnp.arange(1, process.steps) / process.steps, 1e-6 / process.steps
    for function in (process.log_snr, process.log_alpha):
        before, at, after = (np.asarray(function(knots + shift)) for shift in (-h, 0, h))
        assert np.abs(after - 2 * at + before).max() <= 1e-3 * np.abs(after - before).max()
    if name not in ("exploding", "general"):
        np.testing.assert_allclose(p.alpha(process, fine) ** 2 + p.sigma(process, fine) ** 2, 1, rtol=1e-9)
    if name == "exploding":
        np.testing.assert_array_equal(process.log_alpha(fine), 0)


def test_log_snr_falls_between_steps_however_uneven_they_are(x64):
    """Where steps of one part in a thousand stand beside large ones, an unlimited slope would make it rise."""
    process = schedules.from_recursion(np.array([0.001, 0.001, 0.6, 0.001, 0.001, 0.6, 0.6, 0.001]))
    assert (np.diff(process.log_snr(jnp.linspace(0, 1, 801)[1:])) < 0).all()


def test_the_steps_are_those_of_the_table_to_the_last_bit():
    betas = schedules.linear_betas()
    log_alpha_bar = np.cumsum(np.log1p(-betas))
    log_snr = log_alpha_bar - np.log(-np.expm1(log_alpha_bar))
    t = jnp.arange(1, 1001) / 1000
    process = schedules.from_recursion(betas)
    np.testing.assert_array_equal(process.log_snr(t)[1:], log_snr[1:].astype(np.float32))
    np.testing.assert_array_equal(process.log_alpha(t), (0.5 * log_alpha_bar).astype(np.float32))
    assert process.log_snr(0.0) == jnp.inf and process.log_alpha(0.0) == 0


def error_of_likelihood(process, steps):
    prior = lambda z: exact.log_marginal(law(), process, z, 1.0)
    run = lambda x: likelihood.log_likelihood(process, denoiser(process), x, steps, prior=prior)[0]
    truth = exact.log_marginal(law(), process, jnp.asarray(X), process.t_min)
    return np.abs(jax.jit(run)(X) - truth).max()


@checks(likelihood.log_likelihood)
@pytest.mark.parametrize("name", ["short", "cosine", "exploding", "ddpm"])
def test_likelihood_of_a_table_has_order_four(name, x64):
    errors = [error_of_likelihood(TABLES[name](), steps) for steps in (80, 160)]
    assert abs(np.log2(errors[0] / errors[1]) - 4) < 0.5 and errors[1] < 1e-6, errors


@pytest.mark.parametrize("method, order", [("heun", 2), ("rk4", 4), ("edm", 2)])
def test_orders_on_grids_of_the_table(method, order, x64):
    """One, two, four steps of the solver in each of the table."""
    process = TABLES["short"]()
    make = ode.edm_heun if method == "edm" else functools.partial(ode.runge_kutta, method=method)
    step = jax.jit(make(process, denoiser(process)).step)
    x, errors = jnp.asarray(X), []
    for parts in (1, 2, 4):
        grid = np.linspace(1.0, 10 / 50, 40 * parts + 1)
        state = (x, x)
        for t, s in itertools.pairwise(grid):
            state = step(state, t, s, None)
        errors.append(float(jnp.abs(state[0] - exact.ode_map(law(), process, x, 1.0, 0.2)).max()))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert (orders > order - 0.3).all(), (errors, orders)


@checks(ode.adaptive)
@pytest.mark.parametrize("name", ["short", "cosine", "learned", "ddpm", "exploding"])
def test_adaptive_reaches_its_tolerance_on_a_table(name, x64):
    """A thousand steps of the table are no thousand of the solver.

    The tolerance is of one step.  The errors of the steps add up, and the flow stretches them: 27 times at most, on the cosine
    table from data to noise.
    """
    pieces = [0.3, -0.5, 1.0, 0.0, 0.6, -1.0]
    process = (
        schedules.piecewise_log_snr(-6.0, 12.0, jnp.array(pieces)) if name == "learned" else TABLES[name]()
    )
    ends = jnp.array([process.t_max, process.t_min])
    run = jax.jit(lambda t, s, tol: ode.adaptive(process, denoiser(process), X, t, s, tol, tol, 200))
    for tolerance in (1e-5, 1e-8):
        for t, s in (ends, ends[::-1]):
            out = run(t, s, tolerance)
            assert out.time == s
            true = exact.ode_map(law(), process, jnp.asarray(X), t, s)
            np.testing.assert_allclose(out.x, true, rtol=20 * tolerance, atol=20 * tolerance)


@pytest.mark.slow
def test_adaptive_converges_on_a_chain_of_any_kind(x64):
    """Its signal is no smooth function of log-SNR: the error falls with the tolerance, but stays above it."""
    process = general()
    run = jax.jit(lambda tol: ode.adaptive(process, denoiser(process), X, 1.0, process.t_min, tol, tol, 1000))
    true = exact.ode_map(law(), process, jnp.asarray(X), 1.0, process.t_min)
    errors = [float(jnp.abs(run(tolerance).x - true).max()) for tolerance in (1e-5, 1e-8, 1e-10)]
    assert (np.array(errors) < [1e-3, 3e-5, 1e-6]).all(), errors


def test_integration_is_in_single_precision_at_least():
    """From integers, whose times would be integers too, and in bfloat16, whose times would coincide."""
    for x in (np.ones(1, int), jnp.ones(1, jnp.bfloat16), [True]):
        out = ode.integrate(lambda x, t: -x, jnp.asarray(x), 0.0, 0.5)
        assert out.x.dtype == jnp.float32
        np.testing.assert_allclose(out.x, np.exp(-0.5), rtol=1e-5)


PROCESSES = {
    "table": (TABLES["short"], 200),  # more steps than the table has
    "straight": (schedules.rectified, 60),
    "preserving": (schedules.variance_preserving, 60),
    "sub": (schedules.sub_variance_preserving, 60),
    "edm": (schedules.edm, 60),
    "exploding": (schedules.variance_exploding, 60),
    "linear": (schedules.linear_log_snr, 60),
    "learned": (lambda: schedules.piecewise_log_snr(-6.0, 12.0, jnp.array([0.3, -0.5, 1.0])), 60),
    "cosine": (lambda: schedules.from_recursion(schedules.cosine_betas(50)), 200),
    "exploding table": (exploding, 100),
    "general table": (general, 100),
}


def grids(process, steps):
    clean = process.t_min > 0
    yield "karras", solvers.karras_times(process, steps, clean=clean)
    yield "log_snr", solvers.log_snr_times(process, steps, clean=clean)
    if process.t_max == 1:
        yield "linspace", jnp.linspace(1.0, 0.0, steps + 1)
    if process.t_max <= 1:  # equal steps of EDM's levels are too long for its small ones
        yield "equal", solvers.equal_times(process, steps, clean=clean)


def wrong_deviations(name, dtype, chosen):
    """Solvers and grids whose samples of data N(0, .6) deviate by other than the exact amount.

    4000 samples have a standard error of 1.1 %; 35 % are left to the solvers' own errors, as Euler's needs."""
    process, steps = PROCESSES[name][0](), PROCESSES[name][1]
    denoise = functools.partial(exact.denoiser, exact.gaussian(jnp.zeros(1), VARIANCE * jnp.eye(1)), process)
    deviation = lambda t: jnp.sqrt(p.alpha(process, t) ** 2 * VARIANCE + p.sigma(process, t) ** 2)
    x = (deviation(process.t_max) * jax.random.normal(jax.random.key(0), (4000, 1))).astype(dtype)
    wrong = []
    for made in chosen:
        run = jax.jit(functools.partial(solvers.sample, SOLVERS[made](process, denoise)))
        for grid, times in grids(process, steps):
            out = np.asarray(run(times, x, jax.random.key(1)), np.float32)
            ratio = out.std() / float(deviation(float(times[-1])))
            if not abs(ratio - 1) < 0.35:
                wrong.append((made, grid, ratio))
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, dtype",
    [(name, jnp.float32) for name in PROCESSES] + [(name, jnp.bfloat16) for name in ("cosine",)],
)
def test_every_solver_from_the_first_time_to_the_last(name, dtype):
    assert not wrong_deviations(name, dtype, SOLVERS)


def test_more_steps_than_the_table_has():
    assert not wrong_deviations("table", jnp.float32, ["dpm 2m"])


@checks(solvers.equal_times)
def test_a_grid_finer_than_its_table_ends_like_the_others():
    process = TABLES["short"]()
    times = np.asarray(solvers.equal_times(process, 120, clean=True))
    assert len(times) == 121 and times[-1] == 0 and times[-2] == np.float32(process.t_min)
    np.testing.assert_allclose(np.diff(times[:-1]), -0.98 / 119, rtol=1e-4)


def test_times_outside_of_a_process_are_refused():
    x = jnp.ones(2)
    straight, table, edm = schedules.rectified(), TABLES["short"](), schedules.edm()
    for process, times in (
        (straight, jnp.linspace(1.0, 0.0, 5)),
        (straight, np.linspace(1.0, 0.0, 5)),
        (table, jnp.arange(50, -1, -1)),
        (edm, jnp.array([90.0, 1.0, 0.0])),
        (schedules.variance_preserving(), jnp.array([1.0, 0.1, -0.1])),
    ):
        denoise = lambda x, t: 0.5 * x
        for make in SOLVERS.values() if process is straight else [SOLVERS["ddim"]]:
            with pytest.raises(ValueError, match=r"the times of this process lie in \[0, .*equal_times"):
                solvers.sample(make(process, denoise), times, x, jax.random.key(0))
        with pytest.raises(ValueError, match="the times of this process lie in"):
            solvers.encode(process, SOLVERS["ddim"](process, denoise), times[:-1][::-1] + 0.02, x)
        with pytest.raises(ValueError, match="the times of this process lie in"):
            ode.adaptive(process, denoise, x, times[0] + 0.02, 0.5)
    with pytest.raises(ValueError, match=r"whole number of intervals, got 2\.5"):
        solvers.equal_times(edm, 2.5)
    with pytest.raises(ValueError, match="whole number of intervals, got True"):
        solvers.log_snr_times(edm, True)


def test_times_of_any_type():
    """Integers, 8 bits that would wrap, and bfloat16 give what the same times in float32 give."""
    for name in ("table", "straight", "preserving", "exploding"):
        process = PROCESSES[name][0]()
        for value in (0, 1):
            if value < process.t_max:
                continue
            right = process.log_snr(float(value)), process.log_alpha(float(value))
            for t in (value, np.uint8(value), jnp.array(value, jnp.bfloat16), np.array([value], np.uint8)):
                got = process.log_snr(t), process.log_alpha(t)
                assert all(part.dtype == jnp.float32 for part in got)
                np.testing.assert_array_equal(np.ravel(got), right)
    np.testing.assert_allclose(schedules.edm().log_snr(np.uint8(200)), -2 * np.log(200), rtol=1e-6)
    coarse, process = jnp.array(0.3, jnp.bfloat16), schedules.rectified()
    np.testing.assert_array_equal(process.log_snr(coarse), process.log_snr(coarse.astype(jnp.float32)))


def test_noise_of_a_narrow_state_is_drawn_wide():
    """bfloat16's own normals have 128 values and a mean of -0.006; of a million draws the standard error is 0.001."""
    solver = solvers.Solver(lambda x: (x, x), lambda state, t, s, noise: (noise[0], state[1]), 1)
    for dtype in (jnp.bfloat16, jnp.float16):
        key, times = jax.random.key(0), jnp.array([2.0, 1.0])
        noise = solvers.sample(solver, times, jnp.zeros((1_000_000,), dtype), key)
        wide = solvers.sample(solver, times, jnp.zeros((1_000_000,), jnp.float32), key)
        np.testing.assert_allclose(noise.astype(jnp.float32), wide, rtol=1e-2, atol=1e-3)
        assert abs(noise.astype(jnp.float32).mean()) < 0.004
