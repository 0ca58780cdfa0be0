"""The published benchmark: C2ST over the ten observations, of methods, tasks and budgets, beside the published means.

python -m experiments.sbi table                                                  # NPE on two tasks from 1,000 simulations
python -m experiments.sbi table --methods npe nle nre --simulations 1000 10000   # hours; the same command goes on
python -m experiments.sbi table --tasks two_moons slcp --rounds 10               # in rounds for each observation

It needs the published posteriors (DLVM_DATA).  Each cell is a run of `experiments.sbi.cells` in a folder of its own, with the
settings of its row in RESULTS.md.
"""

import dataclasses
from pathlib import Path

from dlvm_jax.data.simulators import TASKS
from dlvm_jax.recipes.posterior import METHODS
from dlvm_jax.settings import Settings, pick, setting
from dlvm_jax.train.run import RunFolder, manifest
from experiments import run as common
from experiments.papers import lueckmann2021
from experiments.sbi import cells

__all__ = ["Config", "run"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Run all cells that are not there yet, and print the table."""

    tasks: tuple[str, ...] = setting(("two_moons", "gaussian_mixture"), f"tasks: {', '.join(TASKS)}")
    methods: tuple[str, ...] = setting(("npe",), f"methods: {', '.join(METHODS)}")
    simulations: tuple[int, ...] = setting(
        (1000,), "simulations of training and validation together", at_least=20
    )
    rounds: int = setting(1, "rounds that share the simulations, for each observation", at_least=1)
    steps: int | None = setting(None, "training steps of each cell, instead of its own number", at_least=1)
    draws: int = setting(10_000, "draws of each posterior", at_least=100)
    observations: int = setting(10, "published observations, from the first", at_least=1)
    out: Path = setting(Path("runs/sbi-table"), "folder of the table; cells that are there are kept")

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that are impossible whatever the data."""
        super().check()
        for names, there, what in ((self.tasks, TASKS, "task"), (self.methods, METHODS, "method")):
            for name in names:
                pick(there, name, what)

    def cells(self) -> dict[tuple[str, str, int], cells.Config]:
        """The configuration of each cell by task, method and budget."""
        shared = {"draws": self.draws, "observations": self.observations}
        shared |= {"steps": self.steps} if self.steps else {}
        found = {}
        for task in self.tasks:
            for method in self.methods:
                for budget in self.simulations:
                    own = lueckmann2021.settings(task, method, budget, self.rounds)
                    out = self.out / f"{method}-{task}-{budget}-{self.rounds}"
                    found[task, method, budget] = cells.Config(**own | shared, out=out)
        return found


def run(config: Config) -> None:
    """All cells, and the table."""
    config.check()
    found = config.cells()
    for cell in found.values():
        cell.check()
        common.finished(cell)  # refuses one of other settings before anything is trained
    RunFolder(config.out).write("manifest.json", manifest())
    results = {}
    for number, (name, cell) in enumerate(found.items(), 1):
        print(f"\n{number} of {len(found)}: {cell.task} by {cell.method} from {cell.simulations} simulations")
        results[name] = common.carried_out(cells.run, cell)
    report = _report(config, results)
    RunFolder(config.out).write("result.json", {" ".join(map(str, name)): r for name, r in results.items()})
    (config.out / "report.md").write_text(report)
    print(f"\n{report}\nreport in {config.out / 'report.md'}")


def _report(config, results):
    """A line for each task and method, and two columns for each budget."""
    columns = [f"{budget:,} | published" for budget in config.simulations]
    lines = [f"| task | method | {' | '.join(columns)} |", "|---" * (2 + 2 * len(columns)) + "|"]
    for task in config.tasks:
        for method in config.methods:
            values = []
            for budget in config.simulations:
                result = results[task, method, budget]
                printed = lueckmann2021.published(task, method, budget, config.rounds) or "-"
                values.append(f"{result['mean']:.3f} ± {result['standard_error']:.3f} | {printed}")
            lines.append(f"| {task} | {method} | {' | '.join(values)} |")
    table = "\n".join(lines)
    return f"""# C2ST of the benchmark of simulation-based inference

The mean over {config.observations} published observations, {config.draws} draws each, and its standard error over these.
0.5 is the best.  Rounds: {config.rounds}.  Published: the mean over ten (Lueckmann et al. 2021).

{table}
"""
