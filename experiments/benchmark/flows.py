"""Speed of flows against flowjax, distrax, zuko and nflows, in one run.

    python -m experiments.benchmark.flows

Ten dimensions, conditioners with two hidden layers of 64 units, splines of 8 bins: a training step (maximum likelihood, Adam,
batch 256), the log-density of 2,000 points, 2,000 samples, and what each takes to compile.  JAX libraries, ours too, are given
the same jitted functions of their `log_prob` and `sample`, a step a call; the others run as they are, and of one thread and
one a core the faster counts.  Peers: `pip install -e '.[peers]'`.  Each candidate runs in a process of its own, in turn.
"""

import dataclasses
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from dlvm_jax.models import density, flows, scalars
from dlvm_jax.nets.masked import MADE
from dlvm_jax.nets.mlp import MLP
from experiments.benchmark import timing
from experiments.command import parsed

DIM, HIDDEN, BINS, BOUND, COUPLINGS, PASSES = 10, (64, 64), 8, 5.0, 8, 5
BATCH, POINTS, STEPS, RATE = 256, 2000, 20, 1e-3  # STEPS of training are timed together
AFFINE, SPLINE, AUTOREGRESSIVE = FLOWS = (
    f"affine coupling x {COUPLINGS}",
    f"spline coupling x {COUPLINGS}",
    f"spline autoregressive x {PASSES}",
)
Candidate = tuple[Any, Callable, Callable]  # params, log_prob of (params, x), sample of (params, key)
JOBS = "training step", f"log_prob of {POINTS:,}", f"{POINTS:,} samples"


def our_density(flow: str, hidden: tuple[int, ...] = HIDDEN) -> density.Density:
    """The flow of this name over a standard normal."""
    scalar = scalars.affine() if flow == AFFINE else scalars.rational_quadratic(BINS, BOUND)
    if flow == AUTOREGRESSIVE:
        made = density.from_linen(MADE(hidden, DIM, scalar.width), (1, DIM))
        layer, depth, unroll = flows.masked_autoregressive(made, scalar), PASSES, 1
    else:
        layer, depth, unroll = flows.mlp_coupling(DIM, scalar, hidden), COUPLINGS, COUPLINGS
    layers = flows.stack(layer, DIM, depth, mixing="reverse", unroll=unroll)
    return flows.transformed(density.standard_normal(DIM), layers)


def dlvm_jax(flow: str) -> Candidate:
    """Ours."""
    dens = our_density(flow)
    return (
        dens.init(jax.random.key(0)),
        lambda params, x: dens.log_prob(params, None, x),
        lambda params, key: dens.sample(params, key, shape=(POINTS,))[0],
    )


def flowjax(flow: str) -> Candidate:
    """flowjax: layers in a scan, as ours; `knots` of it are inside, so 8 bins have 7."""
    import equinox
    import jax.numpy as jnp
    import paramax
    from flowjax import bijections, distributions
    from flowjax import flows as theirs

    make = theirs.masked_autoregressive_flow if flow == AUTOREGRESSIVE else theirs.coupling_flow
    curve = bijections.RationalQuadraticSpline(knots=BINS - 1, interval=BOUND)
    spline = {} if flow == AFFINE else {"transformer": curve}
    dist = make(
        jax.random.key(0),
        base_dist=distributions.Normal(jnp.zeros(DIM)),
        flow_layers=PASSES if flow == AUTOREGRESSIVE else COUPLINGS,
        nn_width=HIDDEN[0],
        nn_depth=len(HIDDEN),
        **spline,
    )
    frozen = lambda leaf: isinstance(leaf, paramax.NonTrainable)
    params, static = equinox.partition(dist, equinox.is_inexact_array, is_leaf=frozen)
    whole = lambda params: paramax.unwrap(equinox.combine(params, static))
    return (
        params,
        lambda params, x: whole(params).log_prob(x),
        lambda params, key: whole(params).sample(key, (POINTS,)),
    )


def distrax(flow: str) -> Candidate:
    """distrax: split couplings, which move half of the coordinates (masked ones move all and discard half)."""
    import distrax as theirs
    import jax.numpy as jnp

    def inner(raw_params):
        if flow == AFFINE:
            bounded = 3 * jnp.tanh(raw_params[..., 1] / 3)  # as ours: all the others bound their scales too
            return theirs.ScalarAffine(shift=raw_params[..., 0], log_scale=bounded)
        return theirs.RationalQuadraticSpline(raw_params, -BOUND, BOUND, boundary_slopes="identity")

    half = DIM // 2
    net = density.from_linen(MLP(HIDDEN, (half, 2 if flow == AFFINE else 3 * BINS + 1)), (1, half))

    def dist(params):
        couplings = [
            theirs.SplitCoupling(half, 1, functools.partial(net.apply, own), inner, swap=i % 2 == 1)
            for i, own in enumerate(params)
        ]
        base = theirs.MultivariateNormalDiag(jnp.zeros(DIM))
        return theirs.Transformed(base, theirs.Inverse(theirs.Chain(couplings)))  # training goes forward

    return (
        [net.init(key) for key in jax.random.split(jax.random.key(0), COUPLINGS)],
        lambda params, x: dist(params).log_prob(x),
        lambda params, key: dist(params).sample(seed=key, sample_shape=(POINTS,)),
    )


def zuko(flow: str) -> Candidate:
    """zuko, as (parameters, log_prob of x, sample of nothing)."""
    import zuko as theirs

    spline = {
        "univariate": functools.partial(theirs.transforms.MonotonicRQSTransform, bound=BOUND),
        "shapes": [(BINS,), (BINS,), (BINS - 1,)],
    }
    if flow == AUTOREGRESSIVE:
        model = theirs.flows.MAF(DIM, transforms=PASSES, hidden_features=HIDDEN, **spline)
    else:
        own = {} if flow == AFFINE else spline
        model = theirs.flows.NICE(DIM, transforms=COUPLINGS, hidden_features=HIDDEN, **own)
    return list(model.parameters()), lambda x: model().log_prob(x), lambda: model().sample((POINTS,))


def nflows(flow: str) -> Candidate:
    """nflows, as (parameters, log_prob of x, sample of nothing)."""
    import torch
    from nflows import distributions, transforms
    from nflows import flows as theirs
    from nflows.nn import nets

    class Conditioner(nets.MLP):
        def forward(self, x, context=None):
            return super().forward(x)

    net = lambda inputs, outputs: Conditioner([inputs], [outputs], HIDDEN)
    mask = (torch.arange(DIM) >= DIM // 2).int()
    spline = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}

    def layer():
        if flow == AUTOREGRESSIVE:  # a first layer and a block: two hidden layers
            return transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                DIM, HIDDEN[0], num_blocks=1, use_residual_blocks=False, **spline
            )
        if flow == AFFINE:
            return transforms.AffineCouplingTransform(mask, net)
        return transforms.PiecewiseRationalQuadraticCouplingTransform(mask, net, **spline)

    depth = PASSES if flow == AUTOREGRESSIVE else COUPLINGS
    layers = [part for _ in range(depth) for part in (layer(), transforms.ReversePermutation(DIM))]
    model = theirs.Flow(transforms.CompositeTransform(layers), distributions.StandardNormal([DIM]))
    return list(model.parameters()), model.log_prob, lambda: model.sample(POINTS)


JAX = {"dlvm_jax": dlvm_jax, "flowjax": flowjax, "distrax": distrax}
TORCH = {"zuko": zuko, "nflows": nflows}
CANDIDATES = JAX | TORCH


def points(count: int) -> np.ndarray:
    """Standard normal points [count, DIM]: speed does not depend on what they show."""
    return np.random.RandomState(0).randn(count, DIM).astype(np.float32)


def timings(jobs: dict[str, Callable[[], Any]], calls: int) -> dict[str, float]:
    """The best of `calls` calls of each job, in seconds, after one that warms up."""
    result = {}
    for job, run in jobs.items():
        run()
        result[job] = min(timing.timed(run, calls))
    result[JOBS[0]] /= STEPS
    return result


def jax_worker(candidate: Candidate, calls: int) -> dict[str, Any]:
    """Seconds of the jobs of a JAX library, and of their compilation."""
    jax.config.update("jax_enable_compilation_cache", False)
    params, log_prob, sample = candidate
    optimizer = optax.adam(RATE)

    def loss(params, x):
        return -log_prob(params, x).mean()

    def step(params, state, x):
        gradient = jax.grad(loss)(params, x)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    batch, many, key = jax.device_put(points(BATCH)), jax.device_put(points(POINTS)), jax.random.key(1)
    params, state = jax.block_until_ready((params, optimizer.init(params)))
    jax.jit(lambda x: x @ x.T).lower(batch).compile()  # what JAX loads when it first compiles does not count
    programs, compiling = [], []
    calling = (step, (params, state, batch)), (log_prob, (params, many)), (sample, (params, key))
    for function, arguments in calling:
        start = time.perf_counter()
        programs.append(jax.jit(function).lower(*arguments).compile())
        compiling.append(time.perf_counter() - start)
    stepped, log_probs, samples = programs

    def train():
        now = params, state
        for _ in range(STEPS):
            now = stepped(*now, batch)
        jax.block_until_ready(now)

    jobs = (
        train,
        lambda: log_probs(params, many).block_until_ready(),
        lambda: samples(params, key).block_until_ready(),
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {"parameters": count, "compile": compiling, **timings(dict(zip(JOBS, jobs, strict=True)), calls)}


def torch_worker(candidate: Candidate, calls: int) -> dict[str, Any]:
    """Seconds of the jobs of a PyTorch library, with as many threads as suit it best."""
    import torch

    parameters, log_prob, sample = candidate
    optimizer = torch.optim.Adam(parameters, RATE)
    batch, many = torch.from_numpy(points(BATCH)), torch.from_numpy(points(POINTS))

    def train():
        for _ in range(STEPS):
            optimizer.zero_grad()
            (-log_prob(batch).mean()).backward()
            optimizer.step()

    jobs = train, torch.no_grad()(lambda: log_prob(many)), torch.no_grad()(sample)
    found = []
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        torch.set_num_threads(threads)
        found.append(timings(dict(zip(JOBS, jobs, strict=True)), calls))
    count = sum(p.numel() for p in parameters)
    return {"parameters": count, **{job: min(times[job] for times in found) for job in JOBS}}


def measured(name: str, flow: str, calls: int) -> dict[str, Any]:
    """Figures of one candidate and one flow."""
    worker = jax_worker if name in JAX else torch_worker
    return worker(CANDIDATES[name](flow), calls)


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare flows with those of other libraries."""

    rounds: int = 3
    """how often each candidate is started, in turn"""
    calls: int = 10
    """timed calls of each job in each start, of which the best counts"""
    worker: str | None = None
    """(internal) run one candidate and print its figures"""
    flow: str = AFFINE
    """(internal) flow of a worker"""


def print_table(rows: dict[str, dict], flow: str, found: dict[str, list[dict]]) -> None:
    """Milliseconds {candidate: {job: median}} of a flow, in brackets their ratio to ours, and what compiling takes."""
    print(f"\n| {flow} | parameters | {', ms | '.join(JOBS)}, ms | compile (step, log_prob, samples), s |")
    print("|---|---|---|---|---|---|")
    for name, row in rows.items():
        times = [f"{row[job]:.2f} ({row[job] / rows['dlvm_jax'][job]:.2f})" for job in JOBS]
        compiling = [r["compile"] for r in found[name] if "compile" in r]
        seconds = ", ".join(f"{statistics.median(column):.2f}" for column in zip(*compiling, strict=True))
        print(f"| {name} | {found[name][0]['parameters']:,} | {' | '.join(times)} | {seconds} |")


def compare(rounds: int, calls: int = 10) -> list[timing.Line]:
    """The lines of every flow: the median over the rounds counts."""
    lines = []
    for flow in FLOWS:
        names = [name for name in CANDIDATES if (name, flow) != ("distrax", AUTOREGRESSIVE)]  # it has none
        options = "--flow", flow, "--calls", calls
        found = timing.in_turn("experiments.benchmark.flows", names, rounds, *options)
        median = lambda pick: {n: statistics.median(map(pick, r)) for n, r in found.items() if r}  # noqa: B023
        columns = {job: median(lambda r, job=job: 1e3 * r[job]) for job in JOBS}
        rows = {name: {job: columns[job][name] for job in JOBS} for name in columns[JOBS[0]]}
        print_table(rows, flow, found)
        lines += [(f"{flow}: {job}", "ms", column) for job, column in columns.items()]
        compiled = {name: results for name, results in found.items() if results and "compile" in results[0]}
        seconds = {name: statistics.median(r["compile"][0] for r in runs) for name, runs in compiled.items()}
        lines.append((f"{flow}: compiling the step", "s", seconds))
    return lines


def main(config: Config) -> None:
    """Run all candidates in turn and print a table for each flow."""
    if config.worker is not None:
        timing.emit(measured(config.worker, config.flow, config.calls))
        return
    print(*map(timing.version, (*CANDIDATES, "jax", "torch")), sep=", ")
    compare(config.rounds, config.calls)


if __name__ == "__main__":
    main(parsed(Config, __doc__))
