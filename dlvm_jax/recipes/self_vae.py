"""The self-supervised VAE: an image by way of smaller copies of it, each scale a VAE."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.data import Spec
from dlvm_jax.models import density, objectives
from dlvm_jax.models import vae as vaes
from dlvm_jax.models.density import Density, Net
from dlvm_jax.models.super_resolution import average_pool, downscaled
from dlvm_jax.nets.conv import ConvResidual
from dlvm_jax.recipes import networks
from dlvm_jax.recipes.base import Model, Recipe
from dlvm_jax.recipes.likelihoods import check_likelihood, likelihood_of, transform_of
from dlvm_jax.recipes.networks import DTYPES, NETS
from dlvm_jax.recipes.vae import VAE
from dlvm_jax.recipes.vae_parts import FLAT, LIKELIHOODS, PRIORS
from dlvm_jax.settings import choice, setting

__all__ = ["Parts", "SelfVAE"]

# A copy is a latent variable only as integer levels.
DISCRETE = {name: entry for name, entry in LIKELIHOODS.items() if entry.data != "reals"}
# Those that the ELBO trains, and that need nothing of the data.
TRAINED = {
    name: entry
    for name, entry in PRIORS.items()
    if entry.space == FLAT and entry.objectives is None and "vamp" not in name
}


class Parts(NamedTuple):
    """What a self-supervised VAE is made of.

    scales: the three densities of each scale's VAE, the smallest copy first
    of_y, of_x_given_y: p(y) and p(x | y) of the largest copy y, with parameters params["y"] and params["x"]: the second makes
        any small image, also one that is no copy, twice as large
    """

    scales: tuple[vaes.Parts, ...]
    of_y: Density
    of_x_given_y: Density


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfVAE(Recipe):
    """The self-supervised VAE of downscaled images (Gatopoulos & Tomczak 2020), trained by the ELBO."""

    scales: int = setting(2, "sizes of the image, each twice as high and wide as the one before", at_least=2)
    latent_dim: int = setting(8, "dimension of the latent space of each scale", at_least=1)
    prior: str = choice("standard", TRAINED, "p(u), of the smallest copy")
    components: int = setting(100, "components of a mixture prior", at_least=1)
    likelihood: str | None = choice(
        None, DISCRETE, "of an image and of its copies, by default what suits the data"
    )
    net: str = choice("mlp", NETS, "encoders and decoders")
    hidden: tuple[int, ...] = setting(
        (300,), "widths of the hidden layers (channels for conv), from the data inwards", at_least=1
    )
    dtype: str = choice(
        "float32", DTYPES, "compute type of the networks; parameters and likelihoods stay float32"
    )

    @property
    def transform(self) -> str | None:
        """What becomes of the data: integer levels, unless they are bits."""
        return transform_of(self.likelihood)

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that are impossible whatever the data."""
        super().check()
        if not self.hidden:
            raise ValueError(f"hidden needs at least one positive width, got {self.hidden}")

    def check_data(self, spec: Spec) -> None:
        """Raise ValueError, in one line, for settings that do not fit the data."""
        if len(spec.event_shape) != 3:
            raise ValueError(
                f"SelfVAE is of images [H, W, C], and the examples of {spec.name} have shape {spec.event_shape}"
            )
        if not spec.discrete:
            raise ValueError(
                f"SelfVAE is of integer levels, the protocol {spec.protocol!r} has real values; use the protocol 'levels'"
            )
        check_likelihood(self.likelihood, spec)
        height, width, _ = spec.event_shape
        halvings = next(n for n in range(64) if height % 2 ** (n + 1) or width % 2 ** (n + 1))
        if halvings < self.scales - 1:
            advice = f"use scales={halvings + 1}" if halvings else "crop or resize them to even sides"
            raise ValueError(
                f"scales={self.scales} halves images {self.scales - 1} time(s), and {height} x {width} pixels halve "
                f"{halvings} time(s); {advice}"
            )

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """The model for data of a spec.  A code is the latent vectors of all scales, that of the smallest copy first."""
        self.check()
        self.check_data(spec)
        height, width, channels = spec.event_shape
        specs = [
            spec._replace(event_shape=(height // 2**n, width // 2**n, channels))
            for n in reversed(range(self.scales))
        ]
        scales = (self._smallest(specs[0]), *(self._larger(each) for each in specs[1:]))
        model, of_y, of_x_given_y = _joined(scales, lambda parts: "sampled")
        trained, _, _ = _joined(scales, lambda parts: "analytic" if parts.prior.normal else "sampled")
        objective = objectives.negative_elbo(trained)
        return Model(
            model,
            model.init,
            objective,
            objective,
            Parts(scales, of_y, of_x_given_y),
            _encode(scales),
            _decode(scales),
        )

    def _smallest(self, spec: Spec) -> vaes.Parts:
        """The VAE of the smallest copy."""
        own = {name: getattr(self, name) for name in self.names() if name != "scales"}
        return VAE(**own).build(spec, {}).parts

    def _larger(self, spec: Spec) -> vaes.Parts:
        """The VAE of an image given its copy: p(z | y), q(z | x), since y is a function of x, and p(x | z, y)."""
        event, latent = spec.event_shape, (self.latent_dim,)
        copy = (event[0] // 2, event[1] // 2, event[2])
        distribution = LIKELIHOODS[likelihood_of(self.likelihood, spec)].build(self, spec)
        encoder = lambda shape: networks.scaled(networks.network(self, shape, (*latent, 2)), spec)
        of_x = encoder(event)
        posterior = Net(of_x.init, lambda params, given: of_x.apply(params, given[0]))
        decoder = networks.scaled(self._enlarging(copy, (*event, distribution.width)), spec, 1)
        return vaes.Parts(
            density.conditional(encoder(copy), density.normal(), latent),
            density.conditional(posterior, density.normal(), latent),
            density.conditional(decoder, distribution, event),
        )

    def _enlarging(self, copy: tuple[int, ...], outputs: tuple[int, ...]) -> Net:
        """The network of p(x | z, y); a convolutional one paints z first, and then puts the enlarged copy beside it."""
        if NETS[self.net].images is None:
            return networks.network(self, ((self.latent_dim,), copy), outputs, inwards=False)
        height, width, channels, parameters = outputs
        features = self.hidden[0]
        painted = networks.network(self, (self.latent_dim,), (height, width, features, 1), inwards=False)
        module = ConvResidual(features, 2, channels, parameters, jnp.dtype(self.dtype))
        refined = density.from_linen(module, (1, height, width, features + channels))

        def apply(params, inputs):
            z, y = inputs
            large = jnp.repeat(jnp.repeat(y, 2, axis=-3), 2, axis=-2)
            first = painted.apply(params["painted"], z)[..., 0]
            return refined.apply(params["refined"], jnp.concatenate([first, large], axis=-1))

        def init(key):
            keys = jax.random.split(key)
            return {"painted": painted.init(keys[0]), "refined": refined.init(keys[1])}

        return Net(init, apply)


def _joined(
    scales: tuple[vaes.Parts, ...], kl: Callable[[vaes.Parts], str]
) -> tuple[Density, Density, Density]:
    """(p(x), p(y), p(x | y)) of the VAEs of all scales, y the largest copy."""
    of_y = of_x_given_y = whole = vaes.vae(*scales[0], kl=kl(scales[0]))
    for parts in scales[1:]:
        of_y, of_x_given_y = whole, vaes.vae(*parts, kl=kl(parts))
        whole = downscaled(of_y, of_x_given_y, average_pool)
    return whole, of_y, of_x_given_y


def _params(params: Any, count: int) -> list[Any]:
    """The parameters of each scale's VAE, the smallest copy first."""
    found = []
    for _ in range(count - 1):
        found.append(params["x"])
        params = params["y"]
    return [params, *reversed(found)]


def _encode(scales: tuple[vaes.Parts, ...]) -> Callable:
    """(params, x, key=None) -> the means of the posteriors of all scales [*batch, scales * M], or a draw with a key."""

    def encode(params, x, key=None):
        codes, copies = [], [x]
        for _ in scales[1:]:
            copies.append(average_pool(copies[-1]))
        keys = [None] * len(scales) if key is None else jax.random.split(key, len(scales))
        contexts = [copies[-1], *zip(copies[-2::-1], copies[:0:-1], strict=True)]
        for parts, own, key, given in zip(scales, _params(params, len(scales)), keys, contexts, strict=True):
            law, own = parts.posterior, own["posterior"]
            codes.append(law.mean(own, given) if key is None else law.sample(own, key, given)[0])
        return jnp.concatenate(codes, axis=-1)

    return encode


def _decode(scales: tuple[vaes.Parts, ...]) -> Callable:
    """(params, codes [*batch, scales * M]) -> the mean of x, given copies that are rounded means themselves."""

    def decode(params, code):
        first, *others = jnp.split(code, len(scales), axis=-1)
        smallest, *larger = _params(params, len(scales))
        x = scales[0].decoder.mean(smallest["decoder"], first)
        for parts, own, z in zip(scales[1:], larger, others, strict=True):
            x = parts.decoder.mean(own["decoder"], (z, jnp.floor(x + 0.5)))
        return x

    return decode
