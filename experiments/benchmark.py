"""Speed against peers, in one run: ratios on this machine, nothing absolute.

    python -m experiments.benchmark

The job: one epoch of the 784-500-20 VAE of Kingma & Welling (2014) on 60,000 binary images, batch 100, Adam, the same
network and loss everywhere.  Peers (`pip install -e '.[peers]'`): a hand-written PyTorch loop in two forms, and Pythae's
trainer.  Each candidate runs in a process of its own, in turn, several rounds; the best epoch of each counts.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time

import numpy as np
import tyro

EXAMPLES, BATCH, PIXELS, HIDDEN, LATENT = 60_000, 100, 784, 500, 20
# multiply-adds of a step: three products a layer (forward, two backward), the first layer without the gradient of its input
LAYERS = PIXELS * HIDDEN + HIDDEN * 2 * LATENT + LATENT * HIDDEN + HIDDEN * PIXELS
FLOP = 2 * EXAMPLES * (3 * LAYERS - PIXELS * HIDDEN)


def images():
    """60,000 binary images [N, 784]: speed does not depend on what they show."""
    return (np.random.RandomState(0).rand(EXAMPLES, PIXELS) < 0.13).astype(np.uint8)


def timed(epoch, epochs):
    """Seconds of each call of `epoch`."""
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        epoch()
        seconds.append(time.perf_counter() - start)
    return seconds


def matrix_rate():
    """Floating-point operations a second of a matrix product: what the machine can do."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(lambda a: a @ a)
    square = jnp.ones((2048, 2048))
    product(square).block_until_ready()
    return 2 * 2048**3 / min(timed(lambda: product(square).block_until_ready(), 10))


def dlvm_jax_worker(epochs):
    """Ours: the engine, as the experiments use it."""
    import jax
    import jax.numpy as jnp
    import optax

    from dlvm_jax import nets
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
        objectives.maximum_likelihood(model), lambda key, raw: raw.astype(jnp.float32)
    )
    steps = EXAMPLES // BATCH
    x = images()
    start = time.perf_counter()
    trainer = engine.build(objective, model.init, optax.adam(1e-3))
    state, data = trainer.init(0), trainer.put(x)
    state, _ = jax.block_until_ready(trainer.chunk(state, data, order.minibatches(EXAMPLES, BATCH, 0, 0, 1)))
    first_step = time.perf_counter() - start

    def epoch():
        nonlocal state
        indices = order.minibatches(EXAMPLES, BATCH, 0, int(state.step), steps)
        state, metrics = trainer.chunk(state, data, indices)
        epoch.loss = float(jax.device_get(metrics["loss"])[-50:].mean())

    epoch()  # compiles the epoch
    seconds = timed(epoch, epochs)
    return {"epochs": seconds, "first_step": first_step, "matrix_rate": matrix_rate(), "loss": epoch.loss}


def torch_worker(epochs, loader=True):
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

    def epoch():
        losses = []
        for batch in batches():
            mean, log_std = encoder(batch).chunk(2, -1)
            z = mean + log_std.exp() * torch.randn_like(mean)
            lik = -nn.functional.binary_cross_entropy_with_logits(decoder(z), batch, reduction="none").sum(-1)
            kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
            loss = (kl - lik).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        epoch.loss = float(torch.stack(losses[-50:]).mean())

    epoch()
    return {"epochs": timed(epoch, epochs), "loss": epoch.loss}


def pythae_worker(epochs):
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
    loss = None

    def train(count):
        nonlocal loss
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

    return {"epochs": [(train(epochs + 1) - train(1)) / epochs], "loss": loss}


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


def run_worker(module, name, *options):
    """One candidate of a benchmark in a process of its own; None where it is not installed."""
    line = [sys.executable, "-m", module, "--worker", name, *map(str, options)]
    done = subprocess.run(line, capture_output=True, text=True)
    if "ModuleNotFoundError" in done.stderr:
        return None
    if done.returncode:
        sys.exit(f"error: the candidate {name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def in_turn(module, names, rounds, *options):
    """Results {name: [one a round]} of candidates that take turns; an empty list for one that is not installed."""
    found = {name: [] for name in names}
    for number in range(rounds):
        for name, results in found.items():
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
            result = run_worker(module, name, *options)
            if result is not None:
                results.append(result)
    return found


def main(config):
    """Run all candidates in turn and print the table."""
    if config.worker is not None:
        print(json.dumps(WORKERS[config.worker](config.epochs)))
        return
    found = in_turn("experiments.benchmark", WORKERS, config.rounds, "--epochs", config.epochs)
    best = {name: min(min(r["epochs"]) for r in results) for name, results in found.items() if results}
    rate = max(r["matrix_rate"] for r in found["dlvm_jax"])
    print(
        "| VAE 784-500-20, batch 100, one epoch | s | ratio to ours | share of the matrix-product rate | loss |"
    )
    print("|---|---|---|---|---|")
    for name in WORKERS:
        if name not in best:
            print(f"| {name} | not installed | | | |")
            continue
        share, loss = FLOP / best[name] / rate, found[name][-1]["loss"]
        print(
            f"| {name} | {best[name]:.2f} | {best[name] / best['dlvm_jax']:.2f} | {share:.0%} | {loss:.1f} |"
        )
    print(f"\nmatrix product 2048 x 2048, float32: {rate / 1e9:.0f} GFLOP/s")
    print(
        f"ours, from nothing to the end of the first step: {min(r['first_step'] for r in found['dlvm_jax']):.1f} s"
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
