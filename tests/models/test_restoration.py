"""Restoration with hierarchical models against the closed form of linear-Gaussian chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional.diffusion.inverse import average_pooling, blur, inpainting
from dlvm_jax.functional.restoration import data_step, data_step_masked, pnp
from dlvm_jax.models import density
from dlvm_jax.models.restoration import autoencoder
from dlvm_jax.models.top_down import top_down
from tests.models.linear_chain import KEY, NOISE, W, bottom_up, chain, fixed, scales

pytestmark = pytest.mark.usefixtures("x64")

X = np.random.RandomState(1).randn(4, 5)
MASK = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
STD = 0.4


def of_images(observe):
    """A linear function of images, for vectors: five numbers and three zeros are an image."""

    def run(x):
        padded = jnp.concatenate([x, jnp.zeros((*x.shape[:-1], 3))], axis=-1)
        return observe(padded.reshape(*x.shape[:-1], 2, 4, 1)).reshape(*x.shape[:-1], -1)

    return run


PROBLEMS = {
    "mask": inpainting(MASK),
    "blur": of_images(lambda x: blur(np.array([[0.2, 0.5, 0.3]]))(x)),
    "average": of_images(average_pooling(2)),
}


def solved(model, params, name, temperature=1.0):
    """The matrices A and of the pass, y [4, k] and the restored x [4, 5], of one compiled function."""
    observe, run = PROBLEMS[name], autoencoder(model, params, temperature)

    @jax.jit
    def everything(x, basis):
        y = observe(x + 0.1)
        step = lambda m, g: data_step(observe, y, STD, m, g, 10, event_ndim=1)
        if name == "mask":
            step = lambda m, g: data_step_masked(MASK, y, STD, m, g)
        found = pnp(run, step, jnp.zeros_like(x), 5000, 1e-12, event_ndim=1)
        return observe(basis).T, run(basis)[0].T, y, found.x

    return map(np.asarray, everything(jnp.asarray(X), jnp.eye(5)))


def mode(a, y, precision):
    """Of |y - A x|^2 / 2 s^2 + x^T P x / 2."""
    return np.linalg.solve(a.T @ a / STD**2 + precision, a.T @ y.T / STD**2).T


def precision_of(variance):
    """Of x, for lowest latents of this variance."""
    return np.linalg.inv(W @ np.diag(variance) @ W.T + NOISE**2 * np.eye(5))


@pytest.mark.parametrize("layers", [3, 2, 5])
@pytest.mark.parametrize("make", [chain, bottom_up])
def test_at_temperature_one_it_ends_in_the_mode_of_the_posterior(make, layers):
    model, params = make(layers)
    variance = np.ones(2)
    for slope, noise in zip(*scales(layers), strict=True):
        variance = slope**2 * variance + noise**2
    for name in PROBLEMS:
        a, _, y, x = solved(model, params, name)
        np.testing.assert_allclose(x, mode(a, y, precision_of(variance)), atol=1e-8)


@pytest.mark.parametrize("temperature", [0.7, 0.3])
def test_one_group_at_a_temperature_is_the_model_of_the_tempered_prior(temperature):
    """A group whose prior does not depend on the top latent, N(0, s^2), becomes N(0, t^2 s^2)."""
    model, params = chain(2)
    params["stages"][0]["groups"]["a"] = jnp.zeros((1, 2))
    a, _, y, x = solved(model, params, "blur", temperature)
    np.testing.assert_allclose(x, mode(a, y, precision_of((temperature * scales(2)[1][0]) ** 2)), atol=1e-8)


def test_two_layers_at_a_temperature_have_the_prior_of_their_pass_not_the_tempered_one():
    """The precision (I - G) / g^2 with G the pass; those of the model with a group, or both layers, tempered are elsewhere."""
    model, params = chain(2)
    temperature, (slope, noise) = 0.5, (s[0] for s in scales(2))
    a, gain, y, x = solved(model, params, "blur", temperature)
    precision = (np.eye(5) - gain) / NOISE**2
    np.testing.assert_allclose(gain, gain.T, atol=1e-12)
    assert np.linalg.eigvalsh(precision).min() > 0
    np.testing.assert_allclose(x, mode(a, y, precision), atol=1e-8)
    for top in (1.0, temperature**2):
        variance = slope**2 * top + temperature**2 * noise**2
        assert abs(x - mode(a, y, precision_of(variance))).max() > 1e-3


STANDARD_DEVIATIONS = {
    "discretised-logistic": lambda: density.discretised_logistic(1000),
    "discretised-normal": lambda: density.discretised_normal(1000),
    "normal": density.normal,
    "fixed-normal": lambda: density.fixed_normal(0.3),
}


@pytest.mark.parametrize("name", STANDARD_DEVIATIONS)
def test_the_standard_deviation_is_that_of_draws(name):
    """Of 40,000 draws of two elements, far from the ends of 1000 levels.  False alarms: 2e-6 (five errors).

    The variance of a logistic's draws has a relative error of sqrt(3.2 / n), that of a Gaussian's sqrt(2 / n).
    """
    distribution = STANDARD_DEVIATIONS[name]()
    raw = jnp.array([[0.1, -2.0], [-0.2, -1.5]])[:, : distribution.width]
    one = density.conditional(fixed(lambda h: raw + 0 * h[..., None]), distribution, (2,))
    draw = lambda key: one.sample({}, key, jnp.zeros((1, 2)), (40_000,))[0].std((0, 1))
    found, std = jax.jit(lambda key: (draw(key), one.std({}, jnp.zeros((1, 2)))[0]))(KEY)
    np.testing.assert_allclose(found, std, rtol=5 * 0.5 * np.sqrt(3.2 / 40_000))


def test_what_it_cannot_use_is_refused():
    model, params = chain(2)
    for temperature in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"above 0 and at most 1, got {temperature}"):
            autoencoder(model, params, temperature)
    bits = density.conditional(fixed(lambda h: (h @ W.T)[..., None]), density.bernoulli(), (5,))
    posterior = density.conditional(fixed(lambda x: jnp.stack([x @ W] * 2, axis=-1)), density.normal(), (2,))
    one = top_down(density.standard_normal(2), posterior, fixed(lambda x: (x, ())), [], bits, dim=2)
    with pytest.raises(ValueError, match="likelihood with a mean and a standard deviation of each element"):
        autoencoder(one, one.density.init(KEY))
