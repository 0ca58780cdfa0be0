"""The codec of a trained model."""

from typing import Any

from dlvm_jax.coding.codecs import Codec, bits_back, layers_of_hierarchy, layers_of_vae, levels_codec
from dlvm_jax.models.tables import Tables
from dlvm_jax.models.top_down import TopDown
from dlvm_jax.models.vae import Parts
from dlvm_jax.train.fitted import Fitted

__all__ = ["codec_of"]


def codec_of(fitted: Fitted, batch: int) -> Codec:
    """How examples of levels are coded by a trained model, `batch` at most at once.

    An autoregressive model codes element by element, a VAE and a hierarchical VAE by bits back.
    Raises ValueError for a model of another kind, of real numbers, or of examples given something.
    """
    model, params, shape = fitted.model, fitted.params, fitted.spec.event_shape
    name = type(fitted.recipe).__name__
    if model.labels or model.part:
        raise ValueError(
            "this model is of examples given something, which a file does not hold; train without a condition"
        )
    if model.density is not None and not model.density.space.levels:
        raise ValueError(
            f"this {name} is of {model.density.space}, and only levels are compressed; train with a likelihood of levels"
        )
    if isinstance(model.parts, Parts):
        decoder = model.parts.decoder
        likelihood = levels_codec(_tables(decoder.tables, name), params["decoder"], shape, batch)
        return bits_back(layers_of_vae(model.parts, params), likelihood, batch)
    if isinstance(model.parts, TopDown):
        of_state = _tables(model.parts.likelihood.tables, name)
        likelihood = levels_codec(_given_latents(model.parts, of_state), params, shape, batch)
        return bits_back(layers_of_hierarchy(model.parts, params), likelihood, batch)
    return levels_codec(_tables(model.density and model.density.tables, name), params, shape, batch)


def _tables(tables: Tables | None, name: str) -> Tables:
    if tables is None:
        raise ValueError(
            f"no table of probabilities is known of this {name}; autoregressive models of one order, VAEs and hierarchical VAEs "
            "of levels can be compressed with"
        )
    return tables


def _given_latents(model: TopDown, tables: Tables) -> Tables:
    """Those of p(x | last state), given vectors of all latent numbers."""

    def log_probs(params: Any, x: Any, z: Any) -> Any:
        h, _ = model.state(params, model.unflatten(z))
        own = params[0] if isinstance(params, tuple) else params
        return tables.log_probs(own["likelihood"], x, h)

    return Tables(log_probs, tables.steps)
