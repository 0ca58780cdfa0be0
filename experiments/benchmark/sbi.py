"""Speed of simulation-based inference against sbi, in one run.

    python -m experiments.benchmark.sbi

The task two_moons: neural posterior estimation (NPE) by the flow that is sbi's default and by a spline flow, neural likelihood
estimation (NLE) by the former.  Both libraries have the same simulations, of which the same tenth is held out, as many layers
of the same kind and width, and Adam with the same batch size, learning rate and clipping.  Both stop where 20 epochs bring
nothing.  What is timed:

- training until the held-out loss is the best that sbi reaches; compilation counts, and is a row of its own;
- draws and log-densities of the posterior of one observation; Markov chains where the likelihood is learned, by the sampler
  that is the library's default, in seconds for a thousand effective draws, warm-up included, by one estimator for both.

What differs: our posterior lives on the prior's box, and sbi's draws outside of it are rejected (its log-densities are timed
without the normalisation that this needs); sbi mixes coordinates by random permutations, or by a learned matrix in the spline
flow, whose networks are gated residual ones; it validates after each epoch, ours after every tenth, by a moving average of the
parameters, as is usual here.  sbi runs on one thread or one a core, whichever trains faster.
Peers: `pip install -e '.[peers]'`.  Each candidate runs in a process of its own.
"""

import contextlib
import dataclasses
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax import recipes, train
from dlvm_jax.data import Data, simulators
from dlvm_jax.functional.chains import effective_sample_size
from dlvm_jax.recipes import posterior_methods
from experiments.benchmark import timing
from experiments.command import parsed

MODULE, TASK = "experiments.benchmark.sbi", "two_moons"
DEPTH, WIDTH, BINS = 5, 50, 10
BATCH, RATE, CLIP, PATIENCE = 200, 5e-4, 5.0, 20  # sbi's own; the patience is in epochs
EPOCHS, EVALUATED = 1000, 10  # at most, and from one evaluation of ours to the next
DRAWS, CHAINS = 10_000, 20  # of sbi's sampler; ours has `posterior_methods.CHAINS`
OBSERVED = (0.0, 0.0)


class Job(NamedTuple):
    """A method, sbi's name of a network, and our settings for as many matrix products in each of its layers."""

    method: str
    network: str
    flow: dict[str, Any]


AFFINE = {"flow": "autoregressive", "hidden": 3}
JOBS = {
    "NPE, affine autoregressive": Job("npe", "maf", AFFINE),
    "NPE, spline coupling": Job("npe", "nsf", {"flow": "spline-coupling", "hidden": 5, "bins": BINS}),
    "NLE, affine autoregressive": Job("nle", "maf", AFFINE),
}


def simulated(simulations: int) -> Data:
    """The simulations of both."""
    return simulators.dataset(TASK, simulations, tested=1)


def of_both_moons(draws: Any) -> jax.Array:
    """What does not say which moon: |theta_1 + theta_2| and theta_2 - theta_1 of draws [*batch, 2].  Chains keep to one."""
    return jnp.stack([abs(draws[..., 0] + draws[..., 1]), draws[..., 1] - draws[..., 0]], -1)


def effective(chains: Any) -> float:
    """Effective draws of chains [M, N, 2], the fewer of both numbers."""
    return float(jax.jit(lambda draws: effective_sample_size(of_both_moons(draws)).min())(chains))


def called(call: Callable[[], Any], times: int) -> dict[str, float]:
    """Seconds of the first call and the least of so many others."""
    return {"first": timing.timed(call, 1)[0], "again": min(timing.timed(call, times))}


def dlvm_jax_worker(job: str, simulations: int) -> dict[str, Any]:
    """Ours: `train.fit`, and the parts of its model as the experiments use them."""
    jax.config.update("jax_enable_compilation_cache", False)
    method, _, flow = JOBS[job]
    data, curve, compiling = simulated(simulations), [], []
    recipe = recipes.Posterior(task=TASK, method=method, depth=DEPTH, width=WIDTH, **flow)
    epoch = len(data.train) // BATCH
    settings = {"batch_size": BATCH, "learning_rate": RATE, "clip": CLIP, "schedule": "constant"}
    settings |= {"steps": EPOCHS * epoch, "eval_every": EVALUATED * epoch, "patience": PATIENCE // EVALUATED}

    def count(event, seconds, **about):
        if event.startswith("/jax/core/compile/"):
            compiling.append(seconds)

    start = time.perf_counter()
    evaluated = lambda step, line: curve.append((time.perf_counter() - start, line["valid_loss"]))
    jax.monitoring.register_event_duration_secs_listener(count)
    with tempfile.TemporaryDirectory() as folder:
        fitted = train.fit(
            recipe, data, out=f"{folder}/run", warm_up=0, logger=evaluated, progress=False, **settings
        )
    found = {"curve": curve, "training": time.perf_counter() - start, "compile": sum(compiling)}
    parts, x, key = fitted.model.parts, jnp.asarray(OBSERVED), jax.random.key(0)
    draw = jax.jit(parts.chains or parts.sample, static_argnums=3)
    theta = None

    def draws():
        nonlocal theta
        theta = jax.block_until_ready(draw(fitted.params, key, x, DRAWS).draws)

    if parts.chains is not None:
        found["draws"] = called(draws, 1)
        chains = theta.reshape(-1, posterior_methods.CHAINS, theta.shape[-1]).swapaxes(0, 1)
        return found | {"effective": effective(chains)}
    found["draws"] = called(draws, 5)
    log_prob, at = jax.jit(parts.log_posterior), jnp.broadcast_to(x, (DRAWS, *x.shape))
    densities = lambda: log_prob(fitted.params, theta, at).block_until_ready()
    return found | {"densities": called(densities, 5)}


def quicker_threads(call: Callable[[], Any]) -> None:
    """Let PyTorch have one thread or one a core, whichever is faster for a call."""
    import torch

    call()  # what is loaded when it first runs does not count
    seconds = {}
    for threads in {1, len(os.sched_getaffinity(0))}:
        torch.set_num_threads(threads)
        seconds[threads] = timing.timed(call, 1)[0]
    torch.set_num_threads(min(seconds, key=lambda threads: seconds[threads]))


def sbi_worker(job: str, simulations: int) -> dict[str, Any]:
    """The package sbi, by its own training and samplers."""
    import torch
    from sbi import inference, neural_nets, utils

    method, network, _ = JOBS[job]
    data = simulated(simulations)
    rows = torch.from_numpy(np.concatenate([data.train, data.valid]))
    prior = utils.BoxUniform(-torch.ones(2), torch.ones(2))
    build = {"npe": neural_nets.posterior_nn, "nle": neural_nets.likelihood_nn}[method]

    class OfTheseSplits({"npe": inference.NPE, "nle": inference.NLE}[method]):
        def get_dataloaders(self, start, batch_size, fraction, resume, **options):
            self.train_indices, self.val_indices = torch.arange(len(rows)).split(
                [len(data.train), len(data.valid)]
            )
            return super().get_dataloaders(start, batch_size, fraction, True, **options)

    def trained(**options):
        torch.manual_seed(0)
        net = build(network, hidden_features=WIDTH, num_transforms=DEPTH, num_bins=BINS)
        learner = OfTheseSplits(prior, density_estimator=net, show_progress_bars=False)
        learner.append_simulations(rows[:, :2], rows[:, 2:])
        learner.train(
            training_batch_size=BATCH,
            learning_rate=RATE,
            clip_max_norm=CLIP,
            stop_after_epochs=PATIENCE,
            **options,
        )
        return learner

    quicker_threads(lambda: trained(max_num_epochs=1))
    start = time.perf_counter()
    learner = trained(max_num_epochs=EPOCHS)
    found = {"training": time.perf_counter() - start}
    epochs = np.cumsum(learner.summary["epoch_durations_sec"])
    before = found["training"] - epochs[-1]  # the network is made before the first epoch
    found["curve"] = list(zip((before + epochs).tolist(), learner.summary["validation_loss"], strict=True))
    posterior, x, theta = learner.build_posterior(), torch.tensor([OBSERVED]), None

    def draws(**options):
        nonlocal theta
        theta = posterior.sample((DRAWS,), x=x, show_progress_bars=False, **options)

    if method == "nle":
        found["draws"] = called(lambda: draws(num_chains=CHAINS), 1)
        return found | {"effective": effective(theta.numpy().reshape(CHAINS, -1, 2))}
    found["draws"] = called(draws, 5)
    return found | {"densities": called(lambda: posterior.log_prob(theta, x=x, norm_posterior=False), 5)}


WORKERS = {"dlvm_jax": dlvm_jax_worker, "sbi": sbi_worker}


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare simulation-based inference with that of sbi."""

    rounds: int = 1
    """how often each candidate is started, in turn"""
    simulations: int = 10_000
    """simulations of training and validation together"""
    worker: str | None = None
    """(internal) run one candidate and print its figures"""
    job: str = "NPE, affine autoregressive"
    """(internal) the job of a worker"""


def reached(curve: list[tuple[float, float]], loss: float) -> float:
    """The seconds after which a curve of (seconds, loss) first has this loss; infinite if never."""
    return next((seconds for seconds, value in curve if value <= loss), math.inf)


def lines_of(job: str, found: dict[str, list[dict[str, Any]]]) -> list[timing.Line]:
    """The lines of a job from the results {candidate: [one a round]}: the best of the rounds counts."""
    best = lambda pick, found=found: {name: min(map(pick, results)) for name, results in found.items()}
    lowest = best(lambda r: min(loss for _, loss in r["curve"]))
    print(f"{job}: best held-out loss {', '.join(f'{name} {loss:.3f}' for name, loss in lowest.items())}")
    target, ours = lowest.get("sbi", lowest[timing.OURS]), {timing.OURS: found[timing.OURS]}
    lines = [
        (
            f"{job}: training to a held-out loss of {target:.3f}",
            "s",
            best(lambda r: reached(r["curve"], target)),
        ),
        (f"{job}: training until {PATIENCE} epochs bring nothing", "s", best(lambda r: r["training"])),
        (f"{job}: compilation in these", "s", best(lambda r: r["compile"], ours)),
    ]
    if JOBS[job].method == "nle":
        each = lambda r, which: 1000 * r["draws"][which] / r["effective"]
        what = f"{job}: 1,000 effective draws of Markov chains"
        return [
            *lines,
            (what, "s", best(lambda r: each(r, "again"))),
            (f"{what}, compiled first", "s", best(lambda r: each(r, "first"))),
        ]
    return [
        *lines,
        (f"{job}: {DRAWS:,} draws", "ms", best(lambda r: 1e3 * r["draws"]["again"])),
        (f"{job}: {DRAWS:,} draws, compiled first", "ms", best(lambda r: 1e3 * r["draws"]["first"])),
        (f"{job}: {DRAWS:,} log-densities", "ms", best(lambda r: 1e3 * r["densities"]["again"])),
    ]


def compare(rounds: int, simulations: int = 10_000) -> list[timing.Line]:
    """The lines of all jobs."""
    lines = []
    for job in JOBS:
        options = "--job", job, "--simulations", simulations
        found = timing.in_turn(MODULE, WORKERS, rounds, *options)
        lines += lines_of(job, {name: results for name, results in found.items() if results})
    return lines


def main(config: Config) -> None:
    """Run all candidates in turn and print the table."""
    if config.worker is not None:
        # sbi writes logs where it runs, and prints
        quiet = contextlib.redirect_stdout(sys.stderr)
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), quiet:
            found = WORKERS[config.worker](config.job, config.simulations)
        timing.emit(found)
        return
    print(*map(timing.version, ("dlvm_jax", "jax", "sbi", "torch")), sep=", ")
    print(timing.ratios(compare(config.rounds, config.simulations)))


if __name__ == "__main__":
    main(parsed(Config, __doc__))
