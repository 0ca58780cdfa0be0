"""The Density interface and the VAE built from it, on models whose evidence is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import nets
from dlvm_jax.exact import linear_gaussian
from dlvm_jax.functional import bounds, densities
from dlvm_jax.models import density, gaussian, objectives, regularised, spaces
from dlvm_jax.models.vae import dreg, vae

RNG = np.random.RandomState(0)
MODEL = linear_gaussian.LinearGaussian(
    *(jnp.asarray(a, jnp.float32) for a in (RNG.randn(6, 3), RNG.randn(6), -0.4))
)


def linear_decoder(model):
    """p(x | z) = N(W z + mu, sigma^2) as a Density without parameters."""

    def outputs(params, z):
        mean = z @ model.w.T + model.mean
        return jnp.stack([mean, jnp.broadcast_to(model.log_std, mean.shape)], -1)

    return density.conditional(density.Net(lambda key: {}, outputs), density.normal(), model.mean.shape)


def exact_posterior(model, spread=1.0):
    """p(z | x) of the linear-Gaussian model, its covariance scaled by `spread`."""

    def law(x):
        mean, tril = linear_gaussian.posterior(model, x)
        return mean, tril * jnp.sqrt(spread)

    def sample(params, key, context=None, shape=()):
        z = densities.multivariate_normal_sample(key, *law(context), shape)
        return z, densities.multivariate_normal_log_prob(z, *law(context))

    def log_prob(params, key, z, context=None):
        return densities.multivariate_normal_log_prob(z, *law(context))

    return density.Density(lambda key: {}, sample, log_prob, "exact")


def small_parts(latent=2, event=(4,), hidden=(8,)):
    encoder = density.from_linen(nets.MLP(hidden, (latent, 2), len(event)), (1, *event))
    decoder = density.from_linen(nets.MLP(hidden, (*event, 1)), (1, latent))
    return (
        density.standard_normal(latent),
        density.conditional(encoder, density.normal(), (latent,)),
        density.conditional(decoder, density.bernoulli(), event),
    )


def test_vae_with_the_exact_posterior_returns_the_evidence():
    """To float32 rounding of sums of about 10 nats."""
    model = vae(density.standard_normal(3), exact_posterior(MODEL), linear_decoder(MODEL))
    assert model.kind == "weight"
    x, _ = linear_gaussian.sample(MODEL, jax.random.key(0), (50,))
    log_prob = model.log_prob(model.init(jax.random.key(1)), jax.random.key(2), x)
    np.testing.assert_allclose(log_prob, linear_gaussian.log_evidence(MODEL, x), atol=1e-4)


def test_vae_samples_have_the_marginal_covariance():
    """Within six standard errors of each entry."""
    model = vae(density.standard_normal(3), exact_posterior(MODEL), linear_decoder(MODEL))
    params = model.init(jax.random.key(0))
    x, _ = model.sample(params, jax.random.key(1), shape=(100_000,))
    expected = np.asarray(MODEL.w @ MODEL.w.T) + np.exp(2 * float(MODEL.log_std)) * np.eye(6)
    scale = np.sqrt(2 * np.outer(np.diag(expected), np.diag(expected)) / 100_000)
    assert (np.abs(np.cov(np.asarray(x).T) - expected) < 6 * scale).all()


def test_vae_as_the_prior_of_another_vae():
    """Two-level linear hierarchy: z2 -> z1 -> x.  Its evidence is that of one linear-Gaussian model; five standard errors."""
    top = linear_gaussian.LinearGaussian(
        *(jnp.asarray(a, jnp.float32) for a in (RNG.randn(3, 2), np.zeros(3), -0.2))
    )
    inner = vae(density.standard_normal(2), exact_posterior(top, 1.5), linear_decoder(top))
    outer = vae(inner, exact_posterior(MODEL), linear_decoder(MODEL))
    assert inner.kind == outer.kind == "weight"
    params = outer.init(jax.random.key(0))
    covariance = MODEL.w @ (top.w @ top.w.T + jnp.exp(-0.4) * jnp.eye(3)) @ MODEL.w.T
    tril = jnp.linalg.cholesky(covariance + jnp.exp(2 * MODEL.log_std) * jnp.eye(6))
    x = densities.multivariate_normal_sample(jax.random.key(1), MODEL.mean, tril, (8,))
    truth = densities.multivariate_normal_log_prob(x, MODEL.mean, tril)
    log_w = jax.jit(objectives.log_weights(outer, 50_000))(params, jax.random.key(2), x)
    estimate = bounds.evidence(log_w)
    assert (np.abs(estimate.log_evidence - truth) < 5 * estimate.standard_error).all()
    single = log_w.mean(0)
    assert (single < truth).all()
    assert outer.sample(params, jax.random.key(3), shape=(4,))[0].shape == (4, 6)


def test_analytic_and_sampled_kl_agree_in_expectation():
    """Same reconstruction draws; the KL differs by zero-mean noise: five standard errors."""
    parts = small_parts()
    sampled, analytic = vae(*parts), vae(*parts, kl="analytic")
    assert (sampled.kind, analytic.kind) == ("weight", "bound")
    params = sampled.init(jax.random.key(0))
    x = (jax.random.uniform(jax.random.key(1), (3, 4)) < 0.5).astype(float)
    keys = jax.random.split(jax.random.key(2), 20_000)
    terms = jax.vmap(lambda k: sampled.terms(params, k, x))(keys)
    exact = analytic.terms(params, keys[0], x)["kl"]
    error = terms["kl"].std(0) / np.sqrt(len(keys))
    assert (np.abs(terms["kl"].mean(0) - exact) <= 5 * error).all()


def test_a_random_posterior_is_refused():
    prior, posterior, decoder = small_parts()
    inner = vae(density.standard_normal(2), *small_parts(2, (2,))[1:])
    with pytest.raises(ValueError, match="a posterior needs a density of kind exact, got kind 'weight'"):
        vae(prior, inner, decoder)
    with pytest.raises(ValueError, match="kind is one of exact, weight, bound, got 'nearly'"):
        vae(prior._replace(kind="nearly"), posterior, decoder)


def test_a_discrete_posterior_is_refused():
    prior, _, decoder = small_parts()
    encoder = density.from_linen(nets.MLP((8,), (2, 1)), (1, 4))
    with pytest.raises(ValueError, match="samples carry no gradient of its parameters"):
        vae(prior, density.conditional(encoder, density.bernoulli(), (2,)), decoder)


def test_shapes_that_would_broadcast_into_a_wrong_likelihood_are_refused():
    _, posterior, decoder = small_parts()
    model = vae(density.standard_normal(8), posterior, decoder)
    params = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"vectors of 8 numbers, got an array of shape \(3, 2\)"):
        model.log_prob(params, jax.random.key(1), jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"events of shape \(4,\), got an array of shape \(3, 1\)"):
        decoder.log_prob(params["decoder"], None, jnp.zeros((3, 1)), jnp.zeros((3, 2)))
    analytic = vae(density.standard_normal(1), posterior, decoder, kl="analytic")
    free = regularised.free_bits(density.standard_normal(1), posterior, decoder, nats=0.1)
    for loss in (analytic.log_prob, lambda *arguments: free(*arguments)):
        with pytest.raises(ValueError, match=r"vectors of 1 numbers, got an array of shape \(3, 2\)"):
            loss(analytic.init(jax.random.key(0)), jax.random.key(1), jnp.zeros((3, 4)))
    wide = density.conditional(density.Net(lambda key: {}, lambda p, z: z), density.bernoulli(), (1,))
    with pytest.raises(ValueError, match=r"puts out \[\*batch, 1, 1\].*got an array of shape \(3, 2, 1\)"):
        wide.log_prob({}, None, jnp.zeros((3, 1)), jnp.zeros((3, 2, 1)))
    narrow = gaussian.full_normal(density.Net(lambda key: {}, lambda p, x: x), 3)
    with pytest.raises(ValueError, match=r"vectors of 9 numbers, got an array of shape \(5, 4\)"):
        narrow.log_prob({}, None, jnp.zeros((5, 3)), jnp.zeros((5, 4)))


@pytest.mark.parametrize("shape", [(), (7,), (7, 6)])
def test_a_vae_as_the_decoder_of_another_samples_any_shape(shape):
    """The inner VAE of x in R^4 is conditional on the outer latent in R^3."""
    net = lambda inputs, out: density.from_linen(nets.MLP((8,), out), inputs)
    inner = vae(
        density.standard_normal(2),
        density.conditional(net(((1, 4), (1, 3)), (2, 2)), density.normal(), (2,)),
        density.conditional(net(((1, 2), (1, 3)), (4, 1)), density.bernoulli(), (4,)),
    )
    posterior = density.conditional(net((1, 4), (3, 2)), density.normal(), (3,))
    outer = vae(density.standard_normal(3), posterior, inner)
    params = outer.init(jax.random.key(0))
    x, _ = outer.sample(params, jax.random.key(1), shape=shape)
    assert x.shape == (*shape, 4)
    assert outer.log_prob(params, jax.random.key(2), x.reshape(-1, 4)).shape == (int(np.prod(shape)),)


def test_importance_weights_of_a_bound_are_refused():
    parts = small_parts()
    loose = vae(*parts, kl="analytic")
    for make in (
        lambda: objectives.importance_weighted(loose, 5),
        lambda: objectives.log_weights(loose, 1),
        lambda: dreg(parts[0]._replace(kind="bound"), *parts[1:], samples=5),
        lambda: objectives.importance_weighted(
            vae(loose._replace(terms=None, space=spaces.REALS), *small_parts(4, (5,))[1:]), 5
        ),
    ):
        with pytest.raises(ValueError, match=r"importance-weighted bound needs .* got kind 'bound'"):
            make()


@pytest.mark.parametrize("prior, decoder, kl, expected", [
    ("exact", "exact", "sampled", "weight"),
    ("weight", "exact", "sampled", "weight"),
    ("exact", "weight", "sampled", "weight"),
    ("bound", "exact", "sampled", "bound"),
    ("exact", "bound", "sampled", "bound"),
    ("exact", "exact", "analytic", "bound"),
])  # fmt: skip
def test_kind_of_the_result(prior, decoder, kl, expected):
    parts = small_parts()
    assert (
        vae(parts[0]._replace(kind=prior), parts[1], parts[2]._replace(kind=decoder), kl=kl).kind == expected
    )


def test_impossible_settings_are_refused():
    parts = small_parts()
    with pytest.raises(ValueError, match="'sampled' or 'analytic', got 'exact'"):
        vae(*parts, kl="exact")
    with pytest.raises(ValueError, match="analytic KL needs a Gaussian prior"):
        vae(parts[0]._replace(normal=None), *parts[1:], kl="analytic")
    with pytest.raises(ValueError, match="positive integer dimension, got 0"):
        density.standard_normal(0)
    with pytest.raises(ValueError, match="at least one sample, got 0"):
        objectives.importance_weighted(vae(*parts), 0)
    with pytest.raises(ValueError, match="at least one sample, got 0"):
        dreg(*parts, samples=0)
    with pytest.raises(ValueError, match="positive standard deviation"):
        density.fixed_normal(0.0)
    with pytest.raises(ValueError, match="no terms; use negative_log_likelihood"):
        objectives.negative_elbo(parts[0])


DISTRIBUTIONS = {
    "normal": (density.normal(), 1),
    "fixed_normal": (density.fixed_normal(0.3), 1),
    "bernoulli": (density.bernoulli(), 2),
    "categorical": (density.categorical(5), 5),
    "discretised_logistic": (density.discretised_logistic(5), 5),
    "discretised_normal": (density.discretised_normal(5), 5),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_conditional_density_of_every_distribution(name):
    """Sample's log-density is that of `log_prob`; mean near the sample mean where the mean is exact; image-shaped events."""
    distribution, levels = DISTRIBUTIONS[name]
    event = (2, 3, 1)
    net = density.from_linen(nets.MLP((7,), (*event, distribution.width)), (1, 4))
    part = density.conditional(net, distribution, event)
    params, context = part.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (6, 4))
    x, log_prob = part.sample(params, jax.random.key(2), context, (5000,))
    assert x.shape == (5000, 6, *event) and log_prob.shape == (5000, 6)
    np.testing.assert_allclose(part.log_prob(params, None, x, context), log_prob, rtol=1e-5)
    mean = part.mean(params, context)
    assert mean.shape == (6, *event)
    if name in ("normal", "fixed_normal", "bernoulli", "categorical"):
        assert (np.abs(x.mean(0) - mean) < 6 * x.std(0) / np.sqrt(5000) + 1e-6).all()
    if levels > 1:
        assert set(np.unique(x)) <= set(range(levels))


def test_context_reaches_every_part():
    """A conditional VAE: encoder of (x, c), decoder of (z, c); changing c changes the bound and the samples."""
    latent, event, label = 2, (4,), (3,)
    encoder = density.from_linen(nets.MLP((8,), (latent, 2)), ((1, *event), (1, *label)))
    decoder = density.from_linen(nets.MLP((8,), (*event, 1)), ((1, latent), (1, *label)))
    model = vae(
        density.standard_normal(latent),
        density.conditional(encoder, density.normal(), (latent,)),
        density.conditional(decoder, density.bernoulli(), event),
    )
    params = model.init(jax.random.key(0))
    x, context = jnp.ones((5, 4)), jnp.eye(3)[jnp.array([0, 1, 2, 0, 1])]
    values = [model.log_prob(params, jax.random.key(1), x, c) for c in (context, context[::-1])]
    assert values[0].shape == (5,) and not np.allclose(*values)
    assert model.sample(params, jax.random.key(2), context, (7,))[0].shape == (7, 5, 4)
    loss, _ = objectives.negative_elbo(model)(params, jax.random.key(1), (x, context))
    assert np.isfinite(loss)


def test_objectives_of_one_sample_agree():
    """ELBO with a sampled KL, IWAE and DReG with K = 1 are one bound: equal within five standard errors; beta = 1."""
    parts = small_parts()
    model = vae(*parts)
    params = model.init(jax.random.key(0))
    x = (jax.random.uniform(jax.random.key(1), (20, 4)) < 0.5).astype(float)
    made = [
        objectives.negative_elbo(model),
        objectives.importance_weighted(model, 1),
        dreg(*parts, samples=1),
    ]
    keys = jax.random.split(jax.random.key(2), 2000)
    losses = np.array([jax.jit(jax.vmap(lambda k, o=o: o(params, k, x)[0]))(keys) for o in made])
    errors = losses.std(1) / np.sqrt(len(keys))
    assert np.ptp(losses.mean(1)) < 5 * errors.max()
    loss, metrics = jax.jit(objectives.negative_elbo(model, beta=4.0))(params, keys[0], x)
    assert float(loss) == pytest.approx(float(4 * metrics["kl"] - metrics["reconstruction"]), rel=1e-6)
    assert float(metrics["bound"]) == pytest.approx(
        float(metrics["reconstruction"] - metrics["kl"]), rel=1e-6
    )


def test_negative_log_likelihood_is_of_any_density():
    """Minus the mean log-density of one without terms; of a VAE minus its ELBO, with the terms among the metrics."""
    prior, x = density.standard_normal(4), jax.random.normal(jax.random.key(1), (20, 4))
    loss, metrics = objectives.negative_log_likelihood(prior)({}, None, x)
    assert float(loss) == pytest.approx(float((0.5 * x**2).sum(1).mean() + 2 * np.log(2 * np.pi)), rel=1e-6)
    assert metrics == {"bound": -loss}
    model = vae(*small_parts())
    params = model.init(jax.random.key(0))
    both = [
        make(model)(params, jax.random.key(2), (x > 0).astype(float))
        for make in (objectives.negative_log_likelihood, objectives.negative_elbo)
    ]
    assert both[0] == both[1] and {"bound", "reconstruction", "kl"} == set(both[0][1])


@pytest.mark.parametrize("samples", [1, 8])
def test_every_objective_has_a_gradient_in_every_part(samples):
    parts = small_parts()
    model = vae(*parts)
    params = model.init(jax.random.key(0))
    x = (jax.random.uniform(jax.random.key(1), (20, 4)) < 0.5).astype(float)
    for make in (
        objectives.importance_weighted(model, samples),
        dreg(*parts, samples=samples),
        objectives.negative_elbo(model),
    ):
        gradient = jax.jit(jax.grad(lambda p, o=make: o(p, jax.random.key(2), x)[0]))(params)
        for leaf in jax.tree.leaves(gradient):
            assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0
