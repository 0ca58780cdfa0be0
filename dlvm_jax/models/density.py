"""The interface that joins the families: a density is a named tuple of pure functions.

`kind` says what `log_prob` honestly is, and decides where a density may stand:

- "exact":  the log-density itself; the key is ignored.
- "weight": the logarithm of an unbiased estimate, E[exp log_prob] = p(x), or of a part of p(x) where a docstring says so.
            Importance-weighted bounds are legal.
- "bound":  only E[log_prob] <= log p(x).  Importance weighting would not give a bound, and is refused.

A prior or a decoder may be of any kind.  A posterior must be exact, since its log-density enters with a minus sign.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError

from dlvm_jax.functional import densities
from dlvm_jax.functional.numerics import as_array
from dlvm_jax.models.spaces import REALS, Space
from dlvm_jax.models.spaces import levels as levels_space
from dlvm_jax.models.tables import Tables, tables_of

__all__ = [
    "Density",
    "Net",
    "OutputDistribution",
    "bernoulli",
    "categorical",
    "conditional",
    "discretised_logistic",
    "discretised_normal",
    "fixed_normal",
    "from_linen",
    "join",
    "normal",
    "require_kind",
    "standard_normal",
    "with_shared_scale",
]

KINDS = ("exact", "weight", "bound")


class Density(NamedTuple):
    """A probability density as pure functions; log-densities are in nats and keep the batch.

    A context (label, image, ...) is an array or tuple of arrays with the batch on the leading axis.

    init:     (key) -> params
    sample:   (params, key, context=None, shape=()) -> (x [*shape, *batch, *event], its log-density or None)
    log_prob: (params, key, x, context=None) -> [*batch]
    kind:     "exact", "weight" or "bound" (see the module)
    reparameterised: whether samples carry the gradient of their parameters; a posterior's must
    space:    where x lives, and on whose volume its density is: a `Space` of reals, levels, or a curved one

    and, where it has them:
    mean:     (params, context=None) -> E[x | context]
    normal:   (params, context=None) -> (mean, log_std), for a diagonal Gaussian: allows an analytic KL
    std:      (params, context=None) -> standard deviation of each element of x, given a context; see `OutputDistribution`
    terms:    (params, key, x, context=None) -> {"reconstruction": [*batch], "kl": [*batch]}, whose difference is log_prob; of
              several layers also {"rates": [*batch, L]}, the KL of each, whose sum is "kl"
    complete: (params, key, x, known, context=None) -> x with all but its first `known` elements drawn given those, of an
              autoregressive density in its order
    mixture:  (params) -> (mean [K, D], log_std [K, D], log-weights [K]), of a mixture of diagonal Gaussians
    share:    (params, posterior_params) -> params, of a VAE's prior that uses the posterior's parameters too (a VampPrior)
    tables:   the probabilities of all levels of each element, of an exact discrete density (see `Tables`)
    """

    init: Callable
    sample: Callable
    log_prob: Callable
    kind: str
    mean: Callable | None = None
    normal: Callable | None = None
    terms: Callable | None = None
    reparameterised: bool = True
    space: Space = REALS
    share: Callable | None = None
    std: Callable | None = None
    tables: Tables | None = None
    complete: Callable | None = None
    mixture: Callable | None = None


def require_kind(density: Density, kinds: Collection[str], use: str) -> None:
    """Raise ValueError unless the density is of one of `kinds`; `use` names what it was to be used as."""
    if density.kind not in KINDS:
        raise ValueError(f"a density's kind is one of {', '.join(KINDS)}, got {density.kind!r}")
    if density.kind not in kinds:
        raise ValueError(
            f"{use} needs a density of kind {' or '.join(kinds)}, got kind {density.kind!r}; "
            + {
                "weight": "its log_prob is a random estimate, not a log-density",
                "bound": "its log_prob only bounds the log-density on average"
                " (use a sampled KL, or evaluate it with K=1)",
            }.get(density.kind, "")
        )


def join(x: Any, context: Any) -> Any:
    """What a part is conditioned on: the variable alone, or with the context."""
    return x if context is None else (x, context)


def batch_of(context: Any) -> tuple[int, ...]:
    """The batch shape a context gives to samples: its leading axis, or () without a context."""
    return () if context is None else jax.tree.leaves(as_arrays(context))[0].shape[:1]


def as_arrays(tree: Any) -> Any:
    """A tree of arrays whose lists of numbers have become arrays."""
    return jax.tree.map(as_array, tree, is_leaf=lambda leaf: isinstance(leaf, list))


def check_batches(x: tuple[int, ...], context: tuple[int, ...]) -> None:
    """Raise ValueError where two batch shapes would broadcast to every pair of x and context, as of labels in a column."""
    if jnp.broadcast_shapes(x, context) not in (x, context):
        raise ValueError(
            f"x and its context are of one batch, got batches {x} and {context}, whose every pair this would be"
        )


class Net(NamedTuple):
    """A network as two functions, `init(key) -> params` and `apply(params, *inputs) -> outputs`, whatever made it."""

    init: Callable
    apply: Callable


def from_linen(module: nn.Module, *input_shapes: tuple) -> Net:
    """A Flax Linen module as a `Net`.

    input_shapes: a shape of each input with its batch, such as (1, 784); a tuple of shapes for an input that is a tuple

    Its `apply` raises ValueError for inputs of another width, and for params of another network.
    """

    def example(shape):
        if shape and isinstance(shape[0], tuple):
            return tuple(jnp.zeros(s) for s in shape)
        return jnp.zeros(shape)

    def apply(params, *inputs):
        inputs = as_arrays(inputs)
        try:
            return module.apply(params, *inputs)
        except ScopeParamShapeError:
            given = ", ".join(str(jax.tree.map(jnp.shape, value)) for value in inputs)
            raise ValueError(
                f"the network {type(module).__name__} is of inputs of shape {', '.join(map(str, input_shapes))}, got {given}; "
                "give it inputs of that width, and the params of its own `init`"
            ) from None

    return Net(lambda key: module.init(key, *map(example, input_shapes)), apply)


class OutputDistribution(NamedTuple):
    """A distribution by raw parameters from a network: `width` of them for each of the D elements of a flattened event.

    log_prob: (x [*batch, D], raw_params [*batch, D, width]) -> [*batch]
    sample:   (key, raw_params, shape) -> [*shape, *batch, D]
    mean:     (raw_params) -> [*batch, D]
    normal:   (raw_params) -> (mean, log_std), for a diagonal Gaussian
    std:      (raw_params) -> [*batch, D], where it has one scale; of a discretised law before it is rounded and cut off
    space:    the values of an element; samples of a discrete one carry no gradient
    tables:   (x [*batch, D], raw_params) -> [*batch, D, L], of levels that depend on each other: the log-probabilities of each
              given the elements of its pixel before it
    """

    width: int
    log_prob: Callable
    sample: Callable
    mean: Callable
    normal: Callable | None = None
    space: Space = REALS
    std: Callable | None = None
    tables: Callable | None = None


def _two(outputs):
    return outputs[..., 0], outputs[..., 1]


def normal() -> OutputDistribution:
    """Diagonal Gaussian, mean and log-standard deviation from the network."""
    return OutputDistribution(
        2,
        lambda x, out: densities.normal_log_prob(x, *_two(out)),
        lambda key, out, shape: densities.normal_sample(key, *_two(out), shape),
        lambda out: out[..., 0],
        _two,
        std=lambda out: jnp.exp(out[..., 1]),
    )


def fixed_normal(std: float = 1.0) -> OutputDistribution:
    """Gaussian with the mean from the network and one fixed standard deviation; raises ValueError unless it is positive."""
    if not std > 0:
        raise ValueError(f"a Gaussian needs a positive standard deviation, got {std}")

    def two(out):
        return out[..., 0], jnp.log(jnp.full_like(out[..., 0], std))

    return OutputDistribution(
        1,
        lambda x, out: densities.normal_log_prob(x, *two(out)),
        lambda key, out, shape: densities.normal_sample(key, *two(out), shape),
        lambda out: out[..., 0],
        two,
        std=lambda out: jnp.full_like(out[..., 0], std),
    )


def bernoulli() -> OutputDistribution:
    """Independent bits, logits from the network."""
    return OutputDistribution(
        1,
        lambda x, out: densities.bernoulli_log_prob(x, out[..., 0]),
        lambda key, out, shape: densities.bernoulli_sample(key, out[..., 0], shape),
        lambda out: jax.nn.sigmoid(out[..., 0]),
        space=levels_space(2),
    )


def categorical(levels: int) -> OutputDistribution:
    """Independent integer levels 0..L-1, logits from the network."""
    return OutputDistribution(
        levels,
        densities.categorical_log_prob,
        densities.categorical_sample,
        lambda out: jax.nn.softmax(out) @ jnp.arange(levels, dtype=out.dtype),
        space=levels_space(levels),
    )


def _discretised(levels, log_prob, sample, unit):
    """Mean sigmoid(o_1) on [0, 1], log-scale o_2 - 2: an untrained network is broad and centred.

    unit: the standard deviation at scale one
    """

    def two(out):
        return jax.nn.sigmoid(out[..., 0]), out[..., 1] - 2.0

    return OutputDistribution(
        2,
        lambda x, out: log_prob(x, *two(out), levels),
        lambda key, out, shape: sample(key, *two(out), levels, shape),
        lambda out: jnp.clip(levels * two(out)[0] - 0.5, 0, levels - 1),
        space=levels_space(levels),
        std=lambda out: levels * unit * jnp.exp(two(out)[1]),
    )


def discretised_logistic(levels: int) -> OutputDistribution:
    """Integer levels 0..L-1 under a discretised logistic (its `mean` is the bin of the location parameter)."""
    return _discretised(
        levels,
        densities.discretised_logistic_log_prob,
        densities.discretised_logistic_sample,
        math.pi / math.sqrt(3),
    )


def discretised_normal(levels: int) -> OutputDistribution:
    """Integer levels 0..L-1 under a discretised Gaussian (its `mean` is the bin of the location parameter)."""
    return _discretised(
        levels, densities.discretised_normal_log_prob, densities.discretised_normal_sample, 1.0
    )


def with_shared_scale(net: Net) -> Net:
    """A network with one more output for each element, the last, a trained constant that is the same everywhere.

    With `normal()` and a network of one output an element it is the Gaussian decoder with one shared, learned standard deviation.
    """

    def init(key):
        return {"net": net.init(key), "shared": jnp.zeros(1)}

    def apply(params, *inputs):
        outputs = net.apply(params["net"], *inputs)
        shared = jnp.broadcast_to(params["shared"], (*outputs.shape[:-1], 1))
        return jnp.concatenate([outputs, shared], axis=-1)

    return Net(init, apply)


def conditional(net: Net, distribution: OutputDistribution, event_shape: Sequence[int]) -> Density:
    """The exact density p(x | context) with raw parameters from a network of the context: an encoder or a decoder.

    net: context -> [*batch, *event_shape, distribution.width];  x is [*batch, *event_shape]
    """
    event_shape = tuple(event_shape)
    ndim = len(event_shape)

    def flatten(x, trailing=()):
        return x.reshape(*x.shape[: x.ndim - ndim - len(trailing)], -1, *trailing)

    def unflatten(x):
        return x.reshape(*x.shape[:-1], *event_shape)

    def outputs_at(params, context):
        raw_params, expected = net.apply(params, context), (*event_shape, distribution.width)
        if raw_params.shape[-len(expected) :] != expected:
            raise ValueError(
                f"the network of events of shape {event_shape} puts out [*batch, {', '.join(map(str, expected))}], "
                f"{distribution.width} raw parameters for each element, got an array of shape {raw_params.shape}"
            )
        return flatten(raw_params, (distribution.width,))

    def sample(params, key, context=None, shape=()):
        outputs = outputs_at(params, context)
        x = distribution.sample(key, outputs, shape)
        return unflatten(x), distribution.log_prob(x, outputs)

    def log_prob(params, key, x, context=None):
        x = check_shape(x, event_shape)
        flat, outputs = flatten(x), outputs_at(params, context)
        check_batches(flat.shape[:-1], outputs.shape[:-2])
        return distribution.log_prob(flat, outputs)

    def mean(params, context=None):
        return unflatten(distribution.mean(outputs_at(params, context)))

    def parameters(params, context=None):
        return distribution.normal(outputs_at(params, context))

    def std(params, context=None):
        return unflatten(distribution.std(outputs_at(params, context)))

    def log_probs(params, x, context=None):
        flat, outputs = flatten(x), outputs_at(params, context)
        return tables_of(distribution, flat, jnp.broadcast_to(outputs, (*flat.shape, outputs.shape[-1])))

    tables = None
    if distribution.space.levels:  # channels that are coupled are in turn, each of all pixels at once
        indices = np.arange(math.prod(event_shape))
        steps = indices.reshape(-1, event_shape[-1]).T if distribution.tables else indices[None]
        tables = Tables(log_probs, tuple(map(tuple, steps.tolist())))
    normal_parameters = parameters if distribution.normal and ndim == 1 else None
    drawn = {
        "reparameterised": not distribution.space.levels,
        "space": distribution.space,
        "std": std if distribution.std else None,
        "tables": tables,
    }
    return Density(net.init, sample, log_prob, "exact", mean, normal_parameters, **drawn)


def check_dim(dim: Any) -> None:
    """Raise ValueError unless `dim` is a positive integer."""
    if not isinstance(dim, int) or dim < 1:
        raise ValueError(f"a latent space needs a positive integer dimension, got {dim!r}")


def check_shape(x: Any, event_shape: tuple[int, ...]) -> jax.Array:
    """The array x; raises ValueError unless it is [*batch, *event_shape]."""
    x = as_array(x)
    if x.shape[max(0, x.ndim - len(event_shape)) :] != event_shape:
        raise ValueError(f"this density is of events of shape {event_shape}, got an array of shape {x.shape}")
    return x


def check_event(z: Any, dim: int) -> jax.Array:
    """The array z; raises ValueError unless it is [*batch, dim]: another width would broadcast into a wrong likelihood."""
    z = as_array(z)
    if z.shape[-1:] != (dim,):
        raise ValueError(f"expected vectors of {dim} numbers, got an array of shape {z.shape}")
    return z


def standard_normal(dim: int) -> Density:
    """The density N(0, I) on R^dim; raises ValueError unless dim is a positive integer."""
    check_dim(dim)
    zeros = jnp.zeros(dim)

    def log_prob(params, key, z, context=None):
        z = check_event(z, dim)
        return densities.normal_log_prob(z, zeros, zeros)

    def sample(params, key, context=None, shape=()):
        z = densities.normal_sample(key, zeros, zeros, shape + batch_of(context))
        return z, log_prob(params, key, z)

    def parameters(params, context=None):
        return zeros, zeros

    return Density(lambda key: {}, sample, log_prob, "exact", lambda params, context=None: zeros, parameters)
