"""A trained posterior against the reference of an observation, and the calibration over simulations."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.data import Data, simulators
from dlvm_jax.evaluate import pictures, posteriors
from dlvm_jax.exact.simulators import Simulator
from dlvm_jax.functional import calibration, divergences
from dlvm_jax.recipes.posterior import PosteriorParts, ensemble
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder
from experiments.evaluation import learning_curves

if TYPE_CHECKING:
    from experiments.sbi.__main__ import Config

__all__ = ["evaluate_and_write", "learned", "observation", "posterior_draws"]

PREDICTED = 1000  # simulations from draws of the posterior
RANKED, BINS = 99, 10  # draws of each simulation, and bins of the test of their ranks
NEAR = 1000  # further simulations, whose distances say how far an observation may be
FEW = 100  # effective draws, below which resampling is not to be trusted
MIXED = 1.05  # R-hat, above which chains are not
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
    parts, params = learned(fitted)
    compared = observation(config, parts.simulator, keys[0])
    _say_if_outside(compared.x, *(part[:, -len(compared.x) :] for part in (data.train, data.valid)))
    draws, found = posterior_draws(config, parts, params, keys[1], compared.x)
    result = {"step": fitted.step, **found, **_compare(draws, compared)}
    result |= _predict(parts.simulator, draws, compared, jax.random.fold_in(key, 0), folder)
    if config.rounds == 1:  # what was learned in rounds is of this observation alone
        result |= _calibration(parts, params, data, compared, draws, keys[2], folder)
    samples = {config.method: draws} | (
        {"reference": compared.reference} if compared.reference is not None else {}
    )
    pictures.pairs(folder.root / "pairs.png", samples, compared.theta)
    learning_curves(folder.root, folder.metrics())
    np.save(folder.root / "draws.npy", draws)
    (folder.root / "report.md").write_text(_report(config, data, fitted, compared, result, folder))
    print(", ".join(f"{name} {value:.3f}" for name, value in result.items() if isinstance(value, float)))
    return result


def posterior_draws(
    config: "Config", parts: PosteriorParts, params: Any, key: jax.Array, x: np.ndarray
) -> tuple[np.ndarray, dict[str, float]]:
    """Draws of the posterior of x, and how many are effective, with R-hat of chains; warns of few, or of a large one."""
    sample = parts.chains if config.sampling == "mcmc" else parts.sample
    drawn = jax.jit(sample, static_argnums=3)(params, key, jnp.asarray(x), config.draws)
    found = {"effective": float(drawn.effective)}
    if drawn.r_hat is not None:
        found["r_hat"] = float(drawn.r_hat)
        if not found["r_hat"] < MIXED:
            warnings.warn(
                f"R-hat of the chains is {found['r_hat']:.2f}: they have not mixed, or keep to modes of their own",
                stacklevel=3,
            )
    elif not found["effective"] >= FEW:
        warnings.warn(
            f"{found['effective']:.0f} of the draws of the prior are effective under what was learned; use sampling='mcmc', or "
            "method npe",
            stacklevel=3,
        )
    return np.asarray(drawn.draws), found


def learned(fitted: Fitted) -> tuple[PosteriorParts, Any]:
    """The parts of a trained posterior and their params; of several seeds those of their mixture."""
    if len(fitted.per_seed) == 1:
        return fitted.model.parts, fitted.params
    return ensemble(fitted.model), fitted.per_seed


def observation(config: "Config", simulator: Simulator, key: jax.Array) -> Compared:
    """The observation of a run: a published one where there is one, else simulated, always the same of a number."""
    published = simulators.reference(config.task) if config.repeats == 1 else None
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
    if not np.isfinite(x).all():
        raise ValueError(
            f"the simulated observation {config.observation} of {config.task} is not finite; give another observation"
        )
    reference = None
    if simulator.posterior_sample is not None:
        reference = np.asarray(simulator.posterior_sample(key, x, config.draws))
    return Compared(
        np.asarray(x, np.float32), np.asarray(theta[0]), reference, "simulated, its posterior exact"
    )


def _say_if_outside(x, simulated, further):
    """Warn of an observation that is further from the simulations, or outside in more numbers, than each of further ones is."""
    further, low, high = further[:NEAR], simulated.min(0), simulated.max(0)
    distance, usual = (posteriors.nearest(rows, simulated).max() for rows in (x[None], further))
    outside, often = (((rows < low) | (rows > high)).sum(-1).max() for rows in (x[None], further))
    if distance > usual or outside > often:
        warnings.warn(
            f"the observation is {distance:.2g} standard deviations away from the nearest of {len(simulated)} simulations, and "
            f"{len(further)} further ones are {usual:.2g} away at most; {outside} of its {len(x)} numbers lie outside of all "
            f"simulations, {often} at most of theirs; its posterior is extrapolated",
            stacklevel=3,
        )


def _predict(simulator, draws, compared, key, folder):
    """Data simulated from draws of the posterior beside the observation: the smallest p-value, and their picture."""
    x = np.asarray(jax.jit(simulator.simulate)(key, jnp.asarray(draws[:PREDICTED])), np.float32)
    finite = np.isfinite(x).all(-1)
    if not finite.all():
        warnings.warn(
            f"{(~finite).sum()} of {len(x)} simulations from the posterior are not finite", stacklevel=3
        )
    x = x[finite] if finite.any() else x
    if simulator.image is None:
        pictures.predictive(folder.root / "predictive.png", compared.x, x)
    else:
        _maps(folder.root / "predictive.png", simulator.image, compared.x, x)
    return {"predictive_p": float(calibration.predictive_p_value(jnp.asarray(compared.x), x).min())}


def _maps(path, sides, observed, replicated):
    """An observation that is an image, and simulations from draws of its posterior in the same greys; of several x the first."""
    images = np.stack([observed, *replicated[:7]])[:, : sides[0] * sides[1]].reshape(-1, *sides)
    low, high = np.percentile(images[0], (1, 99))
    title = "the observation first, then simulations from draws of its posterior"
    pictures.grid(path, (images - low) / ((high - low) or 1.0), 4, title)


def _compare(draws, compared):
    """C2ST and MMD to the reference, where there is one, as many of both."""
    if compared.reference is None:
        return {}
    count = min(len(draws), len(compared.reference))
    ours, theirs = draws[:count], compared.reference[:count]
    half = min(1000, count) // 2
    bandwidth = float(np.median(np.linalg.norm(theirs[:half] - theirs[half : 2 * half], axis=-1)))
    kernel = lambda a, b: divergences.rbf_kernel(a, b, bandwidth)
    mmd = divergences.mmd(jnp.asarray(ours[:2000]), jnp.asarray(theirs[:2000]), kernel)
    return {"c2st": posteriors.c2st(ours, theirs), "mmd2": float(mmd)}


def _calibration(parts, params, data, compared, local, key, folder):
    """Ranks of the parameters of further simulations among draws of their posteriors: tests, coverage, and their picture.

    local: draws of the posterior of the observation, for the local test
    """
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

            return calibration.rank(statistics(theta), statistics(draws)), draws[0]

        return jax.lax.map(one, (keys[:-1], theta, x, references), batch_size=5)

    ranks, drawn = ranks_of(params)
    test = posteriors.lc2st(theta, drawn, x, local, compared.x)
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
        "local_p": test.p_value,
    }


def _row(name, value):
    return f"| {name} | {value} |"


def _calibrated(result):
    """Rows of calibration."""
    error = {
        level: np.sqrt(float(level) * (1 - float(level)) / result["tested"]) for level in result["coverage"]
    }
    rows = [
        _row(f"coverage of {float(level):.0%} regions", f"{value:.1%} ± {error[level]:.1%}")
        for level, value in result["coverage"].items()
    ]
    rows += [_row(f"p-value of ranks, {name}", f"{p:.2g}") for name, p in result["p_values"].items()]
    return [*rows, _row("p-value of the local test at the observation (L-C2ST)", f"{result['local_p']:.2g}")]


def _report(config, data, fitted, compared, result, folder):
    found = []
    if "r_hat" in result:
        found = [
            _row("effective draws of the chains, of the worst parameter", f"{result['effective']:.0f}"),
            _row(
                "R-hat of the chains (1 where they have mixed), of the worst parameter",
                f"{result['r_hat']:.3f}",
            ),
        ]
    elif config.method in ("nle", "nre"):
        found = [_row("effective draws of the prior", f"{result['effective']:.0f}")]
    if "c2st" in result:
        found += [
            _row("C2ST (0.5 is the best)", f"{result['c2st']:.3f}"),
            _row("MMD^2", f"{result['mmd2']:.5f}"),
        ]
    found += [
        _row(
            f"posterior predictive p-value, the smallest of {len(compared.x)}",
            f"{result['predictive_p']:.3f}",
        )
    ]
    if config.rounds == 1:
        found += _calibrated(result)
    lines = "\n".join(found)
    calibrated = CALIBRATED if config.rounds == 1 else ROUNDS
    how = " by resampling" * (config.sampling == "mcmc")  # chains take too long for each
    said = calibrated.format(tested=result.get("tested"), ranked=RANKED, how=how, rounds=config.rounds)
    return f"""# Posterior of {config.task} by {config.method}

{data.protocol.description}.  Observation {config.observation} ({compared.source}); checkpoint of step {fitted.step},
{folder.seconds():.0f} s of training.

| | |
|---|---|
{lines}

C2ST is the published recipe, a perceptron of 10 D units with five folds.  The posterior predictive p-value is of each number in x
among simulations from draws of the posterior.
{said}
![pairs](pairs.png)
![predictive](predictive.png)
![curves](curves.png)

Settings: `config.json`; versions and devices: `manifest.json`; draws: `draws.npy`; figures above: `result.json`.
"""


CALIBRATED = """Calibration is of {tested} further simulations, {ranked} draws each{how}.  Coverage is of highest-density regions:
below its level the posterior is too narrow.  A calibrated posterior has p-values that are uniform on (0, 1).

![calibration](calibration.png)
"""
ROUNDS = """It was learned in {rounds} rounds of simulations for this observation, so that it is not tested with others.
"""
