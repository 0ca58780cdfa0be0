"""Inpainting, deblurring and super-resolution of held-out images: a hierarchical VAE, diffusion, total variation, Wiener.

python -m experiments.restoration                                   # trains a small model of the embedded digits first
python -m experiments.restoration --model runs/hierarchical-mnist-001 --diffusion runs/diffusion-mnist-001

The models are of levels: python -m experiments.hierarchical --likelihood discretised-logistic.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlvm_jax import recipes, train
from dlvm_jax.data import Data
from dlvm_jax.settings import Settings, setting
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder, manifest
from experiments import run as common
from experiments.hierarchical import __main__ as hierarchical
from experiments.restoration import report

__all__ = ["Config", "run"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Restore held-out images by several methods, from the same observations, and compare PSNR and time."""

    model: Path | None = setting(
        None, "folder of a finished run of experiments.hierarchical; default: train one of the digits in out"
    )
    diffusion: Path | None = setting(
        None, "folder of a finished run of experiments.diffusion on the same data; default: none"
    )
    noise: float = setting(0.05, "standard deviation of the noise, of the largest value", at_least=0)
    temperatures: tuple[float, ...] = setting(
        (1.0, 0.8, 0.6, 0.4), "temperatures of the hierarchical VAE that are tried on validation images"
    )
    iterations: int = setting(300, "iterations of the hierarchical VAE, at most", at_least=1)
    tune_limit: int = setting(10, "validation images on which each method's setting is chosen", at_least=1)
    eval_limit: int = setting(50, "test images", at_least=2)
    seed: int = setting(0, "seed of masks, noise and samples")
    out: Path | None = setting(None, "folder; default runs/restoration-001, 002, ...")

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that are impossible whatever the data."""
        super().check()
        if not self.noise > 0:
            raise ValueError(f"noise must be above 0, got {self.noise}")
        if not self.temperatures or not all(0 < t <= 1 for t in self.temperatures):
            raise ValueError(f"temperatures are one or more, above 0 and at most 1, got {self.temperatures}")


def run(config: Config) -> Mapping[str, Any]:
    """All problems and methods, the pictures and the report: the result."""
    config.check()
    with common.run_folder(config, "restoration") as root:
        fitted, data = _model(config, root)
        diffusion = None if config.diffusion is None else _diffusion(config.diffusion, fitted)
        folder = RunFolder(root)
        folder.write("config.json", config.as_dict())
        folder.write("manifest.json", manifest())
        result = report.compare_and_write(config, data, fitted, diffusion, root)
        folder.write("result.json", result)
        print(f"report in {root / 'report.md'}")
        return result


def _model(config: Config, root: Path) -> tuple[Fitted, Data]:
    """The hierarchical VAE, which is trained first where none is given, and its data."""
    folder = config.model or root / "model"
    if config.model is None:
        own = hierarchical.Config(likelihood="discretised-logistic", eval_samples=10, out=folder)
        common.carried_out(hierarchical.run, own)
    fitted = train.load(folder)
    if not isinstance(fitted.recipe, recipes.Hierarchical):
        raise ValueError(
            f"{folder} is of {type(fitted.recipe).__name__}; give a run of experiments.hierarchical as model"
        )
    if fitted.recipe.condition:
        raise ValueError(
            f"{folder} is of images given a {fitted.recipe.condition}; give a model without a condition"
        )
    if fitted.recipe.spectral:
        raise ValueError(
            f"{folder} was trained with spectral norms, which a restoration does not read; give another model"
        )
    if fitted.recipe.inference == "bottom-up" and config.temperatures != (1.0,):
        raise ValueError(f"{folder} infers from the bottom up, which has no temperature; give temperatures=1")
    spec = fitted.spec
    if spec.discrete and spec.levels == 2:
        raise ValueError(
            f"{folder} is of bits, whose likelihood has no standard deviation; train on levels: "
            "python -m experiments.hierarchical --likelihood discretised-logistic"
        )
    if len(spec.event_shape) != 3:
        raise ValueError(f"images are restored, the examples of {folder} have shape {spec.event_shape}")
    data = common.data_of(folder, fitted)
    if len(data.test) < 2 or not len(data.valid):
        raise ValueError(
            f"{data.name} has {len(data.valid)} validation and {len(data.test)} test images; one and two are needed"
        )
    return fitted, data


def _diffusion(folder: Path, fitted: Fitted) -> Fitted:
    """The diffusion model; raises ValueError for a run of something else, or on other data."""
    found = train.load(folder)
    if not isinstance(found.recipe, recipes.Diffusion):
        raise ValueError(
            f"{folder} is of {type(found.recipe).__name__}; give a run of experiments.diffusion as diffusion"
        )
    ours, theirs = ((f.spec.name, f.spec.protocol_hash) for f in (fitted, found))
    if ours != theirs:
        raise ValueError(
            f"{folder} was trained on {found.spec.name}, protocol {found.spec.protocol!r}, the hierarchical VAE on "
            f"{fitted.spec.name}, protocol {fitted.spec.protocol!r}; both need the same data"
        )
    return found


if __name__ == "__main__":
    common.main(run, Config, __doc__)
