"""How far learned posteriors are from a Gaussian one that is known, in nats: every method, by simulations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax import recipes, train
from dlvm_jax.data import simulators
from dlvm_jax.exact.simulators import Simulator, gaussian_linear
from dlvm_jax.recipes import posterior_methods
from experiments.reproduce.readers import details_of
from experiments.reproduce.registry import Measured, Row

TASK, STEPS, OBSERVATIONS, DRAWS = "experiments.checks.posteriors:plane", 4000, 100, 5000
METHODS = {
    "npe": "a flow of the posterior, five spline couplings",
    "nle": "a flow of the likelihood, five spline couplings",
    "nre": "a classifier of ratios, ten parameters at a time",
    "fmpe": "an ODE of the posterior by flow matching",
    "npse": "a diffusion of the posterior, by its ODE",
}


def plane() -> Simulator:
    """Theta from N(0, I / 10), x from N(theta, I / 10), in the plane: the posterior is N(x / 2, I / 20)."""
    return gaussian_linear(2)


def kl(
    parts: posterior_methods.PosteriorParts, params: Any, exact: Simulator, x: jax.Array, direct: bool
) -> jax.Array:
    r"""KL(exact, learned) in nats for one observation x, by draws of the exact posterior p.

    $-\mathbb E_p\log\frac{q(\theta)}{p(\theta)}$;  a learned q that is not `direct` is normalised by $\log\mathbb E_p\frac qp=0$
    """
    theta = exact.posterior_sample(jax.random.key(0), x, DRAWS)
    at = jnp.broadcast_to(x, (DRAWS, *x.shape))
    log_ratio = parts.log_posterior(params, theta, at) - exact.posterior_log_prob(theta, x)
    constant = 0.0 if direct else jax.nn.logsumexp(log_ratio) - jnp.log(DRAWS)
    return constant - log_ratio.mean()


def divergence(method: str, simulations: int) -> Callable[[Path, bool], Measured]:
    """(folder, quick) -> KL(exact, learned) in nats, the mean over observations, by the same draws for all methods."""

    def run(folder, quick):
        recipe = recipes.Posterior(task=TASK, method=method, width=32)
        data = simulators.dataset(TASK, simulations, tested=OBSERVATIONS)
        steps = 50 if quick else STEPS
        fitted = train.fit(recipe, data, out=folder, steps=steps, resume=folder.exists())
        exact, parts = recipe.simulator, fitted.model.parts

        direct = posterior_methods.METHODS[method].direct
        one = jax.jit(lambda params, x: kl(parts, params, exact, x, direct))
        observed = np.asarray(data.test)[:, len(exact.low) :]
        values = np.array([one(fitted.params, jnp.asarray(x)) for x in observed], np.float64)
        error = float(values.std(ddof=1) / len(values) ** 0.5)
        return Measured(float(values.mean()), error, {"seeds": [0], **details_of(folder)})

    return run


ROWS = [
    Row(
        name=f"kl-{method}-gaussian-{simulations}",
        source="Bayes' rule for a Gaussian",
        what=f"KL(exact, learned) in nats, {method.upper()} from {simulations:,} simulations, a Gaussian in the plane",
        published=None,
        confirmed="nowhere: it is zero only for a perfect model",
        better="lower",
        tolerance=0.01,
        recipe=f"{about[0].upper()}{about[1:]}; {STEPS:,} steps of 200, networks of width 32; one seed.",
        evaluation=f"{DRAWS:,} draws of the exact posterior for each of {OBSERVATIONS} observations; ± is over these.  A density "
        "is taken as it is, a likelihood or ratio is normalised by these draws.  The prior is log 2 away in the mean.",
        run=divergence(method, simulations),
        minutes=2,
    )
    for method, about in METHODS.items()
    for simulations in (1_000, 10_000, 100_000)
]
