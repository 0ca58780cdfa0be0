"""Train a variational autoencoder, evaluate it on held-out data, and write a report with pictures.

python -m experiments.vae                                   # embedded digits, under a minute
python -m experiments.vae --data mnist --latent-dim 20 --epochs 50
"""

import jax
import numpy as np
import tyro
from tqdm import tqdm

from dlvm_jax.evaluate.annealed import annealed_log_likelihoods
from dlvm_jax.evaluate.diagnostics import diagnose
from dlvm_jax.train import parallel, validation
from dlvm_jax.train.run import RunFolder
from experiments import run as common
from experiments.vae import report as vae_report
from experiments.vae.setup import Config, check, prepare


def run(config):
    """One experiment from configuration to report."""
    check(config)
    parallel.initialise(config.coordinator, config.processes, config.process)
    prepared = prepare(config)
    dataset, condition, model, plan, trainer, settings, identity = prepared
    root = config.out or common.new_folder(f"vae-{config.data}")
    folder = RunFolder(root, config.tensorboard, parallel.is_primary())
    if parallel.is_primary():
        print(f"{config.data}, {dataset.protocol.name}: {dataset.protocol.description}\nrun folder {root}")
    validate = None
    if len(dataset.valid):
        held_out = condition.split(condition.arrays(dataset.valid, dataset.valid_labels))
        validate = validation.validator(model.validation, held_out, seeds=len(config.seeds))
    data = condition.arrays(dataset.train, dataset.train_labels)
    told = {"settings": settings, "identity": identity, "resume": config.resume}
    params, best_step = common.train(folder, trainer, plan, data, validate, **told)
    if not parallel.is_primary():
        return
    seeds = range(len(config.seeds))
    per_seed = [jax.tree.map(lambda x, i=i: x[i], params) for i in seeds] if len(seeds) > 1 else [params]
    test = condition.split(condition.arrays(dataset.test, dataset.test_labels))
    test = jax.tree.map(lambda x: x[: config.eval_limit], test)
    records = [
        common.evaluate_with_progress(
            model.density,
            p,
            test,
            dataset,
            seed,
            config.eval_samples,
            root / "evaluation",
            posterior=(model.parts.posterior, p["posterior"]) if model.parts.posterior.mean else None,
        )
        for p, seed in zip(per_seed, config.seeds, strict=True)
    ]
    result = {
        "records": {str(seed): record.as_dict() for seed, record in zip(config.seeds, records, strict=True)},
        "step": best_step,
    }
    further, annealing = _further(config, model, per_seed[0], test, records[0].per_example)
    np.save(root / "nats.npy", np.stack([record.per_example for record in records]))
    vae_report.write(
        root, config, dataset, condition, model, per_seed[0], test, records, further, folder, best_step
    )
    folder.write("result.json", result | further | annealing)
    for seed, record in zip(config.seeds, records, strict=True):
        print(f"seed {seed}, step {best_step}: {record}")
    for name, line in further.items():
        print(f"{name}: {line}")
    print(f"trained {folder.seconds():.0f} s; report in {root / 'report.md'}")


def _further(config, model, params, test, nats):
    """What else is found out of the first seed, by name, each a line of text: diagnostics, annealing; and annealing's numbers.

    nats: log p(x) of each test example by importance weighting, to compare annealing with.
    """
    lines, numbers = {}, {}
    key, key_annealing = jax.random.split(jax.random.fold_in(common.evaluation_key(config.seeds[0]), 2**31))
    if config.condition is None and model.parts.posterior.normal is not None:
        lines["latent space"] = diagnose(model.parts, params, test[:1000], key=key).line()
    if config.ais:
        few = test[: config.ais_limit]
        with tqdm(total=len(few), unit="example", desc="anneal", dynamic_ncols=True) as bar:
            record = annealed_log_likelihoods(
                model.parts,
                params,
                few,
                key=key_annealing,
                temperatures=config.ais,
                progress=lambda done: bar.update(done - bar.n),
            )
        gap = *common.paired(record.log_likelihoods - nats[: len(few)]), len(few)
        lines["annealed importance sampling"] = (
            f"{record.line()}; {gap[0]:+.3f} +- {gap[1]:.3f} nats against importance weighting on the same examples"
        )
        numbers["annealed less importance-weighted"] = gap
    return lines, numbers


if __name__ == "__main__":
    common.main(run, tyro.cli(Config, description=__doc__))
