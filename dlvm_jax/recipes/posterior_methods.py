"""Methods of simulation-based inference by name: what is learned, of which network, and what a posterior then does."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.exact.simulators import Simulator
from dlvm_jax.functional.diffusion import dpm, schedules, solvers
from dlvm_jax.models import density, diffusion, flows, objectives, posterior, scalars
from dlvm_jax.models.density import Net
from dlvm_jax.models.flows import Bijection, Scalar
from dlvm_jax.models.posterior import Drawn
from dlvm_jax.nets.conv import ConvEncoder
from dlvm_jax.nets.masked import MADE
from dlvm_jax.nets.mlp import MLP, SMALL
from dlvm_jax.recipes.base import Model
from dlvm_jax.recipes.posterior_networks import PosteriorDenoiser, PosteriorVelocity, ProductClassifier

if TYPE_CHECKING:
    from dlvm_jax.recipes.posterior import Posterior

__all__ = ["EMBEDDINGS", "FLOWS", "METHODS", "PosteriorParts", "cut", "ensemble"]

SPLINE_BOUND = 5.0
PROPOSALS = 50_000  # of the prior, which a learned likelihood or ratio weighs
CHAINS = 50  # each starts at one of those, drawn by its weight
MANY = " (or several, one after another)"
LOG_SNR = (-6.0, 10.0)  # ends of a score-based posterior's noise, of standardised parameters


class PosteriorParts(NamedTuple):
    """What a trained posterior does, of an observation x [C], or of several, one after another.

    simulator: the task
    sample:        (params, key, x, count) -> `Drawn`: draws [count, D]; of an exact density all are effective
    log_posterior: (params, theta, x) -> [*batch], unnormalised where a likelihood or ratio is learned
    propose:       (params, key, x, count) -> `Drawn`: parameters to simulate in a further round for x
    of:            (density) -> the same of another density, None where there is none; see `ensemble`
    chains:        like `sample`, by Markov chains (the extra "mcmc"); None for a density of theta, whose draws are independent
    """

    simulator: Simulator
    sample: Callable
    log_posterior: Callable
    propose: Callable
    of: Callable | None = None
    chains: Callable | None = None


def ensemble(model: Model) -> PosteriorParts:
    """The parts of the mixture of a model's posteriors, or likelihoods, under several params; these are then a tuple.

    Raises ValueError for a ratio, which is only known up to a function of x.
    """
    if model.density is None:
        raise ValueError("a ratio has no density to mix those of several seeds; give one seed")
    return model.parts.of(posterior.ensemble(model.density))


class FlowKind(NamedTuple):
    """A conditional flow by name: `build(recipe, scalar, dim, context)`, and the `Scalar` of each coordinate."""

    build: Callable[["Posterior", Scalar, int, int], Bijection]
    help: str
    scalar: Callable[["Posterior"], Scalar]
    uses: tuple[str, ...] = ()


def _affine(recipe: "Posterior") -> Scalar:
    return scalars.affine()


def _spline(recipe: "Posterior") -> Scalar:
    return scalars.rational_quadratic(recipe.bins, SPLINE_BOUND)


def _coupling(recipe, scalar, dim, context):
    size = dim // 2
    net = MLP(recipe.layer_widths, (dim - size, scalar.width), head_init=SMALL)
    net = density.from_linen(net, ((1, size), (1, context)))
    return flows.stack(flows.coupling(net, scalar, size), dim, recipe.depth, unroll=recipe.depth)


def _autoregressive(recipe, scalar, dim, context):
    made = density.from_linen(MADE(recipe.layer_widths, dim, scalar.width), ((1, dim), (1, context)))
    return flows.stack(flows.masked_autoregressive(made, scalar), dim, recipe.depth)


FLOWS = {
    "spline-coupling": FlowKind(_coupling, "couplings by rational-quadratic splines", _spline, ("bins",)),
    "coupling": FlowKind(_coupling, "affine couplings", _affine),
    "spline-autoregressive": FlowKind(
        _autoregressive, "masked autoregressive, by splines", _spline, ("bins",)
    ),
    "autoregressive": FlowKind(_autoregressive, "masked autoregressive, affine", _affine),
}


class Embedding(NamedTuple):
    """A network that summarises x by name: `build(recipe, dim) -> Net`; uses: settings that belong to it."""

    build: Callable[["Posterior", int], Net]
    help: str
    uses: tuple[str, ...] = ()


def _mlp(recipe, dim):
    return density.from_linen(MLP(recipe.layer_widths, (recipe.width,)), (1, dim))


def _convolutional(recipe, dim, pooled=False):
    sides = recipe.image or recipe.simulator.image or (dim, 1)
    if len(sides) != 2 or math.prod(sides) != dim:
        raise ValueError(f"image is height and width of the {dim} numbers of x, got {sides}")
    encoder = ConvEncoder((max(1, recipe.width // 2), recipe.width), (recipe.width,), pooled=pooled)
    net = density.from_linen(encoder, (1, *sides, 1))
    return Net(net.init, lambda params, x: net.apply(params, x.reshape(*x.shape[:-1], *sides, 1)))


EMBEDDINGS = {
    "none": Embedding(lambda recipe, dim: posterior.IDENTITY, "x as it is"),
    "mlp": Embedding(_mlp, "a perceptron"),
    "convolutional": Embedding(_convolutional, "convolutions, of a series or an image", ("image",)),
    "pooled": Embedding(
        partial(_convolutional, pooled=True), "convolutions averaged over all places", ("image",)
    ),
}


class Method(NamedTuple):
    """A method by name: `build(recipe, simulator, constants) -> Model`.

    direct: whether it is a density of the parameters, which sees all observations at once;  uses: settings that belong to it
    """

    build: Callable[["Posterior", Simulator, Mapping[str, np.ndarray]], Model]
    help: str
    uses: tuple[str, ...] = ()
    direct: bool = False


def cut(dim: int) -> Callable:
    """(rows) -> (their parameters [*batch, dim], their data)."""
    return lambda rows: (rows[..., :dim], rows[..., dim:])


def _join(*parts: jax.Array) -> jax.Array:
    batch = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return jnp.concatenate([jnp.broadcast_to(part, (*batch, part.shape[-1])) for part in parts], -1)


def _fits(shape, numbers, several):
    """Whether x of this shape is [*batch, numbers], or several of them, one after another."""
    return shape[-1:] == (numbers,) or (
        several and len(shape) > 0 and shape[-1] > 0 and shape[-1] % numbers == 0
    )


def _check_observation(x, numbers, several=False):
    """Raise ValueError, in one line, for an observation of another shape."""
    shape = jnp.shape(x)
    if len(shape) != 1 or not _fits(shape, numbers, several):
        raise ValueError(f"an observation is x of shape ({numbers},){MANY * several}, got {shape}")


def _check_pairs(theta, x, dim, numbers, several=False):
    """Raise ValueError, in one line, for parameters and data of other lengths, or of different batches."""
    shapes = jnp.shape(theta), jnp.shape(x)
    fit = shapes[0][-1:] == (dim,) and _fits(shapes[1], numbers, several)
    try:
        jnp.broadcast_shapes(*(shape[:-1] for shape in shapes))
    except ValueError:
        fit = False
    if not fit:
        raise ValueError(
            f"theta is [*batch, {dim}] and x [*batch, {numbers}]{MANY * several}, of one batch, got shapes {shapes[0]} and "
            f"{shapes[1]}"
        )


def _direct_parts(simulator, whole, numbers):
    """The parts of a density of the parameters given x of so many numbers."""

    def draw(params, key, x, count):
        _check_observation(x, numbers)
        return whole.sample(params, key, x[None], (count,))[0][:, 0]

    def log_q(params, theta, x):
        _check_pairs(theta, x, len(simulator.low), numbers)
        return whole.log_prob(params, None, theta, x)

    def propose(params, key, x, count):
        return posterior.truncated(
            key,
            lambda key, count: simulator.prior_sample(key, (count,)),
            lambda key, count: draw(params, key, x, count),
            simulator.prior_log_prob,
            lambda theta: log_q(params, theta, jnp.broadcast_to(x, (len(theta), *x.shape))),
            count,
        )

    def sample(params, key, x, count):
        return Drawn(draw(params, key, x, count), jnp.asarray(float(count)))

    of = lambda other: _direct_parts(simulator, other, numbers)
    return PosteriorParts(simulator, sample, log_q, propose, of)


def _direct(recipe, simulator, constants, inner, objective=None):
    """A model of q(theta | x) itself, by a density of standardised coordinates given the summary of x, and its objective."""
    onto = posterior.support(simulator.low, simulator.high)
    net, moments = (
        recipe.summary(constants),
        (constants["unbounded"], np.tile(constants["x"], recipe.repeats)),
    )
    whole = posterior.neural_posterior(inner, onto, moments, net)
    if objective is None:
        objective = objectives.negative_log_likelihood(whole)
    else:
        objective = posterior.standardised(objective, onto, moments, net)
    parts, split = _direct_parts(simulator, whole, len(moments[1][0])), cut(len(simulator.low))
    return Model(whole, whole.init, objective, objective, parts, split=split, merge=_join, part=True)


def _weighed(simulator, log_ratio, numbers, of=None):
    """The parts of a model of log p(x | theta) up to any function of x: it weighs draws of the prior, or chains follow it.

    numbers: in one x, of which there may be several
    """
    onto = posterior.support(simulator.low, simulator.high)

    def sample(params, key, x, count):
        _check_observation(x, numbers, several=True)
        key_prior, key_choice = jax.random.split(key)
        theta = simulator.prior_sample(key_prior, (PROPOSALS,))
        log_weights = log_ratio(params, theta, jnp.broadcast_to(x, (PROPOSALS, *x.shape)))
        return posterior.resampled(key_choice, theta, log_weights, count)

    def log_posterior(params, theta, x):
        _check_pairs(theta, x, len(simulator.low), numbers, several=True)
        return simulator.prior_log_prob(theta) + log_ratio(params, theta, x)

    def chains(params, key, x, count):
        key_start, key_chains = jax.random.split(key)
        start = sample(params, key_start, x, CHAINS).draws
        one = lambda theta: log_posterior(params, theta[None], x[None])[0]
        return posterior.chained(key_chains, one, onto, start, count)

    return PosteriorParts(simulator, sample, log_posterior, jax.jit(sample, static_argnums=3), of, chains)


def _npe(recipe, simulator, constants):
    dim = len(simulator.low)
    flow = recipe.bijection(dim, recipe.summary_dim(constants))
    return _direct(recipe, simulator, constants, flows.transformed(density.standard_normal(dim), flow))


def _fmpe(recipe, simulator, constants):
    dim = len(simulator.low)
    shapes = (1, dim), (1,), (1, recipe.summary_dim(constants))
    velocity = density.from_linen(PosteriorVelocity(recipe.layer_widths), *shapes)
    inner = flows.transformed(density.standard_normal(dim), flows.continuous(velocity))
    return _direct(recipe, simulator, constants, inner, posterior.flow_matching(velocity))


def _npse(recipe, simulator, constants):
    dim = len(simulator.low)
    context = np.zeros(recipe.summary_dim(constants), np.float32)
    net = diffusion.denoising_net(PosteriorDenoiser(recipe.layer_widths, LOG_SNR), (dim,), context)
    noise = diffusion.fixed(schedules.linear_log_snr(*LOG_SNR))
    denoiser = diffusion.denoiser(net, noise, (dim,))
    sampler = lambda noise, denoise: (dpm.dpm_multistep(noise, denoise), solvers.log_snr_times(noise, 50))
    inner = diffusion.ode_density(denoiser, sampler, steps=20)
    return _direct(recipe, simulator, constants, inner, diffusion.denoising(denoiser))


def _nle(recipe, simulator, constants):
    dim, features = len(simulator.low), constants["x"].shape[-1]
    reals = posterior.support(np.full(features, -np.inf), np.full(features, np.inf))
    moments = constants["x"], constants["theta"]
    flow = recipe.bijection(features, dim)
    inner = flows.transformed(density.standard_normal(features), flow)
    one = posterior.neural_posterior(inner, reals, moments)
    whole = posterior.several(one, features, recipe.repeats)
    objective, halves = objectives.negative_log_likelihood(whole), cut(dim)
    levels = np.tile(constants.get("whole", False), recipe.repeats)  # older runs have no such constant
    if levels.any():
        objective = posterior.dequantised(objective, levels)

    def of(likelihood):
        log_ratio = lambda params, theta, x: likelihood.log_prob(params, None, x, theta)
        return _weighed(simulator, log_ratio, features, of)

    return Model(
        whole,
        whole.init,
        objective,
        objective,
        of(whole),
        split=lambda rows: halves(rows)[::-1],
        merge=lambda x, theta: _join(theta, x),
        part=True,
    )


def _nre(recipe, simulator, constants):
    dim, features = len(simulator.low), constants["x"].shape[-1]
    (mean, std), (x_mean, x_std) = constants["theta"], constants["x"]
    embedding = EMBEDDINGS[recipe.embedding].build(recipe, features)
    net = ProductClassifier(recipe.layer_widths)
    net = density.from_linen(net, ((1, dim), (1, recipe.embedded_dim(features))))

    def init(key):
        key_net, key_embedding = jax.random.split(key)
        return {"net": net.init(key_net), "embedding": embedding.init(key_embedding)}

    def each(params, theta, x):
        """The log-ratio of each observation, [*batch, n]."""
        x = (x.reshape(*x.shape[:-1], -1, features) - x_mean) / x_std
        theta = jnp.broadcast_to(((theta - mean) / std)[..., None, :], (*x.shape[:-1], dim))
        return net.apply(params["net"], (theta, embedding.apply(params["embedding"], x)))

    objective = posterior.contrastive(each, recipe.atoms)
    parts = _weighed(simulator, lambda params, theta, x: each(params, theta, x).sum(-1), features)
    return Model(None, init, objective, objective, parts, split=cut(dim), merge=_join, part=True)


METHODS = {
    "npe": Method(
        _npe,
        "neural posterior estimation: a flow of the parameters given x",
        ("flow", "depth", "embedding"),
        True,
    ),
    "fmpe": Method(
        _fmpe, "flow matching posterior estimation: an ODE of the parameters given x", ("embedding",), True
    ),
    "npse": Method(
        _npse, "score-based posterior estimation: a diffusion of the parameters given x", ("embedding",), True
    ),
    "nle": Method(_nle, "neural likelihood estimation: a flow of x given the parameters", ("flow", "depth")),
    "nre": Method(
        _nre,
        "neural ratio estimation: a classifier of joint and independent pairs",
        ("atoms", "embedding"),
    ),
}
