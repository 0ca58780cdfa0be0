"""The recipe of autoencoders: objectives against their formulas, what is read back of a run, refusals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import data, recipes, train
from dlvm_jax.data import Spec
from dlvm_jax.recipes.autoencoder import KINDS
from dlvm_jax.recipes.networks import NETS
from tests.train.test_fitting import in_another_process

SPEC = Spec("toy", "scaled", "", (8, 8, 1), 40, 256, False, 1 / 255)
X = np.random.RandomState(0).rand(6, 8, 8, 1).astype(np.float32)


def test_a_recipe_comes_back_from_json():
    recipe = recipes.Autoencoder(kind="sparse", hidden=(40, 20), weight=0.5)
    assert recipes.from_json(json.loads(json.dumps(recipe.as_json()))) == recipe


@pytest.mark.parametrize("kind", KINDS)
def test_objective_is_the_squared_error_and_its_penalty(kind):
    """By hand in float64: l1 norm of the codes; squared Frobenius norm of the Jacobian; the corrupted input's error."""
    recipe = recipes.Autoencoder(kind=kind, latent_dim=3, hidden=(7,))
    model = recipe.build(SPEC, {})
    params, key = model.init(jax.random.key(0)), jax.random.key(4)
    loss, metrics = model.objective(params, key, jnp.asarray(X), 0)
    seen = recipe.corrupt(key, X) if kind == "denoising" else X
    assert kind != "denoising" or abs(np.std(seen - X) - 0.3) < 0.05  # 384 draws: 4.6 deviations
    again = np.asarray(model.decode(params, model.encode(params, seen)), np.float64)
    error = ((again - X) ** 2).reshape(6, -1).sum(1).mean()
    penalty = 0.0
    if kind == "sparse":
        penalty = np.abs(np.asarray(model.encode(params, X))).sum(1).mean()
    if kind == "contractive":
        jacobian = jax.vmap(jax.jacobian(lambda x: model.encode(params, x[None])[0]))(jnp.asarray(X))
        penalty = (np.asarray(jacobian, np.float64) ** 2).reshape(6, -1).sum(1).mean()
    assert float(metrics["squared_error"]) == pytest.approx(error, rel=1e-5)
    assert float(loss) == pytest.approx(error + 0.1 * penalty, rel=1e-5)
    assert float(model.validation(params, key, jnp.asarray(X))[0]) == pytest.approx(float(loss), rel=1e-6)


@pytest.mark.parametrize("net", NETS)
def test_every_network_encodes_and_decodes(net):
    model = recipes.Autoencoder(net=net, latent_dim=3, hidden=(4, 4), dtype="bfloat16").build(SPEC, {})
    params = model.init(jax.random.key(0))
    z = model.encode(params, jnp.asarray(X))
    assert z.shape == (6, 3) and model.decode(params, z).shape == X.shape
    gradient = jax.grad(lambda p: model.objective(p, jax.random.key(1), jnp.asarray(X))[0])(params)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_a_run_is_read_back_in_another_process(tmp_path):
    """It learns data of two factors better than their mean image, and has codes but no density."""
    factors = np.random.RandomState(1).rand(200, 2)
    raw = np.round(255 * factors @ np.random.RandomState(2).dirichlet(np.ones(2), 64).T)
    source = data.from_arrays(raw.reshape(-1, 8, 8).astype(np.uint8), transform="scaled")
    fitted = train.fit(
        recipes.Autoencoder(latent_dim=2, hidden=(16,)),
        source,
        out=tmp_path / "run",
        steps=300,
        batch_size=20,
        learning_rate=5e-3,
        progress=False,
    )
    x = source.test
    again = fitted.reconstruct(x)
    assert again.shape == x.shape and fitted.encode(x).shape == (len(x), 2)
    error, variance = np.mean((again - x) ** 2), x.var(0).mean()
    assert error < 0.2 * variance  # measured 0.02; a dead code leaves 1
    for use in (lambda: fitted.sample(jax.random.key(0)), lambda: fitted.log_prob(jax.random.key(0), x)):
        with pytest.raises(ValueError, match="a model of Autoencoder has no density"):
            use()
    np.savez(tmp_path / "expected.npz", x=x, again=again)
    code = """
import sys, numpy as np
from dlvm_jax import train
fitted, there = train.load(sys.argv[1]), np.load(sys.argv[2])
np.testing.assert_array_equal(fitted.reconstruct(there["x"]), there["again"])
print(fitted.recipe.kind)
"""
    assert in_another_process(code, tmp_path / "run", tmp_path / "expected.npz").strip() == "plain"


@pytest.mark.parametrize(
    ("settings", "spec", "message"),
    [
        ({"kind": "spars"}, {}, "unknown kind 'spars'.*did you mean 'sparse'"),
        ({"hidden": ()}, {}, "hidden needs at least one positive width"),
        ({"hidden": (0,)}, {}, "hidden must be at least 1"),
        ({"noise": float("nan")}, {}, "noise must be at least 0, got nan"),
        ({"corruption": "masking", "noise": 1.5}, {}, r"noise is a rate in \[0, 1\] where .*, got 1.5"),
        ({"weight": -1.0, "kind": "sparse"}, {}, "weight must be at least 0, got -1.0"),
        ({"weight": 0.5}, {}, "weight=0.5 belongs to kind sparse or contractive, not to kind='plain'"),
        ({"net": "conv"}, {"event_shape": (5,)}, "net='conv' needs images"),
        ({}, {"discrete": True}, "is of real values, the protocol 'scaled' has 256 integer levels"),
    ],
)
def test_impossible_settings_are_refused(settings, spec, message):
    with pytest.raises(ValueError, match=message):
        recipes.Autoencoder(**settings).build(SPEC._replace(**spec), {})
