"""Speed of a VAE against peers, in one run: ratios on this machine, nothing absolute.

    python -m experiments.benchmark.vae

The jobs: one epoch of the 784-500-20 VAE of Kingma & Welling (2014) on 60,000 binary images, batch 100, Adam, the same
network and loss everywhere; then log p(x) of some of them by importance weighting.  Peers (`pip install -e '.[peers]'`): a
hand-written PyTorch loop in two forms, and Pythae's trainer.  Each candidate runs in a process of its own, in turn, several
rounds; the best of each counts.
"""

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmark import timing
from experiments.benchmark.timing import Line, timed
from experiments.command import parsed

EXAMPLES, BATCH, PIXELS, HIDDEN, LATENT = 60_000, 100, 784, 500, 20
STEPS = EXAMPLES // BATCH
IMAGES, SAMPLES, CHUNK = 100, 5000, 25  # of the evaluation, so many samples at a time
# multiply-adds of a step: three products a layer (forward, two backward), the first layer without the gradient of its input
LAYERS = PIXELS * HIDDEN + HIDDEN * 2 * LATENT + LATENT * HIDDEN + HIDDEN * PIXELS
FLOP = 2 * EXAMPLES * (3 * LAYERS - PIXELS * HIDDEN)


def images() -> np.ndarray:
    """60,000 binary images [N, 784]: speed does not depend on what they show."""
    return (np.random.RandomState(0).rand(EXAMPLES, PIXELS) < 0.13).astype(np.uint8)


def dlvm_jax_worker(epochs: int) -> dict[str, Any]:
    """Ours: the engine, as the experiments use it."""
    import jax
    import jax.numpy as jnp
    import optax

    from dlvm_jax import nets
    from dlvm_jax.evaluate.likelihood import log_likelihoods
    from dlvm_jax.models import density, objectives
    from dlvm_jax.models.vae import vae
    from dlvm_jax.train import engine, order

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
    x = images()
    start = time.perf_counter()
    trainer = engine.build(objective, model.init, optax.adam(1e-3))
    state, data = trainer.init(), trainer.put(x)
    state, _ = jax.block_until_ready(trainer.chunk(state, data, order.minibatches(EXAMPLES, BATCH, 0, 0, 1)))
    first_step = time.perf_counter() - start

    def epoch():
        nonlocal state
        indices = order.minibatches(EXAMPLES, BATCH, 0, int(state.step), STEPS)
        state, metrics = trainer.chunk(state, data, indices)
        epoch.loss = float(jax.device_get(metrics["loss"])[-50:].mean())

    def step():
        nonlocal state
        state, metrics = trainer.chunk(state, data, order.minibatches(EXAMPLES, BATCH, 0, int(state.step), 1))
        jax.block_until_ready(metrics)

    epoch()  # compiles the epoch
    seconds, one = timed(epoch, epochs), timed(step, 20)

    def evaluate():
        options = {"key": jax.random.key(1), "samples": SAMPLES, "chunk": CHUNK}
        evaluate.found = log_likelihoods(model, state.params, np.float32(x[:IMAGES]), **options)["iwae"]

    evaluate()
    found = {"evaluation": timed(evaluate, 3), "evidence": float(evaluate.found.mean())}
    rate = timing.matrix_rate()
    return {
        "epochs": seconds,
        "first_step": first_step,
        "matrix_rate": rate,
        "loss": epoch.loss,
        "step": one,
        **found,
    }


def torch_log_likelihoods(encoder: Callable, decoder: Callable, x: Any) -> Any:
    """log p(x) by importance weighting, CHUNK samples of all images at a time, as ours."""
    import torch

    with torch.no_grad():
        mean, log_std = encoder(x).chunk(2, -1)
        total = torch.full((len(x),), -math.inf)
        for _ in range(SAMPLES // CHUNK):
            noise = torch.randn(CHUNK, *mean.shape)
            z = mean + log_std.exp() * noise
            logits, target = decoder(z), x.expand(CHUNK, *x.shape)
            entropy = torch.nn.functional.binary_cross_entropy_with_logits
            lik = -entropy(logits, target, reduction="none").sum(-1)
            log_w = lik - 0.5 * (z**2).sum(-1) + (0.5 * noise**2 + log_std).sum(-1)
            total = torch.logaddexp(total, log_w.logsumexp(0))
        return total - math.log(SAMPLES)


def torch_worker(epochs: int, loader: bool = True) -> dict[str, Any]:
    """A hand-written PyTorch loop, with a DataLoader as in PyTorch's own examples, or indexing one tensor."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))
    decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-3)
    x = torch.from_numpy(images()).float()
    dataset = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), BATCH, shuffle=True)

    def batches():
        if loader:
            return (batch for (batch,) in dataset)
        return (x[index] for index in torch.randperm(EXAMPLES).split(BATCH))

    def step(batch):
        mean, log_std = encoder(batch).chunk(2, -1)
        z = mean + log_std.exp() * torch.randn_like(mean)
        lik = -nn.functional.binary_cross_entropy_with_logits(decoder(z), batch, reduction="none").sum(-1)
        kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
        loss = (kl - lik).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    def epoch():
        losses = [step(batch) for batch in batches()]
        epoch.loss = float(torch.stack(losses[-50:]).mean())

    def evaluate():
        evaluate.found = torch_log_likelihoods(encoder, decoder, x[:IMAGES])

    epoch()
    seconds, one = timed(epoch, epochs), timed(lambda: step(x[:BATCH]), 20)
    evaluate()
    found = {"evaluation": timed(evaluate, 3), "evidence": float(evaluate.found.mean())}
    return {"epochs": seconds, "loss": epoch.loss, "step": one, **found}


def pythae_worker(epochs: int) -> dict[str, Any]:
    """Pythae's trainer with the same network: time of `epochs` + 1 epochs less the time of one."""
    import torch
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from torch import nn

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU())
            self.mean, self.log_var = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)

        def forward(self, x):
            h = self.body(x.reshape(len(x), -1))
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS), nn.Sigmoid()
            )

        def forward(self, z):
            return ModelOutput(reconstruction=self.body(z))

    x = torch.from_numpy(images()).float()
    model = loss = None

    def train(count):
        nonlocal model, loss
        with tempfile.TemporaryDirectory() as folder:
            config = BaseTrainerConfig(
                output_dir=folder,
                num_epochs=count,
                per_device_train_batch_size=BATCH,
                learning_rate=1e-3,
                no_cuda=True,
            )
            model = VAE(
                VAEConfig(input_dim=(PIXELS,), latent_dim=LATENT, reconstruction_loss="bce"),
                Encoder(),
                Decoder(),
            )
            from pythae.data.datasets import BaseDataset

            trainer = BaseTrainer(model, BaseDataset(x, torch.ones(EXAMPLES)), training_config=config)
            start = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - start
        with torch.no_grad():
            loss = float(model(BaseDataset(x[:5000], torch.ones(5000))[:]).loss)
        return seconds

    seconds = (train(epochs + 1) - train(1)) / epochs
    model.eval()
    start = time.perf_counter()
    with torch.no_grad():
        nats = model.get_nll(x[:IMAGES], n_samples=SAMPLES, batch_size=SAMPLES)
    took = time.perf_counter() - start
    return {"epochs": [seconds], "loss": loss, "evaluation": [took], "evidence": float(nats)}


WORKERS = {
    "dlvm_jax": dlvm_jax_worker,
    "pytorch, DataLoader": torch_worker,
    "pytorch, indexed tensor": lambda epochs: torch_worker(epochs, loader=False),
    "pythae": pythae_worker,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare the time of a VAE epoch with that of peers."""

    rounds: int = 3
    """how often each candidate is started, in turn"""
    epochs: int = 3
    """timed epochs of each start"""
    worker: str | None = None
    """(internal) run one candidate and print its figures"""


def compare(rounds: int, epochs: int = 3) -> list[Line]:
    """The lines of all jobs: the best of all rounds counts."""
    found = timing.in_turn("experiments.benchmark.vae", WORKERS, rounds, "--epochs", epochs)
    found = {name: results for name, results in found.items() if results}

    def best(pick, names=tuple(found)):
        return {name: min(map(pick, found[name])) for name in names}

    epoch = best(lambda r: min(r["epochs"]))
    rate = max(r["matrix_rate"] for r in found["dlvm_jax"])
    print(f"matrix product 2048 x 2048, float32: {rate / 1e9:.0f} GFLOP/s; share of it in an epoch:")
    for name, seconds in epoch.items():
        bound, loss = found[name][-1]["evidence"], found[name][-1]["loss"]
        print(f"- {name}: {FLOP / seconds / rate:.0%}; loss {loss:.1f}, log p(x) {bound:.1f} at the end")
    stepping = [name for name, results in found.items() if "step" in results[0]]  # Pythae has no such call
    first = min(r["first_step"] for r in found["dlvm_jax"])
    print(f"ours, from nothing to the end of the first step: {first:.1f} s")
    return [
        ("VAE 784-500-20: epoch of 60,000 images, batch 100", "s", epoch),
        ("VAE: a training step by itself", "ms", best(lambda r: 1e3 * min(r["step"]), stepping)),
        (f"VAE: log p(x) of {IMAGES} images, K = {SAMPLES}", "s", best(lambda r: min(r["evaluation"]))),
        ("VAE: peak memory of the process", "MB", best(lambda r: r["peak memory"])),
    ]


def main(config: Config) -> None:
    """Run all candidates in turn and print the table."""
    if config.worker is not None:
        timing.emit(WORKERS[config.worker](config.epochs))
        return
    print(timing.ratios(compare(config.rounds, config.epochs)))


if __name__ == "__main__":
    main(parsed(Config, __doc__))
