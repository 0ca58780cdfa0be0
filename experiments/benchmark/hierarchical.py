"""Speed of hierarchical VAEs against PyTorch, in one run; compile time by depth; memory with and without rematerialisation.

    python -m experiments.benchmark.hierarchical

The jobs: training steps of a ladder of five dense layers and of a small VDVAE of seven layers, on binary images of 28 x 28, with
Adam.  PyTorch has the same network and a hand-written loop; first it is given our parameters and noise, and the bound and all
gradients are compared.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from dlvm_jax import data
from dlvm_jax.recipes import Hierarchical, Model
from dlvm_jax.train import engine, order
from experiments.benchmark import timing
from experiments.command import parsed

MODULE = "experiments.benchmark.hierarchical"
SIDE, EXAMPLES, STEPS = 28, 2000, 20


class Job(NamedTuple):
    """A recipe and the number of examples in a step."""

    recipe: Hierarchical
    batch: int


LADDER = Hierarchical(
    groups=(1, 1, 1, 1), latents=(8, 16, 24, 32), widths=(64, 128, 256, 384), hidden=(128, 192, 256, 384)
)
VDVAE = Hierarchical(
    cells="vdvae", groups=(2, 4), latents=(16, 16), widths=(64, 64), hidden=(32, 32), stride=2, latent_dim=16
)
JOBS = {"ladder": Job(LADDER, 100), "vdvae": Job(VDVAE, 32)}
DEPTHS = (4, 48)  # groups


def images() -> data.Data:
    """Binary images: speed does not depend on what they show."""
    return data.from_arrays((np.random.RandomState(0).rand(EXAMPLES, SIDE, SIDE) < 0.13).astype(np.uint8))


def our_model(recipe: Hierarchical) -> Model:
    """The model of a recipe for these images."""
    return recipe.build(images().spec, {})


def to_torch(tree: Any, groups: bool = False) -> Any:
    """A tree of our parameters as PyTorch's: its layouts, and a list where groups are stacked."""
    import torch

    if isinstance(tree, tuple):
        return [to_torch(part) for part in tree]
    if groups:
        count = len(jax.tree.leaves(tree)[0])
        return [to_torch(jax.tree.map(lambda leaf, i=i: leaf[i], tree)) for i in range(count)]
    if isinstance(tree, dict):
        stacked = lambda name: name == "groups" or name.startswith("BottleneckBlock")
        return {name: to_torch(part, stacked(name)) for name, part in tree.items() if name != "params"} | (
            to_torch(tree["params"]) if "params" in tree else {}
        )
    leaf = np.asarray(tree)
    leaf = {2: leaf.T, 4: leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else None}.get(leaf.ndim, leaf)
    return torch.tensor(np.ascontiguousarray(leaf)).requires_grad_()


def tensors(tree: Any) -> list[Any]:
    """The leaves of a nest of dictionaries and lists."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [leaf for part in tree for leaf in tensors(part)] if isinstance(tree, list) else [tree]


def torch_bound(job: str, p: Any, x: Any, noise: Any) -> Any:
    """The ELBO of the batch in PyTorch, from parameters p, bits x [N, 28, 28] and noise (top, groups of each stage)."""
    import torch
    from torch.nn import functional as F

    dense = lambda p, x: F.linear(x, p["kernel"], p["bias"])
    conv = lambda p, x, stride=1: F.conv2d(x, p["kernel"], p["bias"], stride, p["kernel"].shape[-1] // 2)
    bounded = lambda x: 5 * torch.tanh(x / 5)
    clip = lambda law: (law[0], bounded(law[1]))
    head = lambda p, x: dense(p["Head_0"]["Dense_0"], x)

    def mlp(p, x):
        return head(p, F.silu(dense(p["Dense_0"], x)))

    def dense_block(p, x):
        return x + dense(p["Dense_1"], F.silu(dense(p["Dense_0"], F.silu(x))))

    def bottleneck(p, x, residual=False):
        h = x
        for i in range(4):
            h = conv(p[f"Conv_{i}"], F.gelu(h, approximate="tanh"))
        return x + h if residual else h

    class DenseGroup:
        pairs = staticmethod(lambda raw: clip(raw.unflatten(-1, (-1, 2)).unbind(-1)))

        def prior(self, p, h):
            return self.pairs(mlp(p["prior_net"], h)), h

        def posterior(self, p, h, features, law):
            mean, log_std = (
                mlp(p["posterior_net"], torch.cat([h, features], -1)).unflatten(-1, (-1, 2)).unbind(-1)
            )
            return law[0] + law[1].exp() * bounded(mean), law[1] + bounded(log_std)

        def merge(self, p, h, z):
            return dense_block(p["block"], h + dense(p["project"], z))

        def enter(self, p, h, top):
            return dense_block(p["DenseBlock_0"], dense(p["Dense_0"], h if top else F.silu(h)))

        def encode(self, p, x):
            h, found = x.flatten(1), []
            for i in range(len(JOBS[job].recipe.groups)):
                h = dense_block(p[f"DenseBlock_{i}"], dense(p[f"Dense_{i}"], F.silu(h) if i else h))
                found.append(h)
            return found

        def logits(self, p, h):
            return mlp(p, h)

    class Bottlenecks:
        latent = VDVAE.latents[0]

        def prior(self, p, h):
            out = bottleneck(p["prior_net"], h)
            mean, log_std, more = out.split([self.latent, self.latent, out.shape[1] - 2 * self.latent], 1)
            return clip((mean, log_std)), h + more

        def posterior(self, p, h, features, law):
            return clip(bottleneck(p["posterior_net"], torch.cat([h, features], 1)).chunk(2, 1))

        def merge(self, p, h, z):
            return bottleneck(p["block"], h + conv(p["project"], z), residual=True)

        def enter(self, p, h, top):
            rows, columns, channels = p["bias"].shape
            if top:
                h = dense(p["Dense_0"], h).unflatten(-1, (rows, columns, channels)).movedim(-1, 1)
            else:
                h = F.interpolate(h, size=(rows, columns), mode="nearest")
            return h + p["bias"].movedim(-1, 0)

        def encode(self, p, x):
            h, found = F.pad(x[:, None], (0, 1, 0, 1)), []  # with stride 2 the other side has the border
            h = F.conv2d(h, p["Conv_0"]["kernel"], p["Conv_0"]["bias"], 2)
            for i in range(len(VDVAE.groups)):
                h = F.avg_pool2d(h, 2) if i else h
                for block in p[f"BottleneckBlock_{i}"]:
                    h = bottleneck(block, h, residual=True)
                found.append(h)
            return found

        def logits(self, p, h):
            h = conv(p["Conv_0"], F.gelu(h, approximate="tanh")).movedim(1, -1)
            n, rows, columns, channels = h.shape
            h = h.reshape(n, rows, columns, 2, 2, channels // 4).permute(0, 1, 3, 2, 4, 5)
            h = h.reshape(n, 2 * rows, 2 * columns, -1)
            return head(p, F.gelu(h, approximate="tanh"))

    def kl(q, p):
        difference = ((q[0] - p[0]) / p[1].exp()) ** 2 + (2 * (q[1] - p[1])).exp() - 1
        return (0.5 * difference + p[1] - q[1]).flatten(1).sum(-1)

    net = DenseGroup() if job == "ladder" else Bottlenecks()
    features = net.encode(p["encoder"], x)[::-1]
    top = features[0] if job == "ladder" else features[0].movedim(1, -1).flatten(1)
    mean, log_std = head(p["posterior"], top).unflatten(-1, (-1, 2)).unbind(-1)
    rate = kl((mean, log_std), (torch.zeros_like(mean), torch.zeros_like(mean)))
    h = mean + log_std.exp() * noise[0]
    for number, (stage, feature, eps) in enumerate(zip(p["stages"], features, noise[1], strict=True)):
        h = net.enter(stage["enter"], h, number == 0)
        for own, e in zip(stage["groups"], eps, strict=True):
            prior, after = net.prior(own, h)
            q = net.posterior(own, h, feature, prior)
            z = q[0] + q[1].exp() * e
            rate = rate + kl(q, prior)
            h = net.merge(own, after, z)
    logits = net.logits(p["likelihood"], h).reshape(x.shape)
    entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(-1)
    return -(entropy + rate).mean()


def our_noise(job: str, key: jax.Array, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The noise that our bound draws of a key, in PyTorch's layout."""
    key_z = jax.random.split(jax.random.split(key)[0])[0]
    model = our_model(JOBS[job].recipe)
    groups = [
        np.moveaxis(np.asarray(e), -1, 2)
        for e in model.parts.noise(jax.random.fold_in(key_z, 1), count).groups
    ]
    return np.asarray(jax.random.normal(key_z, (count, JOBS[job].recipe.latent_dim))), groups


def agreement_worker(job: str, count: int = 4) -> dict[str, Any]:
    """Largest differences between PyTorch's bound and gradients and ours, relative to the largest value."""
    import torch

    model, key = our_model(JOBS[job].recipe), jax.random.key(3)
    draw = np.random.RandomState(0)  # away from the small weights of the start, so that every path matters
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.03 * draw.normal(size=leaf.shape).astype(np.float32),
        jax.jit(model.init)(jax.random.key(0)),
    )
    x = np.float32(images().train[:count])
    (loss, _), gradient = jax.jit(jax.value_and_grad(model.objective, has_aux=True))(params, key, x)
    theirs = to_torch(params)
    top, groups = our_noise(job, key, count)
    noise = torch.tensor(top), [torch.tensor(e) for e in groups]
    bound = torch_bound(job, theirs, torch.tensor(x[..., 0]), noise)
    (-bound).backward()
    distance = lambda ours, theirs: float(abs(ours - theirs).max() / max(abs(ours).max(), 1e-3))
    pairs = zip(tensors(to_torch(gradient)), tensors(theirs), strict=True)
    errors = {"bound": distance(loss, -bound.item())}
    errors["gradient"] = max(distance(a.detach().numpy(), b.grad.numpy()) for a, b in pairs)
    sizes = sum(leaf.size for leaf in jax.tree.leaves(params)), sum(t.numel() for t in tensors(theirs))
    return {"parameters": sizes, **errors}


def dlvm_jax_worker(job: str) -> dict[str, Any]:
    """Ours: the engine, as the experiments use it."""
    recipe, batch = JOBS[job]
    model = our_model(recipe)
    trainer = engine.build(model.objective, model.init, optax.adam(1e-3))
    state, x = trainer.init(), trainer.put(np.float32(images().train))

    def train():
        nonlocal state
        indices = order.minibatches(len(x), batch, 0, int(state.step), STEPS)
        state, metrics = trainer.chunk(state, x, indices)
        jax.block_until_ready(metrics)

    (first,) = timing.timed(train, 1)
    return {"seconds": timing.timed(train, 5), "first": first}


def torch_worker(job: str, compiled: bool = False) -> dict[str, Any]:
    """A hand-written PyTorch loop, as it is or through `torch.compile`."""
    import torch

    recipe, batch = JOBS[job]
    p = to_torch(jax.device_get(jax.jit(our_model(recipe).init)(jax.random.key(0))))
    x = torch.tensor(np.float32(images().train[..., 0]))
    top, groups = our_noise(job, jax.random.key(0), batch)
    optimizer = torch.optim.Adam(tensors(p), 1e-3)
    bound = torch.compile(torch_bound, dynamic=False) if compiled else torch_bound

    def train():
        for _ in range(STEPS):
            index = torch.randperm(len(x))[:batch]
            noise = torch.randn(*top.shape), [torch.randn(*e.shape) for e in groups]
            optimizer.zero_grad()
            (-bound(job, p, x[index], noise)).backward()
            optimizer.step()

    (first,) = timing.timed(train, 1)
    return {"seconds": timing.timed(train, 5), "first": first}


def compiled_gradient(groups: int, remat: bool = False) -> jax.stages.Compiled:
    """The program of a VDVAE's gradient, of so many groups at two resolutions, batch 32."""
    recipe = dataclasses.replace(VDVAE, groups=(groups // 4, groups - groups // 4), remat=remat)
    model = our_model(recipe)
    gradient = jax.jit(jax.grad(model.objective, has_aux=True))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((32, SIDE, SIDE, 1), np.float32)
    return gradient.lower(shapes, jax.random.key(0), x).compile()


def compile_worker(job: str) -> dict[str, Any]:
    """Seconds from a Python function to a compiled program, by number of groups, and the memory that it works in, MB."""
    jax.config.update("jax_enable_compilation_cache", False)
    compiled_gradient(DEPTHS[0])  # what JAX loads when it first compiles does not count
    found = {}
    for groups in DEPTHS:
        for remat in (False, True):
            programs = []
            make = lambda groups=groups, remat=remat: compiled_gradient(groups, remat)
            (seconds,) = timing.timed(lambda make=make, programs=programs: programs.append(make()), 1)
            memory = programs[0].memory_analysis().temp_size_in_bytes / 1e6
            found[f"{groups} groups{', remat' if remat else ''}"] = [seconds, memory]
    return found


WORKERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "dlvm_jax": dlvm_jax_worker,
    "pytorch": torch_worker,
    "pytorch, torch.compile": lambda job: torch_worker(job, compiled=True),
}
CHECKS = {"agreement": agreement_worker, "compile": compile_worker}


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare hierarchical VAEs with PyTorch, and measure what depth costs."""

    rounds: int = 3
    """how often each candidate is started, in turn"""
    worker: str | None = None
    """(internal) run one candidate and print its figures"""
    job: str = "ladder"
    """(internal) the model of a worker"""


def compare(rounds: int) -> list[timing.Line]:
    """The lines of both models, after the check that both sides compute the same; compile time and memory by depth."""
    lines = []
    for job, (_, batch) in JOBS.items():
        found = timing.same_in_turn(MODULE, WORKERS, rounds, job)
        best = lambda pick, found=found: {name: min(map(pick, results)) for name, results in found.items()}
        lines += [
            (f"{job}: {STEPS} training steps of {batch}", "s", best(lambda r: min(r["seconds"]))),
            (f"{job}: the first {STEPS} steps, compilation included", "s", best(lambda r: r["first"])),
            (f"{job}: peak memory of the process", "MB", best(lambda r: r["peak memory"])),
        ]
    found = timing.run_worker(MODULE, "compile")
    found.pop("peak memory")
    print("\n| gradient of a VDVAE, batch 32 | compile time, s | memory of the program, MB |\n|---|---|---|")
    for name, (seconds, memory) in found.items():
        print(f"| {name} | {seconds:.1f} | {memory:.0f} |")
    return lines


def main(config: Config) -> None:
    """Check that both sides compute the same, run all candidates in turn and print the tables."""
    if config.worker is not None:
        timing.emit((WORKERS | CHECKS)[config.worker](config.job))
        return
    print(timing.ratios(compare(config.rounds)))


if __name__ == "__main__":
    main(parsed(Config, __doc__))
