"""Speed of autoregressive models against PyTorch, in one run, and of draws that keep what was computed against whole passes.

    python -m experiments.benchmark.autoregressive

The jobs: a gated PixelCNN and a causal transformer of binary images of 28 x 28: training steps with Adam, log-densities, draws.
PyTorch has the same networks and hand-written loops; first it is given our parameters, and log-densities and all gradients are
compared.  Its transformer keeps keys and values too; its PixelCNN draws as is usual, by a pass through the whole network for
each pixel.  Of such passes a few are timed, for all take the same time.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlvm_jax import data
from dlvm_jax.recipes import Autoregressive, Model
from dlvm_jax.train import engine, order
from experiments.benchmark import timing
from experiments.benchmark.hierarchical import tensors, to_torch
from experiments.command import parsed

MODULE = "experiments.benchmark.autoregressive"
SIDE, EXAMPLES, BATCH, STEPS, SCORED, DRAWN, PASSES = 28, 200, 16, 2, 20, 100, 2
JOBS = {
    "pixelcnn": Autoregressive(net="pixelcnn", width=32, depth=7, kernel=5),
    "transformer": Autoregressive(net="transformer", width=64, depth=4, heads=4),
}
WHOLE = "dlvm_jax, whole passes"


def images(side: int = SIDE) -> data.Data:
    """Binary images: speed does not depend on what they show."""
    return data.from_arrays((np.random.RandomState(0).rand(EXAMPLES, side, side) < 0.13).astype(np.uint8))


def peer_params(params: Any) -> Any:
    """Our parameters as PyTorch's: lists of layers, and matrices where we have an axis of heads."""

    def layers(tree):
        flat = jax.tree.map(np.asarray, tree)
        if "DenseGeneral_0" in flat:
            width = flat["DenseGeneral_0"]["kernel"].shape[1]
            inner, outer = dict(flat["DenseGeneral_0"]), dict(flat["DenseGeneral_1"])
            inner["kernel"] = inner["kernel"].reshape(len(inner["kernel"]), width, -1)
            inner["bias"] = inner["bias"].reshape(len(inner["bias"]), -1)
            outer["kernel"] = outer["kernel"].reshape(len(outer["kernel"]), width, -1)
            flat = {**flat, "DenseGeneral_0": inner, "DenseGeneral_1": outer}
        count = len(jax.tree.leaves(flat)[0])
        return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], flat) for i in range(count))

    own = params["params"]
    return to_torch(
        {
            name: layers(tree) if name in ("vertical", "horizontal", "block") else tree
            for name, tree in own.items()
        }
    )


def pixelcnn_logits(p: Any, x: Any) -> Any:
    """The logits [n, h, w] of bits x of that shape, in PyTorch."""
    import torch
    from torch.nn import functional as F

    half = JOBS["pixelcnn"].kernel // 2
    conv = lambda p, x, around=(0, 0, 0, 0): F.conv2d(F.pad(x, around), p["kernel"], p["bias"])

    def gate(h):
        a, b = h.chunk(2, 1)
        return torch.tanh(a) * torch.sigmoid(b)

    x = torch.stack([2 * x - 1, torch.ones_like(x)], 1)
    rows = conv(p["first_rows"], x[:, :, :-1], (half, half, half + 1, 0))
    pixels = conv(p["first_pixels"], x[..., :-1], (half + 1, 0, 0, 0))
    for vertical, horizontal in zip(p["vertical"], p["horizontal"], strict=True):
        above = conv(vertical["Conv_0"], rows, (half, half, half, 0))
        left = conv(horizontal["Conv_0"], pixels, (half, 0, 0, 0)) + conv(vertical["Conv_1"], above)
        rows, pixels = gate(above), pixels + conv(horizontal["Conv_1"], gate(left))
    h = F.relu(conv(p["last"], F.relu(pixels))).movedim(1, -1)
    return F.linear(h, p["head"]["Dense_0"]["kernel"], p["head"]["Dense_0"]["bias"])[..., 0]


def transformer_blocks(p: Any, h: Any, past: Any = None, place: int = 0) -> Any:
    """The logits [n, t] of places with vectors h [n, t, width]; `past`: keys and values [n, heads, T, size] of each layer."""
    from torch.nn import functional as F

    dense = lambda p, x: F.linear(x, p["kernel"], p["bias"])
    norm = lambda p, x: F.layer_norm(x, x.shape[-1:], p["scale"], p["bias"], 1e-6)
    heads = JOBS["transformer"].heads
    for i, block in enumerate(p["block"]):
        found = dense(block["DenseGeneral_0"], norm(block["LayerNorm_0"], h)).unflatten(-1, (3, heads, -1))
        query, key, value = (a.transpose(1, 2) for a in found.unbind(2))
        if past is not None:
            for kept, new in zip(past[i], (key, value), strict=True):
                kept[:, :, place : place + 1] = new
            key, value = (kept[:, :, : place + 1] for kept in past[i])
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=past is None)
        h = h + dense(block["DenseGeneral_1"], mixed.transpose(1, 2).flatten(2))
        inner = F.gelu(dense(block["DenseGeneral_3"], norm(block["LayerNorm_1"], h)), approximate="tanh")
        h = h + dense(block["DenseGeneral_2"], inner)
    return dense(p["head"]["Dense_0"], norm(p["norm"], h))[..., 0]


def transformer_logits(p: Any, x: Any) -> Any:
    """The logits [n, h, w] of bits x of that shape, in PyTorch."""
    import torch

    before = p["element"]["embedding"].T[x.flatten(1)[:, :-1].long()]
    beginning = p["beginning"].expand(len(x), 1, -1)
    return transformer_blocks(p, torch.cat([beginning, before], 1) + p["places"].T).reshape(x.shape)


LOGITS = {"pixelcnn": pixelcnn_logits, "transformer": transformer_logits}


def torch_log_prob(job: str, p: Any, x: Any) -> Any:
    """Log-densities [n] of bits x [n, h, w], in PyTorch."""
    from torch.nn import functional as F

    return -F.binary_cross_entropy_with_logits(LOGITS[job](p, x), x, reduction="none").flatten(1).sum(-1)


def torch_draws(job: str, p: Any, count: int, side: int, passes: int | None = None) -> Any:
    """Draws [count, side, side] in PyTorch; with `passes` only so many of the first pixels are drawn."""
    import torch

    x, past = torch.zeros(count, side, side), None
    if job == "transformer":
        heads, width = JOBS[job].heads, len(p["beginning"])
        empty = lambda: torch.zeros(count, heads, side * side, width // heads)
        past = [(empty(), empty()) for _ in p["block"]]
    with torch.no_grad():
        for place in range(passes or side * side):
            if past is None:
                logits = pixelcnn_logits(p, x).flatten(1)[:, place]
            else:
                last = p["element"]["embedding"].T[x.flatten(1)[:, place - 1].long()]
                h = (last if place else p["beginning"].expand(count, -1)) + p["places"].T[place]
                logits = transformer_blocks(p, h[:, None], past, place)[:, 0]
            x.view(count, -1)[:, place] = torch.bernoulli(torch.sigmoid(logits))
    return x


def agreement_worker(job: str, side: int = SIDE) -> dict[str, Any]:
    """Largest differences between PyTorch's log-densities and gradients and ours, relative to the largest value."""
    import torch

    bits = images(side)
    model = JOBS[job].build(bits.spec, {})
    draw = np.random.RandomState(0)  # away from the small weights of the start, so that every path matters
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.03 * draw.normal(size=leaf.shape).astype(np.float32),
        jax.jit(model.init)(jax.random.key(0)),
    )
    x = np.float32(bits.train[:4])
    log_prob = jax.jit(lambda params: model.density.log_prob(params, None, x).sum())
    ours, gradient = jax.jit(jax.value_and_grad(log_prob))(params)
    p = peer_params(params)
    theirs = torch_log_prob(job, p, torch.tensor(x[..., 0])).sum()
    theirs.backward()
    distance = lambda ours, theirs: float(abs(ours - theirs).max() / max(abs(ours).max(), 1e-3))
    pairs = zip(tensors(peer_params(gradient)), tensors(p), strict=True)
    errors = {"log-density": distance(ours, theirs.item())}
    errors["gradient"] = max(distance(a.detach().numpy(), b.grad.numpy()) for a, b in pairs)
    sizes = sum(leaf.size for leaf in jax.tree.leaves(params)), sum(t.numel() for t in tensors(p))
    return {"parameters": sizes, **errors}


def dlvm_jax_worker(job: str) -> dict[str, Any]:
    """Ours: the engine, as the experiments use it, and draws with and without what is kept."""
    bits = images()
    model: Model = JOBS[job].build(bits.spec, {})
    trainer = engine.build(model.objective, model.init, optax.adam(1e-3))
    state, x = trainer.init(), trainer.put(np.float32(bits.train))

    def train():
        nonlocal state
        indices = order.minibatches(len(x), BATCH, 0, int(state.step), STEPS)
        state, metrics = trainer.chunk(state, x, indices)
        jax.block_until_ready(metrics)

    params = jax.jit(model.init)(jax.random.key(0))
    score = jax.jit(lambda x: model.density.log_prob(params, None, x))
    draw = jax.jit(lambda key: model.density.sample(params, key, shape=(DRAWN,))[0])
    calls = {
        "train": train,
        "score": lambda: score(x[:SCORED]).block_until_ready(),
        "draw": lambda: draw(jax.random.key(0)).block_until_ready(),
        "pass": lambda: score(jnp.zeros((DRAWN, SIDE, SIDE, 1))).block_until_ready(),
    }
    found = best_of(calls)
    return found | {"whole": found.pop("pass") * SIDE**2}


def best_of(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The least seconds of a few calls of each, after one that compiles."""
    found = {}
    for name, call in calls.items():
        timing.timed(call, 1)
        found[name] = min(timing.timed(call, 2))
    return found


def torch_worker(job: str) -> dict[str, Any]:
    """Hand-written PyTorch loops."""
    import torch

    bits = images()
    params = jax.device_get(jax.jit(JOBS[job].build(bits.spec, {}).init)(jax.random.key(0)))
    p, x = peer_params(params), torch.tensor(np.float32(bits.train[..., 0]))
    optimizer = torch.optim.Adam(tensors(p), 1e-3)

    def train():
        for _ in range(STEPS):
            optimizer.zero_grad()
            (-torch_log_prob(job, p, x[torch.randperm(len(x))[:BATCH]]).mean()).backward()
            optimizer.step()

    def score():
        with torch.no_grad():
            torch_log_prob(job, p, x[:SCORED])

    passes = PASSES if job == "pixelcnn" else SIDE**2
    draw = lambda: torch_draws(job, p, DRAWN, SIDE, passes)
    found = best_of({"train": train, "score": score, "draw": draw})
    return found | {"draw": found["draw"] * SIDE**2 / passes}


WORKERS = {"dlvm_jax": dlvm_jax_worker, "pytorch": torch_worker}
CHECKS = {"agreement": agreement_worker}


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare autoregressive models with PyTorch, and draws with and without what is kept of earlier places."""

    rounds: int = 1
    """how often each candidate is started, in turn"""
    worker: str | None = None
    """(internal) run one candidate and print its figures"""
    job: str = "pixelcnn"
    """(internal) the model of a worker"""


def compare(rounds: int) -> list[timing.Line]:
    """The lines of both models, after the check that both sides compute the same."""
    lines = []
    for job in JOBS:
        found = timing.same_in_turn(MODULE, WORKERS, rounds, job)
        best = lambda what, found=found: {
            name: min(r[what] for r in results) for name, results in found.items()
        }
        whole = min(r["whole"] for r in found[timing.OURS])
        lines += [
            (f"{job}: {STEPS} training steps of {BATCH}", "s", best("train")),
            (f"{job}: log-densities of {SCORED} images", "s", best("score")),
            (f"{job}: {DRAWN} draws", "s", {**best("draw"), WHOLE: whole}),
        ]
    return lines


def main(config: Config) -> None:
    """Check that both sides compute the same, run all candidates in turn and print the table."""
    if config.worker is not None:
        timing.emit((WORKERS | CHECKS)[config.worker](config.job))
        return
    print(timing.ratios(compare(config.rounds)))


if __name__ == "__main__":
    main(parsed(Config, __doc__))
