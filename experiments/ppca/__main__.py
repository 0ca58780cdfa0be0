"""Fit probabilistic PCA in closed form, by EM or by gradient ascent, evaluate it exactly, and write a report with pictures.

python -m experiments.ppca                                  # embedded digits, seconds
python -m experiments.ppca --data two_moons                 # points of a plane, projected on a line
python -m experiments.ppca --data freyfaces --latent-dim 2 5 10 20 50 100
python -m experiments.ppca --data freyfaces --latent-dim 10 --method em
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator

import jax

from dlvm_jax import progress, recipes, train
from dlvm_jax.settings import choice, setting
from dlvm_jax.train import parallel
from dlvm_jax.train.optimisers import OPTIMISERS, SCHEDULES
from dlvm_jax.train.run import RunFolder, new_folder, updated_manifest
from experiments import run as common
from experiments.ppca import report

__all__ = ["Config", "run"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.OnData, recipes.PPCA):
    """Fit probabilistic PCA, evaluate it on the test set, and write a report with pictures."""

    latent_dim: tuple[int, ...] | None = setting(
        None,
        "dimensions of the latent space, one model for each; default those of 2 5 10 20 that the data allow, else 1",
        at_least=1,
    )
    optimiser: str | None = choice(None, OPTIMISERS, "optimiser, by default that of the method")
    learning_rate: float | None = setting(None, "peak learning rate; default that of the method")
    schedule: str | None = choice(
        None, SCHEDULES, "learning rate over all steps, by default that of the method"
    )
    batch_size: int | None = setting(None, "examples of a step; default that of the method", at_least=1)
    evaluations: int | None = setting(
        None, "evaluations in the whole run; default that of the method", at_least=1
    )
    code_step: tuple[float, ...] = setting(
        (2.0, 1.0, 0.5, 0.25), "quantisation steps of the lossy code, in standard deviations of the prior"
    )

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that are impossible or contradict each other."""
        super().check()
        dims = self.latent_dim
        if dims is not None and (not dims or len(set(dims)) < len(dims)):
            raise ValueError(f"give different latent dimensions, such as latent_dim=2 10; got {list(dims)}")
        if self.method == "closed" and self.steps is not None:
            raise ValueError("steps belong to method='em' or 'gradient'; the closed form has none")
        if len(self.seeds) > 1:
            raise ValueError(f"one seed is enough for an exact density, got seeds={self.seeds}")
        if not all(0 < step < math.inf for step in self.code_step):
            raise ValueError(f"a quantisation step is positive, got {list(self.code_step)}")


def _usual(elements):
    """The latent dimensions of examples of so many elements, where none are given."""
    return tuple(dim for dim in (2, 5, 10, 20) if dim < elements) or (1,)


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """All threads compute in float64 meanwhile, so that the methods can be compared to many digits."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def run(config: Config) -> None:
    """One model for each latent dimension, from the settings to the report."""
    config.check()
    parallel.initialise(config.coordinator, config.processes, config.process_id)
    recipe_of = lambda latent: recipes.PPCA(latent_dim=latent, method=config.method)
    data = common.load_data(config, recipe_of(1))
    if config.latent_dim is None:
        config = dataclasses.replace(config, latent_dim=_usual(math.prod(data.spec.event_shape)))
    for latent in config.latent_dim:
        recipe_of(latent).check_data(data.spec)
    if config.out is not None and (config.out / "result.json").exists() and not config.resume:
        raise ValueError(f"{config.out} already holds a run; give resume=True to go on, or another out")
    root = config.out or new_folder(f"ppca-{data.name}")
    folder = RunFolder(root, writes=parallel.is_primary())
    (root / "result.json").unlink(missing_ok=True)
    folder.write("config.json", config.as_dict())
    folder.write("manifest.json", updated_manifest(root))
    print(f"{data.name}, {data.protocol.name}: {data.protocol.description}\nrun folder {root}")
    with double_precision():
        fitted = {
            latent: train.fit(
                recipe_of(latent),
                data,
                out=root / f"latent-{latent}",
                resume=config.resume and (root / f"latent-{latent}").exists(),
                **common.training_of(config),
            )
            for latent in config.latent_dim
        }
        if parallel.is_primary():
            with progress.phase("evaluating and drawing"):
                folder.write("result.json", report.evaluate_and_write(config, data, fitted, root))
            print(f"report in {root / 'report.md'}")


if __name__ == "__main__":
    common.main(run, Config, __doc__)
