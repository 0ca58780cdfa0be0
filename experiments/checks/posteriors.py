"""How far learned posteriors are from a Gaussian one that is known, in nats: every method, by simulations."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax import recipes, train
from dlvm_jax.data import simulators
from dlvm_jax.exact.simulators import Simulator, gaussian_linear
from experiments.reproduce.readers import details_of
from experiments.reproduce.registry import Measured, Row

TASK, STEPS, OBSERVATIONS, DRAWS = "experiments.checks.posteriors:plane", 4000, 100, 5000
MANY = 100_000  # simulations, of which the posterior is as good as known
METHODS = {
    "npe": "a flow of the posterior, five spline couplings",
    "nle": "a flow of the likelihood, five spline couplings, normalised by draws of the exact posterior",
    "nre": "a classifier of ratios, ten parameters at a time, normalised by draws of the exact posterior",
    "fmpe": "an ODE of the posterior by flow matching",
    "npse": "a diffusion of the posterior, by its ODE",
}


def plane() -> Simulator:
    """Theta from N(0, I / 10), x from N(theta, I / 10), in the plane: the posterior is N(x / 2, I / 20)."""
    return gaussian_linear(2)


def divergence(method: str, simulations: int) -> Callable[[Path, bool], Measured]:
    """(folder, quick) -> KL(exact, learned) in nats, the mean over observations, by the same draws for all methods."""

    def run(folder, quick):
        recipe = recipes.Posterior(task=TASK, method=method, width=32)
        data = simulators.dataset(TASK, simulations, tested=OBSERVATIONS)
        steps = 50 if quick else STEPS
        fitted = train.fit(recipe, data, out=folder, steps=steps, resume=folder.exists())
        exact, parts = recipe.simulator, fitted.model.parts

        @jax.jit
        def kl(params, x):
            theta = exact.posterior_sample(jax.random.key(0), x, DRAWS)
            at = jnp.broadcast_to(x, (DRAWS, *x.shape))
            log_ratio = parts.log_posterior(params, theta, at) - exact.posterior_log_prob(theta, x)
            return jax.nn.logsumexp(log_ratio) - jnp.log(DRAWS) - log_ratio.mean()

        observed = np.asarray(data.test)[:, len(exact.low) :]
        values = np.array([kl(fitted.params, jnp.asarray(x)) for x in observed], np.float64)
        error = float(values.std(ddof=1) / len(values) ** 0.5)
        return Measured(float(values.mean()), error, {"seeds": [0], **details_of(folder)})

    return run


ROWS = [
    Row(
        name=f"kl-{method}-gaussian-{simulations}",
        source="Bayes' rule for a Gaussian",
        what=f"KL(exact, learned) in nats, {method.upper()} from {simulations:,} simulations, a Gaussian in the plane",
        published="0.000" if simulations == MANY else None,
        confirmed="the closed form" if simulations == MANY else "nowhere: what so few simulations leave",
        better="same",
        tolerance=0.01,
        recipe=f"{about[0].upper()}{about[1:]}; {STEPS:,} steps of 200, networks of width 32; one seed.",
        evaluation=f"{DRAWS:,} draws of the exact posterior for each of {OBSERVATIONS} observations; ± is over these.  The prior "
        "is .69 nats away.",
        run=divergence(method, simulations),
        minutes=2,
    )
    for method, about in METHODS.items()
    for simulations in (1_000, 10_000, MANY)
]
