"""DRAW against quadrature over its latents, and against the VAE that it is with one glimpse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import nets
from dlvm_jax.exact.discrete import all_binary
from dlvm_jax.functional import attention, bounds, densities
from dlvm_jax.models import density, logistic_mixtures
from dlvm_jax.models.draw import Parts, draw
from dlvm_jax.models.objectives import log_weights, negative_elbo
from dlvm_jax.models.vae import vae
from tests.functional.common import chi_square_p

IMAGES = all_binary(4).reshape(16, 2, 2, 1)


def parts_of(event, distribution, latent, hidden, glimpses, read=None, write=None):
    state, images = ((1, hidden), (1, hidden)), ((1, *event), (1, *event))
    encoder = density.from_linen(nets.DrawEncoder(hidden, (latent, 2), read), state, (1, hidden), *images)
    decoder = density.from_linen(
        nets.DrawDecoder(hidden, (*event, distribution.width), write), state, (1, latent)
    )
    return Parts(encoder, decoder, distribution, event, latent, hidden, glimpses)


def moved(params, scale, seed=3):
    """Parameters with none at its start value."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.RandomState(seed)
    return jax.tree.unflatten(
        tree, [x + jnp.asarray(scale * rng.standard_normal(x.shape), x.dtype) for x in leaves]
    )


@functools.cache
def tiny(attended=True):
    """Two glimpses of one latent number at 2 x 2 bits, parameters, and log p of all 16 images by quadrature."""
    parts = parts_of((2, 2, 1), density.bernoulli(), 1, 4, 2, *((2, 1) if attended else ()))
    start = jax.jit(parts.init)(jax.random.key(0))
    # a posterior nearly as wide as the prior: its weights have a variance
    params = {**moved(start, 1.0), "encoder": moved(start["encoder"], 0.2)}
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    pairs = np.stack(np.meshgrid(nodes, nodes, indexing="ij")).reshape(2, -1, 1)
    canvas = jax.jit(parts.paint)(params, jnp.asarray(pairs, jnp.float32))[-1].reshape(-1, 1, 4)
    log_lik = densities.bernoulli_log_prob(IMAGES.reshape(16, 4), canvas)
    probability = np.outer(weights, weights).ravel() / (2 * np.pi) @ np.exp(np.asarray(log_lik, np.float64))
    return parts, params, np.log(probability)


def test_networks_see_levels_on_the_unit_interval():
    """Of an encoder that adds up the image and what the canvas lacks of it: the canvas starts as the mean, 1.5 of 3."""
    parts = parts_of((2, 2, 1), density.categorical(4), 1, 4, 1)
    params = jax.tree.map(jnp.zeros_like, jax.jit(parts.init)(jax.random.key(0)))

    def seen(params, state, decoder, image, error):
        total = lambda a: a.sum((-3, -2, -1))
        return state, jnp.stack([total(image), total(error)], -1)[..., None, :]

    spy = parts._replace(encoder=parts.encoder._replace(apply=seen))
    _, law, _ = spy.infer(params, None, jnp.array([3.0, 0.0, 2.0, 1.0]).reshape(1, 2, 2, 1))
    np.testing.assert_allclose(law[0, 0, 0], [2.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("attended", [True, False])
def test_importance_weighted_bounds_reach_the_evidence(attended):
    """8000 weights an image, within 5 standard errors of it: false alarms 1e-5 of all 16.  One weight alone lies below."""
    parts, params, exact = tiny(attended)
    assert exact.std() > 0.3 and np.exp(exact).sum() == pytest.approx(1, abs=1e-6)
    model = draw(parts)
    log_w = jax.jit(log_weights(model, 8000))(params, jax.random.key(1), IMAGES)
    estimate = bounds.evidence(log_w)
    assert (np.abs(estimate.log_evidence - exact) < 5 * estimate.standard_error).all()
    assert (estimate.standard_error < 0.2).all() and (log_w.mean(0) < exact).all()


def test_samples_follow_the_evidence():
    """Chi-square of 20,000 draws in 16 cells; false alarm 1e-4."""
    parts, params, exact = tiny()
    x, _ = jax.jit(lambda key: draw(parts).sample(params, key, shape=(4, 5000)))(jax.random.key(2))
    assert x.shape == (4, 5000, 2, 2, 1)
    counts = np.bincount(np.asarray(x).reshape(-1, 4).astype(int) @ [8, 4, 2, 1], minlength=16)
    assert chi_square_p(counts, np.exp(exact)) > 1e-4


def test_rates_are_the_kl_of_each_glimpse():
    """The sampled KL is on average the analytic one, glimpse by glimpse: 5 standard errors of 5000, false alarms 1e-5."""
    parts, params, _ = tiny()
    sampled, analytic = draw(parts), draw(parts, kl="analytic")
    assert (sampled.kind, analytic.kind) == ("weight", "bound")
    keys = jax.random.split(jax.random.key(4), 5000)

    @jax.jit
    def both(keys):
        found = [jax.vmap(lambda k, m=m: m.terms(params, k, IMAGES[5:8]))(keys) for m in (sampled, analytic)]
        return *found, jax.vmap(lambda k: sampled.log_prob(params, k, IMAGES[5:8]))(keys)

    one, other, log_prob = both(keys)
    assert one["rates"].shape == (5000, 3, 2)
    np.testing.assert_array_equal(one["reconstruction"], other["reconstruction"])
    np.testing.assert_array_equal(log_prob, one["reconstruction"] - one["kl"])
    np.testing.assert_allclose(one["rates"].sum(-1), one["kl"], atol=1e-5)
    difference = np.asarray(one["rates"] - other["rates"])
    assert (np.abs(difference.mean(0)) < 5 * difference.std(0) / np.sqrt(5000)).all()
    assert other["rates"].min() > 0 and difference.std() > 0.05


def test_one_glimpse_at_the_whole_image_is_a_vae():
    """Its log-weights are those of the three densities that its networks make, to rounding."""
    parts = parts_of((3, 2, 1), density.bernoulli(), 2, 5, 1)
    params = moved(jax.jit(parts.init)(jax.random.key(0)), 0.5)
    x = (jax.random.uniform(jax.random.key(1), (7, 3, 2, 1)) < 0.5).astype(float)
    start = jax.tree.map(lambda a: jnp.broadcast_to(a, (7, *a.shape)), params["start"])

    def encoder(params, x):
        error = x - jax.nn.sigmoid(start["canvas"][..., 0])
        return parts.encoder.apply(params, start["encoder"], start["decoder"][1], x, error)[1]

    def decoder(params, z):
        return start["canvas"] + parts.decoder.apply(params, start["decoder"], z)[1]

    prior = density.standard_normal(2)
    posterior = density.conditional(density.Net(parts.encoder.init, encoder), density.normal(), (2,))
    likelihood = density.conditional(density.Net(parts.decoder.init, decoder), density.bernoulli(), (3, 2, 1))
    own = {"prior": {}, "posterior": params["encoder"], "decoder": params["decoder"]}

    @jax.jit
    def both(key):
        z, _, _ = parts.infer(params, key, x)
        log_w = prior.log_prob({}, None, z[0]) + likelihood.log_prob(params["decoder"], None, x, z[0])
        log_w -= posterior.log_prob(params["encoder"], None, z[0], x)
        kl = vae(prior, posterior, likelihood, kl="analytic").terms(own, key, x)["kl"]
        terms = draw(parts, kl="analytic").terms(params, key, x)
        return (log_w, kl), (draw(parts).log_prob(params, key, x), terms["kl"])

    expected, found = both(jax.random.key(2))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def lstm(params, state, inputs):
    """One step by the textbook's equations, in NumPy."""
    sigmoid = lambda a: 1 / (1 + np.exp(-a))
    own = {k: (np.asarray(v["kernel"], np.float64), np.asarray(v.get("bias", 0))) for k, v in params.items()}
    gate = lambda g: inputs @ own[f"i{g}"][0] + state[1] @ own[f"h{g}"][0] + own[f"h{g}"][1]
    cell = sigmoid(gate("f")) * state[0] + sigmoid(gate("i")) * np.tanh(gate("g"))
    return cell, sigmoid(gate("o")) * np.tanh(cell)


def test_a_glimpse_reads_and_writes_through_its_windows():
    """Equations 5, 7, 27 to 29 in NumPy: reading is multiplied by the intensity, writing divided by its own."""
    event, hidden = (5, 4, 2), 3
    parts = parts_of(event, density.bernoulli(), 2, hidden, 1, 2, 3)
    params = moved(jax.jit(parts.init)(jax.random.key(0)), 0.3)
    rng = np.random.RandomState(0)
    state, h, z = (rng.randn(hidden), rng.randn(hidden)), rng.randn(hidden), rng.randn(2)
    image, error = rng.randn(2, *event)

    def window(own, state, count):
        raw = state @ own["window"]["kernel"] + own["window"]["bias"]
        rows, columns, log_intensity = map(np.asarray, attention.window(raw, (5, 4), count))
        return rows, columns, np.exp(log_intensity)

    def head(own, state):
        return state @ np.asarray(own["Head_0"]["Dense_0"]["kernel"]) + own["Head_0"]["Dense_0"]["bias"]

    own = params["encoder"]["params"]
    rows, columns, intensity = window(own, h, 2)
    seen = intensity * np.einsum("nh,hwc,mw->nmc", rows, np.concatenate([image, error], -1), columns)
    cell, output = lstm(own["OptimizedLSTMCell_0"], state, np.concatenate([seen.ravel(), h]))
    found_state, found = jax.jit(parts.encoder.apply)(params["encoder"], state, h, image, error)
    np.testing.assert_allclose(found_state, (cell, output), atol=1e-5)
    np.testing.assert_allclose(found.ravel(), head(own, output), atol=1e-5)

    own = params["decoder"]["params"]
    cell, output = lstm(own["OptimizedLSTMCell_0"], state, z)
    rows, columns, intensity = window(own, output, 3)
    drawn = np.einsum("nh,nmc,mw->hwc", rows, head(own, output).reshape(3, 3, 2), columns) / intensity
    found_state, found = jax.jit(parts.decoder.apply)(params["decoder"], state, z)
    np.testing.assert_allclose(found_state, (cell, output), atol=1e-5)
    np.testing.assert_allclose(found[..., 0], drawn, atol=1e-5)


LIKELIHOODS = {
    "discretised logistic": density.discretised_logistic(8),
    "bits": density.bernoulli(),
    "normal": density.normal(),
    "categorical": density.categorical(8),
    "mixture": logistic_mixtures.logistic_mixture(8, 2),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_images_of_any_shape_and_any_likelihood(name):
    """Non-square images of three channels: a gradient for every array, a film of means, samples of the likelihood's values."""
    distribution, event = LIKELIHOODS[name], (5, 4, 3)
    parts = parts_of(event, distribution, 2, 6, 3, 2, 3)
    params = moved(jax.jit(parts.init)(jax.random.key(0)), 0.1)
    levels = max(distribution.space.levels, 2)
    x = jnp.asarray(np.random.RandomState(0).randint(0, levels, (2, 2, *event)), jnp.float32)
    model = draw(parts, kl="analytic")

    @jax.jit
    def outcomes(params, key):
        loss = jax.value_and_grad(lambda p: negative_elbo(model)(p, key, x)[0])
        return loss(params), parts.canvases(params, key, 4), model.sample(params, key, shape=(2, 3))[0]

    (loss, gradient), film, drawn = outcomes(params, jax.random.key(1))
    assert np.isfinite(loss)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and (leaf != 0).any(), jax.tree_util.keystr(path)
    assert drawn.shape == (2, 3, *event) and film.shape == (3, 4, *event)
    assert jax.eval_shape(model.log_prob, params, jax.random.key(1), x).shape == (2, 2)
    if distribution.space.levels:
        assert np.isin(drawn, np.arange(levels)).all() and film.min() >= 0 and film.max() <= levels - 1


def test_the_last_canvas_is_the_sum_of_what_the_glimpses_add():
    """And it is the one that inference ends with, whatever the encoder saw: to rounding."""
    parts, params, _ = tiny()
    z, law, canvas = parts.infer(params, jax.random.key(5), IMAGES)
    painted = parts.paint(params, z)
    np.testing.assert_allclose(painted[-1], canvas, atol=1e-5)
    assert law.shape == (2, 16, 1, 2) and painted.shape == (2, 16, 2, 2, 1, 1)
    mean, log_std = np.asarray(law[..., 0, 0], np.float64), np.asarray(law[..., 0, 1], np.float64)
    kl = (mean**2 + np.exp(2 * log_std) - 1) / 2 - log_std
    rates = draw(parts, kl="analytic").terms(params, jax.random.key(5), IMAGES)["rates"]
    np.testing.assert_allclose(rates, kl.T, atol=1e-5)
    means, _, _ = parts.infer(params, None, IMAGES)
    np.testing.assert_array_equal(means[0], law[0, ..., 0])


def test_the_program_of_many_glimpses_is_no_longer():
    """Of a gradient, in equations of the traced program."""

    def length(glimpses):
        parts = parts_of((4, 4, 1), density.bernoulli(), 2, 3, glimpses, 2, 2)
        params = jax.eval_shape(parts.init, jax.random.key(0))
        x = jax.ShapeDtypeStruct((3, 4, 4, 1), jnp.float32)
        loss = lambda p, key, x: negative_elbo(draw(parts))(p, key, x)[0]
        return str(jax.make_jaxpr(jax.grad(loss))(params, jax.random.key(0), x)).count(" = ")

    assert length(2) == length(40)


def test_other_events_and_kls_are_refused():
    parts, params, _ = tiny()
    with pytest.raises(ValueError, match=r"events of shape \(2, 2, 1\), got an array of shape \(3, 4\)"):
        draw(parts).log_prob(params, jax.random.key(0), jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match="kl is 'sampled' or 'analytic', got 'exact'"):
        draw(parts, kl="exact")
