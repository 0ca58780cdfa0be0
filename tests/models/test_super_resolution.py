"""An image through its smaller copy, against enumeration of all images and all copies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from dlvm_jax import nets
from dlvm_jax.exact.discrete import all_binary
from dlvm_jax.functional import bounds, densities
from dlvm_jax.models import density
from dlvm_jax.models.objectives import log_weights
from dlvm_jax.models.super_resolution import average_pool, downscaled
from dlvm_jax.models.vae import vae
from tests.functional.common import chi_square_p
from tests.models.test_draw import moved

IMAGES = all_binary(4).reshape(16, 2, 2, 1)  # y is their rounded mean: one bit
COPIES = np.array([0.0, 1.0]).reshape(2, 1, 1, 1)
SMALL = density.conditional(
    density.Net(lambda key: jnp.array([0.4]), lambda params, context: params.reshape(1, 1, 1, 1)),
    density.bernoulli(),
    (1, 1, 1),
)


def of_x_given_y(logit_of):
    """Independent bits given y, their logits a function of y [*batch, 1, 1, 1]."""
    return density.conditional(
        density.Net(lambda key: {}, lambda params, y: logit_of(y)[..., None] * jnp.ones((2, 2, 1, 1))),
        density.bernoulli(),
        (2, 2, 1),
    )


def joint(of_x):
    """log p(x, y) of all images and copies, [16, 2], by the parts alone."""
    log_y = SMALL.log_prob(jnp.array([0.4]), None, COPIES)
    log_x = [of_x.log_prob({}, None, IMAGES, jnp.broadcast_to(y, (16, 1, 1, 1))) for y in COPIES]
    return np.stack(log_x, -1).astype(np.float64) + np.asarray(log_y, np.float64)


def test_halves_are_rounded_up_and_levels_stay_levels():
    """Against the mean of each square in whole numbers."""
    x = np.random.RandomState(0).randint(0, 256, (3, 5, 4, 6, 2))
    squares = x.reshape(3, 5, 2, 2, 3, 2, 2).sum((-4, -2))
    np.testing.assert_array_equal(average_pool(jnp.asarray(x, jnp.float32)), (squares + 2) // 4)
    np.testing.assert_array_equal(average_pool(IMAGES)[:, 0, 0, 0], IMAGES.sum((1, 2, 3)) >= 2)
    with pytest.raises(ValueError, match="images of 5 x 4 pixels are not made smaller by 2"):
        average_pool(jnp.zeros((5, 4, 1)))


def test_the_log_weight_is_that_of_the_image_with_its_own_copy():
    """Never above log p(x), the sum over both copies; all images together have the mass of p(y = d(x)), below one."""
    of_x = of_x_given_y(lambda y: 3 * y - 1.5)
    model = downscaled(SMALL, of_x, average_pool)
    assert model.kind == "weight"  # both parts are exact, and it is not
    params = model.init(jax.random.key(0))
    log_prob = np.asarray(model.log_prob(params, None, IMAGES), np.float64)
    own = np.asarray(average_pool(IMAGES)).ravel().astype(int)
    table = joint(of_x)
    np.testing.assert_allclose(log_prob, table[np.arange(16), own], atol=1e-6)
    evidence = logsumexp(table, axis=1)
    assert (log_prob < evidence).all() and 0.5 < np.exp(log_prob).sum() < 0.95
    assert np.exp(evidence).sum() == pytest.approx(1, abs=1e-6)
    terms = model.terms(params, None, IMAGES)
    np.testing.assert_allclose(terms["rates"][:, 0], -SMALL.log_prob(params["y"], None, COPIES)[own])
    np.testing.assert_array_equal(terms["kl"], terms["rates"].sum(-1))


def test_it_is_the_evidence_where_only_images_of_a_copy_follow_it():
    """Bits that are all equal to y, up to e^-40."""
    of_x = of_x_given_y(lambda y: 80 * y - 40)
    model = downscaled(SMALL, of_x, average_pool)
    found = model.log_prob(model.init(jax.random.key(0)), None, IMAGES[jnp.array([0, 15])])
    np.testing.assert_allclose(found, logsumexp(joint(of_x), axis=1)[[0, 15]], atol=1e-6)


def test_samples_are_of_the_whole_sum():
    """Chi-square of 20,000 draws against the sum over copies; false alarm 1e-4."""
    of_x = of_x_given_y(lambda y: 3 * y - 1.5)
    model = downscaled(SMALL, of_x, average_pool)
    x, value = model.sample(model.init(jax.random.key(0)), jax.random.key(1), shape=(20, 1000))
    assert value is None and x.shape == (20, 1000, 2, 2, 1)
    counts = np.bincount(np.asarray(x).reshape(-1, 4).astype(int) @ [8, 4, 2, 1], minlength=16)
    assert chi_square_p(counts, np.exp(logsumexp(joint(of_x), axis=1))) > 1e-4


def vaes():
    """VAEs of y and of x given y, each with one latent number."""
    bits = density.bernoulli()

    def part(outputs, ndims, *shapes):
        module = nets.MLP((4,), outputs, ndims)
        return density.from_linen(module, shapes if len(shapes) > 1 else shapes[0])

    normal = lambda net: density.conditional(net, density.normal(), (1,))
    small = vae(
        density.standard_normal(1),
        normal(part((1, 2), 3, (1, 1, 1, 1))),
        density.conditional(part((1, 1, 1, 1), 1, (1, 1)), bits, (1, 1, 1)),
    )
    large = vae(
        normal(part((1, 2), 3, (1, 1, 1, 1))),
        normal(part((1, 2), (3, 3), (1, 2, 2, 1), (1, 1, 1, 1))),
        density.conditional(part((2, 2, 1, 1), (1, 3), (1, 1), (1, 1, 1, 1)), bits, (2, 2, 1)),
    )
    return small, large


def test_importance_weighted_bounds_of_two_vaes_reach_the_image_with_its_copy():
    """By quadrature over u and z; 4000 weights, 5 standard errors, false alarms 1e-5.  Rates are those of u, y and z."""
    small, large = vaes()
    model = downscaled(small, large, average_pool)
    start = jax.tree.map(lambda a: 0.2 * a, jax.jit(model.init)(jax.random.key(0)))
    params = {
        name: {part: moved(own[part], 0.8 if part == "decoder" else 0.1) for part in own}
        for name, own in start.items()
    }
    x, y = IMAGES, average_pool(IMAGES)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    log_mass = np.log(weights / np.sqrt(2 * np.pi))
    u = jnp.asarray(nodes[:, None], jnp.float32)

    @jax.jit
    def exact(params):
        own = params["y"]["decoder"]["params"]
        logits = nets.MLP((4,), (1, 1, 1, 1), 1).apply({"params": own}, u).reshape(40, 1)
        log_y = densities.bernoulli_log_prob(y.reshape(16, 1, 1), logits)
        copies = jnp.array([0.0, 1.0]).reshape(2, 1, 1, 1)
        law = nets.MLP((4,), (1, 2), 3).apply(params["x"]["prior"], copies)
        z = law[:, None, :, 0] + jnp.exp(law[:, None, :, 1]) * u  # [2, 40, 1]
        context = jnp.broadcast_to(copies[:, None], (2, 40, 1, 1, 1))
        logits = nets.MLP((4,), (2, 2, 1, 1), (1, 3)).apply(params["x"]["decoder"], (z, context))
        return log_y, densities.bernoulli_log_prob(x.reshape(16, 1, 1, 4), logits.reshape(2, 40, 4))

    log_y, log_x = map(np.asarray, exact(params))
    own = np.asarray(y).ravel().astype(int)
    expected = logsumexp(log_y + log_mass, axis=-1)
    expected = expected + logsumexp(log_x + log_mass, axis=-1)[np.arange(16), own]
    log_w = jax.jit(log_weights(model, 4000))(params, jax.random.key(1), x)
    estimate = bounds.evidence(log_w)
    assert (np.abs(estimate.log_evidence - expected) < 5 * estimate.standard_error).all()
    assert (estimate.standard_error < 0.1).all()
    keys = jax.random.split(jax.random.key(2))
    terms = jax.jit(model.terms)(params, jax.random.key(2), x)
    one = small.terms(params["y"], keys[0], y)
    other = large.terms(params["x"], keys[1], x, y)
    rates = jnp.stack([one["kl"], -one["reconstruction"], other["kl"]], axis=-1)
    np.testing.assert_allclose(terms["rates"], rates, atol=1e-5)
    np.testing.assert_allclose(terms["reconstruction"], other["reconstruction"], atol=1e-5)
    np.testing.assert_allclose(terms["kl"], rates.sum(-1), atol=1e-5)


def test_three_scales_and_a_context():
    """A small copy of the small copy, and both parts under a label: shapes, and a bound where a part is one."""
    event = lambda side: (side, side, 1)
    bias = lambda side: density.Net(
        lambda key: jnp.ones(()),
        lambda p, c: p * jnp.ones((*jax.tree.leaves(c)[0].shape[:1], *event(side), 1)),
    )
    of = lambda side: density.conditional(bias(side), density.bernoulli(), event(side))
    model = downscaled(downscaled(of(1), of(2), average_pool), of(4), average_pool)
    params, labels = model.init(jax.random.key(0)), jnp.zeros((3, 2))
    x, _ = jax.jit(lambda key: model.sample(params, key, labels, (5,)))(jax.random.key(1))
    assert x.shape == (5, 3, 4, 4, 1)

    @jax.jit
    def both(x):
        levels = (average_pool(average_pool(x)), average_pool(x), x)
        scales = zip((of(1), of(2), of(4)), levels, strict=True)
        expected = sum(part.log_prob(jnp.ones(()), None, level, labels) for part, level in scales)
        return (
            model.terms(params, None, x, labels)["rates"],
            model.log_prob(params, None, x, labels),
            expected,
        )

    rates, log_prob, expected = both(x[0])
    assert rates.shape == (3, 2)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-6)
    bound = of(4)._replace(kind="bound")
    assert downscaled(of(2), bound, average_pool).kind == "bound"
    with pytest.raises(ValueError, match=r"only where it has integer levels, got a density on R\^M"):
        downscaled(density.standard_normal(2), of(4), average_pool)
