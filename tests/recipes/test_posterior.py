"""Posterior recipes: every method learns the Gaussian posterior that is known, and what does not fit is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import recipes, train
from dlvm_jax.data import simulators
from dlvm_jax.exact.simulators import gaussian_linear

KEY = jax.random.key(0)
TASK = f"{__name__}:plane"
SMALL = {"task": TASK, "width": 8, "hidden": 1}
METHODS = [
    {"method": "npe", "depth": 2},
    {"method": "nle", "depth": 2},
    {"method": "nre", "atoms": 5},
    {"method": "fmpe"},
    {"method": "npe", "flow": "autoregressive", "depth": 2},
]


def plane():
    return gaussian_linear(2)


def broken():
    return gaussian_linear(2)._replace(simulate=lambda key, theta: theta / 0.0)


@pytest.mark.parametrize("settings", METHODS, ids=str)
def test_a_posterior_is_fitted_and_drawn_from(settings, tmp_path):
    recipe = recipes.Posterior(**SMALL, **settings)
    assert recipes.from_json(recipe.as_json()) == recipe
    data = simulators.dataset(TASK, 100, tested=20)
    train.fit(
        recipe, data, out=tmp_path / "run", steps=3, batch_size=10, warm_up=0, evaluations=1, progress=False
    )
    fitted = train.load(tmp_path / "run")
    x = jnp.asarray(data.test[0, 2:])
    draws, effective = jax.jit(fitted.model.parts.sample, static_argnums=3)(fitted.params, KEY, x, 50)
    assert draws.shape == (50, 2) and np.isfinite(draws).all() and effective > 1
    value = fitted.model.parts.log_posterior(fitted.params, draws, jnp.broadcast_to(x, draws.shape))
    assert value.shape == (50,) and np.isfinite(value).all()


@pytest.mark.slow
@pytest.mark.parametrize("settings", METHODS[:4], ids=str)
def test_every_method_finds_the_gaussian_posterior(settings, tmp_path):
    """Flows are within .03 nats of N(x / 2, I / 20) at ten observations on average, a ratio and flow matching within .1.

    The prior is .69 nats away.
    """
    recipe = recipes.Posterior(task=TASK, width=32, **settings)
    data = simulators.dataset(TASK, 10_000, tested=20)
    fitted = train.fit(recipe, data, out=tmp_path / "run", steps=1500, progress=False)
    exact, parts = plane(), fitted.model.parts

    @jax.jit
    def kl(params, key, x):  # KL(p, q), q normalised by draws of p: log E_p[q / p] = 0
        theta = exact.posterior_sample(key, x, 20_000)
        at = jnp.broadcast_to(x, theta.shape)
        log_ratio = parts.log_posterior(params, theta, at) - exact.posterior_log_prob(theta, at)
        return jax.nn.logsumexp(log_ratio) - jnp.log(20_000) - log_ratio.mean()

    values = [kl(fitted.params, KEY, jnp.asarray(row[2:])) for row in data.test[:10]]
    assert 0 <= np.mean(values) < (0.03 if settings["method"] in ("npe", "nle") else 0.1)


def test_simulations_that_are_not_finite_are_counted():
    with pytest.raises(
        ValueError, match=r"120 of 120 simulations of .*broken are not finite; mend the simulator"
    ):
        simulators.dataset(f"{__name__}:broken", 100, tested=20)


def test_what_does_not_fit_is_refused():
    data = simulators.dataset(TASK, 40, tested=20)
    for settings, message in (
        ({"task": "two_mons"}, r"unknown task 'two_mons'.*did you mean 'two_moons'"),
        ({"task": f"{__name__}:nothing"}, "cannot be imported"),
        ({"task": "gaussian_linear"}, "needs rows of 10 real parameters and then data"),
        ({"task": TASK, "method": "nre", "depth": 3}, "belongs to method npe or nle"),
        ({"task": TASK, "method": "npe", "atoms": 3}, "belongs to method nre"),
        ({"task": TASK, "flow": "coupling", "bins": 3}, "bins=3 belongs to flow spline-coupling"),
    ):
        with pytest.raises(ValueError, match=message):
            recipes.Posterior(**settings).build(data.spec, {})
