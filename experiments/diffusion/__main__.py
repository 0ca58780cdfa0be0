"""Train a diffusion model, evaluate its bound (and its likelihood by ODE in the plane), and write a report with pictures.

python -m experiments.diffusion                                    # embedded digits, two to three minutes
python -m experiments.diffusion --data eight_gaussians             # in the plane, against the exact entropy
python -m experiments.diffusion --data mnist --width 128 --depth 3 --patch 4 --batch-size 32 --steps 4000
"""

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from dlvm_jax.data import toys
from dlvm_jax.evaluate.baseline_code_lengths import baseline_code_lengths
from dlvm_jax.models import diffusion, objectives
from dlvm_jax.train import engine, loop, optimisers, order, parallel, validation
from dlvm_jax.train.run import RunFolder
from experiments import run as common
from experiments.diffusion import report as diffusion_report
from experiments.diffusion.setup import (
    Config,
    build,
    check,
    classes_of,
    load,
    objective_of,
    resolved,
    sampler,
)

SAID_LATER = (  # what a finished run may be asked again with other values
    "out",
    "resume",
    "guidance",
    "sampler",
    "sample_steps",
    "eval_samples",
    "eval_limit",
    "ode_examples",
)


def run(config):
    """One experiment from configuration to report."""
    check(config)
    config = resolved(config)
    dataset = load(config)
    levels = dataset.levels if dataset.discrete else None
    model, data_std = build(config, dataset)
    classes = classes_of(config, dataset)
    density = diffusion.bound_density(model, sampler(config.sampler, config.sample_steps), levels)
    folder = RunFolder(config.out or common.new_folder(f"diffusion-{config.data}"))
    params, step = _train(config, dataset, model, data_std, density, folder)
    test = _given(classes, dataset.test, dataset.test_labels)
    first = lambda count: jax.tree.map(lambda a: a[:count], test)
    evaluated = lambda name, density, test, samples: common.evaluate_with_progress(
        density, params, test, dataset, config.seed, samples, folder.root / "evaluation" / name, chunk=1
    )
    record = evaluated("bound", density, first(config.eval_limit), config.eval_samples)
    result, further = {"record": record.as_dict(), "step": step}, {}
    if levels is None:
        further = plane_likelihood(model, params, toys.TOYS[config.data], test[: config.ode_examples or 2000])
        result |= further
    elif config.ode_examples:
        by_ode = diffusion.ode_density(model, None, 50, levels, hutchinson=True)
        found = evaluated("ode", by_ode, first(config.ode_examples), 1)
        result["ode"] = found.as_dict()
        further["log p(x) by ODE"] = [found.log_likelihood, found.standard_error]
    result["curve"] = diffusion_report.curve(folder, model.event_shape, levels)
    if levels:
        result["bits_per_dim_of_baseline_codes"] = baseline_code_lengths(dataset.train, dataset.test, levels)
    shown = model if classes is None else labelled(model, classes, config.guidance)
    drawn = diffusion.bound_density(shown, sampler(config.sampler, config.sample_steps), levels)
    diffusion_report.write(folder, config, dataset, shown, drawn, params, record, further, result)
    folder.write("result.json", result)
    print(f"step {step}: {record}")
    for name, (value, error) in further.items():
        print(f"{name}: {value:.4f} ± {error:.4f} nats")
    print(f"trained {folder.seconds():.0f} s; report in {folder.root / 'report.md'}")


def _given(classes, x, labels):
    """What the model is given: examples, with their labels where it has classes."""
    x = np.asarray(x, np.float32)
    return x if classes is None else (x, np.asarray(labels, np.int32))


def _trainer(config, dataset, model):
    """The engine of a run, and what its checkpoints are told from others by."""
    levels = dataset.levels if dataset.discrete else None
    optimiser = optimisers.make(
        "adam", config.learning_rate, config.steps, schedule="cosine", warm_up=config.warm_up, clip=1.0
    )
    objective = objective_of(config, model, levels, classes_of(config, dataset))
    trainer = engine.build(
        objectives.preprocessed(objective, dataset.preprocess),
        model.init,
        optimiser,
        ema=config.ema,
        devices=parallel.devices_for(config.batch_size),
    )
    identity = {k: v for k, v in common.settings(config).items() if k not in SAID_LATER}
    return trainer, identity | {"protocol": f"{dataset.protocol.name} {dataset.protocol.hash}"}


def finished(root):
    """The `Denoiser` and the best parameters of a finished run of this script in a folder."""
    config = common.read_config(root, Config)
    dataset = load(config)
    model, _ = build(config, dataset)
    trainer, identity = _trainer(config, dataset, model)
    return model, trainer.eval_params(common.best(root, identity, trainer.init(config.seed)))


def _train(config, dataset, model, data_std, density, folder):
    """Train, or go on, to the end: the parameters of the best round, and its step."""
    levels = dataset.levels if dataset.discrete else None
    classes = classes_of(config, dataset)
    trainer, identity = _trainer(config, dataset, model)
    order.steps_per_epoch(len(dataset.train), config.batch_size)
    settings = common.settings(config) | {"data_std": data_std}
    print(f"{config.data}, {dataset.protocol.name}: {dataset.protocol.description}\nrun folder {folder.root}")
    few = _given(classes, dataset.valid[:2000], dataset.valid_labels[:2000] if classes else None)
    draws = max(1, (2_000 if levels else 20_000) // len(objectives.unpack(few)[0]))
    few = jax.tree.map(lambda a: np.repeat(a, draws, axis=0), few)  # one draw alone is too noisy to choose by
    return common.train(
        folder,
        trainer,
        loop.TrainConfig(config.steps, config.batch_size, max(1, config.steps // 20), seeds=(config.seed,)),
        _given(classes, dataset.train, dataset.train_labels),
        validation.validator(objectives.negative_elbo(density), few),
        settings=settings,
        identity=identity,
        resume=config.resume,
    )


def labelled(model, classes, weight):
    """The model with the labels 0, 1, ..., 0, 1, ... for the rows of a batch, so that a column of a grid has one label."""
    steered = diffusion.guided(model, classes, weight)

    def denoise(params, x, t, context=None, key=None):
        return steered.denoise(params, x, t, jnp.arange(len(x)) % classes, key)

    return model._replace(denoise=denoise)


def plane_likelihood(model, params, toy, test):
    """Likelihood of test points by the ODE with the exact trace, and its distance from the exact one where that is known."""
    x = jnp.asarray(test)
    log_prob = np.asarray(jax.jit(diffusion.ode_density(model, None).log_prob)(params, None, x), np.float64)
    mean = lambda values: [float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))]
    found = {"log p(x) by ODE": mean(log_prob)}
    if toy.log_prob is not None:
        found["KL(data, model) by ODE"] = mean(np.asarray(toy.log_prob(x), np.float64) - log_prob)
    return found


if __name__ == "__main__":
    common.main(run, tyro.cli(Config, description=__doc__))
