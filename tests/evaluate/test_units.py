"""Active units of each layer: the shifts of a linear-Gaussian chain in closed form, and what is counted of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.evaluate import log_likelihood, units
from dlvm_jax.exact import linear_gaussian
from dlvm_jax.models import density
from dlvm_jax.models.top_down import features_of, top_down
from tests.evaluate.test_log_likelihood import Model, fitted
from tests.models.linear_chain import (
    KEY,
    LIKELIHOOD,
    NOISE,
    W,
    X,
    bottom_up,
    chain,
    fixed,
    law,
    linear_stage,
    scales,
)
from tests.models.test_vae import exact_posterior, linear_decoder


def shifts_by_conditioning(layers):
    """The matrix [numbers, 5] by which x says how far E[z_l | x] lies from the prior's mean, and the variance of x."""
    slope, noise = scales(layers)
    rows = [np.eye(2, 2 * layers)]  # each latent is a sum of standard normal numbers
    for number, (a, s) in enumerate(zip(slope, noise, strict=True), start=1):
        rows.append(a[:, None] * rows[-1] + s[:, None] * np.eye(2, 2 * layers, 2 * number))
    image = W @ rows[-1]
    variance = image @ image.T + NOISE**2 * np.eye(5)
    means = [row @ image.T @ np.linalg.inv(variance) for row in rows]
    found = [means[0]]
    for above, here, a, s in zip(means, means[1:], slope, noise, strict=False):
        found.append((here - a[:, None] * above) / s[:, None])
    return np.concatenate(found), variance


@pytest.mark.parametrize("make", [chain, bottom_up])
def test_shifts_are_those_of_the_exact_posterior(make, x64):
    """From the top down and from the bottom up, in the prior's standard deviations."""
    model, params = make(3)
    matrix, _ = shifts_by_conditioning(3)
    np.testing.assert_allclose(model.shifts(params, X), X @ matrix.T, atol=1e-12)


def test_units_are_counted_as_theory_has_them(x64):
    """20,000 rows: a variance is right within 5 %, false alarms 1e-6, and none of theory is so near to the threshold.

    The rows are shrunk, and with them all shifts, so that one unit of the last layer is below it.
    """
    model, params = chain(3)
    matrix, variance = shifts_by_conditioning(3)
    variance = 0.15 * variance
    expected = np.diag(matrix @ variance @ matrix.T).reshape(3, 2)
    rows = np.random.RandomState(0).multivariate_normal(np.zeros(5), variance, 20_000)
    found = np.asarray(model.shifts(params, rows)).var(0)
    np.testing.assert_allclose(found, expected.ravel(), rtol=0.05)
    assert (abs(expected / units.ACTIVE - 1) > 0.05).all()
    counted = units.units_of_layers(model, params, rows)
    assert counted == (2, 2, 1) == tuple((expected > units.ACTIVE).sum(1))
    assert units.active_units(model, params, rows) == sum(counted)


def test_a_layer_whose_posterior_is_its_prior_is_dead_and_one_that_is_always_shifted_too(x64):
    """The second has a rate of half a nat for each number, and says nothing of the data."""
    _, params = chain(2)
    posterior = density.conditional(fixed(lambda x: law(x @ W, 0.5)), density.normal(), (2,))
    encoder = fixed(lambda x: (x, features_of([x])))
    for shift, rate in ((0.0, 0.0), (1.0, 1.0)):
        stage = linear_stage(2, lambda params, h, f, p, d=shift: (p[0] + d * jnp.exp(p[1]), p[1]))
        model = top_down(
            density.standard_normal(2), posterior, encoder, [stage], LIKELIHOOD, dim=2, kl="analytic"
        )
        own = model.density.init(KEY) | {"stages": params["stages"]}
        np.testing.assert_allclose(model.density.terms(own, KEY, X)["rates"][:, 1], rate, atol=1e-12)
        assert units.units_of_layers(model, own, 5 * np.asarray(X)) == (2, 0)


def test_one_layer_is_counted_as_the_posterior_of_a_vae():
    scale = jnp.array([2.0, 0.5, 0.12, 0.08])
    model = linear_gaussian.LinearGaussian(jnp.eye(6)[:, :4] * scale, jnp.zeros(6), jnp.float32(0))
    x = np.asarray(linear_gaussian.sample(model, jax.random.key(0), (20_000,))[0])
    posterior = exact_posterior(model)._replace(mean=lambda params, x: linear_gaussian.posterior(model, x)[0])
    one = top_down(
        density.standard_normal(4), posterior, fixed(lambda x: (x, ())), [], linear_decoder(model), dim=4
    )
    params = one.density.init(KEY)
    assert units.units_of_layers(one, params, x) == (3,) == units.units_of_layers(posterior, {}, x)
    unknown = posterior._replace(mean=None)
    blind = top_down(
        density.standard_normal(4), unknown, fixed(lambda x: (x, ())), [], linear_decoder(model), dim=4
    )
    assert blind.shifts is None
    with pytest.raises(ValueError, match="the mean of this posterior is not known"):
        units.active_units(blind, params, x)
    with pytest.raises(ValueError, match="counted over examples, got none"):
        units.active_units(posterior, {}, x[:0])


def test_variances_by_blocks_are_those_of_the_whole():
    """Of numbers far from zero too, where the mean of squares less the square of means would have lost them."""
    rows = (3e4 + np.random.RandomState(0).randn(50, 3)).astype(np.float32)
    blocks = (rows[start : start + 7] for start in range(0, 50, 7))
    np.testing.assert_allclose(units._variance(blocks), rows.astype(float).var(0), rtol=1e-9)


def test_the_record_of_a_hierarchy_has_the_units_of_each_layer(x64):
    model, params = chain(2)
    x = np.repeat(np.asarray(X), 3, axis=0)
    one = fitted(Model(model.density, model), params)
    one.spec = one.spec._replace(event_shape=(5,))
    record = log_likelihood(one, x, samples=2, progress=False)
    assert record.layer_units == units.units_of_layers(model, params, x)
    assert record.active_units == sum(record.layer_units) and len(record.rates) == 2
