"""Diffusion as the prior of a VAE, where the exact prior is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional import densities
from dlvm_jax.functional.diffusion import dpm, process, schedules, solvers
from dlvm_jax.models import density, diffusion, latent_diffusion, objectives
from dlvm_jax.models.vae import vae
from dlvm_jax.nets.denoisers import DenoisingMLP

NOISE = schedules.linear_log_snr(-10.0, 10.0)


def sampler(noise, denoise):
    return dpm.dpm_multistep(noise, denoise), solvers.log_snr_times(noise, 30)


def gaussian_denoiser(mean, std):
    """A model whose denoiser is exact for N(mean, std^2), both of which are its parameters."""
    mean, std = jnp.asarray(mean, float), jnp.asarray(std, float)

    def denoise(params, x, t, context=None, key=None):
        a, s = (
            process.expand_to_event(f(NOISE, jnp.asarray(t, float)), x)
            for f in (process.alpha, process.sigma)
        )
        return params["mean"] + a * params["std"] ** 2 * (x - a * params["mean"]) / (
            a**2 * params["std"] ** 2 + s**2
        )

    return diffusion.Denoiser(
        lambda key: {"mean": mean, "std": std}, lambda params: NOISE, denoise, denoise, "x0", mean.shape
    )


def test_cross_entropy_and_its_gradients_are_those_of_gaussians():
    r"""E_q[-log p(z)], q = N(m, s^2), p = N(mu, v): log(2 pi v) / 2 + ((m - mu)^2 + s^2) / 2v, and its slopes in m and s.

    The diffusion misses v by the noise of t_min (4.5e-5) alone.  Nine checks at 4.5 standard errors: false alarms 6e-5.
    """
    model = gaussian_denoiser([0.5, -0.3, 0.0], [0.7, 1.5, 1.0])
    dens, params = diffusion.bound_density(model, sampler), model.init(jax.random.key(0))
    m, s = jnp.array([1.0, 0.2, -0.4]), jnp.array([0.3, 0.8, 1.0])

    def loss(m, s, key):
        key_z, key_bound = jax.random.split(key)
        z = m + s * jax.random.normal(key_z, (1, 3))
        return -dens.log_prob(params, key_bound, z)[0]

    keys = jax.random.split(jax.random.key(1), 100_000)
    draws = jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1)), (None, None, 0)))(m, s, keys)
    mu, v = params["mean"], params["std"] ** 2
    exact_value = (0.5 * jnp.log(2 * jnp.pi * v) + ((m - mu) ** 2 + s**2) / (2 * v)).sum()
    for drawn, wanted in zip(jax.tree.leaves(draws), (exact_value, (m - mu) / v, s / v), strict=True):
        drawn = np.asarray(drawn, np.float64)
        error = drawn.std(0) / np.sqrt(len(drawn))
        assert (np.abs(drawn.mean(0) - wanted) < 4.5 * error + 1e-3).all()
        assert (error < 0.1).all()


def random_model(weight=0.5):
    net = diffusion.denoising_net(DenoisingMLP((8, 8)), (2,))
    model = latent_diffusion.mixed(diffusion.denoiser(net, diffusion.fixed(NOISE), (2,)), weight)
    keys = iter(jax.random.split(jax.random.key(0), 100))
    params = model.init(jax.random.key(1))
    net = jax.tree.map(lambda a: a + 0.2 * jax.random.normal(next(keys), a.shape), params["net"])
    return model, {**params, "net": net}


def test_without_its_network_a_mixed_score_is_the_standard_normal():
    """And with it alone it is the network's; in between the two are averaged."""
    x, t = jnp.array([[0.3, -1.0], [2.0, 0.1]]), jnp.array([0.2, 0.7])
    model, params = random_model()
    at = jax.jit(lambda logit: model.denoise({**params, "mixing": jnp.full(2, logit)}, x, t))
    a, s = (f(NOISE, t)[:, None] for f in (process.alpha, process.sigma))
    np.testing.assert_allclose(at(-100.0), a * x / (a**2 + s**2), rtol=1e-5)
    np.testing.assert_allclose(at(0.0), 0.5 * (at(-100.0) + at(100.0)), rtol=1e-5)
    plain = diffusion.denoiser(
        diffusion.denoising_net(DenoisingMLP((8, 8)), (2,)), diffusion.fixed(NOISE), (2,)
    )
    np.testing.assert_allclose(at(100.0), plain.denoise(params, x, t), rtol=1e-5)
    assert np.abs(at(100.0) - at(-100.0)).max() > 0.01
    none = {**params, "mixing": jnp.full(2, -100.0)}
    dens = diffusion.ode_density(model, sampler, 40)
    log_prob = jax.jit(lambda x: dens.log_prob(none, None, x))(x)
    np.testing.assert_allclose(log_prob, densities.normal_log_prob(x, 0.0, 0.0), atol=2e-4)


def test_mixing_starts_where_it_is_told_and_learns():
    model, params = random_model(0.1)
    np.testing.assert_allclose(jax.nn.sigmoid(params["mixing"]), 0.1, rtol=1e-5)
    objective = objectives.negative_elbo(diffusion.bound_density(model, sampler))
    slope = jax.jit(jax.grad(lambda p: objective(p, jax.random.key(0), jnp.ones((8, 2)))[0]))(params)
    assert all((g != 0).any() for g in jax.tree.leaves(slope["net"])) and (slope["mixing"] != 0).all()


def linear_vae(prior):
    """The VAE of x = W z + noise with its exact posterior under N(0, I), and what it should give."""
    w, std = np.array([[1.0, 0.5], [-0.3, 0.8], [0.2, 0.1]]), 0.6
    cov = np.linalg.inv(np.eye(2) + w.T @ w / std**2)
    root = jnp.asarray(np.linalg.cholesky(cov), jnp.float32)
    to_mean = jnp.asarray(cov @ w.T / std**2, jnp.float32)

    def sample(params, key, x, shape=()):
        z = x @ to_mean.T + jax.random.normal(key, (*shape, *x.shape[:-1], 2)) @ root.T
        return z, log_prob(params, None, z, x)

    def log_prob(params, key, z, x):
        return densities.multivariate_normal_log_prob(z, x @ to_mean.T, root)

    posterior = density.Density(lambda key: {}, sample, log_prob, "exact")
    decoder = density.conditional(
        density.Net(lambda key: {}, lambda params, z: (z @ w.T)[..., None]), density.fixed_normal(std), (3,)
    )
    marginal = jnp.asarray(np.linalg.cholesky(w @ w.T + std**2 * np.eye(3)), jnp.float32)
    truth = lambda x: densities.multivariate_normal_log_prob(x, jnp.zeros(3), marginal)
    return vae(prior, posterior, decoder), truth


@pytest.mark.parametrize("scale", [3.0, 1.0])
def test_elbo_with_exact_posterior_and_denoiser_is_the_evidence(scale):
    """Also with latent vectors that the diffusion sees standardised.  Three checks at four standard
    errors of 100 means over stratified times: false alarms 2e-4."""
    model = gaussian_denoiser(jnp.zeros(2), jnp.full(2, 1 / scale))
    bound = diffusion.bound_density(model, sampler)
    prior = latent_diffusion.standardised(bound, jnp.zeros(2), jnp.full(2, scale))
    joint, truth = linear_vae(prior)
    assert joint.kind == "bound"
    x = jnp.array([[0.5, -1.0, 0.3], [2.0, 0.0, 0.1], [0.0, 0.0, -0.7]])
    params = {"prior": model.init(jax.random.key(0)), "posterior": {}, "decoder": {}}
    mean = lambda key: joint.log_prob(params, key, jnp.tile(x, (1000, 1))).reshape(-1, 3).mean(0)
    draws = np.asarray(jax.lax.map(mean, jax.random.split(jax.random.key(2), 100)), np.float64)
    error = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - truth(x)) < 4 * error + 1e-3).all() and (error < 0.05).all()

    ode = latent_diffusion.standardised(
        diffusion.ode_density(model, sampler, 40), jnp.zeros(2), jnp.full(2, scale)
    )
    with_ode, _ = linear_vae(ode)
    assert with_ode.kind == "weight"
    np.testing.assert_allclose(with_ode.log_prob(params, jax.random.key(3), x), truth(x), atol=2e-3)


def test_standardised_samples_have_their_mean_and_scale():
    """Ten thousand draws; four standard errors, four checks: false alarms 3e-4."""
    mean, std = jnp.array([2.0, -1.0]), jnp.array([0.5, 3.0])
    dens = latent_diffusion.standardised(density.standard_normal(2), mean, std)
    z, log_prob = dens.sample({}, jax.random.key(0), shape=(10_000,))
    np.testing.assert_allclose(log_prob, densities.normal_log_prob(z, mean, jnp.log(std)), rtol=1e-5)
    np.testing.assert_allclose(dens.log_prob({}, None, z), log_prob, rtol=1e-4, atol=1e-4)
    assert (np.abs(z.mean(0) - mean) < 4 * std / 100).all()
    assert (np.abs(z.std(0) / std - 1) < 4 / np.sqrt(20_000)).all()
    with pytest.raises(ValueError, match=r"must have the event's shape, got \(2,\) and \(\)"):
        latent_diffusion.standardised(density.standard_normal(2), mean, 0.5)


def test_the_second_stage_sees_draws_of_the_frozen_posterior():
    """The objective is given z ~ q(z | x): 20,000 draws of one x have the posterior's mean and scale within four errors."""
    posterior = density.conditional(
        density.Net(lambda key: {}, lambda params, x: jnp.stack([x * params["w"], 0 * x - 1], -1)),
        density.normal(),
        (1,),
    )
    seen = {}

    def objective(params, key, z, step=None):
        seen["z"] = z
        return 0.0, {}

    latent_diffusion.encoded(objective, posterior, {"w": 3.0})({}, jax.random.key(0), jnp.ones((20_000, 1)))
    assert abs(seen["z"].mean() - 3) < 4 * np.exp(-1) / np.sqrt(20_000)
    assert abs(seen["z"].std() / np.exp(-1) - 1) < 4 / np.sqrt(40_000)
