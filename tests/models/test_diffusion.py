"""Diffusion models as densities, against data whose exact denoiser stands in for the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.exact import diffusion as exact
from dlvm_jax.functional.diffusion import ancestral, process, schedules, solvers, targets, times, variational
from dlvm_jax.functional.diffusion import objectives as functional_objectives
from dlvm_jax.models import density, diffusion, objectives
from dlvm_jax.models.vae import vae
from dlvm_jax.nets.denoisers import DenoisingMLP, VDMResNet

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


def row_by_row(law, noise, x, t):
    """The exact denoiser of points [batch, dim], each at its own time."""
    return jax.vmap(lambda x, t: exact.denoiser(law, noise, x, t))(x, t)


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


def test_bound_of_independent_levels_is_their_log_probability():
    """Log-probabilities of three levels in two places, half of them from the network: the bound is tight, to e^-8 or so.

    Standard errors of 0.02 to 0.035 nats; five of them, and 0.002 for the ends; false alarms below 1e-5.
    """
    log_prob = np.log(np.array([[0.2, 0.5, 0.3], [0.9, 0.04, 0.06]]))
    net = density.Net(
        lambda key: {"unused": jnp.zeros(())},
        lambda params, x, *_: jnp.broadcast_to(0.5 * log_prob, (*x.shape, 3)),
    )
    model = diffusion.denoiser(
        net, diffusion.fixed(NOISE), (2,), "levels", data_std=0.7, level_log_prob=0.5 * log_prob
    )
    x = jnp.array([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]])
    bounds = draws_of_bound(model, x, 200_000, levels=3)
    mean, error = bounds.mean(0), bounds.std(0) / np.sqrt(len(bounds))
    assert (error < 0.04).all()
    places = np.asarray(x, int)
    assert (np.abs(mean - log_prob[0, places[:, 0]] - log_prob[1, places[:, 1]]) < 5 * error + 0.002).all()


def test_ode_density_of_a_histogram_is_the_histogram():
    """Two coordinates with four bins each, known frequencies: the density by ODE at points away from the edges.

    At log-SNR 12 the noise, 0.0025, is far smaller than the distance to an edge, 0.1; at -16 nothing is left of the mean.
    """
    frequencies = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]])
    net = density.Net(
        lambda key: {"unused": jnp.zeros(())},
        lambda params, x, *_: jnp.broadcast_to(jnp.log(jnp.asarray(frequencies)), (*x.shape, 4)),
    )
    noise = schedules.linear_log_snr(-16.0, 12.0)
    model = diffusion.denoiser(net, diffusion.fixed(noise), (2,), "bins", bins=(-2.0, 2.0))
    x = jnp.array([[-1.5, -1.9], [0.6, 0.5], [1.9, 1.2]])
    found = diffusion.ode_density(model, sampler, 100).log_prob(model.init(jax.random.key(0)), None, x)
    truth = np.log(frequencies[0, [0, 2, 3]]) + np.log(frequencies[1, [0, 2, 3]])
    np.testing.assert_allclose(found, truth, atol=3e-3)


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
    """Points at -1, 0 and 1 are the levels 0, 2 and 4 of five."""
    law = exact.mixture(np.ones(3), np.array([[-1.0], [0.0], [1.0]]), np.full((3, 1, 1), 1e-6))
    model = perfect(law)
    x, _ = diffusion.bound_density(model, sampler, 5).sample(
        model.init(jax.random.key(0)), jax.random.key(1), shape=(50,)
    )
    assert set(np.unique(x)) == {0.0, 2.0, 4.0}


def test_denoising_is_the_weighted_error_at_its_times():
    """Recomputed with the same keys: levels, the weight with the model's scale, other times; and every array learns."""
    model, params = random_model(dim=2, data_std=0.5)
    law = lambda noise, uniform: 0.1 + 0.5 * uniform
    objective = diffusion.denoising(model, "edm", 5, law)
    levels, key = jax.random.randint(jax.random.key(1), (32, 2), 0, 5).astype(float), jax.random.key(2)
    (loss, metrics), gradient = jax.value_and_grad(objective, has_aux=True)(params, key, levels)
    noise, (key_t, key_noise, _) = model.process(params), jax.random.split(key, 3)
    t, x = law(noise, times.stratified_uniform(key_t, 32)), levels / 2 - 1
    x_t = process.diffuse(noise, x, t, jax.random.normal(key_noise, x.shape))
    error = jnp.square(x - model.denoise(params, x_t, t)).sum(-1)
    weight = functional_objectives.weight("edm", noise, t, data_std=0.5)
    np.testing.assert_allclose(loss, (weight * error).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["squared_error"], error.mean(), rtol=1e-5)
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in jax.tree.leaves(gradient["net"]))


def test_training_maximises_the_bound_that_is_evaluated():
    """At the same key its loss is the KL of the evaluated bound, less the divergence at t_max; the gradients agree up to sign."""
    model, params = random_model(dim=2)
    key, x = jax.random.key(3), jax.random.normal(jax.random.key(1), (16, 2))
    objective = jax.jit(jax.value_and_grad(diffusion.vlb_loss(model), has_aux=True))
    (loss, metrics), slope = objective(params, key, x)
    dens, key_bound = diffusion.bound_density(model, sampler), jax.random.split(key)[0]
    bound, rise = jax.jit(jax.value_and_grad(lambda p: dens.log_prob(p, key_bound, x).mean()))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, -b, rtol=1e-4, atol=1e-5), slope["net"], rise["net"]
    )
    terms = jax.jit(dens.terms)(params, key_bound, x)
    np.testing.assert_allclose((terms["reconstruction"] - terms["kl"]).mean(), bound, rtol=1e-5)
    prior = variational.prior_kl(model.process(params), x).mean()
    np.testing.assert_allclose([loss, metrics["diffusion"]], terms["kl"].mean() - prior, rtol=1e-5)


@pytest.mark.parametrize("name", ["edm", "rectified", "variance_preserving"])
def test_the_bound_of_every_process_has_a_small_variance(name):
    """Where log-SNR falls as 1/t, uniform times would leave a standard deviation above 250 a draw; theirs is about 20."""
    law, noise = exact.gaussian(np.zeros(2), 0.25 * np.eye(2)), getattr(schedules, name)()
    model = perfect(law)._replace(
        process=lambda params: noise,
        denoise=lambda params, x, t, context=None, key=None: row_by_row(law, noise, x, t),
    )
    x = 0.5 * jax.random.normal(jax.random.key(1), (20_000, 2))
    dens = diffusion.bound_density(model, sampler)
    bounds = jax.jit(lambda key: dens.log_prob({}, key, x))(jax.random.key(0))
    assert bounds.std() < 60
    entropy = np.log(2 * np.pi * np.e * 0.25)  # of two dimensions
    assert abs(bounds.mean() + entropy) < 4 * bounds.std() / np.sqrt(20_000)


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

    def objective(params, key, batch, step=None):
        seen["labels"] = batch[1]
        return 0.0, {}

    diffusion.drop_labels(objective, 10, 0.25)(
        {}, jax.random.key(0), (jnp.zeros((4000, 2)), jnp.full(4000, 3))
    )
    dropped = np.mean(np.asarray(seen["labels"]) == 10)
    assert set(np.unique(seen["labels"])) == {3, 10}
    assert abs(dropped - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)  # false alarms 6e-5


def test_labels_reach_the_network():
    """Bound, ODE and samples follow a label, and each row sees its own."""
    model, params = random_model(dim=2, classes=3)
    out = model.denoise(params, jnp.ones((2, 2)), jnp.array([0.2, 0.5]), jnp.array([0, 3]))
    alone = model.denoise(params, jnp.ones((1, 2)), jnp.array([0.5]), jnp.array([3]))
    np.testing.assert_allclose(out[1:], alone, rtol=1e-5)
    dens, x, key = diffusion.bound_density(model, sampler), jnp.ones((1, 2)), jax.random.key(0)

    def differ(f):
        f = jax.jit(f)
        return np.abs(f(jnp.array([0])) - f(jnp.array([1]))).max() > 1e-3

    assert differ(lambda label: dens.log_prob(params, key, x, label))
    assert differ(lambda label: dens.sample(params, key, label)[0])
    assert differ(lambda label: diffusion.ode_density(model, sampler, 10).log_prob(params, None, x, label))


def test_dropout_acts_with_a_key_alone():
    """And both objectives bring one."""
    net = diffusion.denoising_net(VDMResNet(8, 1, 2, dropout=0.5), (4, 4, 1))
    model = diffusion.denoiser(net, diffusion.fixed(NOISE), (4, 4, 1))
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(
        lambda a: a + 0.3 * jax.random.normal(next(keys), a.shape), model.init(jax.random.key(0))
    )
    x, t = jax.random.normal(jax.random.key(3), (2, 4, 4, 1)), jnp.array([0.3, 0.6])
    predict = jax.jit(model.predict)
    quiet, again = (predict(params, x, t) for _ in range(2))
    np.testing.assert_array_equal(quiet, again)
    one, two = (predict(params, x, t, key=jax.random.key(k)) for k in (1, 2))
    assert (one != quiet).any() and (one != two).any()
    still = model._replace(
        denoise=lambda params, x, t, context=None, key=None: model.denoise(params, x, t, context)
    )
    for objective in (diffusion.vlb_loss, diffusion.denoising):
        assert (
            jax.jit(objective(model))(params, jax.random.key(4), x)[0]
            != jax.jit(objective(still))(params, jax.random.key(4), x)[0]
        )


def test_impossible_models_are_refused():
    net = diffusion.denoising_net(DenoisingMLP((8,)), (2,))
    with pytest.raises(ValueError, match="a target is one of edm, levels, bins, x0"):
        diffusion.denoiser(net, diffusion.fixed(NOISE), (2,), "noise")
    for target, given in (
        ("levels", {}),
        ("edm", {"level_log_prob": np.zeros(3)}),
        ("bins", {}),
        ("x0", {"bins": (0.0, 1.0)}),
    ):
        with pytest.raises(ValueError, match="which needs it; the target is"):
            diffusion.denoiser(net, diffusion.fixed(NOISE), (2,), target, **given)
    model, params = random_model(dim=2)
    with pytest.raises(ValueError, match="at least two levels, got 1"):
        diffusion.bound_density(model, sampler, 1)
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 2"):
        diffusion.drop_labels(diffusion.vlb_loss(model), 10, 2.0)
    with pytest.raises(ValueError, match="got x alone"):
        diffusion.drop_labels(diffusion.vlb_loss(model), 10, 0.1)(params, jax.random.key(0), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="steers to a label"):
        diffusion.guided(model, 3, 1.0).denoise(params, jnp.ones((2, 2)), 0.5)


def test_ode_weights_of_integer_levels_average_to_their_probabilities():
    """E exp(log weight) is the probability of a level, each of three within 4.5 standard errors: false alarms 2e-5."""
    weights = np.array([0.2, 0.5, 0.3])
    law = exact.mixture(weights, np.array([[-1.0], [0.0], [1.0]]), np.full((3, 1, 1), 1e-8))
    model = perfect(law, noise=schedules.linear_log_snr(-8.0, 4.0))
    model = model._replace(
        process=lambda params: schedules.linear_log_snr(-8.0, 4.0),
        denoise=lambda params, x, t, context=None, key=None: exact.denoiser(
            law, schedules.linear_log_snr(-8.0, 4.0), x, t
        ),
    )
    dens = diffusion.ode_density(model, sampler, 60, levels=3)
    assert dens.kind == "weight"
    x = jnp.array([[0.0], [1.0], [2.0]])
    log_w = jax.jit(lambda key: dens.log_prob({}, key, jnp.tile(x, (4000, 1))))(jax.random.key(0))
    draws = np.exp(np.asarray(log_w, np.float64)).reshape(4000, 3)
    error = draws.std(0) / np.sqrt(4000)
    assert (np.abs(draws.mean(0) - weights) < 4.5 * error + 2e-3).all() and (error < 0.02).all()


def test_a_random_probe_estimates_the_log_density_without_bias():
    """1000 probes in two dimensions against the exact trace, four standard errors; its exponential is no weight."""
    model, params = random_model(dim=2)
    x = jnp.array([[0.3, -1.2]])
    exact_trace = diffusion.ode_density(model, sampler, 20)
    truth = jax.jit(lambda x: exact_trace.log_prob(params, None, x))(x)
    guess = diffusion.ode_density(model, sampler, 20, hutchinson=True)
    assert guess.kind == "bound"
    draws = jax.jit(lambda key: guess.log_prob(params, key, jnp.tile(x, (1000, 1))))(jax.random.key(0))
    assert draws.std() > 1e-3
    of_levels = diffusion.ode_density(model, sampler, 20, levels=8, hutchinson=True)
    eight, wide = (
        of_levels.log_prob(params, jax.random.key(0), jnp.tile(jnp.array([[3, 5]], t), (8, 1)))
        for t in ("uint8", "int32")
    )
    np.testing.assert_array_equal(eight, wide)
    assert abs(draws.mean() - truth[0]) < 4 * draws.std() / np.sqrt(1000)


def test_guidance_steers_with_the_label_that_stands_for_none():
    model, params = random_model(dim=2, classes=3)
    x, t, labels = jnp.ones((2, 2)), jnp.array([0.2, 0.5]), jnp.array([0, 2])
    conditional, free = model.denoise(params, x, t, labels), model.denoise(params, x, t, jnp.array([3, 3]))
    steered = diffusion.guided(model, 3, 2.0).denoise(params, x, t, labels)
    np.testing.assert_allclose(steered, 3 * conditional - 2 * free, rtol=1e-5)
    assert np.abs(conditional - free).max() > 1e-3
