"""Inverse problems against the exact posterior of Gaussians and mixtures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from dlvm_jax.exact import diffusion as exact
from dlvm_jax.functional.diffusion import schedules
from dlvm_jax.functional.diffusion.dpm import dpm_multistep, dpm_sde
from dlvm_jax.functional.diffusion.inverse import (
    average_pooling,
    blur,
    dps,
    inpainting,
    moment_matching,
    pigdm,
    replacement,
)
from dlvm_jax.functional.diffusion.process import alpha, expand_to_event, sigma, transition
from dlvm_jax.functional.diffusion.solvers import Solver, karras_times, log_snr_times, sample
from tests.functional.common import checks

pytestmark = pytest.mark.usefixtures("x64")

PROCESSES = {
    "preserving": schedules.variance_preserving,
    "sub": schedules.sub_variance_preserving,
    "edm": schedules.edm,
    "straight": schedules.rectified,
}
MEAN = np.array([0.7, -1.2, 0.4])
COVARIANCE = np.array([[1.2, 0.7, -0.3], [0.7, 0.8, 0.1], [-0.3, 0.1, 0.6]])
MASK = np.array([1.0, 0.0, 0.0])
POINTS = np.random.RandomState(0).randn(5, 3)


def matrix(a):
    return lambda x: jnp.einsum("od,...d->...o", jnp.asarray(a, x.dtype), x, precision="highest")


def posterior(mean, covariance, a, y, std):
    """The law of x_0 given y = a x_0 + N(0, std^2 I)."""
    gain = covariance @ a.T @ jnp.linalg.inv(a @ covariance @ a.T + std**2 * np.eye(len(a)))
    return mean + gain @ (y - a @ mean), covariance - gain @ a @ covariance


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def wasserstein(mean_1, covariance_1, mean_2, covariance_2):
    cross = root(root(covariance_2) @ covariance_1 @ root(covariance_2))
    square = ((mean_1 - mean_2) ** 2).sum() + np.trace(covariance_1 + covariance_2 - 2 * cross)
    return float(np.sqrt(max(square, 0.0)))


vector_moments, vector_pigdm = (functools.partial(m, event_ndim=1) for m in (moment_matching, pigdm))


def prior_denoiser(process):
    return functools.partial(exact.denoiser, exact.gaussian(MEAN, COVARIANCE), process)


@checks(moment_matching)
@pytest.mark.parametrize("name", PROCESSES)
def test_moment_matching_is_exact_for_a_gaussian(name):
    process, a = PROCESSES[name](), np.array([[1.0, -0.5, 0.2], [0.3, 0.8, 1.1]])
    y, std, away = np.array([0.3, -0.9]), 0.2, []
    informed = jax.jit(vector_moments(process, prior_denoiser(process), matrix(a), jnp.asarray(y), std, 4))
    law = exact.gaussian(*posterior(MEAN, COVARIANCE, a, y, std))
    others = [dps(process, prior_denoiser(process), matrix(a), jnp.asarray(y), std)]
    others += [vector_pigdm(process, prior_denoiser(process), matrix(a), jnp.asarray(y), std)]
    for share in (0.0, 0.01, 0.1, 0.4, 0.7, 1.0):
        t = process.t_min + share * (process.t_max - process.t_min)
        x = alpha(process, t) * MEAN + jnp.hypot(alpha(process, t), sigma(process, t)) * POINTS
        expected = exact.denoiser(law, process, x, t)
        np.testing.assert_allclose(informed(x, t), expected, rtol=1e-8, atol=1e-8)
        away.append([abs(other(x, t) - expected).max() for other in others])
    # The others ignore or simplify the covariance: off by a good part of the data's standard deviation, about one.
    assert np.min(np.max(away, 0)) > 0.1


def outcome(process, solver, times, law):
    """Wasserstein-2 distance of what a sampler puts out from the law, started at the law's own marginal.

    The sampler is affine in its start and its draws: a batch of unit vectors reads its law off, one more row checks.
    """
    scale, noise = float(alpha(process, times[0])), float(sigma(process, times[0]))
    mean, covariance = law
    steps, dim = (len(times) - 1) * solver.draws, len(mean)
    inputs = np.vstack([np.zeros(dim * (steps + 1)), np.eye(dim * (steps + 1))])
    inputs = np.vstack([inputs, np.cos(np.arange(inputs.shape[1]))])
    start = jnp.asarray(scale * mean + inputs[:, :dim])
    draws = inputs[:, dim:].reshape(len(inputs), len(times) - 1, solver.draws, dim).transpose(1, 2, 0, 3)
    run = jax.jit(lambda x, draws: sample(solver, times, x, draws if solver.draws else None))
    out = np.asarray(run(start, jnp.asarray(draws)))
    linear = (out[1:-1] - out[0]).T
    np.testing.assert_allclose(out[-1], out[0] + linear @ inputs[-1], rtol=1e-7, atol=1e-7)
    weights = np.ones(inputs.shape[1])[:, None] * np.eye(inputs.shape[1])
    weights[:dim, :dim] = scale**2 * covariance + noise**2 * np.eye(dim)
    return wasserstein(out[0], linear @ weights @ linear.T, mean, covariance)


@pytest.mark.parametrize("make", [dpm_multistep, dpm_sde])
def test_moment_matching_samples_the_posterior(make):
    """The whole law is the exact posterior's up to the error of the solver, which the exact denoiser shows."""
    process, a, y, std = schedules.variance_preserving(), np.array([[1.0, -0.5, 0.2]]), np.array([0.3]), 0.3
    law = posterior(MEAN, COVARIANCE, a, y, std)
    times = log_snr_times(process, 60, clean=True)
    informed = vector_moments(process, prior_denoiser(process), matrix(a), jnp.asarray(y), std, 2)
    ideal = functools.partial(exact.denoiser, exact.gaussian(*law), process)
    got, least = (outcome(process, make(process, denoise), times, law) for denoise in (informed, ideal))
    assert got == pytest.approx(least, rel=1e-5)
    assert got < 0.01  # second order on 60 steps


def exact_step(process):
    """The exact backward kernel of the Gaussian data: a solver without error, so replacement shows only its own bias."""

    def step(state, t, s, noise):
        scale, std = transition(process, s, t)
        mean, covariance = alpha(process, s) * MEAN, alpha(process, s) ** 2 * COVARIANCE
        given = functools.partial(
            posterior, mean, covariance + sigma(process, s) ** 2 * np.eye(3), scale * jnp.eye(3)
        )
        _, covariance = given(jnp.zeros(3), std)
        values, vectors = jnp.linalg.eigh(covariance)
        means = jax.vmap(lambda x: given(x, std)[0])(state[0])
        return means + noise[0] * jnp.sqrt(jnp.maximum(values, 0)) @ vectors.T, means

    return Solver(lambda x: (x, x), step, 1)


def distances(mask, std, counts, steps=50):
    """Distance to the exact posterior of each method's law; y is a standard deviation or so off the mean."""
    process, y = schedules.variance_preserving(), np.array([2.0, 0.0, -0.5])
    a, data_std = np.eye(3)[mask > 0], float(np.sqrt(np.trace(COVARIANCE) / 3))
    law = posterior(MEAN, COVARIANCE, a, y[mask > 0], std)
    args = (process, prior_denoiser(process), inpainting(mask), jnp.asarray(mask * y), std)
    denoisers = {"moment": vector_moments(*args, 2), "pigdm": vector_pigdm(*args, data_std, 1)}
    if std > 0.1:  # else too stiff for this grid
        denoisers["dps"] = dps(*args)
    solvers = {name: dpm_multistep(process, denoise) for name, denoise in denoisers.items()}
    solvers |= {count: replacement(process, exact_step(process), mask, y, count) for count in counts}
    times = log_snr_times(process, steps, clean=True)
    return {name: outcome(process, solver, times, law) for name, solver in solvers.items()}


def test_methods_ranked_by_distance():
    """Measured: .0037, .076, .36 (replacement), .56 (DPS), where the posterior's standard deviations are .3 to .7."""
    off = distances(np.array([1.0, 0.0, 0.0]), 0.3, [1])
    assert off["moment"] < 0.01
    assert 5 * off["moment"] < off["pigdm"]
    assert 3 * off["pigdm"] < off[1]
    assert 1.2 * off[1] < off["dps"]


def test_resampling_lessens_the_bias_of_replacement():
    """Measured, two of three known: .180, .086, .074 for 1, 3, 6 resamplings, PiGDM .158: the rank is not a rule.

    The observations' noise, .05 in two coordinates, is left out by replacement: it comes no nearer than .05 sqrt 2.
    """
    off = distances(np.array([1.0, 0.0, 1.0]), 0.05, [1, 3, 6])
    assert off["moment"] < 0.01
    assert off[3] < 0.7 * off[1]
    assert off[6] < off[3] < 0.7 * off["pigdm"]
    assert off[6] > 0.05 * 2**0.5


@checks(replacement)
def test_replacement_of_nothing_and_of_all():
    """Nothing known: steps forth and back keep the prior.  All known: y."""
    process, y = schedules.variance_preserving(), np.array([2.0, 0.0, -0.5])
    plain, times = exact_step(process), log_snr_times(process, 20, clean=True)
    for count in (1, 3):
        solver = replacement(process, plain, jnp.zeros(3), y, count)
        assert solver.draws == count * 3 - 1
        # The root of a difference of traces: 1e-8 is a double's rounding.
        assert outcome(process, solver, times, (MEAN, COVARIANCE)) < 1e-6
        solver = replacement(process, plain, jnp.ones(3), y, count)
        out = sample(solver, times, jnp.asarray(POINTS), jax.random.key(0))
        np.testing.assert_allclose(out, np.broadcast_to(y, out.shape), rtol=1e-12)
    with pytest.raises(ValueError, match="at least once"):
        replacement(process, plain, jnp.ones(3), y, 0)
    for wrong in ((jnp.ones(2), y), (jnp.ones(3), jnp.ones((4, 3)))):
        solver = replacement(process, plain, *wrong)
        with pytest.raises(ValueError, match="broadcast"):
            sample(solver, times, jnp.ones((1, 3)), jax.random.key(0))


def mixture_parts():
    means = np.array([[1.5, 0.2, -0.4], [-1.0, 0.9, 0.5], [0.1, -1.4, 0.8]])
    covariances = np.stack([0.3 * COVARIANCE, 0.2 * np.eye(3), 0.25 * COVARIANCE[::-1, ::-1]])
    return np.array([0.5, 0.3, 0.2]), means, covariances


def test_moment_matching_is_the_best_affine_estimate_for_a_mixture():
    """Given x_t, over y: its error E[x_0 | x_t, y] - itself has mean zero and is uncorrelated with y, and its expected
    square is that of the best affine estimate less that of the posterior; so no other method here comes nearer."""
    process, a, std = schedules.variance_preserving(), np.array([[1.0, -0.5, 0.2]]), 0.4
    weights, means, covariances = mixture_parts()
    law = exact.mixture(weights, means, covariances)
    prior = functools.partial(exact.denoiser, law, process)
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(80)

    @jax.jit
    def exact_mean(x, y, t):
        parts = [posterior(m, c, a, y, std) for m, c in zip(means, covariances, strict=True)]
        spread = np.array([(a @ c @ a.T).item() + std**2 for c in covariances])
        odds = jnp.exp(-0.5 * (y - means @ a[0]) ** 2 / spread) / np.sqrt(spread)
        given = exact.mixture(weights * odds, *(jnp.stack(part) for part in zip(*parts, strict=True)))
        return exact.denoiser(given, process, x, t)

    @jax.jit
    def estimates(x, y, t):
        args = process, prior, matrix(a), y, std
        methods = {"moment": vector_moments(*args, 1), "pigdm": vector_pigdm(*args), "dps": dps(*args)}
        xs = jnp.broadcast_to(x, (len(y), 3))
        true = jax.vmap(exact_mean, (None, 0, None))(x, y, t)
        return true, {name: method(xs, t) for name, method in methods.items()}

    for t, x in ((0.1, POINTS[0]), (0.3, POINTS[1]), (0.6, POINTS[2])):
        share = exact.responsibilities(law, process, x, t)
        centre, covariance = prior(x, t), exact.posterior_covariance(law, process, x, t)
        ys, probabilities = [], []
        for r, m, c in zip(share, means, covariances, strict=True):
            part = exact.gaussian(m, c)
            spread = a @ exact.posterior_covariance(part, process, x, t) @ a.T + std**2
            ys.append(a @ exact.denoiser(part, process, x, t) + jnp.sqrt(spread[0]) * nodes)
            probabilities.append(r * node_weights / np.sqrt(2 * np.pi))
        y, p = np.concatenate(ys)[:, None], np.concatenate(probabilities)
        true, guesses = estimates(x, y, t)
        away = {name: np.asarray(guess - true) for name, guess in guesses.items()}
        off = {name: float(np.sqrt(p @ (error**2).sum(-1))) for name, error in away.items()}
        none = float(np.sqrt(p @ np.square(centre - true).sum(-1)))
        # Quadrature: the posterior mean is smooth in y, 80 nodes a component leave 1e-6.
        np.testing.assert_allclose(p @ away["moment"], 0.0, atol=1e-6)
        np.testing.assert_allclose(p @ (away["moment"] * (y - a @ centre)), 0.0, atol=1e-6)
        reached = covariance - covariance @ a.T @ a @ covariance / (a @ covariance @ a.T + std**2)
        assert off["moment"] ** 2 <= float(np.trace(reached))
        assert off["moment"] < min(off["pigdm"], off["dps"], none)


HELPERS = {
    "inpainting": lambda: inpainting(np.random.RandomState(1).rand(4, 6, 2) < 0.5),
    "pooling": lambda: average_pooling(2),
    "blur": lambda: blur(np.random.RandomState(2).rand(3, 5)),
}


@checks(inpainting, average_pooling, blur)
@pytest.mark.parametrize("name", HELPERS)
def test_helper_problems_and_their_adjoints(name):
    observe, x = HELPERS[name](), jnp.asarray(np.random.RandomState(3).randn(3, 4, 6, 2))
    out = observe(x)
    y = np.random.RandomState(4).randn(*out.shape)
    back = jax.linear_transpose(observe, x)(jnp.asarray(y))[0]
    np.testing.assert_allclose((out * y).sum(), (x * back).sum(), rtol=1e-12)
    np.testing.assert_allclose(observe(x[1]), out[1], rtol=1e-12)
    if name == "inpainting":
        np.testing.assert_allclose(out, (np.random.RandomState(1).rand(4, 6, 2) < 0.5) * x)
    if name == "pooling":
        expected = [[x[:, i : i + 2, j : j + 2].mean((1, 2)) for j in (0, 2, 4)] for i in (0, 2)]
        np.testing.assert_allclose(out, np.array(expected).transpose(2, 0, 1, 3), rtol=1e-12)
    if name == "blur":
        kernel = np.random.RandomState(2).rand(3, 5)[None, :, :, None]
        np.testing.assert_allclose(
            out, scipy.ndimage.convolve(np.asarray(x), kernel, mode="wrap"), rtol=1e-12
        )
    assert observe(x.astype(jnp.float32)).dtype == jnp.float32
    with pytest.raises(ValueError, match="do not fill"):
        average_pooling(4)(x)
    with pytest.raises(ValueError, match="odd sides"):
        blur(jnp.ones((2, 3)))


METHODS = {  # (event_ndim) -> method
    "moment": lambda n: functools.partial(moment_matching, event_ndim=n),
    "pigdm": lambda n: functools.partial(pigdm, event_ndim=n),
    "dps": lambda n: dps,
}


@pytest.mark.parametrize("name", METHODS)
def test_images_batches_and_times(name):
    """Three event axes; each example by itself, also where it needs more iterations; times and y for each example."""
    process, observe = schedules.variance_preserving(), average_pooling(2)
    denoise = lambda x, t: jnp.tanh(x) * expand_to_event(1 / (1 + t), x)
    run = jax.jit(lambda x, t, y: METHODS[name](3)(process, denoise, observe, y, 0.5)(x, t))
    x = jnp.asarray(
        np.random.RandomState(5).randn(3, 4, 6, 2) * np.array([0.1, 1.0, 5.0])[:, None, None, None]
    )
    y, times = jnp.asarray(np.random.RandomState(6).randn(3, 2, 3, 2)), jnp.array([0.1, 0.4, 0.9])
    same = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
    same(run(x, times, y), jnp.stack([run(*row) for row in zip(x, times, y, strict=True)]))
    same(run(x, 0.4, y), run(x, jnp.full(3, 0.4), y))
    same(run(x, 0.4, y[1]), run(x, 0.4, jnp.stack([y[1]] * 3)))  # one y for all
    # nothing is left of the correction, and no NaN, where x is clean
    same(run(x, 0.0, y), denoise(x, 0.0))
    assert run(x.astype(jnp.float32), 0.4, y).dtype == jnp.float32
    for wrong in (y[..., :1], y[:2], jnp.ones((1, 3, 2, 3, 2))):
        with pytest.raises(ValueError, match="observe gives shape"):
            run(x, 0.4, wrong)
    if name != "dps":
        with pytest.raises(ValueError, match="event axes"):
            METHODS[name](5)(process, denoise, observe, y, 0.5)(x, 0.4)
        with pytest.raises(TypeError, match="event_ndim"):
            {"moment": moment_matching, "pigdm": pigdm}[name](process, denoise, observe, y, 0.5)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_through_a_sampler(name):
    """To the clean end, with more iterations than the problem needs and a mask that leaves y unknown."""
    process, mask = schedules.edm(), jnp.array([1.0, 0.0, 1.0])

    def out(scale, y):
        denoise = lambda x, t: scale * prior_denoiser(process)(x, t)
        informed = METHODS[name](1)(process, denoise, inpainting(mask), y, 0.5)
        return sample(dpm_multistep(process, informed), karras_times(process, 12), 80.0 * POINTS[0]).sum()

    y = mask * jnp.array([0.3, 0.0, -0.9])
    value = jax.jit(out)
    for gradient, step in zip(jax.jit(jax.grad(out, (0, 1)))(1.0, y), (1e-6, 1e-6 * mask), strict=True):
        difference = (
            (value(1.0 + step, y) - value(1.0 - step, y))
            if jnp.ndim(step) == 0
            else (value(1.0, y + step) - value(1.0, y - step))
        )
        # central differences: 1e-12 times the third derivative, and rounding over the step, 1e-9 of the value
        np.testing.assert_allclose(gradient.sum(), difference / 2e-6, rtol=1e-5, atol=1e-6)
    assert gradient[1] == 0


def test_iterations_and_weights():
    """More iterations come nearer; std may differ from entry to entry."""
    process, a = schedules.edm(), np.random.RandomState(7).randn(3, 3)
    y, std, t = jnp.array([0.3, -0.9, 0.5]), np.array([0.1, 0.5, 1.0]), 1.5
    gain = COVARIANCE @ a.T @ np.linalg.inv(a @ COVARIANCE @ a.T + np.diag(std**2))
    law = exact.gaussian(MEAN + gain @ (y - a @ MEAN), COVARIANCE - gain @ a @ COVARIANCE)
    expected = exact.denoiser(law, process, POINTS, t)
    off = []
    for iterations in (0, 1, 2, 3, 10):
        informed = vector_moments(process, prior_denoiser(process), matrix(a), y, std, iterations)
        off.append(float(abs(informed(jnp.asarray(POINTS), t) - expected).max()))
    assert off[0] > off[1] > off[2] > 1e-3
    assert max(off[3:]) < 1e-9
    # where the prior is isotropic, PiGDM is exact as well
    isotropic = functools.partial(exact.denoiser, exact.gaussian(MEAN * 0, 0.8 * np.eye(3)), process)
    args = process, isotropic, matrix(a), y, std
    same = [
        method(*args, iterations=3)(jnp.asarray(POINTS), t)
        for method in (vector_moments, functools.partial(vector_pigdm, data_std=0.8**0.5))
    ]
    np.testing.assert_allclose(*same, rtol=1e-9)


@checks(pigdm, dps)
def test_approximations_are_gradients_of_their_likelihoods():
    """DPS: of log N(y | A x_0(x_t), std^2 I); PiGDM: of the one with r^2 A A^T added; for a denoiser that is not linear."""
    process, a, std, data_std, t = (
        schedules.variance_preserving(),
        np.array([[1.0, -0.5, 0.2]]),
        0.4,
        1.3,
        0.3,
    )
    prior = functools.partial(exact.denoiser, exact.mixture(*mixture_parts()), process)
    x, y = jnp.asarray(POINTS[0]), jnp.array([0.7])
    scale, noise = alpha(process, t), sigma(process, t)
    ratio = noise**2 * data_std**2 / (scale**2 * data_std**2 + noise**2)
    args = process, prior, matrix(a), y, std
    for got, variance, weight in (
        (dps(*args, scale=0.7), std**2, 0.7),
        (vector_pigdm(*args, data_std), std**2 + ratio * (a @ a.T).item(), 1.0),
    ):
        log_likelihood = lambda x, v=variance: -0.5 * jnp.sum((y - a @ prior(x, t)) ** 2) / v
        change = weight * noise**2 / scale * jax.grad(log_likelihood)(x)
        np.testing.assert_allclose(got(x, t), prior(x, t) + change, rtol=1e-10)
