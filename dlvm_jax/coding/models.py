"""The codec of a trained model."""

import functools
from typing import Any

import jax

from dlvm_jax.coding.codecs import Codec, levels_codec, through_codes
from dlvm_jax.coding.latents import Layers, bits_back, layers_of_hierarchy, layers_of_vae
from dlvm_jax.models import vq_vae
from dlvm_jax.models.tables import Tables
from dlvm_jax.models.top_down import TopDown
from dlvm_jax.models.vae import Parts
from dlvm_jax.train.fitted import Fitted

__all__ = ["check_unconditional", "codec_of", "layers_of", "prior_of_codes"]


def codec_of(fitted: Fitted, batch: int) -> Codec:
    """How examples of levels are coded by a trained model, `batch` at most at once.

    An autoregressive model codes element by element, a VAE and a hierarchical VAE by bits back, a VQ-VAE by its codes and then
    what they leave open.  Raises ValueError for a model of another kind, of real numbers, or of examples given something.
    """
    model: Any = fitted.model
    params, shape = fitted.params, fitted.spec.event_shape
    parts, name = model.parts, type(fitted.recipe).__name__
    check_unconditional(fitted)
    if model.density is not None and not model.density.space.levels:
        raise ValueError(
            f"this {name} is of {model.density.space}, and only levels are compressed without loss; train with a likelihood of "
            "levels"
        )
    if isinstance(parts, Parts):
        likelihood = levels_codec(_tables(parts.decoder.tables, name), params["decoder"], shape, batch)
        return bits_back(layers_of_vae(parts, params), likelihood, batch)
    if isinstance(parts, TopDown):
        of_state = _tables(parts.likelihood.tables, name)
        likelihood = levels_codec(_given_latents(parts, of_state), params, shape, batch)
        return bits_back(layers_of_hierarchy(parts, params), likelihood, batch)
    if isinstance(parts, vq_vae.Parts):
        of_codes = _tables(parts.decoder.tables, name)
        likelihood = levels_codec(_given_codes(parts, of_codes), params, shape, batch)
        encode = jax.jit(model.encode)
        codes = lambda x: encode(params, x)
        return through_codes(codes, prior_of_codes(fitted, batch), likelihood, batch)
    return levels_codec(_tables(model.density and model.density.tables, name), params, shape, batch)


def check_unconditional(fitted: Fitted) -> None:
    """Raise ValueError for a model of examples given something."""
    if fitted.model.labels or fitted.model.part:
        raise ValueError(
            "this model is of examples given something, which a file does not hold; train without a condition"
        )


def layers_of(fitted: Fitted) -> Layers | None:
    """The Gaussian layers of a VAE or a hierarchical VAE; None of another model."""
    parts = fitted.model.parts
    if isinstance(parts, Parts):
        return layers_of_vae(parts, fitted.params)
    if isinstance(parts, TopDown):
        return layers_of_hierarchy(parts, fitted.params)
    return None


def prior_of_codes(fitted: Fitted, batch: int) -> Codec:
    """The codec of the codes [n, *grid] of a VQ-VAE, by their prior."""
    model: Any = fitted.model
    parts, example = model.parts, jax.ShapeDtypeStruct((1, *fitted.spec.event_shape), "float32")
    grid = jax.eval_shape(model.encode, fitted.params, example).shape[1:]
    tables = _tables(parts.prior.tables, "prior of codes")
    return levels_codec(tables, parts.whole(fitted.params)["prior"], grid, batch)


def _tables(tables: Tables | None, name: str) -> Tables:
    if tables is None:
        raise ValueError(
            f"no table of probabilities is known of this {name}; autoregressive models of one order, VQ-VAEs, VAEs and "
            "hierarchical VAEs of levels can be compressed with"
        )
    return tables


@functools.cache  # programs are kept by their functions
def _given_codes(parts: vq_vae.Parts, tables: Tables) -> Tables:
    """Those of p(x | codes)."""

    def log_probs(params: Any, x: Any, index: Any) -> Any:
        return tables.log_probs(parts.whole(params)["decoder"], x, parts.vectors(params, index))

    return Tables(log_probs, tables.steps)


@functools.cache
def _given_latents(parts: TopDown, tables: Tables) -> Tables:
    """Those of p(x | last state), given vectors of all latent numbers."""

    def log_probs(params: Any, x: Any, z: Any) -> Any:
        h, _ = parts.state(params, parts.unflatten(z))
        own = params[0] if isinstance(params, tuple) else params
        return tables.log_probs(own["likelihood"], x, h)

    return Tables(log_probs, tables.steps)
