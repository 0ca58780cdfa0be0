"""Diffusion models: a network and a noise process as a density, and the objectives that train it.

The network sees c x_t, with c such that its input has the variance of the data at every time, log-SNR and the context; what it
predicts is a target of `functional.diffusion.targets`, or "edm": the preconditioned residual.  The data are vectors or images
of real numbers, or integer levels 0..L-1, which the process sees on [-1, 1].
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlvm_jax.functional import densities
from dlvm_jax.functional.diffusion import (
    likelihood,
    objectives,
    process,
    schedules,
    solvers,
    targets,
    times,
    variational,
)
from dlvm_jax.models.density import Density, Net, batch_of
from dlvm_jax.models.objectives import transformed, unpack

__all__ = [
    "Denoiser",
    "Schedule",
    "bound_density",
    "denoiser",
    "denoising",
    "denoising_net",
    "drop_labels",
    "fixed",
    "learned",
    "maximum_bound",
    "ode_density",
]


class Schedule(NamedTuple):
    """A noise process that may be trained: init: (key) -> params;  process: (params) -> Process."""

    init: Callable
    process: Callable


def fixed(noise):
    """A schedule without parameters."""
    return Schedule(lambda key: {}, lambda params: noise)


def learned(low=-5.0, high=13.3, knots=16):
    """A monotone schedule of log-SNR whose inside is trained; its ends are fixed (Kingma et al. 2021, section 3.2)."""
    return Schedule(
        lambda key: {"logits": jnp.zeros(knots)},
        lambda params: schedules.piecewise_log_snr(low, high, params["logits"]),
    )


def denoising_net(module, event_shape, context=None):
    """A Flax module of `nets.denoisers` as a `Net`: apply(params, x, log_snr, context=None, key=None); a key drops out.

    context: an example of one, without the batch, if there is any.
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

    init:    (key) -> {"net", "schedule"};  process: (params) -> Process
    predict: (params, x_t, t, context=None, key=None) -> prediction;  denoise: the same -> E[x_0 | x_t]
    target:  what the network predicts;  event_shape: of x
    """

    init: Callable
    process: Callable
    predict: Callable
    denoise: Callable
    target: str
    event_shape: tuple[int, ...]


def denoiser(net, schedule, event_shape, target="edm", data_std=1.0):
    """A `Denoiser` of a network and a schedule.

    target: "edm", or one of `targets.TARGETS`;  data_std: standard deviation of the data as the process sees them.
    Raises ValueError for an unknown target.
    """
    names = ("edm", *targets.TARGETS)
    if target not in names:
        raise ValueError(f"a target is one of {', '.join(names)}, got {target!r}")
    event_shape = tuple(event_shape)

    def init(key):
        key_net, key_schedule = jax.random.split(key)
        return {"net": net.init(key_net), "schedule": schedule.init(key_schedule)}

    def noise_of(params):
        return schedule.process(params["schedule"])

    def predict(params, x, t, context=None, key=None):
        batch = x.shape[: x.ndim - len(event_shape)]
        noise = noise_of(params)
        scale = targets.preconditioning(noise, t, data_std).input
        log_snr = jnp.broadcast_to(noise.log_snr(jnp.asarray(t, float)), batch)
        return net.apply(params["net"], process.over_event(scale, x) * x, log_snr, context, key)

    def denoise(params, x, t, context=None, key=None):
        prediction, noise = predict(params, x, t, context, key), noise_of(params)
        if target != "edm":
            return targets.to_x0(noise, target, prediction, x, t)
        scales = targets.preconditioning(noise, t, data_std)
        return process.over_event(scales.skip, x) * x + process.over_event(scales.out, x) * prediction

    return Denoiser(init, noise_of, predict, denoise, target, event_shape)


def _to_unit(x, levels):
    return x if levels is None else variational.unit_levels(x, levels)


def _from_unit(x, levels):
    return x if levels is None else jnp.clip(jnp.round(0.5 * (x + 1) * (levels - 1)), 0, levels - 1)


def _decoder(noise, x, levels, ndim):
    """Log-probability of x given its point at t_min: a softmax over levels, or a Gaussian of that noise."""
    if levels is not None:
        return lambda z: variational.categorical_decoder(noise, x, z, noise.t_min, levels, ndim)
    scale, std = process.alpha(noise, noise.t_min), process.sigma(noise, noise.t_min)
    return lambda z: densities.normal_log_prob(x, z / scale, jnp.log(std / scale), ndim)


def _bound(model, params, key, x, context, levels, key_dropout=None):
    """The continuous-time bound at one stratified time for each example."""
    noise, ndim = model.process(params), len(model.event_shape)
    key_t, key_bound = jax.random.split(key)
    batch = x.shape[: x.ndim - ndim]
    uniform = times.stratified_uniform(key_t, math.prod(batch)).reshape(batch)
    return variational.continuous_bound(
        key_bound,
        noise,
        lambda x_t, t: model.denoise(params, x_t, t, context, key_dropout),
        _decoder(noise, x, levels, ndim),
        _to_unit(x, levels),
        times.uniform_times(noise._replace(steps=None), uniform),
        event_ndim=ndim,
    )


def _generate(model, params, key, context, shape, sampler, levels):
    noise = model.process(params)
    solver, grid = sampler(noise, lambda x, t: model.denoise(params, x, t, context))
    key_start, key_steps = jax.random.split(key)
    start = process.prior_sample(noise, key_start, (*shape, *batch_of(context), *model.event_shape))
    return _from_unit(solvers.sample(solver, grid, start, key_steps), levels)


def bound_density(model, sampler, levels=None):
    """A diffusion model as a density of kind "bound": the continuous-time variational bound, at one time for each example.

    sampler: (process, denoise) -> (Solver, times);  levels: of integer data, None for real ones.  Real data count with the
    noise of t_min as their decoder's.  Source: Kingma, Salimans, Poole, Ho 2021, eq. 11 and 17.
    """

    def terms(params, key, x, context=None):
        split = _bound(model, params, key, x, context, levels)
        return {"reconstruction": split.reconstruction, "kl": split.diffusion + split.prior}

    def log_prob(params, key, x, context=None):
        return _bound(model, params, key, x, context, levels).bound

    def sample(params, key, context=None, shape=()):
        return _generate(model, params, key, context, shape, sampler, levels), None

    return Density(model.init, sample, log_prob, "bound", terms=terms, reparameterised=levels is None)


def ode_density(model, sampler, steps=100):
    """A diffusion model of real data as a density of kind "exact": the probability-flow ODE with the exact trace.

    Exact up to the solver (fourth order, `steps` of log-SNR) and to the noise of t_min, which the data are taken to have.
    Source: Song, Sohl-Dickstein, Kingma et al. 2021, eq. 39.
    """

    def log_prob(params, key, x, context=None):
        denoise = lambda x, t: model.denoise(params, x, t, context)  # noqa: E731
        return likelihood.log_likelihood(model.process(params), denoise, x, steps, len(model.event_shape))[0]

    def sample(params, key, context=None, shape=()):
        return _generate(model, params, key, context, shape, sampler, None), None

    return Density(model.init, sample, log_prob, "exact")


def maximum_bound(model, levels=None):
    """Minus the mean variational bound, with dropout where the network has some.  Metrics "bound", "reconstruction", "kl"."""

    def objective(params, key, batch):
        key_bound, key_dropout = jax.random.split(key)
        split = _bound(model, params, key_bound, *unpack(batch), levels, key_dropout)
        bound = split.bound.mean()
        kl = (split.diffusion + split.prior).mean()
        return -bound, {"bound": bound, "reconstruction": split.reconstruction.mean(), "kl": kl}

    return objective


def denoising(model, weight="epsilon", levels=None, data_std=1.0):
    """Mean weighted squared error of the clean point at uniform times: "epsilon" is the simple loss of Ho et al. 2020.

    weight: a name in `objectives.WEIGHTS`.  Metric "squared_error" of the clean point, summed over the event.
    """

    def objective(params, key, batch):
        x, context = unpack(batch)
        noise, ndim = model.process(params), len(model.event_shape)
        key_t, key_noise, key_dropout = jax.random.split(key, 3)
        t = times.uniform_times(noise, times.stratified_uniform(key_t, len(x)))
        x0 = _to_unit(x, levels)
        x_t = process.diffuse(noise, x0, t, jax.random.normal(key_noise, x0.shape))
        x0_hat = model.denoise(params, x_t, t, context, key_dropout)
        error = objectives.denoising_loss(noise, "x0", x0_hat, x0, x_t, t, 1.0, ndim)
        factor = objectives.weight(weight, noise, t, data_std=data_std)
        return (factor * error).mean(), {"squared_error": error.mean()}

    return objective


def drop_labels(objective, classes, rate):
    """An objective that forgets the label of each example with a probability, which classifier-free guidance needs.

    The label `classes` stands for none.  Source: Ho & Salimans 2021, algorithm 1.
    """

    def forget(key, batch):
        key_drop, key_model = jax.random.split(key)
        x, labels = batch
        forgotten = jax.random.bernoulli(key_drop, rate, labels.shape)
        return key_model, (x, jnp.where(forgotten, classes, labels))

    return transformed(objective, forget)
