"""Diffusion models as densities, against data whose exact denoiser stands in for the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.exact import diffusion as exact
from dlvm_jax.functional import densities
from dlvm_jax.functional.diffusion import ancestral, process, schedules, solvers, targets
from dlvm_jax.models import density, diffusion, objectives
from dlvm_jax.models.vae import vae
from dlvm_jax.nets.denoisers import DenoisingMLP

NOISE = schedules.linear_log_snr(-8.0, 12.0)
GAUSSIAN = exact.gaussian(np.array([0.5, -1.0]), np.array([[0.5, 0.2], [0.2, 0.3]]))


def sampler(noise, denoise):
    return ancestral.ddim(noise, denoise), solvers.log_snr_times(noise, 50)


def perfect(law, target="edm", noise=NOISE, data_std=1.0):
    """A model whose network gives the target at the exact denoiser: time is found from log-SNR, which is linear."""

    def apply(params, x, log_snr, context=None, key=None):
        t = (12.0 - log_snr.ravel()[0]) / 20.0
        x_t = x / targets.preconditioning(noise, t, data_std).input
        x0 = exact.denoiser(law, noise, x_t, t)
        if target != "edm":
            return targets.from_x0(noise, target, x0, x_t, t)
        scales = targets.preconditioning(noise, t, data_std)
        return (x0 - scales.skip * x_t) / scales.out

    net = density.Net(lambda key: {"unused": jnp.zeros(())}, apply)
    return diffusion.denoiser(net, diffusion.fixed(noise), law.means.shape[1:], target, data_std)


def draws_of_bound(model, x, count, levels=None):
    """Bounds [count, len(x)], each example alone at a stratified time, as the network above needs one time a call."""
    dens, params = diffusion.bound_density(model, sampler, levels), model.init(jax.random.key(0))
    one = jax.vmap(lambda key, x: dens.log_prob(params, key, x))
    keys = jax.random.split(jax.random.key(1), (count, len(x)))
    return np.asarray(jax.jit(jax.vmap(one, (0, None)))(keys, x), np.float64)


def test_bound_misses_the_evidence_by_its_two_known_divergences():
    """E[log p(x)] - E[bound] = KL(q_T || p_T) + E KL(q(x | x_min) || decoder), both between Gaussians, with the exact network.

    One check at four standard errors: false alarms 6e-5.
    """
    rng = np.random.RandomState(0)
    cov = np.array([[0.5, 0.2], [0.2, 0.3]])
    x = rng.multivariate_normal([0.5, -1.0], cov, 400).astype(np.float32)
    bounds = draws_of_bound(perfect(GAUSSIAN), jnp.asarray(x), 600)
    truth = np.asarray(exact.log_marginal(GAUSSIAN, schedules.edm(), x, 0.0), np.float64)
    end, start = [(float(process.alpha(NOISE, t)), float(process.sigma(NOISE, t))) for t in (1.0, 0.0)]
    eig, mean2 = np.linalg.eigvalsh(cov), 0.5**2 + 1.0
    a, s = end
    prior = 0.5 * (
        np.sum((a**2 * eig + s**2) / s**2 - 1 - np.log((a**2 * eig + s**2) / s**2)) + a**2 * mean2 / s**2
    )
    a, s = start
    ratio = eig / (eig + (s / a) ** 2)  # variance of x given x_min, over that of the decoder
    # E over x of KL(N(m + r (y - m), r v) || N(y, v)), y = x_min / a with variance eig + v about m
    decoder = 0.5 * np.sum(ratio - 1 - np.log(ratio) + (1 - ratio) ** 2 * (eig + (s / a) ** 2) / (s / a) ** 2)
    gap = truth - bounds
    error = gap.std() / np.sqrt(gap.size)
    assert abs(gap.mean() - prior - decoder) < 4 * error and error < 0.05
    assert prior + decoder < 0.01


@pytest.mark.parametrize("target", targets.TARGETS)
def test_every_target_gives_the_same_model(target):
    """The same keys, so the same times and noise; float32 loses digits where a target divides by a small sigma."""
    x = jnp.array([[0.3, -0.8], [1.0, -1.5]])
    wanted = draws_of_bound(perfect(GAUSSIAN), x, 20)
    np.testing.assert_allclose(draws_of_bound(perfect(GAUSSIAN, target), x, 20), wanted, rtol=2e-3, atol=0.05)


def test_bound_of_integer_levels_is_a_bound_and_nearly_tight():
    """Three levels with known probabilities: exp(E[bound]) stays below each of them and their sum comes near one.

    Standard errors of about 0.015 in the logarithm; five of them, false alarms below 1e-5.
    """
    weights = np.array([0.2, 0.5, 0.3])
    law = exact.mixture(weights, np.array([[-1.0], [0.0], [1.0]]), np.zeros((3, 1, 1)))
    bounds = draws_of_bound(perfect(law), jnp.array([[0.0], [1.0], [2.0]]), 200_000, levels=3)
    mean, error = bounds.mean(0), bounds.std(0) / np.sqrt(len(bounds))
    assert (error < 0.03).all()
    assert (mean < np.log(weights) + 5 * error).all()
    np.testing.assert_allclose(np.exp(mean).sum(), 1.0, atol=0.06)


def random_model(key=0, data_std=1.0, dim=1, classes=None):
    module = DenoisingMLP((16, 16), classes=classes)
    example = None if classes is None else jnp.zeros((), jnp.int32)
    net = diffusion.denoising_net(module, (dim,), example)
    model = diffusion.denoiser(net, diffusion.fixed(schedules.variance_preserving()), (dim,), "edm", data_std)
    keys = iter(jax.random.split(jax.random.key(key), 100))
    params = model.init(jax.random.key(0))
    return model, jax.tree.map(lambda a: a + 0.1 * jax.random.normal(next(keys), a.shape), params)


def test_ode_density_of_a_random_network_integrates_to_one():
    """Quadrature over [-12, 12] at t_min = 1e-3 (less noise would need a finer rule); the solver's error is about 1e-4."""
    model, params = random_model()
    model = model._replace(process=lambda params: schedules.variance_preserving()._replace(t_min=1e-3))
    x = jnp.linspace(-12, 12, 2001)[:, None]
    dens = diffusion.ode_density(model, sampler, steps=60)
    assert dens.kind == "exact"
    log_prob = jax.jit(dens.log_prob)(params, None, x)
    np.testing.assert_allclose(np.trapezoid(np.exp(log_prob), x[:, 0]), 1.0, atol=2e-3)


def test_samples_follow_the_law_of_the_data():
    """4000 draws with the exact network against mean and covariance: four standard errors, five checks, false alarms 3e-4."""
    model = perfect(GAUSSIAN)
    dens, params = diffusion.bound_density(model, sampler), model.init(jax.random.key(0))
    x, none = jax.jit(lambda key: dens.sample(params, key, shape=(4000,)))(jax.random.key(2))
    assert none is None and x.shape == (4000, 2)
    cov = np.array([[0.5, 0.2], [0.2, 0.3]])
    assert (np.abs(np.mean(x, 0) - np.array([0.5, -1.0])) < 4 * np.sqrt(np.diag(cov) / 4000) + 0.01).all()
    spread = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / 4000)
    assert (np.abs(np.cov(x.T) - cov) < 4 * spread + 0.02).all()  # 0.02: DDIM's own error in 50 steps


def test_levels_are_sampled_as_integers():
    law = exact.mixture(np.ones(2), np.array([[-1.0], [1.0]]), np.zeros((2, 1, 1)))
    model = perfect(law)
    x, _ = diffusion.bound_density(model, sampler, 5).sample(
        model.init(jax.random.key(0)), jax.random.key(1), shape=(20,)
    )
    assert set(np.unique(x)) <= {0.0, 4.0}


@pytest.mark.parametrize("weight", ["epsilon", "x0", "v", "min_snr", "edm", "likelihood"])
def test_denoising_objectives_train_every_array(weight):
    model, params = random_model(dim=2)
    objective = diffusion.denoising(model, weight)
    x = jax.random.normal(jax.random.key(1), (32, 2))
    (loss, metrics), gradient = jax.value_and_grad(objective, has_aux=True)(params, jax.random.key(2), x)
    assert np.isfinite(loss) and set(metrics) == {"squared_error"}
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in jax.tree.leaves(gradient["net"]))


def test_a_learned_schedule_only_changes_the_variance():
    """In expectation the bound does not depend on the inside of the schedule: its gradient is zero within four errors."""
    noise = schedules.linear_log_snr(-8.0, 12.0)
    model = perfect(GAUSSIAN)
    learned = diffusion.learned(-8.0, 12.0, 4)
    assert learned.process(learned.init(jax.random.key(0))).log_snr(0.3) == pytest.approx(noise.log_snr(0.3))
    model = model._replace(
        process=lambda params: learned.process(params),
        denoise=lambda params, x, t, context=None, key=None: exact.denoiser(
            GAUSSIAN, learned.process(params), x, t
        ),
    )
    dens = diffusion.bound_density(model, sampler)
    x = jax.random.multivariate_normal(
        jax.random.key(3), jnp.array([0.5, -1.0]), jnp.array([[0.5, 0.2], [0.2, 0.3]]), (4000,)
    )
    slope = jax.grad(lambda params, key, x: dens.log_prob(params, key, x))
    logits, keys = {"logits": jnp.array([0.3, -0.2, 0.1, 0.0])}, jax.random.split(jax.random.key(4), 4000)
    each = jax.jit(jax.vmap(slope, (None, 0, 0)))(logits, keys, x)
    gradient = np.asarray(each["logits"], np.float64)
    assert (np.abs(gradient.mean(0)) < 4 * gradient.std(0) / np.sqrt(4000)).all()


def test_a_diffusion_prior_in_a_vae_is_a_bound():
    model, params = random_model(dim=2)
    prior = diffusion.bound_density(model, sampler)
    decoder = density.conditional(
        density.Net(lambda key: {}, lambda params, z: z[..., None]), density.fixed_normal(0.5), (2,)
    )
    posterior = density.conditional(
        density.Net(lambda key: {}, lambda params, x: jnp.stack([x, 0 * x - 1], -1)), density.normal(), (2,)
    )
    joint = vae(prior, posterior, decoder)
    assert joint.kind == "bound"
    value = joint.log_prob(
        {"prior": params, "posterior": {}, "decoder": {}}, jax.random.key(0), jnp.zeros((3, 2))
    )
    assert value.shape == (3,) and np.isfinite(value).all()
    with pytest.raises(ValueError, match="importance-weighted"):
        objectives.importance_weighted(joint, 5)
    with pytest.raises(ValueError, match="needs a density of kind exact"):
        vae(density.standard_normal(2), prior, decoder)


def test_labels_are_dropped_at_their_rate():
    seen = {}

    def objective(params, key, batch):
        seen["labels"] = batch[1]
        return 0.0, {}

    diffusion.drop_labels(objective, 10, 0.25)(
        {}, jax.random.key(0), (jnp.zeros((4000, 2)), jnp.full(4000, 3))
    )
    dropped = np.mean(np.asarray(seen["labels"]) == 10)
    assert set(np.unique(seen["labels"])) == {3, 10}
    assert abs(dropped - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)  # false alarms 6e-5


def test_dropout_acts_in_training_alone():
    module = DenoisingMLP((8,))
    with pytest.raises(ValueError, match="a target is one of edm, x0"):
        diffusion.denoiser(diffusion.denoising_net(module, (2,)), diffusion.fixed(NOISE), (2,), "noise")
    model, params = random_model(dim=2, classes=3)
    labels = jnp.array([0, 3])
    out = model.denoise(params, jnp.ones((2, 2)), jnp.array([0.2, 0.5]), labels)
    alone = model.denoise(params, jnp.ones((1, 2)), jnp.array([0.5]), labels[1:])
    np.testing.assert_allclose(out[1:], alone, rtol=1e-5)
    assert densities.normal_log_prob(out, 0.0, 0.0).shape == (2,)
