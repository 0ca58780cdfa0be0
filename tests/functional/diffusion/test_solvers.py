"""The loop, the grids, the closed-form last step and the identities between solvers."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from dlvm_jax.exact import diffusion as exact
from dlvm_jax.functional.diffusion import schedules
from dlvm_jax.functional.diffusion.ancestral import ancestral, ddim
from dlvm_jax.functional.diffusion.dpm import dpm_multistep, dpm_sde, dpm_singlestep, phi
from dlvm_jax.functional.diffusion.ode import (
    METHODS,
    adaptive,
    edm_heun,
    integrate,
    probability_flow,
    runge_kutta,
)
from dlvm_jax.functional.diffusion.process import alpha, sigma
from dlvm_jax.functional.diffusion.sde import euler_maruyama, predictor_corrector
from dlvm_jax.functional.diffusion.solvers import (
    encode,
    equal_times,
    finish,
    is_clean,
    karras_times,
    log_snr_times,
    sample,
    table_times,
    time_between,
)
from tests.functional.common import checks, chi_square_p

pytestmark = pytest.mark.usefixtures("x64")

MEAN, COVARIANCE = np.array([0.7, -1.2]), np.array([[0.9, 0.5], [0.5, 0.4]])
PROCESSES = {
    "straight": schedules.rectified,
    "table": lambda: schedules.from_recursion(schedules.linear_betas(100, 1e-3, 0.2)),
    "preserving": schedules.variance_preserving,
    "sub": schedules.sub_variance_preserving,
    "edm": schedules.edm,
}
SOLVERS = {
    "small": ancestral,
    "dpm 3m": functools.partial(dpm_multistep, order=3),
    "large": functools.partial(ancestral, variance="large"),
    "ddim": ddim,
    "ddim 1": functools.partial(ddim, eta=1.0),
    **{method: functools.partial(runge_kutta, method=method) for method in METHODS},
    "edm": edm_heun,
    "edm churn": functools.partial(edm_heun, churn=0.2),
    "maruyama": euler_maruyama,
    "corrector": lambda p, d: predictor_corrector(p, d, euler_maruyama(p, d)),
    "dpm 3": dpm_singlestep,
    "dpm noise 3": functools.partial(dpm_singlestep, form="noise"),
    "dpm 2m": dpm_multistep,
    "dpm noise 3m": functools.partial(dpm_multistep, order=3, form="noise"),
    "dpm sde": dpm_sde,
}


def gaussian_denoiser(process):
    return functools.partial(exact.denoiser, exact.gaussian(MEAN, COVARIANCE), process)


def make(name, process, denoise=None):
    return SOLVERS[name](process, denoise or gaussian_denoiser(process))


@pytest.mark.parametrize("name", SOLVERS)
def test_last_step_is_the_denoised_point_without_nan(name):
    """To a clean time every solver returns alpha_s E[x_0 | x_t], with a finite gradient."""
    for process in (schedules.variance_preserving(), schedules.edm()):
        x, t = jnp.array([0.3, -0.8]), process.t_min * 1.5

        def last(scale, x, process=process, t=t):
            solver = make(name, process, lambda x, t: scale * gaussian_denoiser(process)(x, t))
            return solver.step(solver.init(x), t, 0.0, jnp.zeros((solver.draws, 2)))[0]

        expected = gaussian_denoiser(process)(x, t)
        # Churn and corrector move x first, at a noise of 1e-3 and less.
        tolerance = 1e-4 if name in ("edm churn", "corrector") else 1e-12
        np.testing.assert_allclose(last(1.0, x), expected, rtol=tolerance)
        for gradient in jax.jit(jax.jacobian(last, (0, 1)))(1.0, x):
            assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", SOLVERS)
def test_batches_are_loops_and_float32_stays(name):
    process = schedules.variance_preserving()
    solver, times = make(name, process), equal_times(process, 6, clean=True)
    x, noise = (np.random.RandomState(i).randn(*shape) for i, shape in enumerate([(3, 2), (6, 3, 2, 2)]))
    noise = jnp.asarray(noise[:, : solver.draws, :1].repeat(3, 2)) if solver.draws else None
    x = jnp.asarray(x)
    run = jax.jit(lambda x, noise: sample(solver, times, x, noise))
    each = [run(row, None if noise is None else noise[:, :, i]) for i, row in enumerate(x)]
    together = run(x, noise)
    mapped = jax.vmap(run, (0, None if noise is None else 2))(x, noise)
    np.testing.assert_allclose(together, jnp.stack(each), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mapped, jnp.stack(each), rtol=1e-9, atol=1e-12)
    single = sample(solver, times, x.astype(jnp.float32), noise)
    assert single.dtype == jnp.float32
    # Six steps in float32, each right to a few roundings of numbers near 1, amplified by less than a hundred.
    np.testing.assert_allclose(single, together, atol=1e-4)


def test_trajectory_and_keys():
    process = schedules.edm()
    solver, times = make("small", process), karras_times(process, 5)
    key, x = jax.random.key(3), jnp.ones((4, 2))
    out, (xs, x0s) = sample(solver, times, x, key, trajectory=True)
    assert xs.shape == x0s.shape == (5, 4, 2)
    np.testing.assert_array_equal(xs[-1], out)
    np.testing.assert_allclose(x0s[-1], out, rtol=1e-12)
    np.testing.assert_allclose(x0s[0], gaussian_denoiser(process)(x, 80.0), rtol=1e-12)
    noise = jnp.stack([jax.random.normal(jax.random.fold_in(key, i), (1, 4, 2)) for i in range(5)])
    np.testing.assert_array_equal(out, sample(solver, times, x, noise))


@pytest.mark.parametrize("name", ["sub", "straight", "preserving"])
def test_ddim_is_ancestral_and_dpm_1(name):
    process = PROCESSES[name]()
    x, key, times = jnp.array([0.3, -0.8]), jax.random.key(0), equal_times(process, 8, clean=True)
    denoise = gaussian_denoiser(process)

    def learned(share):
        return ancestral(process, lambda x, t: (denoise(x, t), share + 0 * x), "learned")

    pairs = [
        (ddim(process, denoise, 1.0), ancestral(process, denoise)),
        *((dpm_singlestep(process, denoise, 1, form), ddim(process, denoise)) for form in ("data", "noise")),
        *((learned(float(big == "large")), ancestral(process, denoise, big)) for big in ("small", "large")),
    ]
    run = jax.jit(lambda x: [[sample(solver, times, x, key) for solver in pair] for pair in pairs])
    for one, other in run(x):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_churn_outside_its_range_changes_nothing():
    process, times, x = schedules.edm(), karras_times(schedules.edm(), 7), jnp.array([30.0, -50.0])
    calm = edm_heun(process, gaussian_denoiser(process))
    outside = edm_heun(process, gaussian_denoiser(process), churn=0.3, low=100.0)
    run = lambda solver: jax.jit(lambda x: sample(solver, times, x, jax.random.key(0)))(x)
    np.testing.assert_array_equal(run(calm), run(outside))
    heun = runge_kutta(process, gaussian_denoiser(process), "heun")  # for EDM the same method
    np.testing.assert_allclose(run(calm), run(heun), rtol=1e-10)


def test_churn_raises_the_level_exactly():
    """With nothing to denoise, x bears exactly the level it is asked for."""
    seen = []
    process = schedules.variance_preserving()

    def denoise(x, t):
        seen.append((x, t))
        return jnp.zeros_like(x)

    solver, t = edm_heun(process, denoise, churn=0.2), jnp.asarray(0.5)
    solver.step((jnp.zeros(1), jnp.zeros(1)), t, jnp.asarray(0.4), jnp.ones((1, 1)))
    x, raised = seen[0]
    before, after = (sigma(process, time) / alpha(process, time) for time in (t, raised))
    assert float(after / before) == pytest.approx(1.2, rel=1e-12)
    added = jnp.sqrt(after**2 - before**2) * alpha(process, raised)
    assert float(x[0]) == pytest.approx(float(added), rel=1e-9)


@checks(dpm_singlestep, dpm_multistep)
@pytest.mark.parametrize("name", PROCESSES)
def test_one_step_is_exact_for_constant_predictions(name):
    process = PROCESSES[name]()
    t, s, x, constant = 0.9 * process.t_max, 0.2 * process.t_max, jnp.array([0.3]), jnp.array([1.7])
    keep = {"data": lambda x, t: constant}
    keep["noise"] = lambda x, t: (x - sigma(process, t) * constant) / alpha(process, t)
    x0 = keep["noise"](x, t)
    moved = {"data": (x - alpha(process, t) * constant) / sigma(process, t), "noise": constant}
    ends = {
        "data": alpha(process, s) * constant + sigma(process, s) * moved["data"],
        "noise": alpha(process, s) * x0 + sigma(process, s) * constant,
    }
    for form, order in itertools.product(("data", "noise"), (1, 2, 3)):
        solvers = [dpm_singlestep(process, keep[form], order, form)]
        solvers += [dpm_multistep(process, keep[form], order, form)] if order > 1 else []
        solvers += [edm_heun(process, keep["data"])] if form == "data" and order == 2 else []
        for solver in solvers:
            step = jax.jit(lambda x, solver=solver: solver.step(solver.init(x), t, s, None)[0])
            np.testing.assert_allclose(step(x), ends[form], rtol=1e-9)


@checks(phi)
def test_phi_is_its_integral():
    nodes, weights = np.polynomial.legendre.leggauss(60)
    theta, weights = (nodes + 1) / 2, weights / 2
    for k, z in itertools.product((1, 2, 3), (-30.0, -1.001, -0.999, -1e-6, 0.0, 0.5, 2.0)):
        integral = weights @ (np.exp((1 - theta) * z) * theta ** (k - 1)) / [1, 1, 2][k - 1]
        assert float(phi(k, z)) == pytest.approx(integral, rel=1e-12)


def test_corrector_mends_a_coarse_predictor():
    """Six Euler steps leave a wrong variance; small Langevin steps bring the marginal nearer."""
    process, draws, dim = schedules.variance_preserving()._replace(t_min=0.2), 4000, 10
    law = exact.gaussian(jnp.zeros(dim), 0.25 * jnp.eye(dim))
    denoise = functools.partial(exact.denoiser, law, process)
    start = jax.random.normal(jax.random.key(0), (draws, dim))
    plain = euler_maruyama(process, denoise, churn=0.0)
    mended = predictor_corrector(process, denoise, plain, 0.2, 5)
    true = alpha(process, 0.2) ** 2 * 0.25 + sigma(process, 0.2) ** 2
    errors = [
        abs(float(sample(s, equal_times(process, 12), start, jax.random.key(1)).var() - true))
        for s in (plain, mended)
    ]
    assert errors[1] < errors[0]


@checks(adaptive)
@pytest.mark.parametrize("name", ["edm", "straight", "preserving"])
def test_adaptive_keeps_its_tolerance(name):
    process = PROCESSES[name]()._replace(t_min=1e-2)
    law, x = exact.gaussian(MEAN, COVARIANCE), 0.4 * sigma(process, process.t_max) * jnp.array([[1.0, -0.7]])
    run = jax.jit(lambda x, t, s: adaptive(process, gaussian_denoiser(process), x, t, s, 1e-8, 1e-8))
    for t, s in ((process.t_max, process.t_min), (process.t_min, process.t_max)):
        out, true = run(x, t, s), exact.ode_map(law, process, x, t, s)
        # A local tolerance of 1e-8 leaves a global error of at most some tens of steps times it, relative to x.
        np.testing.assert_allclose(out.x, true, rtol=1e-6, atol=1e-6)
        assert out.time == s and out.evaluations == 1 + 6 * out.steps


@checks(encode)
def test_encoding_follows_the_ode_and_sampling_leads_back():
    """Errors of order steps^-4 over a range of 9 in log sigma; an Euler step would leave 1e-2."""
    process = schedules.edm(0.01, 80.0)
    law, x, times = exact.gaussian(MEAN, COVARIANCE), jnp.array([[0.3, -0.8]]), log_snr_times(process, 200)
    solver = make("rk4", process)
    latent = encode(process, solver, times[::-1], x)
    np.testing.assert_allclose(latent, exact.ode_map(law, process, x, 0.01, 80.0), rtol=1e-5)
    np.testing.assert_allclose(sample(solver, times, latent), x, rtol=1e-5)


def test_adaptive_under_jit_with_literal_times_and_a_trained_process():
    """x / (1 + t^2) denoises N(0, 1): the flow takes x to x sqrt((1 + s^2) / (1 + t^2))."""
    process, x = schedules.edm(), jnp.ones(1)
    denoise = lambda x, t: x / (1 + t**2)

    def run(x, rate):  # any multiple of log-SNR would do; at 1 it is EDM's
        trained = process._replace(log_snr=lambda t: rate * process.log_snr(t))
        return [adaptive(each, denoise, x, 4.0, 1.0, 1e-6, 1e-6, 60).x[0] for each in (process, trained)]

    np.testing.assert_allclose(jax.jit(run)(x, 1.0), [np.sqrt(2 / 17)] * 2, rtol=1e-5)


@pytest.mark.parametrize("name", ["dpm 3m", "edm churn", "corrector", "rk4", "dpm sde", "small"])
def test_narrow_states_run_on_wide_times(name):
    """The times 0.999 and 0.998 are one number in bfloat16.  Three steps of numbers up to 4, each right to 1 part in 250."""
    process, times = schedules.variance_preserving(), jnp.array([1.0, 0.999, 0.998, 0.5])
    solver, noise = make(name, process), jnp.full((3, 2, 2), 0.5)
    noise = noise[:, : solver.draws] if solver.draws else None
    narrow = sample(solver, times, jnp.ones(2, jnp.bfloat16), noise)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype(float), sample(solver, times, jnp.ones(2), noise), atol=0.05)


def test_churn_at_the_last_level_has_a_gradient():
    """At t_max nothing can be raised: the gradient with respect to a schedule is that without churn."""
    process, times = schedules.edm(), jnp.array([80.0, 40.0])

    def out(rate, churn):
        trained = process._replace(log_snr=lambda t: rate * process.log_snr(t))
        solver = edm_heun(trained, lambda x, t: x / (1 + t**2), churn)
        return sample(solver, times, jnp.ones(1), jnp.ones((1, 1, 1)) if churn else None)[0]

    slopes = jax.jit(lambda rate: [jax.grad(out)(rate, churn) for churn in (0.0, 0.2)])(1.0)
    assert float(slopes[1]) == pytest.approx(float(slopes[0]), rel=1e-9)


@checks(integrate)
def test_integrate_equals_scipy_and_reports_failure():
    field = lambda x, t: {"a": x["b"], "b": -jnp.sin(x["a"]) * t}
    out = integrate(field, {"a": jnp.ones(1), "b": jnp.zeros(1)}, 0.0, 5.0, 1e-9, 1e-9)
    assert out.steps < 130  # measured 107; the wrong power of the error more than doubles it
    peer = scipy.integrate.solve_ivp(
        lambda t, x: [x[1], -np.sin(x[0]) * t], (0, 5), [1.0, 0.0], "DOP853", rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose([out.x["a"][0], out.x["b"][0]], peer.y[:, -1], atol=1e-7)
    short = integrate(field, {"a": jnp.ones(1), "b": jnp.zeros(1)}, 0.0, 5.0, 1e-9, 1e-9, max_steps=5)
    assert np.isnan(short.x["a"][0]) and short.time < 5
    assert probability_flow(schedules.edm(), lambda x, t: 0 * x, jnp.ones(1), 2.0)[0] == 0.5


@checks(is_clean, equal_times, log_snr_times, karras_times)
@pytest.mark.parametrize("name", PROCESSES)
def test_grids_cover_their_interval(name):
    process = PROCESSES[name]()
    for grid, clean in itertools.product((equal_times, log_snr_times, karras_times), (False, True)):
        times = np.asarray(grid(process, 7, clean=clean))
        assert len(times) == 8 and (np.diff(times) < 0).all()
        assert times[0] == process.t_max and times[-1] == (0 if clean else process.t_min)
        assert bool(is_clean(process, times[-1])) == clean
    levels = np.asarray(process.log_snr(log_snr_times(process, 7)))
    np.testing.assert_allclose(
        np.diff(levels), (levels[-1] - levels[0]) / 7, rtol=1e-2 if process.steps else 1e-8
    )
    ratio = np.exp(-np.asarray(process.log_snr(karras_times(process, 7)[:-1])) / 14)
    np.testing.assert_allclose(
        np.diff(ratio), (ratio[-1] - ratio[0]) / 6, rtol=1e-2 if process.steps else 1e-8
    )


def test_a_thousand_levels_of_the_straight_path_differ_in_single_precision():
    with jax.enable_x64(False):
        times = np.asarray(karras_times(schedules.rectified(), 1000))
    assert times.dtype == np.float32 and (np.diff(times) < 0).all()


@checks(table_times, time_between)
def test_grid_of_a_table():
    process = PROCESSES["table"]()
    expected = np.append(np.round(np.linspace(0, 99, 12))[::-1] + 1, 0) / 100
    np.testing.assert_allclose(table_times(process, 12), expected, rtol=1e-12)
    found = time_between(process, 0.01, 1.0, process.log_snr(0.385))
    assert float(found) == pytest.approx(0.385, rel=1e-9)


def test_bad_input_is_refused():
    process = schedules.edm()
    denoise, times, x = gaussian_denoiser(process), karras_times(process, 4), jnp.ones(2)
    rising = times[::-1]
    noisy, calm = ancestral(process, denoise), ddim(process, denoise)
    for call, text in [
        (lambda: sample(calm, rising, x), "falling"),
        (lambda: sample(calm, times + 0j, x), "real numbers"),
        (lambda: sample(calm, times[:1], x), "at least two"),
        (lambda: encode(process, calm, times[:-1], x), "rising"),
        (lambda: encode(process, calm, rising, x), "clean first time"),
        (lambda: jax.jit(lambda x: encode(process, calm, rising, x))(x), "clean first time"),
        (lambda: encode(process, noisy, times[::-1], x), "deterministic"),
        (lambda: sample(calm, times, jnp.ones(2, int)), "floating type, got int"),
        (lambda: sample(calm, [1.0, 1 - 1e-9], x.astype(jnp.float32)), "strictly in float32"),
        (lambda: sample(noisy, times, x), "give a key"),
        (lambda: sample(noisy, times, x, jnp.zeros((4, 2, 2))), "noise is one typed key or has shape"),
        (lambda: sample(noisy, times, x, [0.0, 1.0]), "noise is one typed key or has shape"),
        (lambda: sample(noisy, times, x, jax.random.split(jax.random.key(0))), "one typed key"),
        (lambda: ancestral(process, denoise, "medium"), "'medium'"),
        (lambda: ddim(process, denoise, 1.5), "eta"),
        (lambda: runge_kutta(process, denoise, "rk5"), "euler, heun, rk4"),
        (lambda: edm_heun(process, denoise, -1.0), "churn"),
        (lambda: edm_heun(process, denoise, float("nan")), "churn"),
        (lambda: euler_maruyama(process, denoise, -1.0), "churn"),
        (lambda: predictor_corrector(process, denoise, calm, corrections=0), "one correction"),
        (lambda: dpm_singlestep(process, denoise, 4), "order"),
        (lambda: dpm_multistep(process, denoise, 2, "score"), "form"),
        (lambda: adaptive(process, denoise, x, 80.0, 0.0), "clean"),
        (lambda: jax.jit(lambda x: adaptive(process, denoise, x, 80.0, 0.0).x)(x), "clean"),
        (lambda: table_times(process, 5), "no table of steps"),
        (lambda: table_times(PROCESSES["table"](), 101), "1 to 100 steps, got 101"),
        (lambda: equal_times(process, 0), "at least one"),
        (lambda: log_snr_times(schedules.variance_exploding(), 5, clean=True), "clean=False"),
    ]:
        with pytest.raises(ValueError, match=text):
            call()


@checks(finish)
def test_finish_never_asks_at_a_clean_time():
    """Also with a batch of end times, where both branches run: the value and the gradient stay finite."""
    process, x = schedules.edm(), jnp.array([0.3, -0.8])
    step = finish(process, gaussian_denoiser(process), lambda state, t, s, noise, x0: (state[0] + s, x0))
    x0 = gaussian_denoiser(process)(x, 2.0)
    for s, expected in ((0.0, x0), (0.5, x + 0.5)):
        for value, right in zip(step((x, x), 2.0, s, None), (expected, x0), strict=True):
            np.testing.assert_allclose(value, right, rtol=1e-12)
    heun = make("heun", process)
    ends = lambda x: jax.vmap(lambda s: heun.step(heun.init(x), 1.0, s, None)[0])(jnp.array([0.5, 0.0]))
    for value in jax.jit(lambda x: (ends(x), jax.jacobian(ends)(x)))(jnp.ones(2)):
        assert np.isfinite(value).all()


@pytest.mark.parametrize("name", ["dpm 3m", "dpm sde"])
def test_eight_modes_get_their_weights(name):
    """An ODE and an SDE sampler on a ring of eight Gaussians; fails by chance once in 10,000 runs of other seeds."""
    process, weights = schedules.edm(0.01, 20.0), np.arange(1, 9) / 36
    angles = 2 * np.pi * np.arange(8) / 8
    means = 2 * np.stack([np.cos(angles), np.sin(angles)], -1)
    law = exact.mixture(weights, means, np.tile(0.01 * np.eye(2), (8, 1, 1)))
    denoise = functools.partial(exact.denoiser, law, process)
    # The start's law: data plus noise, so that only the solver can be wrong.
    keys = jax.random.split(jax.random.key(5), 3)
    data = means[jax.random.choice(keys[0], 8, (3000,), p=jnp.asarray(weights))]
    x = data + 20.0 * jax.random.normal(keys[1], (3000, 2))
    out = sample(SOLVERS[name](process, denoise), karras_times(process, 60), x, keys[2])
    nearest = np.argmin(((np.asarray(out)[:, None] - means) ** 2).sum(-1), -1)
    assert chi_square_p(np.bincount(nearest, minlength=8), weights) > 1e-4
    spread = np.asarray(out - means[nearest])
    # Variance .01 of 6000 numbers: five standard errors are 9 per cent; ten of bias are allowed to 60 steps.
    assert np.var(spread) == pytest.approx(0.01, rel=0.19)
