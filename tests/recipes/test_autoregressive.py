"""Autoregressive recipes: each network with each law is a distribution, orders are mixed, what does not fit is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import data, evaluate, recipes, train

KEY = jax.random.key(0)
BITS = data.from_arrays((np.random.RandomState(0).rand(60, 2, 3, 1) < 0.4).astype(np.uint8))
LEVELS = data.from_arrays(np.random.RandomState(1).randint(0, 4, (60, 2, 2, 1)).astype(np.uint8), levels=4)
SMALL = {"net": "pixelcnn", "width": 4, "depth": 2, "kernel": 3}
TRANSFORMER = {"net": "transformer", "width": 8, "depth": 2, "heads": 2}
LABELLED = data.from_arrays(BITS.train, labels=np.arange(len(BITS.train)) % 3)


def all_values(levels, event):
    values = itertools.product(range(levels), repeat=int(np.prod(event)))
    return jnp.asarray(list(values), jnp.float32).reshape(-1, *event)


@pytest.mark.parametrize(
    "source, settings",
    [
        ("bits", {"hidden": (16,)}),
        ("bits", {"orders": 3, "hidden": (20, 20)}),
        ("bits", SMALL),
        ("bits", TRANSFORMER),
        ("levels", TRANSFORMER),
        ("levels", {"hidden": (16,)}),
        ("levels", SMALL),
        ("levels", SMALL | {"likelihood": "categorical"}),
        ("levels", {"hidden": (16,), "likelihood": "discretised-logistic"}),
    ],
    ids=str,
)
def test_it_sums_to_one_and_learns(source, settings):
    """Over at most 256 values, in float32; the gradient reaches every array."""
    source = {"bits": BITS, "levels": LEVELS}[source]
    model = recipes.Autoregressive(**settings).build(source.spec, {})
    params = jax.tree.map(lambda a: a + 0.3 * jax.random.normal(KEY, a.shape), jax.jit(model.init)(KEY))
    x = all_values(source.spec.levels, source.spec.event_shape)
    total = jnp.exp(jax.jit(model.density.log_prob)(params, None, x)).sum()
    assert total == pytest.approx(1, abs=3e-5)
    x = jnp.asarray(source.train, jnp.float32)
    gradient = jax.jit(jax.grad(model.validation, has_aux=True))(params, KEY, x)[0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and (leaf != 0).any(), jax.tree_util.keystr(path)


def test_orders_are_mixed_in_equal_parts():
    """The mixture is the mean of its members; a training step is one of them; counts of 20,000 draws within 6 deviations."""
    model = recipes.Autoregressive(orders=3, hidden=(20,)).build(BITS.spec, {})
    params = jax.tree.map(lambda a: a + 0.5 * jax.random.normal(KEY, a.shape), model.init(KEY))
    x = all_values(2, (2, 3, 1))
    each = np.stack([jnp.exp(member.log_prob(params, None, x)) for member in model.parts])
    p = np.exp(model.density.log_prob(params, None, x))
    np.testing.assert_allclose(p, each.mean(0), rtol=1e-5)
    assert abs(each[0] - each[1]).max() > 1e-3
    losses = {float(model.objective(params, key, x)[0]) for key in jax.random.split(KEY, 20)}
    np.testing.assert_allclose(sorted(losses), sorted(-np.log(each).mean(1)), rtol=1e-5)
    drawn, log_prob = jax.jit(lambda params: model.density.sample(params, KEY, shape=(20_000,)))(params)
    number = (np.asarray(drawn).reshape(-1, 6) @ 2.0 ** np.arange(6)[::-1]).astype(int)
    np.testing.assert_allclose(log_prob, np.log(p)[number], atol=1e-4)
    counts = np.bincount(number, minlength=64)
    assert (abs(counts - 20_000 * p) < 6 * np.sqrt(20_000 * p * (1 - p)) + 4).all()


@pytest.mark.parametrize("settings", [{"hidden": (8,)}, TRANSFORMER, SMALL], ids=str)
def test_it_is_fitted_loaded_and_conditioned(settings, tmp_path):
    recipe = recipes.Autoregressive(**settings, condition="label")
    assert recipes.from_json(recipe.as_json()) == recipe
    train.fit(recipe, LABELLED, out=tmp_path / "run", steps=3, batch_size=8, progress=False)
    fitted = train.load(tmp_path / "run")
    x = fitted.sample(KEY, 2, given=np.arange(3))
    assert x.shape == (2, 3, 2, 3, 1) and np.isin(x, (0, 1)).all()
    record = evaluate.log_likelihood(fitted, (LABELLED.train, LABELLED.train_labels), samples=1)
    assert record.estimator == "exact" and np.isfinite(record.log_likelihood)


@pytest.mark.parametrize("settings", [TRANSFORMER, {"hidden": (8,)}], ids=str)
@pytest.mark.parametrize("dim", [1, 2])
def test_densities_of_one_or_two_numbers_integrate_to_one(dim, settings):
    """A grid of step 0.1 that ends where the density does: exact for smooth densities."""
    spec = data.from_arrays(np.random.RandomState(0).randn(50, dim)).spec
    model = recipes.Autoregressive(**settings).build(spec, {})
    params = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(KEY, a.shape), model.init(KEY))
    grid = np.linspace(-8, 8, 161, dtype=np.float32)
    x = np.stack(np.meshgrid(*[grid] * dim), axis=-1).reshape(-1, dim)
    p = np.exp(np.float64(jax.jit(model.density.log_prob)(params, None, x)))
    assert p.sum() * 0.1**dim == pytest.approx(1, abs=1e-5)
    assert model.density.sample(params, KEY, shape=(3,))[0].shape == (3, dim)


def test_what_does_not_fit_is_refused():
    table = data.from_arrays(np.random.RandomState(0).randn(50, 4))
    for settings, source, message in (
        (
            SMALL | {"kernel": 4},
            BITS,
            "kernel is the side of a convolution with a middle, so it is odd, got 4",
        ),
        (
            {"net": "pixelcnn"},
            table,
            r"needs images \[H, W, C\], the examples have shape \(4,\); use net='made'",
        ),
        ({"net": "pixelcnn", "condition": "quadrants-1"}, BITS, "is of whole images"),
        ({"likelihood": "pixel-mixture"}, LEVELS, "whole pixels; use 'logistic-mixture'"),
        ({"likelihood": "normal"}, BITS, "a normal likelihood needs real data"),
        ({"condition": "label"}, BITS, "needs labels"),
        ({"net": "pixelcnn", "orders": 2}, BITS, "orders"),
        (TRANSFORMER | {"width": 6, "heads": 4}, BITS, "share the width evenly, got width=6 and heads=4"),
        (TRANSFORMER | {"kernel": 3}, BITS, "kernel=3 belongs to net pixelcnn"),
        ({"heads": 2}, BITS, "heads=2 belongs to net transformer"),
        (TRANSFORMER | {"likelihood": "pixel-mixture"}, LEVELS, "whole pixels; use 'logistic-mixture'"),
    ):
        with pytest.raises(ValueError, match=message):
            recipes.Autoregressive(**settings).build(source.spec, {})
