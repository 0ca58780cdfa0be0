"""A density says where it lives, and data outside of it are refused before anything is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import data, evaluate, recipes, train
from dlvm_jax.models import curved, density, flows, logistic_mixtures, objectives, spaces
from dlvm_jax.recipes import Model, Recipe

BITS = np.random.RandomState(0).rand(60, 2, 2) < 0.4

INSIDE = {
    "reals": (spaces.REALS, [-1e30, 0.5, 7]),
    "bits": (spaces.levels(2), [0, 1, True]),
    "levels": (spaces.levels(17), [0, 16, 3.0]),
    "sphere": (spaces.sphere(2), [[0.6, 0.8], [0, -1]]),
    "ball": (spaces.hyperbolic(2, 4.0), [[0.3, 0.39], [0, 0.5]]),
}
OUTSIDE = {
    "reals": (np.nan, np.inf, -np.inf),
    "bits": (0.5, 2, -1, np.nan),
    "levels": (17, 0.25, -1, np.inf),
    "sphere": ([0.6, 0.9], [0, 0], [np.nan, 1]),
    "ball": ([0.5, 0.1], [np.inf, 0]),
}


@pytest.mark.parametrize("name", INSIDE)
def test_a_space_holds_its_values_alone(name):
    space, inside = INSIDE[name]
    spaces.check_points(space, np.array(inside))
    for value in OUTSIDE[name]:
        points = np.stack([*np.array(inside, float), np.array(value, float)])
        with pytest.raises(
            ValueError, match=f"^the density is of .*, and example {len(inside)} of the data has"
        ):
            spaces.check_points(space, points)


def test_vectors_lie_on_the_last_axis():
    axes = np.broadcast_to(np.eye(3), (5, 3, 3))  # five examples of three unit vectors
    for space in (spaces.sphere(3), spaces.hyperbolic(3, 1.0)):
        spaces.check_points(space, axes)
        spaces.check_points(space, axes[:, [0, 0]])  # along the other axis these have lengths 2 and 0
        with pytest.raises(ValueError, match="example 0 of x"):
            spaces.check_points(space, 2 * axes, "x")


def test_equal_names_are_equal_spaces():
    assert spaces.sphere(3) == spaces.sphere(3) != spaces.sphere(4)
    assert (
        spaces.pair(spaces.REALS, spaces.REALS) == spaces.REALS != spaces.pair(spaces.REALS, spaces.sphere(2))
    )
    with pytest.raises(ValueError, match="at least two levels, got 1"):
        spaces.levels(1)


def test_every_density_names_its_own():
    net = density.Net(lambda key: {}, lambda params, z: z)
    assert density.conditional(net, density.bernoulli(), (3,)).space == spaces.levels(2)
    assert density.conditional(net, density.categorical(5), (3,)).space == spaces.levels(5)
    assert density.conditional(net, density.discretised_logistic(9), (3,)).space == spaces.levels(9)
    assert density.conditional(net, logistic_mixtures.logistic_mixture(9, 2), (3,)).space == spaces.levels(9)
    assert density.conditional(net, density.normal(), (3,)).space == spaces.REALS
    assert curved.uniform_sphere(3).space == spaces.sphere(3)
    assert flows.uniform_torus(2).space == spaces.torus(2)


def test_grey_levels_are_refused_by_a_model_of_bits(tmp_path):
    """Cross-entropy is the likelihood of bits alone: of grey levels, or of shares of them, it is another number."""
    fitted = train.fit(
        recipes.VAE(hidden=(4,), latent_dim=2),
        data.from_arrays(BITS, test=BITS),
        steps=2,
        batch_size=8,
        out=tmp_path / "run",
        progress=False,
    )
    images = np.zeros((3, 2, 2, 1), np.float32)
    for bad in (16.0, 1 / 16, np.nan):
        images[1, 0, 1] = bad
        message = f"the density is of bits 0 and 1, and example 1 of .* has the value {bad:g}"
        with pytest.raises(ValueError, match=message):
            evaluate.log_likelihood(fitted, images, samples=2, progress=False)
        with pytest.raises(ValueError, match=message):
            fitted.log_prob(jax.random.key(0), images)
    assert jax.jit(fitted.log_prob)(jax.random.key(0), images).shape == (3,)  # values are not known here
    whole = np.zeros((3, 2, 2, 1), int)
    as_list = fitted.log_prob(jax.random.key(0), whole.tolist())
    np.testing.assert_array_equal(as_list, fitted.log_prob(jax.random.key(0), whole))
    np.testing.assert_array_equal(fitted.encode(whole.tolist()), fitted.encode(whole))


class OfBits(Recipe):
    """A model of one's own that forgets to check its data: bits whose logits are parameters."""

    def build(self, spec, constants):
        net = density.Net(lambda key: jnp.zeros((*spec.event_shape, 1)), lambda params, context: params)
        model = density.conditional(net, density.bernoulli(), spec.event_shape)
        return Model(model, model.init, *(objectives.negative_log_likelihood(model),) * 2)


@pytest.mark.parametrize(
    "x, held",
    [
        (np.arange(256).repeat(4).reshape(256, 2, 2), "levels 0 to 255"),
        (np.linspace(0, 1, 80).reshape(20, 2, 2), "real numbers"),
    ],
)
def test_fit_refuses_data_of_another_space(x, held, tmp_path):
    source = data.from_arrays(x.astype(np.uint8) if held.startswith("levels") else x)
    with pytest.raises(
        ValueError, match=f"the density is of bits 0 and 1, and these data hold {held}; choose"
    ):
        train.fit(OfBits(), source, steps=2, batch_size=8, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
