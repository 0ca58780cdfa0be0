"""Disentanglement of VAEs on drawn shapes whose factors are known: ELBO, beta-VAE and beta-TCVAE side by side.

python -m experiments.disentangle                    # three objectives, two seeds each, a few minutes
"""

import dataclasses
import hashlib

import numpy as np

from dlvm_jax import progress, recipes, train
from dlvm_jax.data import Data, Protocol, factors
from dlvm_jax.data.protocol import TRANSFORMS
from dlvm_jax.settings import setting
from dlvm_jax.train import parallel
from dlvm_jax.train.run import RunFolder, updated_manifest
from experiments import run as common
from experiments.disentangle import report

__all__ = ["Config", "run", "shapes"]

STEPS = 8000  # where neither steps nor epochs are given


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.Common):
    """Train VAEs on all 7680 shapes and score how far each latent unit stands for one factor."""

    beta: float = setting(
        4.0, "weight of the KL in the beta-VAE, and of the total correlation in the beta-TCVAE", at_least=0
    )
    latent_dim: int = setting(10, "dimension of the latent space", at_least=2)
    hidden: tuple[int, ...] = setting(
        (400, 400), "widths of the encoder's hidden layers; the decoder mirrors them", at_least=1
    )
    steps: int | None = setting(
        None, "training steps of each model; default 8000 unless epochs is given", at_least=1
    )
    batch_size: int = setting(128, "examples of a step", at_least=2)
    evaluations: int = setting(20, "lines of the log and checkpoints in the whole run", at_least=1)
    seeds: tuple[int, ...] = setting((0, 1), "random seeds, trained together", at_least=0, below=2**32)

    @property
    def models(self) -> dict[str, recipes.VAE]:
        """The recipes that are compared, by name."""
        shared = {"latent_dim": self.latent_dim, "hidden": self.hidden}
        return {
            "VAE": recipes.VAE(**shared),
            f"beta-VAE, {self.beta:g}": recipes.VAE(beta=self.beta, **shared),
            f"beta-TCVAE, {self.beta:g}": recipes.VAE(
                objective="total-correlation", beta=self.beta, **shared
            ),
        }

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that are impossible whatever the data."""
        super().check()
        for recipe in self.models.values():
            recipe.check()


def shapes() -> Data:
    """All shapes as training data, whose bits are drawn anew for each minibatch; nothing is held out."""
    raw = np.round(255 * factors.render(factors.all_factors())).astype(np.uint8)
    text = f"all {len(raw)} images, new bits Bernoulli(grey) for each minibatch"
    protocol = Protocol("all", (len(raw), 0, 0), "binarised", 0, text, "this library")
    nothing, labels = raw[:0], (None, None, None)
    return Data(
        "shapes",
        raw,
        nothing,
        nothing,
        *labels,
        2,
        1.0,
        True,
        TRANSFORMS["binarised"].train(256),
        protocol.with_hash(hashlib.sha256(raw.tobytes()).hexdigest()),
    )


def run(config: Config) -> None:
    """All models, their scores, pictures and the report."""
    config.check()
    parallel.initialise(config.coordinator, config.processes, config.process_id)
    data = shapes()
    settings = {name: getattr(config, name) for name in train.TrainConfig.names()}
    settings["steps"] = config.steps or (None if config.epochs else STEPS)
    fitted = {}
    with common.run_folder(config, "disentangle") as root:
        for name, recipe in config.models.items():
            out = root / report.slug(name)
            fitted[name] = train.fit(
                recipe,
                data,
                out=out,
                resume=config.resume and (out / "checkpoints").is_dir(),
                tensorboard=config.tensorboard,
                **settings,
            )
    if not parallel.is_primary():
        return
    folder = RunFolder(root)
    with progress.phase("scoring"):
        result = report.evaluate_and_write(config, fitted, root)
    folder.write("config.json", config.as_dict())
    folder.write("manifest.json", updated_manifest(root))
    folder.write("result.json", result)
    print(f"report in {root / 'report.md'}")


if __name__ == "__main__":
    common.main(run, Config, __doc__)
