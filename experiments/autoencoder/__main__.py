"""Train an autoencoder, use its codes (classification, outliers, interpolation), and write a report with pictures.

python -m experiments.autoencoder                                   # embedded digits, under a minute
python -m experiments.autoencoder --kind denoising --data mnist --latent-dim 32
python -m experiments.autoencoder --data mnist --train-limit 1000 --latent-dim 2 --compare-vae
"""

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dlvm_jax import data as datasets
from dlvm_jax import recipes, train
from dlvm_jax.data import Data
from dlvm_jax.digest import digest
from dlvm_jax.settings import setting
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder
from experiments import run as common
from experiments.autoencoder import report
from experiments.autoencoder.classifier import Classifier, on_encoder_of

__all__ = ["Config", "Further", "run"]

CLASSIFIERS = {"frozen": (True, False), "fine-tuned": (True, True), "from scratch": (False, True)}
OUTLIERS = {"mnist": "fashion_mnist", "fashion_mnist": "mnist"}  # where no others are given


@common.with_training_of
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.OnData, recipes.Autoencoder):
    """Train an autoencoder, use its codes (classification, outliers, interpolation), and write a report with pictures."""

    train_limit: int | None = setting(None, "train on the first so many examples only", at_least=1)
    label_limit: int = setting(100, "labelled training examples of the classifiers", at_least=1)
    classifier_steps: int = setting(1000, "training steps of each classifier", at_least=1)
    against: str | None = setting(
        None, "data of outliers, of the same shape; default: mnist and fashion_mnist against each other"
    )
    compare_vae: bool = setting(False, "also train a VAE with the same networks, and show both side by side")
    vae_std: float = setting(
        1.0, "standard deviation s of the VAE's Gaussian likelihood N(x | mean(z), s^2 I)"
    )

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that are impossible whatever the data."""
        super().check()
        if not 0 < self.vae_std < math.inf:
            raise ValueError(f"vae_std must be above 0, got {self.vae_std}")


class Further(NamedTuple):
    """What is trained besides the autoencoder: the classifiers by name, and the VAE where one is asked for."""

    classifiers: dict[str, Fitted]
    vae: Fitted | None


def run(config: Config) -> Mapping[str, Any] | None:
    """One experiment from its settings to its report: its result."""
    return common.experiment(config, recipes.Autoencoder, _finish, "autoencoder", _load, _train_further)


def _load(config: Config, recipe: recipes.Autoencoder) -> Data:
    """The data, cut to the limit of training examples; raises ValueError for limits and outliers that do not fit them."""
    data = common.load_data(config, recipe)
    for name in ("train_limit", "label_limit"):
        limit = getattr(config, name)
        if limit is not None and limit > len(data.train):
            raise ValueError(f"{name} is at most the {len(data.train)} training examples, got {limit}")
    outliers = load_outliers(config, recipe)
    if outliers is not None and outliers.test.shape[1:] != data.test.shape[1:]:
        raise ValueError(
            f"outliers must have the shape {data.test.shape[1:]} of {data.name}, those of {outliers.name} have "
            f"{outliers.test.shape[1:]}; choose another against"
        )
    if outliers is not None:
        recipe.check_data(outliers.spec)
    return data if config.train_limit is None else _first(data, config.train_limit)


def load_outliers(config: Config, recipe: recipes.Autoencoder) -> Data | None:
    """The data of outliers, None where there are none."""
    against = config.against or OUTLIERS.get(config.data)
    if against is None:
        return None
    return datasets.load(against, transform=recipe.transform, resize=config.resize)


def _first(data: Data, count: int) -> Data:
    """The data with the first training examples only, under a protocol of another name."""
    labels = None if data.train_labels is None else data.train_labels[:count]
    protocol = data.protocol._replace(
        name=f"{data.protocol.name}-first-{count}",
        description=f"{data.protocol.description}; the first {count} training examples",
    )
    return data._replace(train=data.train[:count], train_labels=labels, protocol=protocol)


def _vae(config: Config) -> recipes.VAE:
    """The VAE with the networks of the autoencoder."""
    shared = {name: getattr(config, name) for name in ("latent_dim", "net", "hidden", "dtype")}
    return recipes.VAE(likelihood="fixed-normal", std=config.vae_std, **shared)


def _outdated(out: Path, start: Fitted) -> bool:
    """Whether a run in a folder started from other parameters."""
    about = out / "model.json"
    return about.exists() and json.loads(about.read_text())["identity"].get("start") != digest(start.per_seed)


def _train_further(config: Config, data: Data, fitted: Fitted) -> Further:
    """Train classifiers and VAE, each in a folder of its own, with the first seed."""

    def fit(recipe, data, name, **settings):
        out = fitted.folder / name.replace(" ", "-")
        usual = {**recipes.Autoencoder.training, **common.training_of(config), "seeds": config.seeds[:1]}
        if settings.get("start") and _outdated(out, settings["start"]):
            shutil.rmtree(out)  # the autoencoder was trained further: its classifiers begin again
        resume = config.resume and (out / "checkpoints").is_dir()
        return train.fit(recipe, data, out=out, resume=resume, **{**usual, **settings})

    classifiers = {}
    if data.train_labels is not None:
        labelled = _first(
            common.load_data(config, fitted.recipe), config.label_limit
        )  # beyond train_limit too
        length = {"steps": config.classifier_steps, "epochs": None, "eval_every": None, "patience": None}
        length["batch_size"] = min(config.batch_size, config.label_limit)
        for name, (pretrained, fine_tune) in CLASSIFIERS.items():
            recipe = Classifier(**dataclasses.asdict(fitted.recipe), fine_tune=fine_tune)
            start = on_encoder_of(fitted, recipe, labelled.spec) if pretrained else None
            classifiers[name] = fit(recipe, labelled, f"classifier {name}", start=start, **length)
    return Further(classifiers, fit(_vae(config), data, "vae") if config.compare_vae else None)


def _finish(
    config: Config, data: Data, fitted: Fitted, folder: RunFolder, further: Further
) -> Mapping[str, Any]:
    """Measurements, pictures and report: the run's result, of the first seed."""
    outliers = load_outliers(config, fitted.recipe)
    return report.evaluate_and_write(config, data, outliers, fitted, further.classifiers, further.vae, folder)


if __name__ == "__main__":
    common.main(run, Config, __doc__)
