"""VAEs with latent variables on the circle and on the hyperbolic disk: against the evidence by quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import nets
from dlvm_jax.functional import bounds, densities
from dlvm_jax.models import curved, density, objectives
from dlvm_jax.models.vae import vae

EVENT = 5


def parts(kind, latent=2, event=EVENT):
    """Prior, posterior and decoder with small networks; `latent` is the width of z."""
    decoder = density.from_linen(nets.MLP((8,), (event, 1)), (1, latent))
    decoder = density.conditional(decoder, density.bernoulli(), (event,))
    if kind == "sphere":
        encoder = density.from_linen(nets.MLP((8,), (latent + 1,)), (1, event))
        return curved.uniform_sphere(latent), curved.von_mises_fisher(encoder, latent), decoder
    encoder = density.from_linen(nets.MLP((8,), (latent, 2)), (1, event))
    prior = curved.standard_wrapped_normal(latent, 0.7)
    return prior, curved.wrapped_normal(encoder, latent, 0.7), decoder


def data(count, event=EVENT):
    return (jax.random.uniform(jax.random.key(9), (count, event)) < 0.5).astype(float)


def grid(kind):
    """Points of the latent space and the logarithms of their quadrature weights."""
    turn = 2 * np.pi * np.arange(200) / 200
    circle = np.stack([np.cos(turn), np.sin(turn)], -1)
    if kind == "sphere":
        return circle, np.full(200, np.log(2 * np.pi / 200))
    x, w = np.polynomial.legendre.leggauss(100)
    r, root = 4 * (x + 1), np.sqrt(0.7)
    points = (np.tanh(root * r / 2) / root)[:, None, None] * circle
    weight = 4 * w * np.sinh(root * r) / root * 2 * np.pi / 200
    return points.reshape(-1, 2), np.repeat(np.log(weight), 200)


@pytest.mark.parametrize("kind", ["sphere", "hyperbolic"])
def test_importance_weighted_evidence_equals_quadrature(kind):
    """Five standard errors, false alarm 6e-7 an example."""
    prior, posterior, decoder = parts(kind)
    model = vae(prior, posterior, decoder)
    assert model.kind == "weight"
    params, x = model.init(jax.random.key(0)), data(4)
    z, log_weight = (jnp.asarray(a, jnp.float32) for a in grid(kind))
    every = lambda one: jax.jit(decoder.log_prob)(
        params["decoder"], None, jnp.broadcast_to(one, (len(z), EVENT)), z
    )
    log_lik = jnp.stack([every(one) for one in x])
    log_prior = jax.jit(prior.log_prob)(params["prior"], None, z)
    np.testing.assert_allclose(jax.nn.logsumexp(log_prior + log_weight), 0, atol=1e-5)
    exact = jax.nn.logsumexp(log_lik + log_prior + log_weight, axis=-1)
    log_w = jax.jit(objectives.log_weights(model, 20_000))(params, jax.random.key(1), x)
    estimate = bounds.evidence(log_w)
    assert (np.abs(estimate.log_evidence - exact) < 5 * estimate.standard_error).all()
    assert (log_w.mean(0) < exact).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sphere", "hyperbolic"])
def test_training_terms_and_gradients_are_finite_and_every_part_learns(kind):
    model = vae(*parts(kind, 4))
    params, x = model.init(jax.random.key(0)), data(16)
    objective = objectives.negative_elbo(model)
    (loss, _), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(params, jax.random.key(1), x)
    assert np.isfinite(loss)
    leaves = jax.tree.leaves({name: gradient[name] for name in ("posterior", "decoder")})
    assert all(np.isfinite(g).all() for g in leaves)
    last = [gradient[name]["params"] for name in ("posterior", "decoder")]
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(last))
    samples, _ = model.sample(params, jax.random.key(2), shape=(3,))
    assert samples.shape == (3, EVENT)


@pytest.mark.parametrize("kind", ["sphere", "hyperbolic"])
def test_samples_come_with_their_log_density(kind):
    """The posterior's and the prior's, with a leading shape; float32 points and densities."""
    prior, posterior, _ = parts(kind, 3)
    params = posterior.init(jax.random.key(0))
    z, log_q = jax.jit(lambda params: posterior.sample(params, jax.random.key(1), data(4), (6,)))(params)
    assert z.shape == (6, 4, 3) and log_q.shape == (6, 4)
    again = jax.jit(posterior.log_prob)(params, None, z, data(4))
    np.testing.assert_allclose(again, log_q, rtol=1e-4, atol=1e-4)
    z, log_p = jax.jit(lambda key: prior.sample({}, key, shape=(6,)))(jax.random.key(1))
    assert z.shape == (6, 3)
    np.testing.assert_allclose(jax.jit(prior.log_prob)({}, None, z), log_p, rtol=1e-4, atol=1e-4)
    z, _ = prior.sample({}, jax.random.key(1), data(4), (6,))
    assert z.shape == (6, 4, 3)


def test_mean_of_the_von_mises_fisher_posterior():
    """Five standard errors, false alarm 6e-7 an entry."""
    _, posterior, _ = parts("sphere", 3)
    params = posterior.init(jax.random.key(0))
    draw = jax.jit(lambda params: posterior.sample(params, jax.random.key(1), data(2), (20_000,))[0])
    z = np.asarray(draw(params))
    error = z.std(0) / np.sqrt(len(z))
    assert (np.abs(z.mean(0) - posterior.mean(params, data(2))) < 5 * error).all()


def test_an_untrained_network_of_zeros_is_no_nan():
    net = density.Net(lambda key: jnp.zeros(3), lambda params, x: jnp.broadcast_to(params, (len(x), 3)))
    posterior = curved.von_mises_fisher(net, 2)

    def loss(params):
        z, log_q = posterior.sample(params, jax.random.key(0), jnp.ones((4, 1)))
        return jnp.sum(z) + jnp.sum(log_q)

    assert np.isfinite(jax.jit(jax.grad(loss))(jnp.zeros(3))).all()


def test_the_centre_is_the_exponential_of_the_networks_tangent():
    net = density.Net(lambda key: {}, lambda params, x: jnp.stack([x, jnp.zeros_like(x)], -1))
    tangent, centre = jnp.array([[np.log(3.0), 0.0]]), jnp.array([[0.5, 0.0]])
    log_prob = curved.wrapped_normal(net, 2, 1.0).log_prob({}, None, centre, tangent)
    np.testing.assert_allclose(log_prob, densities.normal_log_prob(jnp.zeros(2), 0.0, 0.0), rtol=1e-6)


def constant_wrapped_normal(dim, curvature, log_std):
    """The wrapped normal around the origin with one log-deviation, its only parameter."""
    net = density.Net(
        lambda key: jnp.float32(log_std),
        lambda params, x: jnp.broadcast_to(jnp.array([0.0, 1.0]) * params, (len(x), dim, 2)),
    )
    return curved.wrapped_normal(net, dim, curvature)


@pytest.mark.parametrize(
    ("dim", "curvature", "log_std"), [(8, 1.0, 0.0), (8, 3.0, 0.0), (2, 4.0, 0.3), (8, 1.0, 0.2)]
)
def test_mean_weight_of_the_prior_is_one(dim, curvature, log_std):
    """E_q[p / q] = 1 up to the largest curvature allowed; five standard errors, false alarm 6e-7; 1e-3 for float32."""
    prior = curved.standard_wrapped_normal(dim, curvature)
    q = constant_wrapped_normal(dim, curvature, log_std)
    draw = jax.jit(lambda params, key: q.sample(params, key, jnp.ones((1, 1)), (100_000,)))
    z, log_q = draw(jnp.float32(log_std), jax.random.key(0))
    weight = np.exp(np.asarray(prior.log_prob({}, None, z) - log_q, np.float64))
    assert abs(weight.mean() - 1) < 5 * weight.std() / np.sqrt(len(weight)) + 1e-3


def test_draws_beyond_float32_have_their_true_weight():
    """A wide posterior, most of whose draws are pulled back, against the weights of its tangents at the origin.

    Where a draw is kept, the posterior's density at the float32 point errs by up to .1 nat, and the prior's by 20 / 7 of it.
    """
    prior, q = curved.standard_wrapped_normal(8, 1.0), constant_wrapped_normal(8, 1.0, 2.0)

    def log_weight(log_std):
        z, log_q = q.sample(log_std, jax.random.key(0), jnp.ones((1, 1)), (2000,))
        return prior.log_prob({}, None, z) - log_q

    tangent = densities.normal_sample(jax.random.key(0), jnp.zeros((1, 8)), 2.0 * jnp.ones((1, 8)), (2000,))
    true = densities.normal_log_prob(tangent, 0.0, 0.0) - densities.normal_log_prob(tangent, 0.0, 2.0)
    assert (jnp.linalg.norm(tangent, axis=-1) > 14).mean() > 0.5
    np.testing.assert_allclose(jax.jit(log_weight)(jnp.float32(2.0)), true, atol=0.5, rtol=1e-5)
    assert np.isfinite(jax.jit(jax.grad(lambda s: log_weight(s).sum()))(jnp.float32(2.0)))


def test_a_hyperbolic_posterior_of_forty_dimensions_has_finite_terms():
    """Centres and deviations of any size within reason: every draw has a weight, and a gradient."""
    prior = curved.standard_wrapped_normal(40, 1.0)
    net = density.Net(lambda key: jnp.zeros(2), lambda params, x: x[..., None] + params)
    q = curved.wrapped_normal(net, 40, 1.0)
    centre = jax.random.normal(jax.random.key(1), (50, 40)) * jnp.linspace(0, 3, 50)[:, None]

    def total(params):
        z, log_q = q.sample(params, jax.random.key(0), centre)
        return jnp.sum(prior.log_prob({}, None, z) - log_q)

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.zeros(2))
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_impossible_spaces_are_refused():
    with pytest.raises(ValueError, match="ambient dimension of at least 2, got 1"):
        curved.uniform_sphere(1)
    with pytest.raises(ValueError, match="positive finite c, got 0"):
        curved.standard_wrapped_normal(2, 0.0)
    with pytest.raises(ValueError, match=r"curvature c of at most 3\.19, or fewer dimensions"):
        curved.standard_wrapped_normal(8, 9.0)
    with pytest.raises(ValueError, match="vectors of 3 numbers"):
        curved.uniform_sphere(3).log_prob({}, None, jnp.ones((5, 2)))
    wide = density.Net(lambda key: {}, lambda params, x: x)
    with pytest.raises(ValueError, match="needs 3 numbers, got 4"):
        curved.von_mises_fisher(wide, 2).mean({}, jnp.ones((1, 4)))
    with pytest.raises(ValueError, match=r"needs \[\*batch, 3, 2\] numbers"):
        curved.wrapped_normal(wide, 3, 1.0).log_prob({}, None, jnp.zeros((1, 3)), jnp.ones((1, 6)))
