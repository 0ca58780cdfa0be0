"""Train a flow on a density that is known up to its constant, by the reverse KL, and compare it with the exact one.

python -m experiments.flow.energy                                                # torus, about a minute
python -m experiments.flow.energy --target "torus correlated" --flow circular-spline
python -m experiments.flow.energy --target "sphere modes" --flow exponential --layers 6 --components 5
python -m experiments.flow.energy --target U1 --flow planar --annealing 5000 --steps 20000
"""

import math

import jax
import numpy as np
import tyro

from dlvm_jax.evaluate.importance import importance_diagnostics
from dlvm_jax.exact.energies import ENERGIES
from dlvm_jax.models import objectives
from dlvm_jax.train import engine, loop, optimisers, parallel
from dlvm_jax.train.run import RunFolder
from experiments import run as common
from experiments.flow import energy_report as flow_energy_report
from experiments.flow.energy_setup import Config, base, build, check, resolved

VALIDATION = 5_000  # samples that choose the round to keep
SAID_LATER = ("out", "resume", "eval_samples")


def run(config):
    """One experiment from configuration to report: its result."""
    check(config)
    config = resolved(config)
    target, density = ENERGIES[config.target], build(config)
    folder = RunFolder(config.out or common.new_folder(f"flow-{config.target.replace(' ', '-')}"))
    params, step = _train(config, target, density, folder)
    key = common.evaluation_key(config.seed)
    nothing = base(target.domain)
    rows = {
        config.flow: _weighting(density, target, config.eval_samples)(params, key),
        "nothing (the base)": _weighting(nothing, target, config.eval_samples)(nothing.init(key), key),
    }
    result = {
        "step": step,
        "seconds": round(folder.seconds(), 1),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "samples": config.eval_samples,
        "exact_log_partition": target.log_partition,
        "rows": {name: found._asdict() for name, found in rows.items()},
    }
    flow_energy_report.write(folder, config, target, density, params, rows, result)
    folder.write("result.json", result)
    kl, effective = rows[config.flow].kl_known, rows[config.flow].effective
    print(
        f"step {step}: KL {kl.value:.4f} ± {kl.standard_error:.4f} nats, effective samples "
        f"{effective.value:.1f} ± {effective.standard_error:.1f} %"
    )
    print(f"trained {folder.seconds():.0f} s; report in {folder.root / 'report.md'}")
    return result


def _weighting(density, target, samples):
    """(params, key) -> `ImportanceDiagnostics` of so many fresh samples."""

    @jax.jit
    def log_weights(params, key):
        x, log_q = density.sample(params, key, shape=(samples,))
        return target.log_density(x) - log_q

    def weigh(params, key):
        with jax.default_matmul_precision("highest"):
            return importance_diagnostics(log_weights(params, key), target.log_partition)

    return weigh


def _train(config, target, density, folder):
    """Train, or go on, to the end: the parameters of the best round, and its step."""
    objective = objectives.reverse_kl(density, target.log_density)
    if config.annealing:
        objective = objectives.warm_up(
            lambda weight: objectives.reverse_kl(density, target.log_density, weight), 1.0, config.annealing
        )
    trainer = engine.build(
        objective,
        density.init,
        optimisers.make("adam", config.learning_rate, config.steps, schedule=config.schedule, clip=10.0),
        devices=parallel.devices_for(config.batch_size),
    )
    weigh = _weighting(density, target, VALIDATION)
    key = jax.random.fold_in(common.evaluation_key(config.seed), 1)

    def validate(params):
        found = weigh(params, key)
        # the mean of w/Z - 1 - log(w/Z): the KL by the exact log Z, with hardly any noise where q is near p
        score = found.kl_known.value + math.expm1(found.log_partition.value - target.log_partition)
        return {"score": score, "effective": found.effective.value}

    settings = common.settings(config)
    print(f"{config.target}, {config.flow}: run folder {folder.root}")
    return common.train(
        folder,
        trainer,
        loop.TrainConfig(config.steps, config.batch_size, max(1, config.steps // 20), seeds=(config.seed,)),
        np.zeros((config.batch_size, 1), np.float32),  # there are no data: only their number counts
        validate,
        settings=settings,
        identity={name: value for name, value in settings.items() if name not in SAID_LATER},
        resume=config.resume,
    )


if __name__ == "__main__":
    common.main(run, tyro.cli(Config, description=__doc__))
