"""DRAW: an image is painted in glimpses, each with a latent vector of its own (Gregor et al. 2015)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlvm_jax.functional import densities, divergences
from dlvm_jax.functional.numerics import as_array, draw_normal
from dlvm_jax.models.density import Density, Net, OutputDistribution, batch_of, check_shape

__all__ = ["Parts", "draw"]


class Parts(NamedTuple):
    """What a DRAW is made of; `draw(Parts(...))` is its density.  All images start from one canvas, which is learned.

    encoder: (state, the decoder's output, image, error image) -> (state, [*batch, M, 2]), such as `nets.DrawEncoder`
    decoder: (state, z) -> (state, what it adds to the canvas), such as `nets.DrawDecoder`
    distribution: p(x | canvas), the canvas its raw parameters [*batch, *event, width]
    event_shape: of an image, (h, w, c)
    latent_dim, hidden, glimpses: M, the width of a state, and T
    """

    encoder: Net
    decoder: Net
    distribution: OutputDistribution
    event_shape: tuple[int, ...]
    latent_dim: int
    hidden: int
    glimpses: int

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh parameters {"encoder", "decoder", "start"}; the canvas and the states start from zero."""
        keys = jax.random.split(key)
        state = jnp.zeros(self.hidden), jnp.zeros(self.hidden)
        canvas = jnp.zeros((*self.event_shape, self.distribution.width))
        return {
            "encoder": self.encoder.init(keys[0]),
            "decoder": self.decoder.init(keys[1]),
            "start": {"canvas": canvas, "encoder": state, "decoder": state},
        }

    def _started(self, params, batch):
        return jax.tree.map(lambda value: jnp.broadcast_to(value, (*batch, *value.shape)), params["start"])

    def mean(self, canvas: jax.Array) -> jax.Array:
        """The image that a canvas shows: the mean of p(x | canvas), [*batch, *event]."""
        return self.distribution.mean(canvas)

    def infer(
        self, params: Any, key: jax.Array | None, x: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(z, mean and log_std of its law, the last canvas): a draw of q(z_1..z_T | x), or each z_t at its mean without a key.

        x [*batch, *event] -> z [T, *batch, M], [T, *batch, M, 2], [*batch, *event, width].  Raises ValueError for other events.
        """
        x = check_shape(x, self.event_shape)
        start = self._started(params, x.shape[: x.ndim - len(self.event_shape)])
        top = max(self.distribution.space.levels - 1, 1)  # the networks see images on [0, 1]
        image = (x / top).astype(start["canvas"].dtype)

        def glimpse(now, key):
            error = image - self.mean(now["canvas"]) / top
            encoder, law = self.encoder.apply(
                params["encoder"], now["encoder"], now["decoder"][1], image, error
            )
            mean, log_std = law[..., 0], law[..., 1]
            z = mean if key is None else densities.normal_sample(key, mean, log_std)
            return {**self._painted(params, now, z), "encoder": encoder}, (z, law)

        keys = None if key is None else jax.random.split(key, self.glimpses)
        end, (z, law) = jax.lax.scan(glimpse, start, keys, self.glimpses)
        return z, law, end["canvas"]

    def _painted(self, params, now, z):
        """Canvas and decoder after one more glimpse."""
        decoder, added = self.decoder.apply(params["decoder"], now["decoder"], z)
        return {"canvas": now["canvas"] + added, "decoder": decoder}

    def paint(self, params: Any, z: jax.Array) -> jax.Array:
        """The canvas after each glimpse, of z [T, *batch, M]: [T, *batch, *event, width]."""

        def glimpse(now, z):
            now = self._painted(params, now, z)
            return now, now["canvas"]

        start = self._started(params, z.shape[1:-1])
        _, canvases = jax.lax.scan(glimpse, {name: start[name] for name in ("canvas", "decoder")}, z)
        return canvases

    def prior_sample(self, params: Any, key: jax.Array, shape: Sequence[int]) -> jax.Array:
        """A draw of p(z_1..z_T): [T, *shape, M]."""
        dtype = params["start"]["canvas"].dtype
        return draw_normal(key, (self.glimpses, *shape, self.latent_dim), dtype)

    def canvases(self, params: Any, key: jax.Array, count: int) -> jax.Array:
        """A film of `count` new images: the mean of p(x | canvas) after each glimpse, [T, count, *event]."""
        return self.mean(self.paint(params, self.prior_sample(params, key, (count,))))


def draw(parts: Parts, *, kl: str = "sampled") -> Density:
    r"""DRAW as a density: $p(x)=\int p(x\mid c_T)\prod_t\mathcal N(z_t\mid 0,I)\,dz,\ c_t=c_{t-1}+\mathrm{write}(h_t)$.

    The state h_t of the decoder is a function of z_1..z_t.
    The posterior of z_t is a Gaussian, given what the encoder has seen of x and of the error of the canvas so far: x less
    the mean of p(x | c), which for bits is the paper's sigmoid.
    kl: "sampled" gives a "weight";  "analytic" the KL of each glimpse given those before, a "bound" of lower variance

    `terms` has the KL of each glimpse as "rates".  Raises ValueError for an unknown kl.
    Source: Gregor et al. 2015, eq. 3-12 (11: the analytic KL, given the earlier glimpses).
    """
    if kl not in ("sampled", "analytic"):
        raise ValueError(f"kl is 'sampled' or 'analytic', got {kl!r}")
    distribution, ndim = parts.distribution, len(parts.event_shape)

    def log_likelihood(x, canvas):
        x = as_array(x)
        batch = x.shape[: x.ndim - ndim]
        return distribution.log_prob(
            x.reshape(*batch, -1), canvas.reshape(*canvas.shape[: len(batch)], -1, distribution.width)
        )

    def terms(params, key, x, context=None):
        z, law, canvas = parts.infer(params, key, x)
        mean, log_std = law[..., 0], law[..., 1]
        if kl == "analytic":
            rates = divergences.kl_standard_normal(mean, log_std)
        else:
            rates = densities.normal_log_prob(z, mean, log_std) - densities.normal_log_prob(z, 0.0, 0.0)
        rates = jnp.moveaxis(rates, 0, -1)
        return {"reconstruction": log_likelihood(x, canvas), "kl": rates.sum(-1), "rates": rates}

    def log_prob(params, key, x, context=None):
        both = terms(params, key, x)
        return both["reconstruction"] - both["kl"]

    def sample(params, key, context=None, shape=()):
        key_z, key_x = jax.random.split(key)
        batch = (*shape, *batch_of(context))
        canvas = parts.paint(params, parts.prior_sample(params, key_z, batch))[-1]
        x = distribution.sample(key_x, canvas.reshape(*batch, -1, distribution.width), ())
        return x.reshape(*batch, *parts.event_shape), None

    kind = "weight" if kl == "sampled" else "bound"
    return Density(
        parts.init,
        sample,
        log_prob,
        kind,
        terms=terms,
        reparameterised=not distribution.space.levels,
        space=distribution.space,
    )
