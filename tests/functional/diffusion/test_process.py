"""Processes: kernels against Gaussian conditioning, coefficients against each other, float32 against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional.diffusion import process as p
from dlvm_jax.functional.diffusion import schedules, targets
from tests.functional.common import checks

PROCESSES = {
    "linear_betas": schedules.from_recursion(schedules.linear_betas()),
    "rectified": schedules.rectified(),
    "linear_log_snr": schedules.linear_log_snr(),
    "variance_preserving": schedules.variance_preserving(),
    "sub_variance_preserving": schedules.sub_variance_preserving(),
    "variance_exploding": schedules.variance_exploding(),
    "edm": schedules.edm(),
    "cosine_betas": schedules.from_recursion(schedules.cosine_betas()),
    "piecewise_log_snr": schedules.piecewise_log_snr(-6.0, 12.0, np.array([0.3, -0.5, 1.0])),
}
CLEAN_AT_ZERO = {name for name in PROCESSES if name.endswith("betas")} | {
    "variance_preserving",
    "sub_variance_preserving",
    "edm",
    "rectified",
}


@pytest.fixture(params=PROCESSES)
def process(request, x64):
    return PROCESSES[request.param]


def times(process, *shares):
    return [process.t_min + share * (process.t_max - process.t_min) for share in shares]


ENDS = {  # both times, and log-SNR there, with the constants of the papers
    "rectified": (1e-5, 1 - 1e-4, 2 * np.log(99_999), 2 * np.log(1e-4 / (1 - 1e-4))),
    "linear_log_snr": (0, 1, 13.3, -5),
    "variance_preserving": (1e-5, 1, None, -np.log(np.expm1(0.1 + 9.95))),
    "sub_variance_preserving": (1e-5, 1, None, -10.05 - 2 * np.log1p(-np.exp(-10.05))),
    "variance_exploding": (0, 1, -2 * np.log(0.01), -2 * np.log(50)),
    "edm": (0.002, 80, -2 * np.log(0.002), -2 * np.log(80)),
    "linear_betas": (1e-3, 1, np.log(0.9999 / 1e-4), None),
    "cosine_betas": (1e-3, 1, None, None),
}


def test_processes_end_where_their_papers_say(x64):
    for name, (low, high, first, last) in ENDS.items():
        process = PROCESSES[name]
        assert (process.t_min, process.t_max) == (low, high), name
        for t, expected in ((low, first), (high, last)):
            if expected is not None:
                assert float(process.log_snr(t)) == pytest.approx(expected, rel=1e-9), name


def test_every_process_has_the_scales_of_its_formula(x64):
    preserving = np.exp(-0.5 * (0.1 * 0.3 + 19.9 * 0.3**2 / 2))
    cosine = np.cos(np.pi / 2 * 0.308 / 1.008) / np.cos(np.pi / 2 * 0.008 / 1.008)
    linear = np.prod(1 - np.linspace(1e-4, 0.02, 1000)[:300]) ** 0.5
    from_log_snr = (1 + np.exp(-(13.3 - 18.3 * 0.3))) ** -0.5
    alphas = {
        "rectified": 0.7,
        "linear_log_snr": from_log_snr,
        "variance_preserving": preserving,
        "sub_variance_preserving": preserving,
        "variance_exploding": 1,
        "edm": 1,
        "linear_betas": linear,
        "cosine_betas": cosine,
    }
    sigmas = {
        "rectified": 0.3,
        "sub_variance_preserving": 1 - preserving**2,
        "variance_exploding": 0.01 * 5000**0.3,
        "edm": 0.3,
    }
    for name, alpha in alphas.items():
        sigma = sigmas.get(name, (1 - alpha**2) ** 0.5)
        got = p.alpha(PROCESSES[name], 0.3), p.sigma(PROCESSES[name], 0.3)
        np.testing.assert_allclose(got, (alpha, sigma), rtol=1e-9, err_msg=name)


@checks(p.transition, p.posterior)
def test_kernels_compose_and_equal_gaussian_conditioning(process):
    """Posterior and transition from the joint law of (x_s, x_t) given x_0, by linear algebra; rounding only."""
    s, t = times(process, 0.3, 0.7)
    scale, std = p.transition(process, s, t)
    np.testing.assert_allclose(scale, p.alpha(process, t) / p.alpha(process, s), rtol=1e-10)
    np.testing.assert_allclose(std**2 + scale**2 * p.sigma(process, s) ** 2, p.sigma(process, t) ** 2)
    middle = times(process, 0.5)[0]
    first, second = p.transition(process, s, middle), p.transition(process, middle, t)
    np.testing.assert_allclose(first[0] * second[0], scale)
    np.testing.assert_allclose(second[1] ** 2 + second[0] ** 2 * first[1] ** 2, std**2)

    x0, x_t = jnp.array([0.7, -1.2]), jnp.array([0.1, 2.0])
    covariance, variance_t = scale * p.sigma(process, s) ** 2, p.sigma(process, t) ** 2
    gain = covariance / variance_t
    mean, deviation = p.posterior(process, x_t, x0, s, t)
    expected = p.alpha(process, s) * x0 + gain * (x_t - p.alpha(process, t) * x0)
    np.testing.assert_allclose(mean, expected, rtol=1e-9)
    np.testing.assert_allclose(deviation**2, p.sigma(process, s) ** 2 - gain * covariance, rtol=1e-8)


@checks(p.drift, p.diffusion)
def test_the_stochastic_differential_equation_has_these_marginals(process):
    """d alpha = f alpha dt and d sigma^2 = (2 f sigma^2 + g^2) dt, by central differences (error h^2, about 1e-8)."""
    (t,) = times(process, 0.41237)  # not at a knot of a table
    h = 1e-6 * (process.t_max - process.t_min)
    slope = lambda function: (function(t + h) - function(t - h)) / (2 * h)
    f, g = p.drift(process, t), p.diffusion(process, t)
    np.testing.assert_allclose(slope(lambda t: p.alpha(process, t)), f * p.alpha(process, t), rtol=1e-6)
    growth = 2 * f * p.sigma(process, t) ** 2 + g**2
    np.testing.assert_allclose(slope(lambda t: p.sigma(process, t) ** 2), growth, rtol=1e-6)


def test_signal_falls_and_a_clean_end_is_exact(process):
    grid = jnp.linspace(process.t_min, process.t_max, 500)
    assert (jnp.diff(process.log_snr(grid)) < 0).all()
    if any(process is PROCESSES[name] for name in CLEAN_AT_ZERO):
        assert process.log_snr(0.0) == jnp.inf and p.alpha(process, 0.0) == 1 and p.sigma(process, 0.0) == 0
        x = jnp.array([1.0, -2.0])
        mean, std = p.posterior(process, 3 * x, x, 0.0, times(process, 0.5)[0])
        np.testing.assert_array_equal(mean, x)
        assert std == 0


def test_steps_of_no_length_have_gradients():
    for std in (
        lambda s, t: p.transition(schedules.edm(), s, t)[1],
        lambda s, t: p.posterior(schedules.edm(), jnp.zeros(1), jnp.zeros(1), s, t)[1],
    ):
        assert std(2.0, 2.0) == 0
        np.testing.assert_array_equal(jax.grad(std, (0, 1))(2.0, 2.0), 0)


@pytest.mark.parametrize("name", [name for name in PROCESSES if PROCESSES[name].steps is None])
def test_single_precision_is_exact_where_noise_is_small(name):
    """Relative error of sigma below 1e-6 over t in [1e-6, 1]: a few roundings (the usual sqrt(1 - exp) loses 2 %)."""
    process = PROCESSES[name]
    t = np.float32(np.logspace(-6, np.log10(process.t_max), 400))
    single = np.asarray(jax.jit(lambda t: p.sigma(process, t))(t))
    assert single.dtype == np.float32
    with jax.enable_x64(True):
        double = np.asarray(p.sigma(process, jnp.asarray(np.float64(t))))
    np.testing.assert_allclose(single, double, rtol=1.5e-6 if "log_snr" in name else 1e-6)


@checks(
    p.alpha,
    p.sigma,
    p.drift,
    p.diffusion,
    schedules.edm,
    schedules.rectified,
    schedules.variance_preserving,
    schedules.sub_variance_preserving,
    schedules.variance_exploding,
    schedules.linear_log_snr,
    schedules.piecewise_log_snr,
)
def test_closed_forms(x64):
    vp, sub, edm = (PROCESSES[kind] for kind in ("variance_preserving", "sub_variance_preserving", "edm"))
    t = jnp.array([1e-5, 0.1, 0.5, 1.0])
    beta = 0.1 + 19.9 * t
    integral = 0.1 * t + 9.95 * t**2
    np.testing.assert_allclose(p.sigma(vp, t) ** 2, -np.expm1(-integral))
    np.testing.assert_allclose(p.drift(vp, t), -beta / 2)
    np.testing.assert_allclose(p.diffusion(vp, t) ** 2, beta)
    np.testing.assert_allclose(p.sigma(sub, t), -np.expm1(-integral))
    np.testing.assert_allclose(p.diffusion(sub, t) ** 2, -beta * np.expm1(-2 * integral))
    np.testing.assert_allclose(p.diffusion(edm, 3.0) ** 2, 6.0)
    np.testing.assert_allclose(p.sigma(edm, t), t)
    np.testing.assert_allclose(p.sigma(PROCESSES["variance_exploding"], t), 0.01 * 5000**t)
    np.testing.assert_allclose(PROCESSES["linear_log_snr"].log_snr(t), 13.3 - 18.3 * t)
    rise = np.append(0, np.cumsum(np.exp([0.3, -0.5, 1.0])) / np.exp([0.3, -0.5, 1.0]).sum())
    pieces = PROCESSES["piecewise_log_snr"].log_snr(jnp.array([0, 1 / 3, 2 / 3, 1]))
    np.testing.assert_allclose(pieces, 12 - 18 * rise)
    np.testing.assert_allclose(
        p.alpha(PROCESSES["rectified"], t[1:3]) + p.sigma(PROCESSES["rectified"], t[1:3]), 1
    )


def test_preserving_process_of_any_beta():
    """float32 where exp(B) overflows, at B > 88.7: log-SNR and sigma from the closed forms in float64."""
    t = np.float32(np.linspace(0, 1, 101)[1:])
    for beta_max in (20.0, 200.0, 2000.0):
        process = schedules.variance_preserving(0.1, beta_max)
        integral = 0.1 * np.float64(t) + 0.5 * (beta_max - 0.1) * np.float64(t) ** 2
        log_snr = jax.jit(process.log_snr)(t)
        np.testing.assert_allclose(log_snr, -integral - np.log(-np.expm1(-integral)), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(p.sigma(process, t), np.sqrt(-np.expm1(-integral)), rtol=1e-6)
        slope = np.asarray(jax.vmap(jax.grad(process.log_snr))(t))
        beta = 0.1 + (beta_max - 0.1) * np.float64(t)
        np.testing.assert_allclose(slope, beta / np.expm1(-integral), rtol=1e-5)


@checks(schedules.from_recursion, schedules.linear_betas, schedules.cosine_betas)
def test_recursions_of_a_chain(x64):
    """alpha-bar and beta-bar by the recursion itself; a table's step i is at i / T, exactly."""
    linear, betas = PROCESSES["linear_betas"], schedules.linear_betas()
    t = jnp.arange(1, 1001) / 1000
    np.testing.assert_allclose(p.alpha(linear, t) ** 2, np.cumprod(1 - betas), rtol=1e-12)
    np.testing.assert_allclose(p.sigma(linear, t) ** 2, 1 - np.cumprod(1 - betas), rtol=1e-11)
    assert round(float(p.alpha(linear, 1.0) ** 2) * 1e5, 2) == 4.04  # Ho et al. 2020: the signal left
    assert round(float(p.alpha(PROCESSES["cosine_betas"], 1.0) ** 2) * 1e9, 1) == 2.4  # with the cap at 0.999

    levels = np.geomspace(0.1, 10.0, 50)  # variance exploding: differences of variances, without a root
    chain = schedules.from_recursion(np.diff(np.square(levels), prepend=0.0), np.ones(50))
    np.testing.assert_allclose(p.sigma(chain, jnp.arange(1, 51) / 50), levels)
    alphas, betas = np.array([0.9, 0.8, 1.1]), np.array([0.3, 0.1, 0.2])
    general, mean, variance = schedules.from_recursion(betas, alphas), 1.0, 0.0
    for step, (a, b) in enumerate(zip(alphas, betas, strict=True), 1):
        mean, variance = a * mean, a * variance + b
        np.testing.assert_allclose(p.alpha(general, step / 3) ** 2, mean)
        np.testing.assert_allclose(p.sigma(general, step / 3) ** 2, variance)


def test_a_table_has_slopes_at_its_steps(x64):
    """drift and diffusion at t = i / T lie between those beside it."""
    linear = PROCESSES["linear_betas"]
    for coefficient in (p.drift, p.diffusion):
        before, at, after = (float(coefficient(linear, 0.5 + shift)) for shift in (-5e-4, 0.0, 5e-4))
        assert min(before, after) - 1e-9 <= at <= max(before, after) + 1e-9


def test_table_in_single_precision():
    """alpha-bar and its complement of the DDPM table in float32, where a running product would be off by 1e-4."""
    t = jnp.arange(1, 1001) / 1000
    exact = np.cumprod(1 - schedules.linear_betas())
    np.testing.assert_allclose(p.sigma(PROCESSES["linear_betas"], t) ** 2, 1 - exact, rtol=2e-6)
    np.testing.assert_allclose(p.alpha(PROCESSES["linear_betas"], t) ** 2, exact, rtol=2e-6)


@checks(targets.coefficients, targets.from_x0, targets.to_x0)
def test_targets_of_exact_noise(process):
    """Each target from its definition (the velocity by central differences), and back to the clean point."""
    (t,) = times(process, 0.4321)
    x0, eps = jnp.array([[0.7, -1.2], [2.0, 0.1]]), jnp.array([[0.3, 0.5], [-1.0, 2.0]])
    a, s = p.alpha(process, t), p.sigma(process, t)
    x_t = p.diffuse(process, x0, t, eps)
    h = 1e-6 * (process.t_max - process.t_min)
    path = lambda t: p.diffuse(process, x0, t, eps)
    wanted = {
        "x0": x0,
        "epsilon": eps,
        "score": -eps / s,
        "v": a * eps - s * x0,
        "velocity": (path(t + h) - path(t - h)) / (2 * h),
    }
    assert set(wanted) == set(targets.TARGETS)
    for name, value in wanted.items():
        of_x0, of_x_t = targets.coefficients(process, name, t)
        got = targets.from_x0(process, name, x0, x_t, t)
        np.testing.assert_allclose(of_x0 * x0 + of_x_t * x_t, got, rtol=1e-12)
        np.testing.assert_allclose(got, value, rtol=1e-6 if name == "velocity" else 1e-9)
        back = targets.to_x0(process, name, got, x_t, jnp.full(2, t))
        np.testing.assert_allclose(back, x0, rtol=1e-8)


@checks(targets.preconditioning)
@pytest.mark.parametrize("name", ["edm", "variance_preserving", "rectified"])
def test_preconditioning_keeps_variance_one_and_amplifies_least(name, x64):
    """On data of variance s^2: input and target of the network have variance one; any other skip needs a larger out."""
    process, data_std = PROCESSES[name], 0.5
    (t,) = times(process, 0.3)
    a, noise = p.alpha(process, t), p.sigma(process, t)
    c = targets.preconditioning(process, t, data_std)
    np.testing.assert_allclose(c.input**2 * (a**2 * data_std**2 + noise**2), 1)
    error = lambda skip: (1 - skip * a) ** 2 * data_std**2 + (skip * noise) ** 2  # variance of x_0 - skip x_t
    np.testing.assert_allclose(error(c.skip) / c.out**2, 1)
    np.testing.assert_allclose(jax.grad(error)(c.skip), 0, atol=1e-12)
    if name == "edm":
        np.testing.assert_allclose(c.skip, data_std**2 / (noise**2 + data_std**2))


@checks(p.prior_sample, p.prior_log_prob)
def test_start_of_sampling():
    process = PROCESSES["variance_exploding"]
    x = p.prior_sample(process, jax.random.key(0), (4000, 2))
    # 8000 draws: the relative standard error of the deviation is 0.8 %; four of them, false alarms 6e-5
    np.testing.assert_allclose(x.std(), 50.0, rtol=0.032)
    expected = -0.5 * np.square(np.asarray(x) / 50).sum(-1) - 2 * np.log(50) - np.log(2 * np.pi)
    np.testing.assert_allclose(p.prior_log_prob(process, x), expected, rtol=1e-5)


BAD = [
    (lambda: schedules.variance_preserving(20.0, 0.1), "two rising positive ends"),
    (lambda: schedules.sub_variance_preserving(-1.0, 0.1), "two rising positive ends"),
    (lambda: schedules.edm(0.0, 80.0), "two rising positive ends"),
    (lambda: schedules.variance_exploding(2.0, 1.0), "two rising positive ends"),
    (lambda: schedules.linear_log_snr(5.0, -5.0), "low < high"),
    (lambda: schedules.linear_log_snr(-np.inf, 5.0), "finite low < high"),
    (lambda: schedules.piecewise_log_snr(5.0, -5.0, np.zeros(2)), "finite low < high"),
    (lambda: schedules.piecewise_log_snr(-5.0, 5.0, np.zeros((2, 2))), "one number for each piece"),
    (lambda: schedules.from_recursion([]), "at least one step"),
    (lambda: schedules.from_recursion([0.1, 0.0]), "positive variances"),
    (lambda: schedules.from_recursion([0.1, 1.0]), "below 1"),
    (lambda: schedules.from_recursion([0.1, 0.2], [1.0]), "as many positive variances as scales"),
    (lambda: targets.coefficients(PROCESSES["edm"], "noise", 1.0), "x0, epsilon, score, v, velocity"),
    (lambda: p.diffuse(PROCESSES["edm"], jnp.zeros((3, 2)), jnp.ones(2), 1.0), "leading axes of x"),
]


def test_bad_input_is_named():
    for call, message in BAD:
        with pytest.raises(ValueError, match=message):
            call()


@checks(p.diffuse, p.expand_to_event)
def test_a_batch_of_times_equals_a_loop(x64):
    process, t = PROCESSES["variance_preserving"], jnp.array([0.2, 0.9])
    x0, eps = jnp.ones((2, 3, 4)), jnp.full((2, 3, 4), 0.5)
    assert p.expand_to_event(t, x0).shape == (2, 1, 1)
    together = p.diffuse(process, x0, t, eps)
    for index in range(2):
        np.testing.assert_allclose(together[index], p.diffuse(process, x0[index], t[index], eps[index]))
        a, s = p.alpha(process, t[index]), p.sigma(process, t[index])
        np.testing.assert_allclose(together[index], jnp.full((3, 4), a + 0.5 * s))
