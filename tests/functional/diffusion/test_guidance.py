"""Guidance against conditional laws and flows of Gaussians, in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.exact import diffusion as exact
from dlvm_jax.functional.diffusion import schedules
from dlvm_jax.functional.diffusion.dpm import dpm_multistep
from dlvm_jax.functional.diffusion.guidance import classifier, classifier_free
from dlvm_jax.functional.diffusion.ode import runge_kutta
from dlvm_jax.functional.diffusion.solvers import karras_times, log_snr_times, sample
from dlvm_jax.functional.diffusion.targets import TARGETS, from_x0, to_x0
from tests.functional.common import checks

pytestmark = pytest.mark.usefixtures("x64")

PROCESSES = {
    "preserving": schedules.variance_preserving,
    "edm": schedules.edm,
    "straight": schedules.rectified,
}
COVARIANCE = np.array([[0.9, 0.5], [0.5, 0.4]])
MEANS = np.array([[0.7, -1.2], [-0.4, 0.3]])
POINTS = np.random.RandomState(0).randn(5, 2)


def times_of(process):
    low, high = process.t_min, process.t_max
    return [low, low + 0.01 * (high - low), low + 0.3 * (high - low), high]


@checks(classifier)
@pytest.mark.parametrize("name", PROCESSES)
def test_exact_classifier_gives_the_class(name):
    process = PROCESSES[name]()
    both = exact.mixture(jnp.array([0.3, 0.7]), MEANS, np.stack([COVARIANCE] * 2))
    one = exact.gaussian(MEANS[1], COVARIANCE)
    log_class = lambda x, t: jnp.log(exact.responsibilities(both, process, x, t)[..., 1])
    guided = jax.jit(classifier(process, functools.partial(exact.denoiser, both, process), log_class))
    for t in times_of(process):
        # Where the noise is least the class is all but known and log p(c | x_t) has lost its digits.
        x = exact.alpha(process, t) * POINTS + exact.sigma(process, t) * POINTS[::-1]
        np.testing.assert_allclose(guided(x, t), exact.denoiser(one, process, x, t), rtol=1e-9, atol=1e-9)
    # The scale multiplies the change.
    x, t = jnp.asarray(POINTS), times_of(process)[2]
    plain = exact.denoiser(both, process, x, t)
    twice = classifier(process, functools.partial(exact.denoiser, both, process), log_class, 2.0)(x, t)
    np.testing.assert_allclose(twice - plain, 2 * (guided(x, t) - plain), rtol=1e-9, atol=1e-12)


def test_classifier_guidance_samples_the_class():
    """Scale 1 leads a solver to the class's law: its flow is that of one Gaussian."""
    process = schedules.edm()
    both = exact.mixture(jnp.array([0.5, 0.5]), MEANS, np.stack([COVARIANCE] * 2))
    log_class = lambda x, t: jnp.log(exact.responsibilities(both, process, x, t)[..., 0])
    guided = classifier(process, functools.partial(exact.denoiser, both, process), log_class)
    start = 80.0 * jnp.asarray(POINTS)
    out = sample(dpm_multistep(process, guided, order=3), log_snr_times(process, 200), start)
    expected = exact.ode_map(exact.gaussian(MEANS[0], COVARIANCE), process, start, 80.0, process.t_min)
    # Third order on 200 steps of 0.053 in log sigma: 0.053^3 = 1.5e-4, with an error constant below one.
    np.testing.assert_allclose(out, expected, atol=1e-4)


def guided_gaussians(process, weight, v_c=0.3, v_u=1.2):
    laws = [exact.gaussian(jnp.zeros(1), v * jnp.eye(1)) for v in (v_c, v_u)]
    return classifier_free(*(functools.partial(exact.denoiser, law, process) for law in laws), weight)


@checks(classifier_free)
@pytest.mark.parametrize("weight", [0.0, -1.0, 2.0])
def test_classifier_free_flow(weight):
    """The flow scales as (v_c + sigma^2)^((1 + w) / 2) (v_u + sigma^2)^(-w / 2): not the density to a power."""
    process, v_c, v_u = schedules.edm(1e-3, 80.0), 0.3, 1.2
    scale = lambda t: (v_c + t**2) ** ((1 + weight) / 2) * (v_u + t**2) ** (-weight / 2)
    run = runge_kutta(process, guided_gaussians(process, weight), "rk4")
    start = 80.0 * jnp.ones(1)
    out = sample(run, karras_times(process, 400, clean=False), start)
    np.testing.assert_allclose(out, start * scale(1e-3) / scale(80.0), rtol=1e-6)
    if weight == 2:
        # To the data from infinite noise, where the marginal variance is t^2.
        variance = float(out[0] / start[0] * 80.0) ** 2 * (scale(0.0) / scale(1e-3)) ** 2
        variance *= (scale(80.0) / 80.0) ** 2
        assert variance == pytest.approx(v_c * (v_c / v_u) ** 2, rel=1e-5)
        assert variance == pytest.approx(0.01875, rel=1e-5)
        tilted = 1 / ((1 + weight) / v_c - weight / v_u)
        assert tilted == pytest.approx(0.12)  # six times as wide


@pytest.mark.parametrize("target", TARGETS)
def test_classifier_free_is_one_in_every_target(target):
    process, t, w = schedules.variance_preserving(), 0.4, 1.7
    c, u = (functools.partial(exact.denoiser, exact.gaussian(m, COVARIANCE), process) for m in MEANS)
    x = jnp.asarray(POINTS)
    predict = lambda denoise: from_x0(process, target, denoise(x, t), x, t)
    mixed = to_x0(process, target, (1 + w) * predict(c) - w * predict(u), x, t)
    np.testing.assert_allclose(classifier_free(c, u, w)(x, t), mixed, rtol=1e-10, atol=1e-12)


def test_weight_of_time():
    """A weight may be a function of the time, and times may differ from example to example."""
    process = schedules.edm()
    within = lambda t: jnp.where((t > 0.5) & (t < 3), 2.0, 0.0)
    x = jnp.asarray(POINTS[:, :1])
    for t, weight in ((0.1, 0.0), (1.0, 2.0), (10.0, 0.0)):
        expected = guided_gaussians(process, weight)(x, t)
        np.testing.assert_array_equal(guided_gaussians(process, within)(x, t), expected)
    each = classifier_free(lambda x, t: 2 * x, lambda x, t: x, within)(x, jnp.array([0.1, 1, 2, 5, 9]))
    np.testing.assert_allclose(each, x * jnp.array([2, 4, 4, 2, 2.0])[:, None])


def test_batches_gradients_and_errors():
    process = schedules.variance_preserving()
    denoise = lambda x, t: jnp.tanh(x) / (1 + t)
    guided = jax.jit(classifier(process, denoise, lambda x, t: jax.nn.log_sigmoid(x.sum(-1)), 1.5))
    x = jnp.asarray(POINTS)
    rows = jnp.stack([guided(row, 0.3) for row in x])
    np.testing.assert_allclose(guided(x, 0.3), rows, rtol=1e-12)
    # At a clean time the change vanishes.
    np.testing.assert_allclose(guided(x, 0.0), denoise(x, 0.0))
    assert guided(x.astype(jnp.float32), 0.3).dtype == jnp.float32
    out = lambda s: sample(
        dpm_multistep(process, classifier(process, denoise, lambda x, t: jax.nn.log_sigmoid(x.sum(-1)), s)),
        karras_times(process, 5),
        x,
    )
    assert np.isfinite(jax.jit(jax.jacobian(out))(1.0)).all()
    for wrong in (lambda x, t: x, lambda x, t: x[:2, 0]):
        with pytest.raises(ValueError, match="one log-probability"):
            classifier(process, denoise, wrong)(x, 0.3)
