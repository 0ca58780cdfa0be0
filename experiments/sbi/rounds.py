"""Simulations in rounds for one observation: each draws its parameters where the round before has found them.

round-1, round-2, ... in the run's folder hold the simulations of each round and, of all but the last, what was trained on
those so far.  A posterior's proposals are the truncated prior, which needs no correction.  A likelihood or ratio is right for
any proposals, which are then draws of its posterior.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax import recipes, train
from dlvm_jax.data import Data, simulators
from experiments import run as common
from experiments.sbi import report

if TYPE_CHECKING:
    from experiments.sbi.__main__ import Config

__all__ = ["dataset"]

# What simulations depend on.
SETTINGS = ("task", "repeats", "simulations", "rounds", "observation", "seeds", "sampling")


def dataset(config: "Config", recipe: recipes.Posterior, root: Path) -> Data:
    """The simulations of all rounds: what is there is read, the rest simulated and trained.

    Raises ValueError for rounds that are there already where the run does not go on, and for those of other settings.
    """
    if (root / "round-1").exists() and not config.resume:
        raise ValueError(f"{root} already holds rounds; give resume=True to go on, or another out")
    simulator, seed = recipe.simulator, config.seeds[0]
    x = jnp.asarray(report.observation(config, simulator, jax.random.key(0)).x)
    count = config.simulations // config.rounds
    about = json.dumps({name: getattr(config, name) for name in SETTINGS})
    propose = lambda key: simulator.prior_sample(key, (count,))
    rows: list[np.ndarray] = []
    for number in range(1, config.rounds + 1):
        folder, keys = (
            root / f"round-{number}",
            jax.random.split(jax.random.fold_in(jax.random.key(seed), number)),
        )

        def simulate(keys=keys, propose=propose):
            found, finite = simulators.simulated(config.task, simulator, keys[1], propose(keys[0]))
            return found[finite]

        rows.append(_kept(folder / "simulations.npz", about, simulate))
        every = np.random.RandomState(seed).permutation(np.concatenate(rows))
        data = simulators.of_rows(config.task, every, every[:0], seed)
        if number < config.rounds:
            print(f"round {number} of {config.rounds}: {data.protocol.description}")
            began = (folder / "model.json").exists()
            fitted = train.fit(recipe, data, out=folder, resume=began, **common.training_of(config))
            parts, params = report.learned(fitted)
            draw = jax.jit(parts.chains, static_argnums=3) if config.sampling == "mcmc" else parts.propose
            propose = lambda key, draw=draw, params=params: draw(params, key, x, count).draws
    return data


def _kept(file: Path, about: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The rows in a file, made and written where it is not there; ValueError for one of other settings."""
    if file.exists():
        with np.load(file) as stored:
            if str(stored["about"]) != about:
                raise ValueError(f"{file} is of {stored['about']}, not {about}; give another out")
            return stored["rows"]
    rows = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".part")
    with open(temporary, "wb") as stream:
        np.savez(stream, rows=rows, about=about)
    temporary.replace(file)
    return rows
