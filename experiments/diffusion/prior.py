"""Latent diffusion: a diffusion model as the prior of a trained VAE, whose encoder and decoder stay as they are.

python -m experiments.diffusion.prior                       # of a VAE of the embedded digits, which it trains first
python -m experiments.diffusion.prior --vae runs/vae-mnist-001

Prior and posterior trained together are `python -m experiments.vae --prior diffusion`.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlvm_jax import data as datasets
from dlvm_jax import train
from dlvm_jax.data import Data
from dlvm_jax.settings import setting
from experiments import run as common
from experiments.diffusion import prior_report
from experiments.diffusion.latent import LatentDiffusion, check_vae
from experiments.vae import __main__ as vae

__all__ = ["Config", "run"]


@common.with_training_of
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.OnData, LatentDiffusion):
    """Train a diffusion prior for a VAE, and compare bound and evidence before and after."""

    vae: Path | None = setting(
        None, "folder of a finished run of experiments.vae; default: train one, in the folder vae of out"
    )
    data: str | None = setting(None, "default: what the VAE was trained on, digits for a new one")
    eval_samples: int = setting(
        50, "importance samples of each test example; each is a solution of an ODE", at_least=1
    )
    eval_limit: int | None = setting(1000, "evaluate on the first so many test examples", at_least=2)


def run(config: Config) -> Mapping[str, Any] | None:
    """One experiment from its settings to its report: its result."""
    config.check()
    with common.run_folder(config, "diffusion-prior") as out:
        own = dataclasses.replace(config, out=out, vae=Path(config.vae or out / "vae"))
        return common.experiment(
            own, LatentDiffusion, prior_report.evaluate_and_write, "diffusion-prior", _load
        )


def _load(config: Config, recipe: LatentDiffusion) -> Data:
    """The data of the VAE, which is trained first where it is our own."""
    if config.vae == config.out / "vae" and not (config.vae / "result.json").exists():
        shared = {"data": config.data, "protocol": config.protocol, "resize": config.resize}
        shared = {name: value for name, value in shared.items() if value is not None}
        vae.run(vae.Config(out=config.vae, resume=(config.vae / "checkpoints").is_dir(), **shared))
    check_vae(train.load(config.vae).recipe)
    there = json.loads((config.vae / "config.json").read_text())
    if config.data:
        there = {"data": config.data, "protocol": config.protocol, "resize": config.resize}
    elif not there.get("data"):
        raise ValueError(f"{config.vae} does not say what it was trained on; give data")
    resize = there.get("resize")
    return datasets.load(there["data"], there.get("protocol"), resize=resize and tuple(resize))


if __name__ == "__main__":
    common.main(run, Config, __doc__)
