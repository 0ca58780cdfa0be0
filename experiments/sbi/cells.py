"""One cell of the published benchmark: a method on a task from a budget of simulations, by C2ST over the published observations.

python -m experiments.sbi.cells --task two_moons --method npe --simulations 1000     # needs DLVM_DATA

One round learns all posteriors at once.  Several rounds are of one observation each: they are runs of `experiments.sbi`, in
folders of their own.  What is there already is kept, so that a cell that was stopped goes on where it was.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dlvm_jax import progress, recipes
from dlvm_jax.data import Data, simulators
from dlvm_jax.evaluate import posteriors
from dlvm_jax.settings import setting
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder, updated_manifest
from experiments import run as common
from experiments.sbi import __main__ as script
from experiments.sbi import report

__all__ = ["Config", "run"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.Config):
    """Learn the posteriors of the published observations of a task, and compare each with its reference by C2ST."""

    observations: int = setting(10, "published observations, from the first", at_least=1)

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that are impossible whatever the data."""
        super().check()
        if self.observation != 1 or self.repeats != 1:
            raise ValueError(
                "a cell is of all published observations, one at a time; leave observation and repeats out"
            )


def run(config: Config) -> None:
    """One cell from its settings to its report."""
    config.check()
    published = simulators.reference(config.task)
    if published is None:
        raise ValueError(f"no posteriors of {config.task} are published in the folder that DLVM_DATA names")
    if config.observations > len(published.observations):
        raise ValueError(
            f"{config.task} has {len(published.observations)} published observations, got {config.observations}"
        )
    if config.rounds == 1:
        common.experiment(config, recipes.Posterior, evaluate_and_write, "sbi", script.simulated)
        return
    with common.run_folder(config, f"sbi-{config.task}") as root:
        folder = RunFolder(root)
        folder.write("config.json", config.as_dict())
        folder.write("manifest.json", updated_manifest(root))
        settings = {name: getattr(config, name) for name in script.Config.names()}
        found = {}
        for number in range(1, config.observations + 1):
            print(f"observation {number} of {config.observations}")
            out = root / f"observation-{number}"
            one = script.Config(**settings | {"observation": number, "out": out})
            if not common.finished(one):
                script.run(dataclasses.replace(one, resume=(out / "round-1").exists()))
            found[str(number)] = json.loads((out / "result.json").read_text())["c2st"]
        folder.write("result.json", _written(config, found, folder))


def evaluate_and_write(config: Config, data: Data, fitted: Fitted, folder: RunFolder) -> Mapping[str, Any]:
    """C2ST of each observation, written as soon as it is known, and report.md: the run's result."""
    parts, params = report.learned(fitted)
    published = simulators.reference(config.task)
    key = jax.random.fold_in(jax.random.key(config.seeds[0]), 2**31 + 1)
    kept, about = folder.root / "c2st.json", [fitted.step, config.draws, config.sampling]
    there = json.loads(kept.read_text()) if kept.exists() else {}
    found = there["c2st"] if there.get("about") == about else {}
    for number, (x, _, reference) in enumerate(zip(*published, strict=True), 1):
        if number > config.observations or str(number) in found:
            continue
        with progress.phase(f"observation {number} of {config.observations}"):
            draws, _ = report.posterior_draws(config, parts, params, jax.random.fold_in(key, number), x)
            count = min(len(draws), len(reference))
            found[str(number)] = posteriors.c2st(draws[:count], reference[:count])
        folder.write(kept.name, {"about": about, "c2st": found})
    return _written(config, found, folder)


def _written(config, found, folder):
    """The result, after the report is written."""
    values = np.array(list(found.values()))
    result = {
        "c2st": found,
        "mean": float(values.mean()),
        "standard_error": float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0,
    }
    lines = "\n".join(f"| {number} | {value:.3f} |" for number, value in found.items())
    title = f"# {config.task} by {config.method} from {config.simulations} simulations in {config.rounds} round(s)"
    text = f"C2ST {result['mean']:.3f} ± {result['standard_error']:.3f}, the standard error over observations"
    about = f"{text}; {config.draws} draws each, 0.5 is the best."
    (folder.root / "report.md").write_text(
        f"{title}\n\n{about}\n\n| observation | C2ST |\n|---|---|\n{lines}\n"
    )
    print(text)
    return result


if __name__ == "__main__":
    common.main(run, Config, __doc__)
