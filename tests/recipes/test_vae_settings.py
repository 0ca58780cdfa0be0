"""Settings of VAEs: what does not go together, what a condition sees, how networks and decoders start."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.recipes import VAE, networks
from dlvm_jax.recipes.conditions import condition_of
from tests.recipes.test_vae import IMAGES, dataset_of, recipe_of

REFUSED = {
    "posterior='von-mises-fisher' lives on the sphere, prior='standard' on R^M; give prior='sphere'": {
        "posterior": "von-mises-fisher"
    },
    "prior='sphere' lives on the sphere, posterior='normal' on R^M; give posterior='von-mises-fisher'": {
        "prior": "sphere"
    },
    "objective='iwae' does not go with prior='implicit'; possible: elbo": {
        **{"prior": "implicit", "objective": "iwae", "samples": 5}
    },
    "kl='analytic' belongs to objective elbo, not to objective='iwae'": {
        "kl": "analytic",
        "objective": "iwae",
        "samples": 5,
    },
    "objective='iwae' needs samples of at least 2": {"objective": "iwae"},
    "objective='renyi' needs alpha": {"objective": "renyi", "samples": 5},
    "objective='free-bits' needs free_nats": {"objective": "free-bits"},
    "posterior='iaf' does not go with objective='total-correlation'; possible: normal": {
        **{"posterior": "iaf", "objective": "total-correlation"}
    },
    "prior='vamp' does not go with objective='wae'; possible: standard": {
        "prior": "vamp",
        "objective": "wae",
    },
    "posterior='iaf' does not go with layers=2; possible: normal": {"posterior": "iaf", "layers": 2},
    "net='conv' does not go with condition='label'; possible: mlp": {"net": "conv", "condition": "label"},
    "prior='vamp' does not go with inference='bottom-up'; possible: standard": {
        **{"layers": 2, "inference": "bottom-up", "prior": "vamp"}
    },
    "inference='bottom-up' needs layers=2": {"inference": "bottom-up"},
    "likelihood='normal' does not go with start_at_mean; possible: bernoulli": {
        **{"likelihood": "normal", "start_at_mean": True}
    },
    "start_at_mean is of whole images": {
        **{"condition": "quadrants-1", "start_at_mean": True, "prior": "learned"}
    },
    "start_at_mean is of pixels that are independent given z": {"pixel_layers": 1, "start_at_mean": True},
    "condition='quadrants-1' does not go with pixel_layers=1; possible: label": {
        **{"condition": "quadrants-1", "pixel_layers": 1}
    },
    "likelihood='shared-normal' does not go with pixel_layers=1; possible: bernoulli": {
        **{"likelihood": "shared-normal", "pixel_layers": 1}
    },
    "layers=2 and a condition do not go together": {"layers": 2, "condition": "label"},
    "kl='analytic' needs posterior='normal'": {"kl": "analytic", "prior": "vamp"},
    "beta_warm_up=10 belongs to objective elbo or free-bits": {
        **{"objective": "iwae", "samples": 5, "beta_warm_up": 10}
    },
    "components=7 belongs to prior mixture or vamp or vamp-data, not to prior='standard'": {"components": 7},
    "flow_steps=9 belongs to posterior planar or radial": {"flow_steps": 9},
    "curvature=-3.0 belongs to prior hyperbolic, not to prior='standard'": {"curvature": -3.0},
}


@pytest.mark.parametrize("message", REFUSED)
def test_impossible_parts_are_refused_with_the_possible_ones(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        VAE(**REFUSED[message]).check()


def test_unknown_labels_are_refused():
    spec = dataset_of(IMAGES).spec._replace(classes=None)
    with pytest.raises(ValueError, match="toy has none; leave it out"):
        condition_of("label", spec)


@pytest.mark.parametrize(
    ("count", "given"), [(1, [[0, 0], [1, 0]]), (2, [[1, 0], [1, 0]]), (3, [[1, 1], [1, 0]])]
)
def test_quadrants_are_those_of_the_paper_and_merge_back(count, given):
    """Lower left, then upper left, then upper right; x and context together are the image again."""
    images = jnp.asarray(np.random.RandomState(0).rand(5, 4, 6, 2), jnp.float32)
    condition = condition_of(f"quadrants-{count}", dataset_of(np.asarray(images)).spec)
    x, context = condition.split(images)
    assert x.shape == (5, *condition.event) and context.shape == (5, *condition.context)
    np.testing.assert_array_equal(condition.merge(x, context), images)
    seen = condition.merge(jnp.zeros_like(x), jnp.ones_like(context))[0, :, :, 0]
    np.testing.assert_array_equal(seen, np.kron(np.array(given), np.ones((2, 3))))


def test_a_decoder_that_starts_at_the_means_gives_them_for_a_network_of_zeros():
    """Means of 0 and 1 are clipped to 0.001 and 0.999; grey levels are brought to [0, 1].  float32."""
    images = np.stack([[[0, 255], [51, 0]], [[0, 255], [51, 255]]])[..., None].astype(np.uint8)
    dataset = dataset_of(images)
    recipe = VAE(start_at_mean=True)
    model = recipe.build(dataset.spec, recipe.constants(dataset, 0))
    zeros = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    expected = np.array([[0.001, 0.999], [0.2, 0.5]])
    means = model.decode(zeros, jnp.zeros((3, 8)))
    np.testing.assert_allclose(means[..., 0], np.stack([expected] * 3), rtol=1e-4)


def test_a_net_of_tanh_is_one_and_has_the_first_weights_of_glorot():
    """Uniform on +- sqrt(6 / (in + out)), so below that and, of 400 weights, nearly up to it (false alarm .98^400 = 3e-4)."""
    net = networks.network(recipe_of(net="tanh", hidden=(100,)), (4,), (2, 2))
    params = net.init(jax.random.key(0))["params"]
    dense, head = params["Dense_0"], params["Head_0"]["Dense_0"]
    x = np.linspace(-1, 1, 4).astype(np.float32)
    by_hand = np.tanh(x @ dense["kernel"] + dense["bias"]) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(net.apply({"params": params}, x).ravel(), by_hand, rtol=1e-5, atol=1e-6)
    for kernel in (dense["kernel"], head["kernel"]):
        assert 0.98 < np.abs(kernel).max() / np.sqrt(6 / 104) <= 1


def test_bottom_up_the_decoder_sees_the_lower_layer_alone_and_starts_at_the_means():
    recipe = recipe_of(layers=2, inference="bottom-up", latent_dim=4, start_at_mean=True)
    dataset = dataset_of(IMAGES[8:])  # the first pixel is always 1, the others are so in half of the images
    model = recipe.build(dataset.spec, recipe.constants(dataset, 0))
    params = model.init(jax.random.key(0))
    decoder = lambda z: model.parts.decoder.mean(params["decoder"], z)
    z = jax.random.normal(jax.random.key(1), (5, 6))  # two numbers of z2, four of z1
    np.testing.assert_array_equal(decoder(z), decoder(z.at[:, :2].add(1.0)))
    assert (decoder(z) != decoder(z.at[:, 2:].add(1.0))).any()
    assert (decoder(z)[:, 0, 0] > 0.95).all() and (decoder(0 * z)[:, 1:] == 0.5).all()
    below = recipe_of(latent_dim=4).build(dataset.spec, {}).parts.posterior
    means = model.parts.posterior.mean(params["posterior"], IMAGES)
    np.testing.assert_array_equal(means[:, 2:], below.mean(params["posterior"]["first"], IMAGES))
