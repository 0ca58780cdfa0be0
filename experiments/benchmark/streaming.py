"""What it costs to train on data that live in a file and not on the device.

    python -m experiments.benchmark.streaming

The job: epochs of the 784-500-20 VAE of `experiments.benchmark.vae` on 60,000 images, batch 100, once with the images on the
device and once read from a memory-mapped file.  Both take turns in one process, so that both see the same machine.  The time of
the processor says what reading costs even on a loaded machine, where the time on the clock scatters.
"""

import dataclasses
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlvm_jax import nets
from dlvm_jax.models import density, objectives
from dlvm_jax.models.vae import vae
from dlvm_jax.train import engine, stream
from dlvm_jax.train.config import TrainConfig
from experiments import run as common
from experiments.benchmark.vae import BATCH, HIDDEN, LATENT, PIXELS, images
from experiments.command import parsed


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare epochs on data in a file with epochs on data on the device."""

    rounds: int = 20
    """timed epochs of each, in turn"""


def model_engine() -> engine.Engine:
    """The engine of the VAE."""
    encoder = density.from_linen(nets.MLP((HIDDEN,), (LATENT, 2)), (1, PIXELS))
    decoder = density.from_linen(nets.MLP((HIDDEN,), (PIXELS, 1)), (1, LATENT))
    model = vae(
        density.standard_normal(LATENT),
        density.conditional(encoder, density.normal(), (LATENT,)),
        density.conditional(decoder, density.bernoulli(), (PIXELS,)),
        kl="analytic",
    )
    objective = objectives.preprocessed(
        objectives.negative_elbo(model), lambda key, raw: raw.astype(jnp.float32)
    )
    return engine.build(objective, model.init, optax.adam(1e-3))


def measure(x: np.ndarray, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each timed epoch, resident and streamed, [rounds, 2]: on the clock and of the processor.

    Raises ValueError unless both end in the same parameters.
    """
    trainer = model_engine()
    per_epoch = len(x) // BATCH
    states, epochs, seconds = {}, {}, {"resident": [], "streamed": []}
    for name in seconds:
        config = TrainConfig(
            steps=(rounds + 1) * per_epoch,
            batch_size=BATCH,
            eval_every=per_epoch,
            on_device=name == "resident",
        )
        states[name], epochs[name] = trainer.init(), stream.feed(trainer, config, x, 0)

    def epoch(name):
        done = 0
        while done < per_epoch:
            states[name], metrics = jax.block_until_ready(next(epochs[name])(states[name]))
            done += len(metrics["loss"])

    now = lambda: np.array([time.perf_counter(), time.process_time()])
    for number in range(rounds + 1):
        for name in list(seconds)[:: 1 if number % 2 else -1]:  # each comes first as often
            start = now()
            epoch(name)
            seconds[name].append(now() - start)
    same = jax.tree.map(np.array_equal, states["resident"].params, states["streamed"].params)
    if not jax.tree.all(same):
        raise ValueError("streamed and resident training differ: one of them is wrong")
    return {name: np.array(each[1:]) for name, each in seconds.items()}  # the first one compiles


def main(config: Config) -> None:
    """Measure and print the ratio."""
    common.at_least("rounds", config.rounds, 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, images())
        found = measure(np.load(path, mmap_mode="r"), config.rounds)
    for number, what in enumerate(("on the clock", "of the processor")):
        resident, streamed = found["resident"][:, number], found["streamed"][:, number]
        low, middle, high = np.quantile(streamed / resident, [0.25, 0.5, 0.75])
        print(
            f"seconds {what}: best epoch resident {resident.min():.3f}, streamed {streamed.min():.3f}; "
            f"streamed over resident {streamed.min() / resident.min():.3f}, "
            f"median of {len(resident)} rounds {middle:.3f}, quartiles {low:.3f} to {high:.3f}"
        )


if __name__ == "__main__":
    common.guarded(lambda: main(parsed(Config, __doc__)))
