"""Speed of diffusion models against PyTorch, in one run, and the compile time of every sampler.

    python -m experiments.benchmark.diffusion

The network of `recipes.Diffusion` (residual blocks at one resolution, on patches of 2 x 2) on images of 8 x 8 and 28 x 28:
1,000 samples by DPM-Solver++ 2M with 20 evaluations, and a training step of the simple loss with Adam, batch 128.  PyTorch has
the same network and a hand-written loop; first it is given our parameters, and network, samples, loss and gradient are compared.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from dlvm_jax.functional.diffusion import ancestral, dpm, ode, process, schedules, sde, solvers, times
from dlvm_jax.models import diffusion
from dlvm_jax.nets import denoisers
from dlvm_jax.recipes.diffusion import sampling_times
from dlvm_jax.train import engine, order
from experiments.benchmark import timing
from experiments.command import parsed

SIDES, SAMPLES, PART, EVALUATIONS = (8, 28), 1000, 50, 20  # PART of the samples stays in the cache
STEPS, BATCH, EXAMPLES = 10, 128, 4096
WIDTH, DEPTH, PATCH, DATA_STD, LOW, HIGH = 64, 4, 2, 0.5, -5.0, 13.3
COMPILED = (20, 1000)  # steps
AT_ONCE, PARTS, TRAINING = "1,000 samples at once", "1,000 samples, 50 at a time", "10 training steps"
JOBS = {  # passes of an image through the network, forward; backward is two more
    AT_ONCE: SAMPLES * EVALUATIONS,
    PARTS: SAMPLES * EVALUATIONS,
    TRAINING: 3 * BATCH * STEPS,
}
MODULE = "experiments.benchmark.diffusion"
NOISE = schedules.linear_log_snr(LOW, HIGH)

SAMPLERS = {
    "ancestral": ancestral.ancestral,
    "DDIM": ancestral.ddim,
    "Euler-Maruyama": sde.euler_maruyama,
    "predictor-corrector": lambda noise, denoise: sde.predictor_corrector(
        noise, denoise, sde.euler_maruyama(noise, denoise)
    ),
    "EDM (Heun)": ode.edm_heun,
    "EDM with churn": functools.partial(ode.edm_heun, churn=0.1),
    "Runge-Kutta 4": functools.partial(ode.runge_kutta, method="rk4"),
    **{f"DPM-Solver++ {n}S": functools.partial(dpm.dpm_singlestep, order=n) for n in (1, 2, 3)},
    **{f"DPM-Solver++ {n}M": functools.partial(dpm.dpm_multistep, order=n) for n in (2, 3)},
    "SDE-DPM-Solver++ 2M": dpm.dpm_sde,
    "adaptive Runge-Kutta": None,  # not a solver of given steps
}


def our_model(side: int, width: int = WIDTH, depth: int = DEPTH) -> diffusion.Denoiser:
    """The diffusion model, of images [side, side, 1]."""
    net = diffusion.denoising_net(denoisers.VDMResNet(width, depth, PATCH), (side, side, 1))
    return diffusion.denoiser(net, diffusion.fixed(NOISE), (side, side, 1), data_std=DATA_STD)


def our_sampler(model: diffusion.Denoiser, name: str, steps: int, count: int) -> Callable:
    """(params, key) -> images [count, side, side, 1]."""

    def adaptive(params, key):
        start = process.prior_sample(NOISE, key, (count, *model.event_shape))
        denoise = lambda x, t: model.denoise(params, x, t)
        field = functools.partial(ode.probability_flow, NOISE, denoise)
        return ode.integrate(field, start, NOISE.t_max, NOISE.t_min, max_steps=steps).x

    def sampler(noise, denoise):
        return SAMPLERS[name](noise, denoise), sampling_times(noise, steps)

    if SAMPLERS[name] is None:
        return adaptive
    return lambda params, key: diffusion.bound_density(model, sampler).sample(params, key, shape=(count,))[0]


def multiply_adds(side: int) -> int:
    """Multiply-adds of the network on one image, all borders counted as inside."""
    convolutions = 9 * WIDTH * (2 * DEPTH * WIDTH + 2 * PATCH**2) * (side // PATCH) ** 2
    return convolutions + 2 * (4 * WIDTH) ** 2 + DEPTH * 4 * WIDTH * WIDTH


def dataset(side: int) -> np.ndarray:
    """Images [N, side, side] in [-1, 1]: speed does not depend on what they show."""
    return np.random.RandomState(0).uniform(-1, 1, (EXAMPLES, side, side)).astype(np.float32)


def torch_net() -> Any:
    """`VDMResNet` in PyTorch: (x [N, 1, side, side], log_snr [N]) -> [N, 1, side, side]."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    features = 4 * WIDTH
    norm = lambda: nn.GroupNorm(WIDTH // 4, WIDTH, eps=1e-6)
    conv = lambda a, b: nn.Conv2d(a, b, 3, padding=1)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm_0, self.conv_0, self.shift = norm(), conv(WIDTH, WIDTH), nn.Linear(features, WIDTH)
            self.norm_1, self.conv_1 = norm(), conv(WIDTH, WIDTH)

        def forward(self, x, embedding):
            h = self.conv_0(F.silu(self.norm_0(x))) + self.shift(embedding)[:, :, None, None]
            return x + self.conv_1(F.silu(self.norm_1(h)))

    class VDMResNet(nn.Module):
        def __init__(self):
            super().__init__()
            frequencies = torch.from_numpy(np.geomspace(1 / 16, 4.0, features // 2, dtype=np.float32))
            self.register_buffer("frequencies", frequencies, persistent=False)
            self.embed_0, self.embed_1 = nn.Linear(features, features), nn.Linear(features, features)
            self.first, self.last, self.norm = conv(PATCH**2, WIDTH), conv(WIDTH, PATCH**2), norm()
            self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))

        def forward(self, x, log_snr):
            angles = log_snr[:, None] * self.frequencies
            waves = torch.cat([angles.sin(), angles.cos()], 1)
            embedding = F.silu(self.embed_1(F.silu(self.embed_0(waves))))
            h = self.first(F.pixel_unshuffle(x, PATCH))
            for block in self.blocks:
                h = block(h, embedding)
            return F.pixel_shuffle(self.last(F.silu(self.norm(h))), PATCH)

    return VDMResNet()  # channels_last is a quarter slower on the processor


def give(net: Any, params: Any) -> None:
    """Put a tree of our parameters (or gradients) into the PyTorch network."""
    import torch

    def put(module, leaves):
        kernel = np.asarray(leaves["scale"] if "scale" in leaves else leaves["kernel"])
        kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        with torch.no_grad():
            module.weight.copy_(torch.tensor(kernel))
            module.bias.copy_(torch.tensor(np.asarray(leaves["bias"])))

    p = params["net"]["params"]
    embedding = p["Conditioning_0"]
    put(net.embed_0, embedding["Dense_0"]), put(net.embed_1, embedding["Dense_1"])
    put(net.first, p["Conv_0"]), put(net.last, p["Conv_1"]), put(net.norm, p["GroupNorm_0"])
    names = {
        "norm_0": "GroupNorm_0",
        "conv_0": "Conv_0",
        "shift": "Dense_0",
        "norm_1": "GroupNorm_1",
        "conv_1": "Conv_1",
    }
    for i, block in enumerate(net.blocks):
        for ours, theirs in names.items():
            put(getattr(block, ours), jax.tree.map(lambda leaf, i=i: leaf[i], p["blocks"][theirs]))


def torch_denoise(net: Any, x: Any, log_snr: Any) -> Any:
    """E[x_0 | x_t] of the preconditioned network, x [N, 1, side, side], log_snr [N]."""
    alpha_2, sigma_2 = (part.sigmoid()[:, None, None, None] for part in (log_snr, -log_snr))
    shrink = (alpha_2 * DATA_STD**2 + sigma_2).rsqrt()
    skip, out = alpha_2.sqrt() * DATA_STD**2 * shrink**2, sigma_2.sqrt() * DATA_STD * shrink
    return skip * x + out * net(shrink * x, log_snr)


def torch_sample(net: Any, x: Any) -> Any:
    """DPM-Solver++ 2M from noise x of unit variance at the first time."""
    import torch

    with torch.inference_mode():
        log_snr = torch.linspace(LOW, HIGH, EVALUATIONS + 1)
        alphas, sigmas = log_snr.sigmoid().sqrt().tolist(), (-log_snr).sigmoid().sqrt().tolist()
        decay = float(torch.expm1(-0.5 * (log_snr[1] - log_snr[0])))
        x, last = sigmas[0] * x, None
        for i in range(EVALUATIONS):
            x0 = torch_denoise(net, x, log_snr[i].expand(len(x)))
            ahead = x0 if last is None else 1.5 * x0 - 0.5 * last
            x, last = sigmas[i + 1] / sigmas[i] * x - alphas[i + 1] * decay * ahead, x0
        return x


def torch_loss(net: Any, x0: Any, t: Any, eps: Any) -> Any:
    """The simple loss at times t [N] and noise eps."""
    log_snr = HIGH - (HIGH - LOW) * t
    alpha, sigma = (part.sigmoid().sqrt()[:, None, None, None] for part in (log_snr, -log_snr))
    error = (torch_denoise(net, alpha * x0 + sigma * eps, log_snr) - x0).square().sum((1, 2, 3))
    return (log_snr.exp() * error).mean()


def agreement(side: int, count: int = 4) -> dict[str, Any]:
    """Largest differences between PyTorch's values and ours at the same parameters, relative to the largest value."""
    import torch

    model, net, key = our_model(side), torch_net(), jax.random.key(0)
    leaves, tree = jax.tree.flatten(jax.jit(model.init)(key))
    draw = np.random.RandomState(0)  # away from the zeros of the start, so that every path matters
    moved = [np.asarray(leaf) + 0.03 * draw.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    params = jax.tree.unflatten(tree, moved)
    give(net, params)
    to_torch = lambda images: torch.tensor(np.asarray(images)).moveaxis(-1, 1)
    distance = lambda ours, theirs: float(abs(ours - theirs).max() / abs(ours).max())

    start = draw.normal(size=(count, *model.event_shape)).astype(np.float32)
    solver = dpm.dpm_multistep(NOISE, lambda x, t: model.denoise(params, x, t))
    grid = sampling_times(NOISE, EVALUATIONS)
    sampled = jax.jit(lambda x: solvers.sample(solver, grid, x))(process.sigma(NOISE, NOISE.t_max) * start)
    errors = {"samples": distance(sampled, torch_sample(net, to_torch(start)).moveaxis(1, -1).numpy())}

    x = dataset(side)[:count, ..., None]
    key_t, key_noise, _ = jax.random.split(key, 3)  # as `diffusion.denoising` draws
    t = torch.tensor(np.asarray(times.stratified_uniform(key_t, count)))
    loss_of = jax.jit(jax.value_and_grad(diffusion.denoising(model), has_aux=True))
    (loss, _), gradient = loss_of(params, key, x)
    theirs = torch_loss(net, to_torch(x), t, to_torch(jax.random.normal(key_noise, x.shape)))
    theirs.backward()
    errors["loss"] = distance(loss, theirs.item())
    give(net, gradient)  # in the order and shapes of PyTorch
    errors["gradient"] = max(distance(p.detach().numpy(), p.grad.numpy()) for p in net.parameters())
    counts = sum(leaf.size for leaf in jax.tree.leaves(params)), sum(p.numel() for p in net.parameters())
    return {"parameters": counts, **errors}


def lowered(name: str, steps: int, side: int, count: int = SAMPLES, **net: int) -> jax.stages.Lowered:
    """A sampler's program, before compilation."""
    model, key = our_model(side, **net), jax.random.key(0)
    sampler = jax.jit(our_sampler(model, name, steps, count))
    return sampler.lower(jax.eval_shape(model.init, key), key)


def compile_worker(side: int, calls: int) -> dict[str, Any]:
    """Seconds from a Python function to a compiled program, {sampler: [for each number of steps]}, best of `calls`."""
    jax.config.update("jax_enable_compilation_cache", False)
    lowered("DDIM", EVALUATIONS, side).compile()  # what JAX loads when it first compiles does not count
    compiled = lambda name, steps: lambda: lowered(name, steps, side).compile()
    return {
        name: [min(timing.timed(compiled(name, steps), calls)) for steps in COMPILED] for name in SAMPLERS
    }


def dlvm_jax_worker(side: int, calls: int) -> dict[str, Any]:
    """Ours: a density's `sample`, and the engine, as the experiments use them."""
    model, key = our_model(side), jax.random.key(1)
    trainer = engine.build(diffusion.denoising(model), model.init, optax.adam(1e-3))
    state, data = trainer.init(), trainer.put(dataset(side)[..., None])

    def sampling(count):
        sampler = jax.jit(our_sampler(model, "DPM-Solver++ 2M", EVALUATIONS, count))
        keys = jax.random.split(key, SAMPLES // count)
        return lambda: jax.block_until_ready([sampler(state.params, key) for key in keys])

    def train():
        nonlocal state
        indices = order.minibatches(EXAMPLES, BATCH, 0, int(state.step), STEPS)
        state, metrics = trainer.chunk(state, data, indices)
        jax.block_until_ready(metrics)

    return timings(sampling, train, calls) | {"matrix rate": timing.matrix_rate()}


def torch_worker(side: int, calls: int, compiled: bool = False) -> dict[str, Any]:
    """A hand-written PyTorch loop, as it is or with the network through `torch.compile`."""
    import torch

    net = torch_net()
    forward = torch.compile(net, dynamic=False) if compiled else net
    data = torch.from_numpy(dataset(side))[:, None]
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def train():
        for index in torch.randperm(EXAMPLES)[: STEPS * BATCH].split(BATCH):
            x0 = data[index]
            t = (torch.rand(()) + torch.arange(BATCH) / BATCH) % 1
            optimizer.zero_grad()
            torch_loss(forward, x0, t, torch.randn_like(x0)).backward()
            optimizer.step()

    def sampling(count):
        return lambda: [
            torch_sample(forward, torch.randn(count, 1, side, side)) for _ in range(SAMPLES // count)
        ]

    return timings(sampling, train, calls)


def timings(
    sampling: Callable[[int], Callable], train: Callable[[], Any], calls: int
) -> dict[str, list[float]]:
    """Seconds of `calls` calls of each job, after one that compiles or warms up."""
    result = {}
    for job, run in ((AT_ONCE, sampling(SAMPLES)), (PARTS, sampling(PART)), (TRAINING, train)):
        run()
        result[job] = timing.timed(run, calls)
    return result


WORKERS = {
    "dlvm_jax": dlvm_jax_worker,
    "pytorch": torch_worker,
    "pytorch, torch.compile": lambda side, calls: torch_worker(side, calls, compiled=True),
}
CHECKS = {"agreement": lambda side, calls: agreement(side), "compile": compile_worker}


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare diffusion models with PyTorch, and time the compilation of every sampler."""

    rounds: int = 3
    """how often each candidate is started, in turn"""
    calls: int = 1
    """timed calls of each job in each start"""
    worker: str | None = None
    """(internal) run one candidate and print its figures"""
    side: int = 28
    """(internal) images of a worker"""


def print_times(side: int, best: dict[str, dict[str, float]], rate: float) -> None:
    """The best calls {job: {candidate: seconds}}, their ratio to ours, and the share of a matrix product's rate."""
    print(
        f"\n| {side}x{side} | | s | ratio to ours | share of the matrix-product rate |\n|---|---|---|---|---|"
    )
    for job, passes in JOBS.items():
        for name, seconds in best[job].items():
            share = 2 * passes * multiply_adds(side) / seconds / rate
            print(f"| {job} | {name} | {seconds:.3f} | {seconds / best[job]['dlvm_jax']:.2f} | {share:.0%} |")
    print(f"\nmatrix product 2048 x 2048, float32: {rate / 1e9:.0f} GFLOP/s")


def check_agreement() -> None:
    """Stop unless both sides compute the same, for without it their times mean nothing."""
    for side in SIDES:
        found = timing.run_worker(MODULE, "agreement", "--side", side)
        if found is None:
            continue
        timing.same(f"{side}x{side}", found)


def compare(rounds: int, calls: int = 1) -> list[timing.Line]:
    """The lines of the jobs on both sizes of images, after the check; the compile times of samplers."""
    check_agreement()
    lines = []
    for side in SIDES:
        options = "--side", side, "--calls", calls
        found = timing.in_turn(MODULE, WORKERS, rounds, *options)
        found = {name: results for name, results in found.items() if results}
        best = {job: {n: min(min(r[job]) for r in results) for n, results in found.items()} for job in JOBS}
        print_times(side, best, max(r["matrix rate"] for r in found["dlvm_jax"]))
        lines += [(f"diffusion, {side} x {side}: {job}", "s", best[job]) for job in JOBS]
        memory = {name: min(r["peak memory"] for r in results) for name, results in found.items()}
        lines.append((f"diffusion, {side} x {side}: peak memory of the process", "MB", memory))
    found = timing.run_worker(MODULE, "compile", "--calls", calls)
    found.pop("peak memory")
    print(f"\n| sampler, compile time in s | {' | '.join(f'{n} steps' for n in COMPILED)} |\n|---|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {' | '.join(f'{s:.2f}' for s in seconds)} |")
    longest = max(map(max, found.values()))
    return [*lines, ("diffusion: longest compilation of a sampler", "s", {"dlvm_jax": longest})]


def main(config: Config) -> None:
    """Check that both sides compute the same, run all candidates in turn and print the tables."""
    if config.worker is not None:
        timing.emit((WORKERS | CHECKS)[config.worker](config.side, config.calls))
        return
    compare(config.rounds, config.calls)


if __name__ == "__main__":
    main(parsed(Config, __doc__))
