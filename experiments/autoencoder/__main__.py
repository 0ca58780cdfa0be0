"""Train an autoencoder, use its codes (classification, outliers, interpolation), and write a report with pictures.

python -m experiments.autoencoder                                   # embedded digits, under a minute
python -m experiments.autoencoder --kind denoising --data mnist --latent-dim 32
python -m experiments.autoencoder --data mnist --train-limit 1000 --latent-dim 2 --compare-vae
"""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
import tyro

from dlvm_jax import data as datasets
from dlvm_jax import nets
from dlvm_jax.functional import autoencoding
from dlvm_jax.models import autoencoder, density, objectives
from dlvm_jax.models.vae import vae
from dlvm_jax.train import checkpoint, engine, loop, optimisers, order, parallel, validation
from dlvm_jax.train.run import RunFolder, manifest
from experiments import run as common
from experiments.autoencoder import report as autoencoder_report

CORRUPTIONS = {
    "gaussian": autoencoding.gaussian_corruption,
    "masking": autoencoding.masking_corruption,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Train an autoencoder, use its codes (classification, outliers, interpolation), and write a report with pictures."""

    kind: Literal["plain", "sparse", "denoising", "contractive"] = "plain"
    """what is added to the squared error: nothing, the l1 norm of the code, noise on the input, the encoder's Jacobian"""
    data: str = "digits"
    """data set, grey levels scaled to [0, 1]: digits (embedded), mnist, fashion_mnist, omniglot, freyfaces, cifar10"""
    train_limit: int | None = None
    """train on the first so many examples only"""
    latent_dim: int = 8
    """dimension of the code"""
    hidden: tuple[int, ...] = (300,)
    """widths of the hidden layers, from the data inwards"""
    weight: float = 0.1
    """weight of the penalty of the sparse and contractive kinds"""
    corruption: Literal["gaussian", "masking"] = "gaussian"
    """noise the denoising kind learns to remove, and every kind is tested with"""
    noise: float = 0.3
    """standard deviation of the gaussian noise, or rate of the masking noise"""
    steps: int | None = None
    """training steps; default 5000 unless --epochs is given"""
    epochs: int | None = None
    """passes over the training set, instead of --steps"""
    batch_size: int = 100
    """examples of a step"""
    learning_rate: float = 1e-3
    """learning rate of Adam"""
    label_limit: int = 100
    """labelled training examples of the classifiers"""
    classifier_steps: int = 1000
    """training steps of each classifier"""
    against: str | None = None
    """data set of outliers, of the same image shape; default: mnist and fashion_mnist against each other"""
    compare_vae: bool = False
    """also train a VAE with the same networks, and show both side by side"""
    vae_std: float = 1.0
    """standard deviation s of the VAE's Gaussian likelihood N(x | mean(z), s^2 I)"""
    seed: int = 0
    """random seed"""
    out: Path | None = None
    """run folder; default runs/autoencoder-DATA-001, 002, ..."""
    resume: bool = False
    """go on with the run in --out"""


class Parts(NamedTuple):
    """What is trained: the autoencoder, the classifier on its encoder, and prior, posterior and decoder of the VAE."""

    model: autoencoder.Autoencoder
    classifier: autoencoder.Classifier
    vae: tuple[density.Density, density.Density, density.Density]


def check(config, dataset, outliers):
    """Raise ValueError for impossible settings."""
    common.check_run(config)
    for name in ("latent_dim", "label_limit", "classifier_steps"):
        common.at_least(name, getattr(config, name), 1)
    common.at_least("weight", config.weight, 0)
    for name, limit in (("train-limit", config.train_limit), ("label-limit", config.label_limit)):
        if limit is not None and not 1 <= limit <= len(dataset.train):
            raise ValueError(
                f"--{name} lies between 1 and the {len(dataset.train)} training examples, got {limit}"
            )
    if not 0 <= config.noise < math.inf or (config.corruption == "masking" and config.noise > 1):
        raise ValueError(
            f"--noise is a standard deviation >= 0 or a masking rate in [0, 1], got {config.noise}"
        )
    if outliers is not None and outliers.test.shape[1:] != dataset.test.shape[1:]:
        raise ValueError(
            f"outliers must have the shape {dataset.test.shape[1:]} of {config.data}, those of {outliers.name} have "
            f"{outliers.test.shape[1:]}; choose another --against"
        )


def load(name):
    """A data set of grey levels on [0, 1]."""
    if "scaled" not in [p.name for p in datasets.protocols(name)]:
        raise ValueError(
            f"an autoencoder here is of grey levels, and {name} holds bits; use a set of grey levels, such as mnist"
        )
    return datasets.load(name, "scaled")


def build_parts(config, shape, classes):
    """The networks of a configuration for images of a shape, as densities where they are some."""
    latent, backwards = config.latent_dim, config.hidden[::-1]

    def encoder(out_shape):
        return density.from_linen(nets.MLP(config.hidden, out_shape, len(shape)), (1, *shape))

    def decoder(out_shape):
        return density.from_linen(nets.MLP(backwards, out_shape), (1, latent))

    decode = autoencoder.dictionary(latent, shape) if config.kind == "sparse" else decoder(shape)
    model = autoencoder.autoencoder(encoder((latent,)), decode, len(shape))
    head = density.from_linen(nets.MLP((100,), (classes,)), (1, latent))
    return Parts(
        model,
        autoencoder.classifier(model, head),
        (
            density.standard_normal(latent),
            density.conditional(encoder((latent, 2)), density.normal(), (latent,)),
            density.conditional(decoder((*shape, 1)), density.fixed_normal(config.vae_std), shape),
        ),
    )


def corruption(config):
    """The noise of a configuration, `(key, x) -> x~`."""
    return lambda key, x: CORRUPTIONS[config.corruption](key, x, config.noise)


def build_objective(config, model):
    """The training objective of a configuration."""
    if config.kind == "denoising":
        return autoencoder.reconstruction(model, corrupt=corruption(config))
    if config.kind == "plain":
        return autoencoder.reconstruction(model)
    penalty = {
        "sparse": lambda encode, x: autoencoding.sparse_penalty(encode(x)),
        "contractive": partial(autoencoding.contractive_penalty, event_ndim=model.event_ndim),
    }[config.kind]
    return autoencoder.reconstruction(model, penalty=penalty, weight=config.weight)


def train(root, config, settings, identity, dataset, objective, init, train_data, valid_data, steps):
    """Train one part in its own folder, or take it up where it stopped: best parameters, their step, the log."""
    batch_size = min(config.batch_size, len(jax.tree.leaves(train_data)[0]))
    plan = loop.TrainConfig(steps, batch_size, max(1, steps // 20), seeds=(config.seed,))
    optimiser = optimisers.make("adam", config.learning_rate, steps)
    trainer = engine.build(
        objectives.preprocessed(objective, dataset.preprocess),
        init,
        optimiser,
        devices=parallel.devices_for(batch_size),
    )
    kept = checkpoint.Checkpoints(root / "checkpoints", identity)
    state = common.restore(kept, trainer.init(config.seed), config.resume)
    folder, whole = RunFolder(root), RunFolder(root.parent)
    whole.write("config.json", settings)
    whole.write("manifest.json", manifest())
    validate = validation.validator(objective, valid_data) if len(dataset.valid) else None
    state = loop.fit(
        trainer, plan, trainer.put(train_data), state, folder=folder, checkpoints=kept, validate=validate
    )
    step, best = kept.restore(state, kept.best_step())
    kept.close()
    return best.params, step, folder


def train_classifiers(fit, config, dataset, model, encoder_params):
    """Test accuracy, with its binomial standard error, of a classifier on features: frozen, fine-tuned, from scratch."""
    labelled = dataset.train[: config.label_limit], dataset.train_labels[: config.label_limit]
    held_out = dataset.valid, dataset.valid_labels

    def pretrained(key):
        return {**model.init(key), "encoder": encoder_params}

    accuracies = {}
    for name, init, fine_tune in (
        ("frozen", pretrained, False),
        ("fine-tuned", pretrained, True),
        ("from scratch", model.init, True),
    ):
        print(f"classifier, encoder {name}")
        objective = autoencoder.classification(model, fine_tune)
        params, _, _ = fit(
            f"classifier-{name.replace(' ', '-')}",
            objective,
            init,
            labelled,
            held_out,
            config.classifier_steps,
        )
        logits = jax.jit(model.logits)(params, dataset.test)
        value = float(autoencoder.accuracy(logits, dataset.test_labels))
        accuracies[name] = [value, float(np.sqrt(value * (1 - value) / len(logits)))]
    return accuracies


def run(config):
    """One experiment from configuration to report."""
    dataset = load(config.data)
    against = config.against or {"mnist": "fashion_mnist", "fashion_mnist": "mnist"}.get(config.data)
    outliers = None if against is None else load(against)
    check(config, dataset, outliers)
    classes = 1 if dataset.train_labels is None else int(dataset.train_labels.max()) + 1
    parts = build_parts(config, dataset.train.shape[1:], classes)
    unlabelled = dataset.train[: config.train_limit]
    per_epoch = order.steps_per_epoch(len(unlabelled), config.batch_size)
    steps = config.epochs * per_epoch if config.epochs is not None else (config.steps or 5000)
    root = config.out or common.new_folder(f"autoencoder-{config.data}")
    settings = common.settings(config) | {"steps": steps}
    identity = {k: v for k, v in settings.items() if k not in ("out", "resume", "against", "compare_vae")}
    identity["protocol"] = f"{dataset.protocol.name} {dataset.protocol.hash}"

    def fit(name, *rest):
        return train(root / name, config, settings, identity, dataset, *rest)

    print(f"{config.kind} autoencoder on {len(unlabelled)} examples of {config.data}, run folder {root}")
    objective = build_objective(config, parts.model)
    params, step, log = fit("autoencoder", objective, parts.model.init, unlabelled, dataset.valid, steps)
    folder = RunFolder(root)
    accuracies = {}
    if dataset.train_labels is not None:
        accuracies = train_classifiers(fit, config, dataset, parts.classifier, params["encoder"])
    vae_params = None
    if config.compare_vae:
        print(f"VAE, likelihood N(x | mean(z), {config.vae_std}^2 I)")
        joint = vae(*parts.vae, kl="analytic")
        objective = objectives.negative_elbo(joint)
        vae_params, _, _ = fit("vae", objective, joint.init, unlabelled, dataset.valid, steps)
    result = {"step": step, "accuracy": accuracies} | autoencoder_report.measure(
        config, dataset, outliers, corruption(config), parts, params, vae_params
    )
    autoencoder_report.write(
        root, config, dataset, corruption(config), parts, params, vae_params, log, result
    )
    folder.write("result.json", result)
    for group in ("accuracy", "squared_error", "code", "auc"):
        for name, (mean, standard_error) in result[group].items():
            print(f"{group.replace('_', ' ')}, {name}: {mean:.4g} ± {standard_error:.2g}")
    print(f"report in {root / 'report.md'}")


if __name__ == "__main__":
    common.main(run, tyro.cli(Config, description=__doc__))
