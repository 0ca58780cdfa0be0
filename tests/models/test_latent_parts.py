"""Priors and posteriors of the grid beyond N(0, I): each against an explicit formula, a numerical integral or an exact model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from dlvm_jax import nets
from dlvm_jax.exact import linear_gaussian
from dlvm_jax.functional import bounds, densities
from dlvm_jax.models import (
    curved,
    density,
    flow_densities,
    gaussian,
    implicit,
    joint,
    objectives,
    vamp,
)
from dlvm_jax.models.vae import vae
from tests.models.test_vae import exact_posterior, linear_decoder, small_parts

RNG = np.random.RandomState(0)


def moved(params, key=1, scale=0.3):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(key), len(leaves))
    return jax.tree.unflatten(
        tree, [x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


def test_learned_normal_and_mixture_equal_scipy():
    """float32 against double precision."""
    z = RNG.randn(20, 3).astype(np.float32)
    one = gaussian.learned_normal(3)
    params = moved(one.init(jax.random.key(0)))
    law = scipy.stats.norm(params["mean"], np.exp(params["log_std"]))
    np.testing.assert_allclose(one.log_prob(params, None, z), law.logpdf(z).sum(-1), rtol=1e-5, atol=1e-5)
    many = gaussian.mixture(3, 4)
    params = moved(many.init(jax.random.key(0)))
    each = scipy.stats.norm.logpdf(z[:, None], params["mean"], np.exp(params["log_std"])).sum(-1)
    truth = scipy.special.logsumexp(each + scipy.special.log_softmax(params["logits"]), axis=-1)
    np.testing.assert_allclose(many.log_prob(params, None, z), truth, rtol=1e-5, atol=1e-5)
    draws, log_prob = jax.jit(lambda params: many.sample(params, jax.random.key(2), shape=(100_000,)))(params)
    again = jax.jit(lambda params, z: many.log_prob(params, None, z))(params, draws)
    np.testing.assert_allclose(log_prob, again, rtol=1e-6)  # the same sums, compiled in another company
    error = np.asarray(draws).std(0) / np.sqrt(100_000)
    assert (np.abs(draws.mean(0) - many.mean(params)) < 5 * error).all()  # false alarm 2e-6


def test_full_normal_equals_scipy_and_starts_as_the_unit_gaussian():
    raw_params = RNG.randn(5, gaussian.triangle_size(3)).astype(np.float32)
    full = gaussian.full_normal(density.Net(lambda key: {}, lambda params, x: x), 3)
    z, log_prob = full.sample({}, jax.random.key(0), raw_params)
    for n in range(5):
        lower = np.zeros((3, 3))
        lower[np.tril_indices(3)] = raw_params[n, 3:]
        np.fill_diagonal(lower, np.exp(np.diag(lower)))
        truth = scipy.stats.multivariate_normal.logpdf(z[n], raw_params[n, :3], lower @ lower.T)
        assert float(log_prob[n]) == pytest.approx(truth, rel=1e-4)
    start = full.log_prob({}, None, jnp.ones((1, 3)), jnp.zeros((1, 9)))
    assert float(start[0]) == pytest.approx(-1.5 - 1.5 * np.log(2 * np.pi), rel=1e-6)


@pytest.mark.parametrize("name", [*flow_densities.FLOWS, "wrapped-normal"])
def test_a_mean_that_is_claimed_is_that_of_the_samples(name):
    """Only a linear flow knows its mean; five standard errors, false alarm 1e-6."""
    net = density.Net(lambda key: {}, lambda params, x: x)
    if name == "wrapped-normal":
        q, context = curved.wrapped_normal(net, 2, 1.0), jnp.full((1, 2, 2), 0.5)
    else:
        flow = flow_densities.FLOWS[name](2, 2)
        q = flow_densities.flow_posterior(net, flow, 2)
        raw_params = np.random.RandomState(0).randn(1, flow_densities.outputs_needed(flow, 2))
        context = jnp.asarray(5 * raw_params, jnp.float32).at[:, 2:4].set(1.0)  # wide
    assert (q.mean is not None) == (name == "householder")
    if q.mean is not None:
        z = np.asarray(q.sample({}, jax.random.key(0), context, (50_000,))[0])
        assert (np.abs(z.mean(0) - q.mean({}, context)) < 5 * z.std(0) / np.sqrt(len(z))).all()


@pytest.mark.parametrize("gaussian_posterior", [True, False])
def test_vamp_prior_is_the_explicit_mixture_of_posteriors(gaussian_posterior):
    """By the matrix products of Gaussians and by any posterior's own density; clipped at the ends of the data's range."""
    _, posterior, _ = small_parts()
    if not gaussian_posterior:
        posterior = posterior._replace(normal=None)
    inputs = RNG.rand(5, 4).astype(np.float32)
    params = moved(posterior.init(jax.random.key(0)))
    fixed = vamp.vamp(posterior, inputs, train=False)
    assert fixed.init(jax.random.key(1)) == {}
    z = RNG.randn(7, 2).astype(np.float32)
    one = jax.jit(lambda u: posterior.log_prob(params, None, z, jnp.broadcast_to(u, (7, 4))))
    each = np.stack([one(u) for u in inputs])
    truth = scipy.special.logsumexp(each, axis=0) - np.log(5)
    np.testing.assert_allclose(fixed.log_prob({"posterior": params}, None, z), truth, rtol=1e-5, atol=1e-5)
    trained = vamp.vamp(posterior, 255 * np.clip(inputs, 0.1, 0.9), scale=255.0)
    start = trained.init(jax.random.key(1))
    np.testing.assert_allclose(
        255 * jax.nn.sigmoid(start["pseudo_inputs"]), 255 * np.clip(inputs, 0.1, 0.9), rtol=1e-5
    )
    kept, same = (
        vamp.vamp(posterior, 2 * np.clip(inputs, 0.1, 0.9), scale=2.0, train=t) for t in (True, False)
    )
    shared = {**kept.init(jax.random.key(1)), "posterior": params}
    np.testing.assert_allclose(kept.log_prob(shared, None, z), same.log_prob(shared, None, z), rtol=1e-4)
    ends = vamp.vamp(posterior, np.eye(3, 4)).init(jax.random.key(1))
    np.testing.assert_allclose(
        jax.nn.sigmoid(ends["pseudo_inputs"]), np.clip(np.eye(3, 4), 0.02, 0.98), rtol=1e-5
    )
    log_density = jax.jit(lambda z: fixed.log_prob({"posterior": params}, None, z))
    draws, log_prob = jax.jit(lambda key: fixed.sample({"posterior": params}, key, shape=(50_000,)))(
        jax.random.key(2)
    )
    np.testing.assert_allclose(log_prob, log_density(draws), rtol=1e-5, atol=1e-5)
    means = posterior.mean(params, inputs)
    error = np.asarray(draws).std(0) / np.sqrt(50_000)
    assert (np.abs(draws.mean(0) - means.mean(0)) < 5 * error).all()  # false alarm 1e-6


def test_vamp_prior_trains_the_posterior_through_the_tie():
    """The gradient of log p(z) in the posterior's parameters is that of the explicit mixture, and none is lost."""
    _, posterior, _ = small_parts()
    prior = vamp.vamp(posterior, RNG.rand(3, 4))
    params = {"prior": prior.init(jax.random.key(0)), "posterior": posterior.init(jax.random.key(1))}
    z = jnp.ones((1, 2))
    slope = jax.jit(jax.grad(lambda p: prior.log_prob(prior.share(p["prior"], p["posterior"]), None, z)[0]))
    gradient = slope(params)
    for leaf in jax.tree.leaves(gradient):
        assert (leaf != 0).any()
    with pytest.raises(ValueError, match="at least one pseudo-input"):
        vamp.vamp(posterior, np.zeros((0, 4)))


def test_two_layers_of_a_linear_model_have_its_evidence():
    """p(z2) p(z1|z2) p(x|z1) with the exact posterior q(z1|x) q(z2|z1): every log-weight is the evidence.

    The vector is [z2, z1]; the posterior, which draws z1 first, is swapped.  float32.
    """
    top = linear_gaussian.LinearGaussian(
        *(jnp.asarray(a, jnp.float32) for a in (RNG.randn(3, 2), np.zeros(3), -0.2))
    )
    low = linear_gaussian.LinearGaussian(
        *(jnp.asarray(a, jnp.float32) for a in (RNG.randn(6, 3), RNG.randn(6), -0.4))
    )
    covariance = np.asarray(top.w @ top.w.T + jnp.exp(2 * top.log_std) * jnp.eye(3))
    white = linear_gaussian.LinearGaussian(low.w @ jnp.linalg.cholesky(covariance), low.mean, low.log_std)
    root = jnp.linalg.cholesky(covariance)

    def below(x):  # q(z1 | x) under the marginal N(0, covariance) of z1
        mean, tril = linear_gaussian.posterior(white, x)
        return mean @ root.T, root @ tril

    def sample(params, key, context=None, shape=()):
        z = densities.multivariate_normal_sample(key, *below(context), shape)
        return z, densities.multivariate_normal_log_prob(z, *below(context))

    def log_prob(params, key, z, context=None):
        return densities.multivariate_normal_log_prob(z, *below(context))

    q1 = density.Density(lambda key: {}, sample, log_prob, "exact")
    posterior = joint.reorder(joint.joint(q1, exact_posterior(top), 3, markov=True), 3)
    prior = joint.joint(density.standard_normal(2), linear_decoder(top), 2)
    decoder = linear_decoder(low)
    decoder = decoder._replace(
        log_prob=lambda params, key, x, z: linear_decoder(low).log_prob(params, key, x, z[..., 2:])
    )
    model = vae(prior, posterior, decoder)
    x, _ = linear_gaussian.sample(white, jax.random.key(0), (20,))
    params = model.init(jax.random.key(1))
    value = jax.jit(model.log_prob)(params, jax.random.key(2), x)
    np.testing.assert_allclose(value, linear_gaussian.log_evidence(white, x), atol=2e-4)
    z, log_q = jax.jit(posterior.sample)(params["posterior"], jax.random.key(3), x)
    again = jax.jit(posterior.log_prob)(params["posterior"], None, z, x)
    np.testing.assert_allclose(log_q, again, rtol=1e-4, atol=1e-4)


def test_joint_kind_is_the_weaker_and_its_mean_goes_through():
    prior, posterior, _ = small_parts()
    weak = posterior._replace(kind="bound")
    assert joint.joint(prior, weak, 2).kind == "bound"
    doubled = density.Net(lambda key: {}, lambda params, z: jnp.stack([2 * z, z], -1))
    both = joint.joint(gaussian.learned_normal(2), density.conditional(doubled, density.normal(), (2,)), 2)
    params = moved(both.init(jax.random.key(0)))
    mean = params["first"]["mean"]
    np.testing.assert_array_equal(both.mean(params), jnp.concatenate([mean, 2 * mean]))
    turned = joint.reorder(both, 2)
    np.testing.assert_array_equal(turned.mean(params), jnp.concatenate([2 * mean, mean]))
    draw, there = turned.sample(params, jax.random.key(1)), both.sample(params, jax.random.key(1))
    np.testing.assert_array_equal(draw[0], jnp.concatenate([there[0][2:], there[0][:2]]))
    assert draw[1] == there[1] == turned.log_prob(params, None, draw[0])


def test_a_posterior_whose_samples_lose_part_of_the_gradient_is_refused():
    """The logits of a mixture get none: by the samples' mean, which they move."""
    prior, posterior, decoder = small_parts()
    mixed = gaussian.mixture(2, 3)
    params = moved(mixed.init(jax.random.key(0)))
    gradient = jax.grad(lambda p: mixed.sample(p, jax.random.key(1), shape=(9,))[0].sum())(params)
    assert (gradient["logits"] == 0).all() and (gradient["mean"] != 0).any()
    for part in (
        mixed,
        joint.joint(posterior, mixed, 2),
        joint.joint(mixed, posterior, 2),
    ):
        with pytest.raises(ValueError, match="samples carry no gradient of its parameters"):
            vae(prior, part, decoder)


def test_implicit_prior_bounds_its_normalised_density_and_samples_it():
    """T(z) = a z: p = N(a, 1) exactly, Z = exp(a^2 / 2).  The mean log_prob is below it and above it less Z - 1 - log Z."""
    a = 0.7
    prior = implicit.implicit_prior(density.Net(lambda key: {}, lambda params, z: a * z[..., 0]), 1)
    assert prior.kind == "bound"
    z = jnp.linspace(-2, 3, 11)[:, None]
    keys = jax.random.split(jax.random.key(0), 4000)
    values = jax.jit(jax.vmap(lambda key: prior.log_prob({}, key, z)))(keys)
    truth = scipy.stats.norm.logpdf(np.asarray(z)[:, 0], a)
    normaliser = np.exp(a**2 / 2)
    error = values.std(0) / np.sqrt(4000)
    slack = normaliser - 1 - a**2 / 2
    np.testing.assert_allclose(values.mean(0), truth - slack, atol=5 * float(error.max()) + 1e-5)
    draws, log_prob = jax.jit(lambda key: prior.sample({}, key, shape=(40_000,)))(jax.random.key(1))
    assert log_prob is None
    # resampling of 256 proposals: bias of order Var(w) / 256 = .003 of a standard deviation
    assert abs(float(draws.mean()) - a) < 5 / 200 + 0.01 and abs(float(draws.std()) - 1) < 0.03


def test_implicit_prior_learns_the_density_ratio():
    """Posterior held at N(1, 1) whatever x: the ratio's discriminator, linear, finds T(z) = z - 1/2."""
    net = density.Net(lambda key: jnp.zeros(2), lambda t, z: t[0] * z[..., 0] + t[1])
    posterior = density.conditional(
        density.Net(lambda key: {}, lambda params, x: jnp.stack([jnp.ones_like(x), jnp.zeros_like(x)], -1)),
        density.normal(),
        (1,),
    )
    decoder = density.conditional(
        density.Net(lambda key: {}, lambda params, z: jnp.zeros((*z.shape[:-1], 1, 1))),
        density.bernoulli(),
        (1,),
    )
    prior = implicit.implicit_prior(net, 1)
    objective = implicit.implicit_prior_objective(net, prior, posterior, decoder)
    params = vae(prior, posterior, decoder).init(jax.random.key(0))
    x = jnp.zeros((20_000, 1))

    @jax.jit
    def step(t, key):
        return t - 0.5 * jax.grad(lambda t: objective({**params, "prior": t}, key, x)[0])(t)

    t = params["prior"]
    for key in jax.random.split(jax.random.key(1), 200):
        t = step(t, key)
    np.testing.assert_allclose(t, [1.0, -0.5], atol=0.05)  # 20,000 draws a step: noise of about .01
    loss, found = jax.jit(objective)({**params, "prior": t}, jax.random.key(2), x)
    assert float(loss) == pytest.approx(float(found["discriminator"] - found["bound"]), rel=1e-6)


def test_adversarial_autoencoder_holds_what_is_not_its_own():
    """The encoder sees reconstruction and generator only, the discriminator its own loss only."""
    net = density.Net(lambda key: jnp.ones(2), lambda t, z: z @ t)
    parts = small_parts()
    with pytest.raises(ValueError, match="carry no gradient"):
        implicit.adversarial_autoencoder(net, parts[0], parts[1]._replace(reparameterised=False), parts[2])
    init, objective = implicit.adversarial_autoencoder(net, *parts, weight=2.0)
    params = init(jax.random.key(0))
    x = jnp.ones((5, 4))
    gradient = jax.jit(jax.grad(lambda p: objective(p, jax.random.key(1), x)[0]))(params)
    loss, found = implicit.adversarial_autoencoder(net, *parts)[1](params, jax.random.key(1), x)
    terms = found["discriminator"] + found["generator"] - found["reconstruction"]
    np.testing.assert_allclose(loss, terms, rtol=1e-5)
    assert set(found) == {"reconstruction", "generator", "discriminator"}

    def alone(name):
        return jax.jit(jax.grad(lambda p: objective(p, jax.random.key(1), x)[1][name]))(params)

    own = alone("discriminator")["discriminator"]
    np.testing.assert_allclose(gradient["discriminator"], own, rtol=1e-5)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(alone("discriminator")["posterior"]))
    expected = jax.tree.map(
        lambda fooled, lik: 2.0 * fooled - lik,
        alone("generator")["posterior"],
        alone("reconstruction")["posterior"],
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient["posterior"], expected
    )


def test_a_shared_scale_is_one_trained_number_for_every_element():
    net = density.Net(lambda key: {}, lambda params, z: jnp.broadcast_to(z[..., None], (*z.shape, 1)))
    shared = density.with_shared_scale(net)
    params = {"net": {}, "shared": jnp.array([0.3])}
    out = shared.apply(params, jnp.arange(4.0)[None])
    np.testing.assert_allclose(out, np.stack([np.arange(4.0), np.full(4, 0.3)], -1)[None], rtol=1e-6)
    assert jax.tree.map(jnp.shape, shared.init(jax.random.key(0))) == {"net": {}, "shared": (1,)}


@pytest.mark.parametrize("connect", ["residual", "dense"])
def test_connections_of_a_network_equal_the_explicit_computation(connect):
    """Widths 5 and 5 on an input of 3 numbers: a residual network projects where the width changes, in its first layer."""
    net = nets.MLP((5, 5), (2,), connect=connect)
    x = RNG.randn(7, 3).astype(np.float32)
    params = moved(net.init(jax.random.key(0), x))
    own = params["params"]

    def layer(p, x):
        return x @ p["kernel"] + p.get("bias", 0)

    first = np.maximum(layer(own["Dense_0"], x), 0)
    if connect == "residual":
        first = first + layer(own["Dense_1"], x)
        last = first + np.maximum(layer(own["Dense_2"], first), 0)
    else:
        first = np.concatenate([x, first], -1)
        last = np.concatenate([first, np.maximum(layer(own["Dense_1"], first), 0)], -1)
    np.testing.assert_allclose(
        net.apply(params, x), layer(own["Head_0"]["Dense_0"], last), rtol=1e-5, atol=1e-5
    )


def test_warm_up_grows_linearly_and_validation_uses_the_final_weight():
    objective = objectives.warm_up(
        lambda beta: lambda params, key, batch, step=None: (beta * 1.0, {}), 4.0, 10
    )
    assert [float(objective(None, None, None, step=s)[0]) for s in (0, 5, 10, 20)] == [0.0, 2.0, 4.0, 4.0]
    assert float(objective(None, None, None)[0]) == 4.0
    raw = objectives.preprocessed(objective, lambda key, x: x)
    key, x = jax.random.key(0), jnp.zeros((2, 1))
    assert (float(raw(None, key, x)[0]), float(raw(None, key, x, step=5)[0])) == (4.0, 2.0)
    with pytest.raises(ValueError, match="a warm-up takes at least one step, got 0"):
        objectives.warm_up(lambda beta: objective, 4.0, 0)


def test_importance_weights_are_refused_under_an_implicit_prior():
    _, posterior, decoder = small_parts()
    prior = implicit.implicit_prior(density.Net(lambda key: {}, lambda params, z: z[..., 0]), 2)
    with pytest.raises(ValueError, match="importance-weighted bound needs a density of kind exact or weight"):
        objectives.importance_weighted(vae(prior, posterior, decoder), 5)


def test_evidence_of_a_vae_with_a_mixture_prior_equals_quadrature():
    """One latent unit, four bits; 50,000 draws, five standard errors."""
    _, posterior, decoder = small_parts(latent=1)
    prior = gaussian.mixture(1, 3)
    model = vae(prior, posterior, decoder)
    params = moved(model.init(jax.random.key(0)))
    x = (jax.random.uniform(jax.random.key(1), (6, 4)) < 0.5).astype(float)
    z = jnp.linspace(-10, 10, 2001)[:, None]
    log_prior = jax.jit(lambda z: prior.log_prob(params["prior"], None, z))(z)
    log_lik = jax.jit(jax.vmap(lambda x: decoder.log_prob(params["decoder"], None, x[None], z)))(x)
    truth = jax.nn.logsumexp(log_lik + log_prior, axis=-1) + np.log(0.01)
    estimate = bounds.evidence(jax.jit(objectives.log_weights(model, 50_000))(params, jax.random.key(2), x))
    assert (np.abs(estimate.log_evidence - truth) < 5 * estimate.standard_error + 1e-4).all()
