"""Diffusion models: a network and a noise process as a density, and the objectives that train it.

The network sees c x_t, with c such that its input has variance one at every time, log-SNR and the context.  It predicts a
target of `functional.diffusion.targets`, or "edm", the preconditioned residual, or "levels" or "bins", the log-odds of the
levels or bins of each element.  The data are vectors or images of real numbers, or integer levels 0..L-1, which the process
sees on [-1, 1].
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlvm_jax.functional import densities
from dlvm_jax.functional.diffusion import (
    guidance,
    likelihood,
    objectives,
    process,
    quantised,
    solvers,
    targets,
    times,
    variational,
)
from dlvm_jax.models import spaces
from dlvm_jax.models.density import Density, Net, batch_of, check_shape
from dlvm_jax.models.noise_schedules import Schedule, fixed, learned
from dlvm_jax.models.objectives import Objective, transformed, unpack

__all__ = [
    "Denoiser",
    "Schedule",
    "bound_density",
    "bound_times",
    "denoiser",
    "denoising",
    "denoising_net",
    "drop_labels",
    "fixed",
    "from_unit",
    "guided",
    "learned",
    "ode_density",
    "to_unit",
    "vlb_loss",
]


def denoising_net(module: nn.Module, event_shape: Sequence[int], context: Any = None) -> Net:
    """A Flax module of `nets.denoisers` as a `Net`: apply(params, x, log_snr, context=None, key=None), with dropout by a key.

    context: an example of one, without the batch, if there is any
    """
    x = jnp.zeros((1, *event_shape))
    example = None if context is None else jnp.asarray(context)[None]

    def apply(params, x, log_snr, context=None, key=None):
        return module.apply(
            params, x, log_snr, context, key is None, rngs=None if key is None else {"dropout": key}
        )

    return Net(lambda key: module.init(key, x, jnp.zeros(1), example), apply)


class Denoiser(NamedTuple):
    """What a diffusion model is made of.

    init:    (key) -> {"net", "schedule"}
    process: (params) -> Process
    predict: (params, x_t, t, context=None, key=None) -> prediction
    denoise: (params, x_t, t, context=None, key=None) -> E[x_0 | x_t]
    target:  what the network predicts
    event_shape: of x
    data_std: of the data, as the process sees them
    """

    init: Callable
    process: Callable
    predict: Callable
    denoise: Callable
    target: str
    event_shape: tuple[int, ...]
    data_std: float = 1.0


def denoiser(
    net: Net,
    schedule: Schedule,
    event_shape: Sequence[int],
    target: str = "edm",
    data_std: float = 1.0,
    level_log_prob: Any = None,
    bins: tuple[float, float] | None = None,
    null_label: int | None = None,
) -> Denoiser:
    """A `Denoiser` of a network and a schedule.

    target: "edm", "levels", "bins", or one of `targets.TARGETS`
    data_std: of the data as the process sees them
    level_log_prob: [L], or [*event, L], for "levels" alone: what a network of zeros believes of each element; the network's
        outputs [*batch, *event, L] are added to it (`quantised.expected_level`)
    bins: (low, high), the range of the data, for "bins" alone, whose network has as many outputs for each element as there are
        bins (`quantised.expected_in_bins`)
    null_label: the label that stands for none, taken where none is given; for a model trained with `drop_labels`

    Raises ValueError for an unknown target, where level_log_prob and bins do not go with it, and for data that are one point.
    """
    names = ("edm", "levels", "bins", *targets.TARGETS)
    if target not in names:
        raise ValueError(f"a target is one of {', '.join(names)}, got {target!r}")
    if (target == "levels") != (level_log_prob is not None):
        raise ValueError(
            f"level_log_prob belongs to the target 'levels', which needs it; the target is {target!r}"
        )
    if (target == "bins") != (bins is not None):
        raise ValueError(
            f"bins=(low, high) belongs to the target 'bins', which needs it; the target is {target!r}"
        )
    if not 0 < data_std < math.inf or (bins and not bins[0] < bins[1]):
        raise ValueError(f"data have a positive deviation and a range that rises, got {data_std} and {bins}")
    event_shape = tuple(event_shape)

    def init(key):
        key_net, key_schedule = jax.random.split(key)
        return {"net": net.init(key_net), "schedule": schedule.init(key_schedule)}

    def noise_of(params):
        return schedule.process(params["schedule"])

    def predict(params, x, t, context=None, key=None):
        x = check_shape(x, event_shape)
        batch = x.shape[: x.ndim - len(event_shape)]
        if context is None and null_label is not None:
            context = jnp.full(batch, null_label)
        noise = noise_of(params)
        scale = targets.preconditioning(noise, t, data_std).input
        log_snr = jnp.broadcast_to(noise.log_snr(jnp.asarray(t, float)), batch)
        return net.apply(params["net"], process.expand_to_event(scale, x) * x, log_snr, context, key)

    def denoise(params, x, t, context=None, key=None):
        prediction, noise = predict(params, x, t, context, key), noise_of(params)
        if level_log_prob is not None:
            return quantised.expected_level(noise, level_log_prob + prediction, x, t)
        if bins is not None:
            return quantised.expected_in_bins(noise, prediction, x, t, *bins)
        if target != "edm":
            return targets.to_x0(noise, target, prediction, x, t)
        scales = targets.preconditioning(noise, t, data_std)
        return (
            process.expand_to_event(scales.skip, x) * x + process.expand_to_event(scales.out, x) * prediction
        )

    return Denoiser(init, noise_of, predict, denoise, target, event_shape, data_std)


def _check_levels(levels):
    if levels is not None and levels < 2:
        raise ValueError(f"integer data have at least two levels, got {levels}; None stands for real data")


def to_unit(x: jax.Array, levels: int | None) -> jax.Array:
    """Integer levels on [-1, 1]; real data (levels None) as they are."""
    return x if levels is None else quantised.unit_levels(x, levels)


def from_unit(x: jax.Array, levels: int | None) -> jax.Array:
    """The nearest levels of points on [-1, 1]; real data (levels None) as they are."""
    return x if levels is None else jnp.clip(jnp.round(0.5 * (x + 1) * (levels - 1)), 0, levels - 1)


def _decoder(noise, x, levels, ndim):
    """Log-probability of x given its point at t_min: a softmax over levels, or the expected one of a Gaussian of that noise."""
    if levels is not None:
        return lambda z: quantised.categorical_decoder(noise, x, z, noise.t_min, levels, ndim)
    batch, size = x.shape[: x.ndim - ndim], math.prod(x.shape[x.ndim - ndim :])
    entropy = 0.5 * size * (math.log(2 * math.pi * math.e) - noise.log_snr(jnp.asarray(noise.t_min, float)))
    return lambda z: jnp.broadcast_to(-entropy, batch)


def bound_times(noise: process.Process, uniform: jax.Array) -> times.Times:
    r"""Times for the integral of the bound, and their weights: nearly uniform in log-SNR, where its integrand varies least.

    A process that starts at t = 0 has a log-SNR that falls evenly, or is trained to, and takes uniform times; in the others it
    falls as $1/t$ near the start, and uniform times would leave a variance hundreds of times as large.
    """
    if noise.t_min == 0:
        return times.Times(times.uniform_times(noise._replace(steps=None), uniform), 1.0)
    fall = lambda t: jnp.square(process.diffusion(noise, t) / process.sigma(noise, t))
    return times.importance_times(uniform, fall, jnp.geomspace(noise.t_min, noise.t_max, 1025))


def _bound(model, params, key, x, context, levels, key_dropout=None):
    """The continuous-time bound at one stratified time for each example."""
    x, noise, ndim = check_shape(x, model.event_shape), model.process(params), len(model.event_shape)
    key_t, key_bound = jax.random.split(key)
    batch = x.shape[: x.ndim - ndim]
    uniform = times.stratified_uniform(key_t, math.prod(batch)).reshape(batch)
    return variational.continuous_bound(
        key_bound,
        noise,
        lambda x_t, t: model.denoise(params, x_t, t, context, key_dropout),
        _decoder(noise, x, levels, ndim),
        to_unit(x, levels),
        *bound_times(noise, uniform),
        event_ndim=ndim,
    )


def _generate(model, params, key, context, shape, sampler, levels):
    if sampler is None:
        raise ValueError("this density has no samples, since it was made without a sampler")
    noise = model.process(params)
    solver, grid = sampler(noise, lambda x, t: model.denoise(params, x, t, context))
    key_start, key_steps = jax.random.split(key)
    start = process.prior_sample(noise, key_start, (*shape, *batch_of(context), *model.event_shape))
    return from_unit(solvers.sample(solver, grid, start, key_steps), levels)


def bound_density(model: Denoiser, sampler: Callable | None, levels: int | None = None) -> Density:
    """A diffusion model as a density of kind "bound": the continuous-time variational bound, at one time for each example.

    sampler: (process, denoise) -> (Solver, times)
    levels: of integer data, None for real ones

    Real data have the noise of t_min as their decoder's: then it is the cross-entropy of LSGM (Vahdat, Kreis, Kautz 2021,
    theorem 1), with the divergence at t_max that is zero there.
    Source: Kingma, Salimans, Poole, Ho 2021, eq. 11 and 17.
    """
    _check_levels(levels)

    def terms(params, key, x, context=None):
        split = _bound(model, params, key, x, context, levels)
        return {"reconstruction": split.reconstruction, "kl": split.diffusion + split.prior}

    def log_prob(params, key, x, context=None):
        return _bound(model, params, key, x, context, levels).bound

    def sample(params, key, context=None, shape=()):
        return _generate(model, params, key, context, shape, sampler, levels), None

    drawn = {
        "reparameterised": levels is None,
        "space": spaces.REALS if levels is None else spaces.levels(levels),
    }
    return Density(model.init, sample, log_prob, "bound", terms=terms, **drawn)


def ode_density(
    model: Denoiser,
    sampler: Callable | None,
    steps: int = 100,
    levels: int | None = None,
    hutchinson: bool = False,
) -> Density:
    r"""A diffusion model as a density by its probability-flow ODE.

    sampler, levels: as of `bound_density`
    steps: of the solver
    hutchinson: the trace by one random probe for each example, of kind "bound", where the exact one takes too many derivatives

    Real data: kind "exact", up to the solver (fourth order, `steps` of log-SNR) and to the noise of t_min, which the data are
    taken to have.  Integer levels: kind "weight", dequantised by that noise, $\log p(z) + \log P(x\mid z) - \log q(z\mid x)$
    with z drawn from q at t_min.
    Source: Song, Sohl-Dickstein, Kingma et al. 2021, eq. 39 and 40.
    """
    _check_levels(levels)
    ndim = len(model.event_shape)

    def log_prob(params, key, x, context=None):
        x, noise = check_shape(x, model.event_shape), model.process(params)
        keys: Any = (None, None) if key is None else jax.random.split(key)
        key_noise, key_probe = keys
        probe = jax.random.rademacher(key_probe, x.shape, jnp.result_type(x, float)) if hutchinson else None

        def by_ode(z):
            denoise = lambda x, t: model.denoise(params, x, t, context)
            return likelihood.log_likelihood(noise, denoise, z, steps, ndim, probe)[0]

        if levels is None:
            return by_ode(x)
        t, centre = noise.t_min, process.alpha(noise, noise.t_min) * to_unit(x, levels)
        log_std = jnp.log(process.sigma(noise, t))
        z = centre + jnp.exp(log_std) * jax.random.normal(key_noise, x.shape)
        log_lik = quantised.categorical_decoder(noise, x, z, t, levels, ndim)
        return by_ode(z) + log_lik - densities.normal_log_prob(z, centre, log_std, ndim)

    def sample(params, key, context=None, shape=()):
        return _generate(model, params, key, context, shape, sampler, levels), None

    kind = "bound" if hutchinson else "exact" if levels is None else "weight"
    drawn = {
        "reparameterised": levels is None,
        "space": spaces.REALS if levels is None else spaces.levels(levels),
    }
    return Density(model.init, sample, log_prob, kind, **drawn)


def guided(model: Denoiser, classes: int, weight: float) -> Denoiser:
    """The model steered to its labels by classifier-free guidance with a weight (0: none); trained with `drop_labels`.

    Source: Ho & Salimans 2022, eq. 6.
    """

    def denoise(params, x, t, context=None, key=None):
        if context is None:
            raise ValueError("guidance steers to a label, and none was given")
        conditional, unconditional = (
            lambda x, t, label=label: model.denoise(params, x, t, label, key)
            for label in (context, jnp.full(jnp.shape(context), classes))
        )
        return guidance.classifier_free(conditional, unconditional, weight)(x, t)

    return model._replace(denoise=denoise)


def vlb_loss(model: Denoiser, levels: int | None = None) -> Objective:
    """The diffusion term of minus the mean bound, the only one that trains, with dropout where the network has some.

    The other terms depend on the ends of log-SNR alone, which are fixed; `bound_density` has them.  Between the ends the
    schedule does not change the bound, only its variance: a learned one descends the logarithm of the mean square of the term
    (Kingma, Salimans, Poole, Ho 2021, appendix I.2).  Metric "diffusion", in nats.
    """

    def objective(params, key, batch, step=None):
        key_bound, key_dropout = jax.random.split(key)
        terms = lambda params: _bound(model, params, key_bound, *unpack(batch), levels, key_dropout)
        stopped = jax.lax.stop_gradient(params)
        loss = terms({**params, "schedule": stopped["schedule"]}).diffusion.mean()
        metrics = {"diffusion": loss}
        if not jax.tree.leaves(params["schedule"]):
            return loss, metrics
        square = jnp.log(jnp.square(terms({**stopped, "schedule": params["schedule"]}).diffusion).mean())
        return loss + square - jax.lax.stop_gradient(square), metrics

    return objective


def denoising(
    model: Denoiser,
    weight: str = "epsilon",
    levels: int | None = None,
    times_of: Callable = times.uniform_times,
) -> Objective:
    """Mean weighted squared error of the clean point: "epsilon" is the simple loss of Ho et al. 2020.

    weight: a name in `objectives.WEIGHTS`
    times_of: (Process, uniform numbers in [0, 1)) -> times

    Metric "squared_error" of the clean point, summed over the event.  A learned schedule is not trained by it.
    """

    def objective(params, key, batch, step=None):
        x, context = unpack(batch)
        params = {**params, "schedule": jax.lax.stop_gradient(params["schedule"])}
        noise, ndim = model.process(params), len(model.event_shape)
        key_t, key_noise, key_dropout = jax.random.split(key, 3)
        t = times_of(noise, times.stratified_uniform(key_t, len(x)))
        x0 = to_unit(x, levels)
        x_t = process.diffuse(noise, x0, t, jax.random.normal(key_noise, x0.shape))
        x0_hat = model.denoise(params, x_t, t, context, key_dropout)
        error = objectives.denoising_loss(noise, "x0", x0_hat, x0, x_t, t, 1.0, ndim)
        factor = objectives.weight(weight, noise, t, data_std=model.data_std)
        return (factor * error).mean(), {"squared_error": error.mean()}

    return objective


def drop_labels(objective: Objective, classes: int, rate: float) -> Objective:
    """An objective that drops the label of each example with a probability, which classifier-free guidance needs.

    The label `classes` stands for none.  Raises ValueError for a rate outside of [0, 1].
    Source: Ho & Salimans 2022, algorithm 1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"the rate of dropped labels is in [0, 1], got {rate}")

    def drop(key, batch):
        key_drop, key_model = jax.random.split(key)
        x, labels = unpack(batch)
        if labels is None:
            raise ValueError("labels are dropped in batches (x, labels), got x alone")
        labels = jnp.asarray(
            labels, jnp.result_type(labels, jnp.int32)
        )  # in 8 bits the null label would wrap
        dropped = jax.random.bernoulli(key_drop, rate, labels.shape)
        return key_model, (x, jnp.where(dropped, classes, labels))

    return transformed(objective, drop)
