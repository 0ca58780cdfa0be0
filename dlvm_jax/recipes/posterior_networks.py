"""Networks of simulation-based inference: a perceptron, and what the exact answer of a linear Gaussian problem needs."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlvm_jax.nets.denoisers import DenoisingMLP
from dlvm_jax.nets.mlp import MLP, concatenate_events
from dlvm_jax.recipes.flow import Velocity

__all__ = ["AffineByTime", "PosteriorDenoiser", "PosteriorVelocity", "ProductClassifier"]


class AffineByTime(nn.Module):
    """A map that is affine in theta and x, with coefficients by time.

    The velocity and the score of a Gaussian posterior whose mean is linear in x are such maps, slow for a network to find.
    """

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, theta: jax.Array, t: jax.Array, x: jax.Array) -> jax.Array:
        """At theta [*batch, D] and t [*batch], given x [*batch, C] -> [*batch, D]."""
        both, dim = concatenate_events((theta, x), 1), theta.shape[-1]
        a = MLP(self.hidden, (dim, both.shape[-1] + 1), activation=nn.tanh)(t[..., None])
        return jnp.einsum("...ij,...j->...i", a[..., :-1], both) + a[..., -1]


class PosteriorVelocity(nn.Module):
    """A velocity of theta given x: a network, and an affine map besides."""

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, theta: jax.Array, t: jax.Array, x: jax.Array) -> jax.Array:
        """As `AffineByTime`."""
        return Velocity(self.hidden)(theta, t, x) + AffineByTime(self.hidden)(theta, t, x)


class PosteriorDenoiser(nn.Module):
    """What a denoiser of theta given x predicts: a network, and an affine map besides.

    log_snr: its ends, between which time goes from 0 to 1
    """

    hidden: tuple[int, ...]
    log_snr: tuple[float, float]

    @nn.compact
    def __call__(
        self, theta: jax.Array, log_snr: jax.Array, x: jax.Array, deterministic: bool = True
    ) -> jax.Array:
        """As `DenoisingMLP`."""
        low, high = self.log_snr
        t = jnp.broadcast_to((log_snr - low) / (high - low), theta.shape[:-1])
        inner = DenoisingMLP(self.hidden)(theta, log_snr, x, deterministic)
        return inner + AffineByTime(self.hidden)(theta, t, x)


class ProductClassifier(nn.Module):
    """A residual network that also sees products of linear maps of its inputs: the log-ratio of Gaussians is quadratic."""

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
        """The log-ratio of parameters [*batch, D] and data [*batch, C], [*batch]."""
        both, width = concatenate_events(inputs, 1), self.hidden[0]
        products = nn.Dense(width)(both) * nn.Dense(width)(both)
        return MLP(self.hidden, (), activation=nn.silu, connect="residual")((both, products))
