"""The bound against exact entropies: gaps to the last digit, schedule invariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional import divergences
from dlvm_jax.functional.densities import normal_log_prob
from dlvm_jax.functional.diffusion import objectives, schedules, targets, times, variational
from dlvm_jax.functional.diffusion import process as p
from tests.functional.common import checks

LINEAR = schedules.from_recursion(schedules.linear_betas())
TABLES = {
    "linear 1000": LINEAR,
    "linear 100": schedules.from_recursion(schedules.linear_betas(100, 1e-3, 0.2)),
    "linear 10": schedules.from_recursion(np.minimum(schedules.linear_betas(10, 1e-2, 2.0), 0.999)),
    "cosine 1000": schedules.from_recursion(schedules.cosine_betas()),
}
VDM = schedules.linear_log_snr(-5.0, 13.3)


def nodes(variance):
    """Gauss-Hermite nodes of (x_0, eps), [9, 1], and weights: exact for squares of linear functions."""
    z, w = np.polynomial.hermite_e.hermegauss(3)
    x0, eps = (jnp.asarray(grid.reshape(-1, 1)) for grid in np.meshgrid(np.sqrt(variance) * z, z))
    return x0, eps, np.outer(w, w).ravel() / (2 * np.pi)


def denoised(process, variance, x_t, t):
    """E[x_0 | x_t] of N(0, variance); t a scalar or one for each example."""
    a, noise = p.alpha(process, t), p.sigma(process, t)
    return p.expand_to_event(a * variance / (a**2 * variance + noise**2), x_t) * x_t


def error_of_the_best(process, variance, t):
    noise = jnp.square(p.sigma(process, t))
    return variance * noise / (jnp.square(p.alpha(process, t)) * variance + noise)


def log_std_of(kind, process, variance, s, t):
    if kind == "optimal":
        return variational.optimal_log_std(process, s, t, error_of_the_best(process, variance, t))
    return variational.reverse_log_std(process, kind, s, t)


def entropy(variance):
    return 0.5 * np.log(2 * np.pi * np.e * variance)


def expected_steps(process, variance, kind, grid):
    """Expectation over (x_0, eps) of every step's KL, [N]."""
    x0, eps, weights = nodes(variance)

    def one(s, t):
        x0_hat = denoised(process, variance, p.diffuse(process, x0, t, eps), t)
        return weights @ variational.step_kl(
            process, x0, x0_hat, s, t, log_std_of(kind, process, variance, s, t)
        )

    return jax.jit(jax.vmap(one))(grid[:-1], grid[1:])


def continuous_decoder(process, variance, x0, t):
    """The last step to data that are not integers, with the best variance: log N(x_0; x0_hat, posterior variance)."""
    return lambda z: normal_log_prob(
        x0, denoised(process, variance, z, t), 0.5 * jnp.log(error_of_the_best(process, variance, t))
    )


@checks(variational.optimal_log_std)
@pytest.mark.parametrize(
    ("table", "variance", "gaps"),
    [
        ("linear 1000", 0.25, (2.3e-10, 0.456348, 0.00109223)),
        ("linear 1000", 1.0, (0.0, 0.464892, 0.0)),
        ("linear 100", 0.25, (5.8e-11, 1.25013, 0.0109584)),
        ("linear 10", 0.25, (0.0, 5.38976, 0.121749)),
        ("cosine 1000", 0.25, (0.0, 0.402233, 6.11973e-4)),
    ],
)
def test_gap_to_the_entropy(table, variance, gaps, x64):
    """-ELBO - entropy of the exact network, with standard normal prior: KL(q_T || N(0, 1)) for the optimal variance."""
    process = TABLES[table]
    grid = jnp.arange(1, process.steps + 1) / process.steps
    x0, eps, weights = nodes(variance)
    first = continuous_decoder(process, variance, x0, grid[0])(p.diffuse(process, x0, grid[0], eps))
    rest = weights @ (variational.prior_kl(process, x0, prior_std=1.0) - first) - entropy(variance)
    for kind, gap in zip(("optimal", "small", "large"), gaps, strict=True):
        got = float(expected_steps(process, variance, kind, grid).sum() + rest)
        # six printed digits (two for the smallest); sums of a thousand terms of order one are right to 1e-12
        np.testing.assert_allclose(got, gap, rtol=5e-6 if gap > 1e-6 else 0.03, atol=0 if gap else 2e-11)
    marginal = jnp.square(p.alpha(process, 1.0)) * variance + jnp.square(p.sigma(process, 1.0))
    end = divergences.kl_normal(0.0, 0.5 * jnp.log(marginal), 0.0, 0.0, event_ndim=0)
    optimal = expected_steps(process, variance, "optimal", grid).sum() + rest
    np.testing.assert_allclose(optimal, end, atol=2e-12)


@checks(variational.reverse_log_std)
def test_small_variance_is_exact_for_a_point(x64):
    x0 = jnp.zeros((1, 1))
    kl = variational.step_kl(
        LINEAR, x0, x0, 0.5, 0.501, variational.reverse_log_std(LINEAR, "small", 0.5, 0.501)
    )
    np.testing.assert_allclose(kl, 0, atol=1e-15)


@checks(variational.discrete_bound)
@pytest.mark.parametrize("kind", ["optimal", "small"])
def test_discrete_bound_draws_the_expected_terms(kind, x64):
    """All steps, and one random step times N, on 4000 examples: within 4.5 standard errors (false alarm 7e-6 each)."""
    process, variance = TABLES["linear 10"], 0.25
    grid = jnp.arange(1, 11) / 10
    key_data, key_bound, key_time = jax.random.split(jax.random.key(0), 3)
    x0 = 0.5 * jax.random.normal(key_data, (4000, 1))
    reverse = lambda x, s, t: (
        denoised(process, variance, x, t),
        log_std_of(kind, process, variance, s, t),
    )
    decoder = continuous_decoder(process, variance, x0, grid[0])
    expected = float(expected_steps(process, variance, kind, grid).sum())
    for uniform in (None, times.stratified_uniform(key_time, 4000)):
        terms = jax.jit(
            lambda x0, uniform=uniform: variational.discrete_bound(
                key_bound, process, reverse, decoder, x0, grid, uniform=uniform, prior_std=1.0
            )
        )(x0)
        assert all(term.shape == (4000,) for term in terms)
        assert abs(terms.diffusion.mean() - expected) < 4.5 * terms.diffusion.std() / np.sqrt(4000)
        np.testing.assert_allclose(terms.bound, terms.reconstruction - terms.diffusion - terms.prior)
        error = terms.bound.std() / np.sqrt(4000)
        gap = {"optimal": 0.0, "small": 5.38976}[kind]
        assert abs(-terms.bound.mean() - entropy(variance) - gap) < 4.5 * error


def test_sampled_steps_are_all_steps(x64):
    """Without noise in the network's error the term of step i does not depend on chance: their sum, step by step."""
    grid, x0 = jnp.arange(1, 6) / 5, jnp.array([[0.3, -0.8]])
    process = schedules.from_recursion(schedules.linear_betas(5, 0.1, 0.8))
    reverse = lambda x, s, t: (0.5 * x0 + 0 * x, variational.reverse_log_std(process, "large", s, t))
    decoder = lambda z: jnp.zeros(len(z))

    def run(**settings):
        return variational.discrete_bound(jax.random.key(0), process, reverse, decoder, x0, grid, **settings)

    each = [run(uniform=jnp.array([u])).diffusion for u in (0.0, 0.3, 0.6, 1 - 1e-9)]
    np.testing.assert_allclose(np.mean(each), run().diffusion[0], rtol=1e-12)
    assert len(np.unique(np.round(each, 9))) == 4


def integral(process, variance, pieces=1):
    """Diffusion term of the continuous bound for the exact network: 200 Gauss-Legendre nodes on each piece."""
    z, w = np.polynomial.legendre.leggauss(200)
    t = jnp.asarray(((np.arange(pieces)[:, None] + 0.5 * (z + 1)) / pieces).ravel())
    x0, eps, weights = nodes(variance)

    def at(t):
        x_t = p.diffuse(process, x0, t, eps)
        guess = denoised(process, variance, x_t, t)
        per_time = objectives.weight("likelihood", process, t)
        return weights @ objectives.denoising_loss(process, "x0", guess, x0, x_t, t, per_time)

    return jnp.tile(w / (2 * pieces), pieces) @ jax.vmap(at)(t)


def test_continuous_bound_and_invariance_to_the_schedule(x64):
    variance = 0.25
    closed = 0.5 * np.log((1 + variance * np.exp(13.3)) / (1 + variance * np.exp(-5.0)))
    assert round(closed, 7) == 5.9560146
    np.testing.assert_allclose(integral(VDM, variance), closed, rtol=1e-12)
    warped = lambda logits: integral(schedules.piecewise_log_snr(-5.0, 13.3, logits), variance, 3)
    value, slope = jax.jit(jax.value_and_grad(warped))(jnp.array([0.3, -1.0, 1.5]))
    np.testing.assert_allclose(value, closed, rtol=1e-12)
    np.testing.assert_allclose(slope, 0, atol=1e-11)


@checks(variational.continuous_bound)
def test_continuous_bound_by_monte_carlo(x64):
    """4000 examples, one time each: stratified uniform, and by importance with a density made for nothing (4.5 errors)."""
    keys = jax.random.split(jax.random.key(1), 4)
    x0 = 0.5 * jax.random.normal(keys[0], (4000, 1))
    uniform = times.stratified_uniform(keys[1], 4000)
    odd = times.importance_times(jax.random.uniform(keys[2], 4000), lambda t: 1 + t, jnp.linspace(0, 1, 50))
    warp = schedules.piecewise_log_snr(-5.0, 13.3, jnp.array([1.5, -1.0]))
    spread = {}
    for name, process, t, t_weight in (
        ("plain", VDM, uniform, 1.0),
        ("odd", VDM, *odd),
        ("warp", warp, uniform, 1.0),
    ):
        denoise = lambda x, t, process=process: denoised(process, 0.25, x, t)
        decoder = continuous_decoder(process, 0.25, x0, process.t_min)
        terms = variational.continuous_bound(
            keys[3], process, denoise, decoder, x0, t, t_weight, prior_std=1.0
        )
        spread[name] = float(terms.diffusion.std())
        assert abs(terms.diffusion.mean() - 5.9560146) < 4.5 * spread[name] / np.sqrt(4000)
        assert abs(-terms.bound.mean() - entropy(0.25)) < 4.5 * terms.bound.std() / np.sqrt(4000) + 1e-5
    assert spread["warp"] > 1.2 * spread["plain"]  # the schedule changes the variance alone


def test_ends_of_the_bounds(x64):
    """A process over [1, 4]: the integral of a network that says zero, (SNR_max - SNR_min) / 2 |x_0|^2, by Gauss-Legendre.

    Along times, the prior is met at the last one."""
    process, nothing = schedules.edm(1.0, 4.0), lambda x: jnp.zeros(len(x))
    z, w = np.polynomial.legendre.leggauss(20)
    x0 = jnp.full((20, 2), 1.5)
    t = jnp.asarray(2.5 + 1.5 * z)
    terms = variational.continuous_bound(jax.random.key(0), process, lambda x, t: 0 * x, nothing, x0, t, 3.0)
    np.testing.assert_allclose(w / 2 @ terms.diffusion, 3.0 * 0.5 * (1 - 1 / 16) * 4.5, rtol=1e-9)
    np.testing.assert_allclose(terms.prior, 0.5 * 4.5 / 16)
    reverse = lambda x, s, t: (x0, variational.reverse_log_std(process, "small", s, t))
    terms = variational.discrete_bound(jax.random.key(0), process, reverse, nothing, x0, [1.0, 1.2, 1.6])
    np.testing.assert_allclose(terms.prior, 0.5 * 4.5 / 1.6**2)


def test_cost_of_discrete_time(x64):
    """T times the excess over the continuous bound tends to (range / 4) times an integral over log-SNR: 49.93."""
    variance, level = 0.25, lambda lam: variance * np.exp(lam)
    continuous = integral(VDM, variance)
    excess = [
        steps
        * float(expected_steps(VDM, variance, "small", jnp.arange(steps + 1) / steps).sum() - continuous)
        for steps in (100, 1000, 10_000)
    ]
    np.testing.assert_allclose(excess, [52.97, 50.22, 49.96], atol=0.006)
    z, w = np.polynomial.legendre.leggauss(200)
    lam = 4.15 + 9.15 * z
    limit = 18.3 / 4 * 9.15 * np.sum(w * (level(lam) / (1 + level(lam))) ** 2)
    np.testing.assert_allclose(limit, 49.93, atol=0.005)


@checks(variational.prior_kl)
def test_prior_term(x64):
    x0 = jnp.array([[0.3, -1.0, 0.5]])
    a, s = p.alpha(VDM, 1.0), p.sigma(VDM, 1.0)
    closed = 0.5 * (a**2 * jnp.square(x0) + s**2 - 1 - jnp.log(s**2)).sum(-1)
    np.testing.assert_allclose(variational.prior_kl(VDM, x0, prior_std=1.0), closed, rtol=1e-10)
    np.testing.assert_allclose(variational.prior_kl(VDM, x0), 0.5 * (a**2 / s**2 * jnp.square(x0)).sum(-1))
    bits = lambda process: float(variational.prior_kl(process, jnp.array([0.5]), prior_std=1.0)) / np.log(2)
    assert (round(bits(VDM), 5), round(bits(LINEAR) * 1e6, 1)) == (0.00122, 7.3)


@checks(variational.step_kl, variational.step_weight)
@pytest.mark.parametrize(
    "process", [LINEAR, VDM, schedules.rectified(), schedules.edm()], ids=("table", "vdm", "rectified", "edm")
)
@pytest.mark.parametrize("kind", ["small", "large", "optimal"])
def test_interpretations_equal_a_generic_divergence(process, kind, x64):
    """The KL between the two full Gaussians, and the same from the error of each target."""
    s, t = (process.t_min + share * (process.t_max - process.t_min) for share in (0.3, 0.301))
    rng = np.random.RandomState(0)
    x0, eps, x0_hat = (jnp.asarray(rng.randn(4, 3)) for _ in range(3))
    x_t = p.diffuse(process, x0, t, eps)
    log_std = log_std_of(kind, process, 0.25, s, t)
    (mean, std), (mean_hat, _) = (p.posterior(process, x_t, point, s, t) for point in (x0, x0_hat))
    generic = divergences.kl_multivariate_normal(
        mean, std * jnp.eye(3), mean_hat, jnp.exp(log_std) * jnp.eye(3)
    )
    kl = variational.step_kl(process, x0, x0_hat, s, t, log_std)
    np.testing.assert_allclose(kl, generic, rtol=1e-7)
    still = variational.step_kl(process, x0, x0, s, t, log_std)
    for target in targets.TARGETS:
        error = targets.from_x0(process, target, x0, x_t, t) - targets.from_x0(
            process, target, x0_hat, x_t, t
        )
        share = variational.step_weight(process, target, s, t, log_std) * jnp.square(error).sum(-1)
        np.testing.assert_allclose(share + still, kl, rtol=1e-8)
    if kind == "small":  # the forms in signal-to-noise ratios
        lam_s, lam_t = process.log_snr(s), process.log_snr(t)
        forms = {
            "x0": 0.5 * (jnp.exp(lam_s) - jnp.exp(lam_t)),
            "epsilon": 0.5 * jnp.expm1(lam_s - lam_t),
        }
        if process is VDM:
            forms["v"] = 0.5 * jnp.expm1(lam_s - lam_t) * p.alpha(process, t) ** 2
        for target, form in forms.items():
            np.testing.assert_allclose(
                variational.step_weight(process, target, s, t, log_std), form, rtol=1e-9
            )


@checks(variational.step_weight, variational.reverse_log_std)
@pytest.mark.parametrize("kind", ["small", "large"])
def test_weights_of_ddpm(kind, x64):
    """The factors of the papers, in alpha_t, beta_t and running products, for a step of the table."""
    step, betas = 400, schedules.linear_betas()
    bar = np.cumprod(1 - betas)
    beta, bar_t, bar_s = betas[step - 1], bar[step - 1], bar[step - 2]
    s, t = (step - 1) / 1000, step / 1000
    variance = {"small": beta * (1 - bar_s) / (1 - bar_t), "large": beta}[kind]
    log_std = variational.reverse_log_std(LINEAR, kind, s, t)
    np.testing.assert_allclose(jnp.exp(2 * log_std), variance, rtol=1e-9)
    forms = {
        "x0": bar_s * beta**2 / (2 * variance * (1 - bar_t) ** 2),
        "epsilon": beta**2 / (2 * variance * (1 - bar_t) * (1 - beta)),
        "score": beta**2 / (2 * variance * (1 - beta)),
    }
    for target, form in forms.items():
        np.testing.assert_allclose(variational.step_weight(LINEAR, target, s, t, log_std), form, rtol=1e-9)


def test_first_step_of_a_table_takes_the_second_small_variance(x64):
    small = lambda s, t: variational.reverse_log_std(LINEAR, "small", s, t)
    np.testing.assert_allclose(small(0.0, 0.001), small(0.001, 0.002), rtol=1e-12)
    assert (
        small(0.001, 0.002) < small(0.002, 0.003) < variational.reverse_log_std(LINEAR, "large", 0.002, 0.003)
    )


def test_both_variances_take_times_of_any_shapes():
    s, t = jnp.array([0.1, 0.2]), 0.5
    for kind in ("small", "large"):
        each = [variational.reverse_log_std(LINEAR, kind, float(time), t) for time in s]
        np.testing.assert_allclose(variational.reverse_log_std(LINEAR, kind, s, t), each, rtol=1e-6)


def test_float32_step_along_the_whole_table():
    """An error of 0.1 in x_0 in float32: a step of log-SNR, 0.005 to 1, is a difference of numbers up to 10 (1e-6)."""
    t = np.arange(2, 1001) / 1000
    x0 = np.full((999, 1), 0.5)

    def kl(dtype, kind):
        time, clean = jnp.asarray(t, dtype), jnp.asarray(x0, dtype)
        log_std = variational.reverse_log_std(LINEAR, kind, time - dtype(0.001), time)
        return variational.step_kl(LINEAR, clean, clean + dtype(0.1), time - dtype(0.001), time, log_std)

    single = {kind: np.asarray(jax.jit(lambda k=kind: kl(jnp.float32, k))()) for kind in ("small", "large")}
    with jax.enable_x64(True):
        double = {kind: np.asarray(kl(jnp.float64, kind)) for kind in ("small", "large")}
    for kind in single:
        assert single[kind].dtype == np.float32
        np.testing.assert_allclose(single[kind], double[kind], rtol=5e-4)


def discrete_along(grid):
    return variational.discrete_bound(jax.random.key(0), VDM, None, None, jnp.zeros((1, 1)), grid)


BAD = [
    (lambda: variational.reverse_log_std(LINEAR, "medium", 0.1, 0.2), "'small' or 'large'"),
    (
        lambda: variational.hybrid_loss(
            VDM, "epsilon", *[jnp.zeros((1, 1))] * 2, None, *[jnp.zeros((1, 1))] * 2, 0.5
        ),
        "from_recursion",
    ),
    (lambda: discrete_along([0.3, 0.2]), "rising strictly"),
    (lambda: discrete_along([0.3]), "at least two times"),
]


def test_bad_input_is_named():
    for call, message in BAD:
        with pytest.raises(ValueError, match=message):
            call()
