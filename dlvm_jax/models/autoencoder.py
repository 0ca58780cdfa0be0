"""Autoencoders: an encoder and a decoder that are each other's inverse on the data, and uses of their codes.

An objective is `(params, key, batch) -> (loss, metrics)`, as everywhere; means over the batch are taken there and nowhere else.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlvm_jax.functional import autoencoding, densities
from dlvm_jax.models.density import Net
from dlvm_jax.models.objectives import Objective

__all__ = [
    "Autoencoder",
    "Classifier",
    "accuracy",
    "autoencoder",
    "classification",
    "classifier",
    "dictionary",
    "interpolate",
    "outlier_score",
    "reconstruction",
]


class Autoencoder(NamedTuple):
    """An autoencoder as pure functions.

    init:   (key) -> {"encoder": ..., "decoder": ...}
    encode: (params, x [*batch, *event]) -> z [*batch, k]
    decode: (params, z) -> [*batch, *event]
    event_ndim: number of event axes of x
    """

    init: Callable
    encode: Callable
    decode: Callable
    event_ndim: int


def autoencoder(encoder: Net, decoder: Net, event_ndim: int = 1) -> Autoencoder:
    """The autoencoder of two `Net`s, x -> z and z -> x (Goodfellow, Bengio, Courville 2016, chapter 14)."""

    def init(key):
        key_encoder, key_decoder = jax.random.split(key)
        return {"encoder": encoder.init(key_encoder), "decoder": decoder.init(key_decoder)}

    return Autoencoder(
        init,
        lambda params, x: encoder.apply(params["encoder"], x),
        lambda params, z: decoder.apply(params["decoder"], z),
        event_ndim,
    )


def dictionary(latent_dim: int, event_shape: Sequence[int]) -> Net:
    """A decoder that is a sum of atoms of norm one, D(z) = sum_j z_j w_j / |w_j| + b, as a `Net` (Olshausen & Field 1997).

    For sparse autoencoders: under a decoder of free scale the l1 penalty only makes codes small and the decoder large.
    """
    event_shape = tuple(event_shape)
    size = math.prod(event_shape)

    def init(key):
        return {"atoms": jax.random.normal(key, (latent_dim, size)), "bias": jnp.zeros(size)}

    def apply(params, z):
        atoms = params["atoms"] / jnp.linalg.norm(params["atoms"], axis=-1, keepdims=True)
        return (z @ atoms + params["bias"]).reshape(*z.shape[:-1], *event_shape)

    return Net(init, apply)


def reconstruction(
    model: Autoencoder,
    corrupt: Callable | None = None,
    penalty: Callable | None = None,
    weight: float = 1.0,
) -> Objective:
    """Mean over the batch of |D(E(x~)) - x|^2 + weight * penalty: every autoencoder's objective.

    corrupt: `(key, x) -> x~`, which makes it denoising (Vincent et al. 2008); the target stays the clean x
    penalty: `(encode, x~) -> [*batch]`, which makes it sparse or contractive (Rifai et al. 2011); inside the mean over
        examples, as the squared error is
    weight: of the penalty

    Metrics: "squared_error", and "penalty" where there is one.
    """

    def objective(params, key, x, step=None):
        seen = x if corrupt is None else corrupt(key, x)
        decoded = model.decode(params, model.encode(params, seen))
        error = autoencoding.squared_error(x, decoded, model.event_ndim).mean()
        if penalty is None:
            return error, {"squared_error": error}
        cost = penalty(lambda inputs: model.encode(params, inputs), seen).mean()
        return error + weight * cost, {"squared_error": error, "penalty": cost}

    return objective


def outlier_score(model: Autoencoder, params: Any, x: jax.Array) -> jax.Array:
    """How badly x is reconstructed, |D(E(x)) - x|^2: [*batch, *event] -> [*batch], larger for examples unlike the data."""
    return autoencoding.squared_error(x, model.decode(params, model.encode(params, x)), model.event_ndim)


def interpolate(model: Autoencoder, params: Any, x0: jax.Array, x1: jax.Array, n: int) -> jax.Array:
    """Decoded points of the straight line between two codes, ends included: [*batch, *event] -> [n, *batch, *event].

    Raises ValueError for fewer than two points.
    """
    if n < 2:
        raise ValueError(f"an interpolation has at least its 2 ends, got n={n}")
    z0, z1 = model.encode(params, x0), model.encode(params, x1)
    t = jnp.linspace(0, 1, n, dtype=z0.dtype).reshape(n, *[1] * z0.ndim)
    return model.decode(params, (1 - t) * z0 + t * z1)


class Classifier(NamedTuple):
    """A classifier on features.

    init:   (key) -> {"encoder": ..., "head": ...}
    logits: (params, x) -> [*batch, classes]
    """

    init: Callable
    logits: Callable


def classifier(model: Autoencoder, head: Net) -> Classifier:
    """A classifier on an autoencoder's features: its encoder, its decoder thrown away, and a `Net` from codes to logits.

    For the features of a trained autoencoder its parameters replace those of `init`:
    `{**classifier.init(key), "encoder": params["encoder"]}`.
    """

    def init(key):
        key_encoder, key_head = jax.random.split(key)
        return {"encoder": model.init(key_encoder)["encoder"], "head": head.init(key_head)}

    def logits(params, x):
        return head.apply(params["head"], model.encode(params, x))

    return Classifier(init, logits)


def classification(model: Classifier, fine_tune: bool) -> Objective:
    """Mean cross-entropy of a batch (x, labels), labels integer-valued [*batch]; metric "accuracy".

    With `fine_tune` the ENCODER learns too (some lectures say the decoder, which is no part of a classifier); without, only
    the head has a gradient.  Frozen parameters have gradient zero: use an optimiser without weight decay.
    """

    def objective(params, key, batch, step=None):
        x, labels = batch
        if not fine_tune:
            params = {**params, "encoder": jax.lax.stop_gradient(params["encoder"])}
        logits = model.logits(params, x)
        loss = -densities.categorical_log_prob(labels, logits, event_ndim=0).mean()
        return loss, {"accuracy": accuracy(logits, labels)}

    return objective


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Fraction of examples whose largest logit is their label: [*batch, classes], [*batch] -> a scalar."""
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)
