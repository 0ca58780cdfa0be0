"""Output distributions of levels by mixtures of discretised logistics: of each element by itself, of whole pixels."""

import jax
import jax.numpy as jnp

from dlvm_jax.functional import densities, pixels
from dlvm_jax.models.density import OutputDistribution
from dlvm_jax.models.spaces import levels as levels_space

__all__ = ["logistic_mixture", "pixel_mixture"]


def _starts(components):
    """Components start apart."""
    return jnp.linspace(-1.5, 1.5, components) if components > 1 else jnp.zeros(1)


def logistic_mixture(levels: int, components: int) -> OutputDistribution:
    """Integer levels 0..L-1 under a mixture of K discretised logistics for each element (Salimans et al. 2017)."""

    def three(out):
        logits, mean, log_scale = jnp.split(out, 3, axis=-1)
        return logits, jax.nn.sigmoid(mean + _starts(components)), log_scale - 2.0

    def mean(out):
        logits, location, _ = three(out)
        weights = jax.nn.softmax(logits, axis=-1)
        return jnp.clip(levels * jnp.sum(weights * location, axis=-1) - 0.5, 0, levels - 1)

    return OutputDistribution(
        3 * components,
        lambda x, out: densities.discretised_logistic_mixture_log_prob(x, *three(out), levels),
        lambda key, out, shape: densities.discretised_logistic_mixture_sample(
            key, *three(out), levels, shape
        ),
        mean,
        space=levels_space(levels),
    )


def pixel_mixture(levels: int, components: int, channels: int) -> OutputDistribution:
    """Integer levels of pixels under a mixture of K logistics, each channel given those before it (Salimans et al. 2017).

    The logits of a pixel's components are the sums of those of its channels.  The last axis of an event is that of channels.
    """

    def four(out):
        """[*batch, D, K (C + 2)] -> of all pixels logits [K], mean and log-scale [K, C], coupling [K, C, C]."""
        out = out.reshape(*out.shape[:-2], -1, channels, out.shape[-1] // components, components)
        out = jnp.moveaxis(out, -1, -3)  # [*batch, pixels, K, C, C + 2]
        mean = jax.nn.sigmoid(out[..., 1] + _starts(components)[:, None])
        coupling = jnp.pad(out[..., 3:], [(0, 0)] * (out.ndim - 1) + [(0, 1)])
        return out[..., 0].sum(-1), mean, out[..., 2] - 2.0, coupling

    def pixels_of(x):
        return x.reshape(*x.shape[:-1], -1, channels)

    def flat(x):
        return x.reshape(*x.shape[:-2], -1)

    def mean(out):
        logits, location, _, coupling = four(out)
        return flat(pixels.pixel_mixture_mean(logits, location, coupling, levels))

    def tables(x, out):
        found = pixels.pixel_mixture_tables(pixels_of(x), *four(out), levels)
        return found.reshape(*found.shape[:-3], -1, levels)

    return OutputDistribution(
        components * (channels + 2),
        lambda x, out: pixels.pixel_mixture_log_prob(pixels_of(x), *four(out), levels),
        lambda key, out, shape: flat(pixels.pixel_mixture_sample(key, *four(out), levels, shape)),
        mean,
        space=levels_space(levels),
        tables=tables,
    )
