"""A trained posterior against the reference of an observation, and the calibration over simulations."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.data import Data, simulators
from dlvm_jax.evaluate import pictures, posteriors
from dlvm_jax.functional import calibration, divergences
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder
from experiments.evaluation import learning_curves

if TYPE_CHECKING:
    from experiments.sbi.__main__ import Config

__all__ = ["evaluate_and_write"]

RANKED, BINS = 99, 10  # draws of each simulation, and bins of the test of their ranks
FEW = 100  # effective draws, below which resampling is not to be trusted
LEVELS = (0.5, 0.9)


class Compared(NamedTuple):
    """An observation [C], the parameters that made it, draws of its reference posterior (None: unknown) and where it is from."""

    x: np.ndarray
    theta: np.ndarray
    reference: np.ndarray | None
    source: str


def evaluate_and_write(config: "Config", data: Data, fitted: Fitted, folder: RunFolder) -> Mapping[str, Any]:
    """Pictures and figures of the posterior of an observation, calibration, and report.md: the run's result."""
    key = jax.random.fold_in(jax.random.key(config.seeds[0]), 2**31 + 1)
    keys = jax.random.split(key, 3)
    compared = _observation(config, fitted.model.parts.simulator, keys[0])
    draws, effective = jax.jit(fitted.model.parts.sample, static_argnums=3)(
        fitted.params, keys[1], jnp.asarray(compared.x), config.draws
    )
    draws = np.asarray(draws)
    if effective < FEW:
        warnings.warn(
            f"{float(effective):.0f} of the draws of the prior are effective under what was learned; use method npe",
            stacklevel=2,
        )
    result = {"step": fitted.step, "effective": float(effective), **_compare(draws, compared)}
    result |= _calibration(fitted, data, keys[2], folder)
    samples = {config.method: draws} | (
        {"reference": compared.reference} if compared.reference is not None else {}
    )
    pictures.pairs(folder.root / "pairs.png", samples, compared.theta)
    learning_curves(folder.root, folder.metrics())
    np.save(folder.root / "draws.npy", draws)
    (folder.root / "report.md").write_text(_report(config, data, fitted, compared, result, folder))
    print(", ".join(f"{name} {value:.3f}" for name, value in result.items() if isinstance(value, float)))
    return result


def _observation(config, simulator, key):
    published = simulators.reference(config.task)
    if published is not None:
        if config.observation > len(published.observations):
            raise ValueError(
                f"{config.task} has {len(published.observations)} published observations, got observation={config.observation}"
            )
        parts = (part[config.observation - 1] for part in published)
        return Compared(*parts, source="published")
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), config.observation))
    theta = simulator.prior_sample(keys[0], (1,))
    x = simulator.simulate(keys[1], theta)[0]
    reference = None
    if simulator.posterior_sample is not None:
        reference = np.asarray(simulator.posterior_sample(key, x, config.draws))
    return Compared(np.asarray(x), np.asarray(theta[0]), reference, "simulated, its posterior exact")


def _compare(draws, compared):
    """C2ST and MMD to the reference, where there is one, as many of both."""
    if compared.reference is None:
        return {}
    count = min(len(draws), len(compared.reference))
    ours, theirs = draws[:count], compared.reference[:count]
    near = theirs[:1000]
    bandwidth = float(np.median(np.linalg.norm(near[:500] - near[-500:], axis=-1)))
    kernel = lambda a, b: divergences.rbf_kernel(a, b, bandwidth)
    mmd = divergences.mmd(jnp.asarray(ours[:2000]), jnp.asarray(theirs[:2000]), kernel)
    return {"c2st": posteriors.c2st(ours, theirs), "mmd2": float(mmd)}


def _calibration(fitted, data, key, folder):
    """Ranks of the parameters of further simulations among draws of their posteriors: tests, coverage, and their picture."""
    parts = fitted.model.parts
    dim = len(parts.simulator.low)
    theta, x = (jnp.asarray(part) for part in (data.test[:, :dim], data.test[:, dim:]))
    keys = jax.random.split(key, len(theta) + 1)
    references = parts.simulator.prior_sample(keys[-1], (len(theta),))
    scale = jnp.std(references, axis=0)

    @jax.jit
    def ranks_of(params):
        def one(inputs):
            key, theta, x, reference = inputs
            draws = parts.sample(params, key, x, RANKED).draws

            def statistics(value):
                away = calibration.distances(value, reference, scale)
                at = jnp.broadcast_to(x, (*value.shape[:-1], *x.shape))
                return jnp.concatenate(
                    [value, jnp.stack([away, -parts.log_posterior(params, value, at)], -1)], -1
                )

            return calibration.rank(statistics(theta), statistics(draws))

        return jax.lax.map(one, (keys[:-1], theta, x, references), batch_size=5)

    ranks = ranks_of(fitted.params)
    names = [f"theta {i + 1}" for i in range(dim)] + ["distance (TARP)", "density"]
    p = calibration.rank_uniformity(ranks, RANKED, BINS)[1]
    covered = calibration.coverage(ranks[:, -1], RANKED, jnp.asarray(LEVELS))
    grid = np.arange(1, 20) / 20
    functions = np.asarray(ranks)[:, :, None] < grid * (RANKED + 1)
    pictures.rank_functions(
        folder.root / "calibration.png",
        dict(zip(names, functions.mean(0), strict=True)),
        grid,
        posteriors.ecdf_band(len(ranks), grid),
    )
    return {
        "p_values": dict(zip(names, map(float, p), strict=True)),
        "coverage": dict(zip(map(str, LEVELS), map(float, covered), strict=True)),
        "tested": len(ranks),
    }


def _report(config, data, fitted, compared, result, folder):
    row = lambda name, value: f"| {name} | {value} |"
    found = []
    if config.method in ("nle", "nre"):
        found = [row("effective draws of the prior", f"{result['effective']:.0f}")]
    if "c2st" in result:
        found += [
            row("C2ST (0.5 is the best)", f"{result['c2st']:.3f}"),
            row("MMD^2", f"{result['mmd2']:.5f}"),
        ]
    error = {
        level: np.sqrt(float(level) * (1 - float(level)) / result["tested"]) for level in result["coverage"]
    }
    found += [
        row(f"coverage of {float(level):.0%} regions", f"{value:.1%} ± {error[level]:.1%}")
        for level, value in result["coverage"].items()
    ]
    found += [row(f"p-value of ranks, {name}", f"{p:.2g}") for name, p in result["p_values"].items()]
    lines = "\n".join(found)
    return f"""# Posterior of {config.task} by {config.method}

{data.protocol.description}.  Observation {config.observation} ({compared.source}); checkpoint of step {fitted.step},
{folder.seconds():.0f} s of training.  Calibration is of {result["tested"]} further simulations, {RANKED} draws each.

| | |
|---|---|
{lines}

C2ST is the published recipe, a perceptron of 10 D units with five folds.  Coverage is of highest-density regions: below its level
the posterior is too narrow.  A calibrated posterior has p-values that are uniform on (0, 1).

![pairs](pairs.png)
![calibration](calibration.png)
![curves](curves.png)

Settings: `config.json`; versions and devices: `manifest.json`; draws: `draws.npy`; figures above: `result.json`.
"""
