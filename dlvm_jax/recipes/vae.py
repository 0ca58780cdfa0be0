"""Variational autoencoders: a prior, a posterior and a likelihood by name, one or two layers, with or without a condition."""

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from dlvm_jax import nets
from dlvm_jax.data import Data, Spec
from dlvm_jax.models import density, joint
from dlvm_jax.models.density import Density
from dlvm_jax.models.pixel_decoder import pixel_decoder
from dlvm_jax.models.vae import Parts, vae
from dlvm_jax.recipes import networks
from dlvm_jax.recipes.base import Constants, Model, Recipe
from dlvm_jax.recipes.conditions import CONDITIONS, condition_of, say_which_labels_are_missing
from dlvm_jax.recipes.likelihoods import check_likelihood, kind_of, likelihood_of, transform_of
from dlvm_jax.recipes.networks import DTYPES, NETS
from dlvm_jax.recipes.vae_objectives import OBJECTIVES, build_objective
from dlvm_jax.recipes.vae_parts import FLAT, LIKELIHOODS, POSTERIORS, PRIORS, Place, pseudo_inputs
from dlvm_jax.settings import choice, pick, setting

__all__ = ["VAE"]

INFERENCE = {"top-down": "q(z2|x) q(z1|x,z2) and p(x|z1,z2)", "bottom-up": "q(z1|x) q(z2|z1) and p(x|z1)"}
PIXEL_WIDTH, PIXEL_KERNEL, PIXEL_FEATURES = 32, 5, 8  # of pixel layers; of z at each pixel
KL = {"auto": "analytic where it has a closed form", "analytic": "", "sampled": ""}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAE(Recipe):
    """A variational autoencoder (Kingma & Welling 2014), with the parts that its settings name."""

    latent_dim: int = setting(8, "dimension of the latent space", at_least=1)
    prior: str = choice("standard", PRIORS, "p(z)")
    posterior: str = choice("normal", POSTERIORS, "q(z|x)")
    likelihood: str | None = choice(None, LIKELIHOODS, "p(x|z), by default what suits the data")
    std: float = setting(1.0, "standard deviation of a fixed-normal likelihood")
    layers: int = setting(1, "layers of latent variables; 2: p(z2) p(z1|z2), each of latent_dim", at_least=1)
    inference: str = choice(
        "top-down", INFERENCE, "with two layers; bottom-up has z2 and its networks half as wide"
    )
    condition: str | None = choice(None, CONDITIONS, "conditional VAE: model the (rest of the) example given")
    components: int = setting(100, "components of a mixture prior, pseudo-inputs of a VampPrior", at_least=1)
    flow_steps: int = setting(4, "steps of a flow posterior", at_least=1)
    curvature: float = setting(1.0, "minus the curvature of hyperbolic space")
    net: str = choice("mlp", NETS, "encoder and decoder")
    hidden: tuple[int, ...] = setting(
        (300,), "widths of the hidden layers (channels for conv), from the data inwards", at_least=1
    )
    pixel_layers: int = setting(
        0,
        "gated convolutions by which each pixel also depends on those before it, as in PixelVAE; 0: independent given z",
        at_least=0,
    )
    start_at_mean: bool = setting(
        False, "start the bernoulli decoder's bias at the log-odds of the training images' means"
    )
    objective: str = choice("elbo", OBJECTIVES, "training objective")
    kl: str = choice("auto", KL, "the KL of the ELBO in training (evaluation always samples)")
    beta: float = setting(
        1.0, "weight of the KL (of the total correlation for total-correlation)", at_least=0
    )
    beta_warm_up: int = setting(0, "steps over which beta grows linearly from 0", at_least=0)
    free_nats: float | None = setting(
        None, "KL in nats that each latent unit may spend for nothing, for free-bits", at_least=0
    )
    regulariser: float | None = setting(
        None,
        "weight of the MMD (wae, info: default 100) or of the discriminator (adversarial: default 1)",
        at_least=0,
    )
    samples: int = setting(1, "latent samples of each example for iwae, dreg and renyi", at_least=1)
    alpha: float | None = setting(None, "order of the renyi bound (0: iwae, 1: ELBO)")
    dtype: str = choice(
        "float32", DTYPES, "compute type of the networks; parameters and likelihoods stay float32"
    )

    @property
    def transform(self) -> str | None:
        """What becomes of the data: integer levels or dequantised ones where the likelihood says so."""
        return transform_of(self.likelihood)

    @property
    def objective_warm_up(self) -> int:
        """Steps until beta no longer changes."""
        return self.beta_warm_up

    @property
    def upper_dim(self) -> int:
        """Numbers in z2 where inference goes bottom-up."""
        return max(1, self.latent_dim // 2)

    @property
    def code_dim(self) -> int:
        """Numbers in a latent vector, of all layers: a point of the sphere S^M has M + 1, its coordinates in space."""
        if self.inference == "bottom-up":
            return self.latent_dim + self.upper_dim
        return self.layers * (self.latent_dim + (self.prior == "sphere"))

    def _check_space(self) -> None:
        """Raise ValueError where prior and posterior live on different spaces, with what goes with the one that is not usual."""
        where = {"prior": PRIORS[self.prior].space, "posterior": POSTERIORS[self.posterior].space}
        if where["prior"] == where["posterior"]:
            return
        told, other = ("prior", "posterior") if where["prior"] != FLAT else ("posterior", "prior")
        fitting = _names({"prior": PRIORS, "posterior": POSTERIORS}[other], space=where[told])
        raise ValueError(
            f"{told}={getattr(self, told)!r} lives on {where[told]}, {other}={getattr(self, other)!r} on {where[other]}; "
            f"give {' or '.join(f'{other}={name!r}' for name in fitting)}"
        )

    def _requirements(self) -> list[tuple[str, dict[str, tuple[str, ...]]]]:
        """(what asks for it, the names of each setting that go with it), for all that the settings ask for."""
        objective = OBJECTIVES[self.objective]
        found = [
            (f"prior={self.prior!r}", {"objective": PRIORS[self.prior].objectives or tuple(OBJECTIVES)}),
        ]
        if objective.prior:
            found.append(
                (f"objective={self.objective!r}", {"prior": _names(PRIORS, **{objective.prior: True})})
            )
        if objective.posterior:
            found.append((f"objective={self.objective!r}", {"posterior": (objective.posterior,)}))
        dense = _names(NETS, images=None)
        if self.layers == 2:
            found.append(
                (
                    "layers=2",
                    {
                        "prior": _names(PRIORS, layers=True),
                        "posterior": _names(POSTERIORS, layers=True),
                        "objective": _names(OBJECTIVES, layers=True),
                    },
                )
            )
        if self.inference == "bottom-up":
            bottom_up = {"prior": _names(PRIORS, gaussian=True, fixed=True), "net": dense}
            found.append(("inference='bottom-up'", bottom_up))
        if self.start_at_mean:
            found.append(("start_at_mean", {"likelihood": ("bernoulli",)}))
        if self.pixel_layers:
            of_pixels = {"likelihood": _names(LIKELIHOODS, shared=False), "condition": ("label",)}
            found.append((f"pixel_layers={self.pixel_layers}", of_pixels))
        if self.condition is not None:
            conditional = {
                "prior": _names(PRIORS, gaussian=True),
                "posterior": _names(POSTERIORS, conditional=True),
                "net": dense,
                "objective": _names(OBJECTIVES, conditional=True),
            }
            found.append((f"condition={self.condition!r}", conditional))
        return found

    def check(self) -> None:
        """Raise ValueError, in one line, for parts that do not go together, with those that would."""
        super().check()
        if self.layers > 2:
            raise ValueError(f"layers must be 1 or 2, got {self.layers}")
        if not self.hidden:
            raise ValueError(f"hidden needs at least one positive width, got {self.hidden}")
        for name in ("curvature", "std"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        self._check_space()
        for wish, requirements in self._requirements():
            for name, allowed in requirements.items():
                value = getattr(self, name)
                if value is not None and value not in allowed:
                    raise ValueError(
                        f"{name}={value!r} does not go with {wish}; possible: {', '.join(allowed)}"
                    )
        if self.inference == "bottom-up" and self.layers != 2:
            raise ValueError("inference='bottom-up' needs layers=2")
        if self.start_at_mean and self.condition not in (None, "label"):
            raise ValueError(f"start_at_mean is of whole images, not of condition={self.condition!r}")
        if self.start_at_mean and self.pixel_layers:
            raise ValueError("start_at_mean is of pixels that are independent given z, not of pixel_layers")
        if self.layers == 2 and self.condition is not None:
            raise ValueError("layers=2 and a condition do not go together; choose one")
        if self.kl == "analytic" and not (
            self.layers == 1 and self.posterior == "normal" and PRIORS[self.prior].gaussian
        ):
            raise ValueError(
                "kl='analytic' needs posterior='normal' and prior='standard' or 'learned'; use kl='sampled' or 'auto'"
            )
        if OBJECTIVES[self.objective].weighted and self.samples < 2:
            raise ValueError(f"objective={self.objective!r} needs samples of at least 2, such as samples=5")

    def check_data(self, spec: Spec) -> None:
        """Raise ValueError, in one line, for settings that do not fit the data."""
        check_likelihood(self.likelihood, spec)
        if self.prior in ("vamp", "vamp-data") and self.components > spec.examples:
            raise ValueError(
                f"components is at most the {spec.examples} training images, which the pseudo-inputs start from, "
                f"got {self.components}"
            )
        if self.start_at_mean and kind_of(spec) != "bits":
            raise ValueError("start_at_mean is of bits; leave it out")
        networks.check_images(self.net, spec)
        if self.pixel_layers and len(spec.event_shape) != 3:
            raise ValueError(
                f"pixel_layers needs images [H, W, C], the examples have shape {spec.event_shape}; leave it out"
            )
        condition_of(self.condition, spec)
        dataclasses.replace(self, likelihood=self.likelihood_of(spec)).check()

    def likelihood_of(self, spec: Spec) -> str:
        """The name of the likelihood for data of a spec."""
        return likelihood_of(self.likelihood, spec)

    def constants(self, data: Data, seed: int) -> Constants:
        """Pseudo-inputs: training images in a random order;  mean: the mean image, on [0, 1]."""
        if self.condition == "label":
            say_which_labels_are_missing(data)
        found = {}
        if self.prior in ("vamp", "vamp-data"):
            found["pseudo_inputs"] = pseudo_inputs(data, self.components, seed)
        if self.start_at_mean:
            grey = np.asarray(data.train, np.float32)
            found["mean"] = grey.mean(0) / max(float(grey.max()), 1.0)
        return found

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """The VAE for data of a spec."""
        self.check()
        self.check_data(spec)
        condition = condition_of(self.condition, spec)
        event, context = condition.event, condition.context

        def encoder(outputs):
            inputs = event if context is None else (event, context)
            return networks.scaled(networks.network(self, inputs, outputs), spec)

        posterior = POSTERIORS[self.posterior].build(self, encoder)
        place = Place(spec, dict(constants), posterior, context)
        if self.inference == "bottom-up":
            prior, posterior = self._bottom_up(posterior)
        elif self.layers == 2:
            prior, posterior = self._top_down(place, spec)
        else:
            prior = PRIORS[self.prior].build(self, place)
        parts = Parts(prior, posterior, self._decoder(spec, constants, event, context))
        model = vae(*parts)
        init, objective = build_objective(self, parts, model, spec.examples)
        return Model(
            model,
            init,
            objective,
            objective,
            parts,
            _encode(parts),
            _decode(parts),
            condition.split,
            condition.merge,
            condition.labels,
            condition.part,
        )

    def _decoder(self, spec, constants, event, context) -> Density:
        """p(x | z), or p(x | z, context)."""
        entry = pick(LIKELIHOODS, self.likelihood_of(spec), "likelihood")
        distribution = entry.build(self, spec)
        code = (self.latent_dim if self.inference == "bottom-up" else self.code_dim,)  # what the decoder sees
        inputs = code if context is None else (code, context)
        outputs = (*event, distribution.width - entry.shared)
        if self.pixel_layers:
            outputs = (*event[:2], PIXEL_FEATURES)
        net = networks.network(self, inputs, outputs, inwards=False)
        if self.inference == "bottom-up":
            net = networks.last(net, self.latent_dim)
        if self.pixel_layers:
            pixels = nets.GatedPixelCNN(
                PIXEL_WIDTH,
                self.pixel_layers,
                PIXEL_KERNEL,
                (event[-1], distribution.width),
                networks.top(spec),
                jnp.dtype(self.dtype),
            )
            return pixel_decoder(net, pixels, distribution, event, PIXEL_FEATURES)
        if self.start_at_mean:
            mean = np.clip(constants["mean"], 0.001, 0.999)
            net = networks.shifted(net, (np.log(mean) - np.log1p(-mean))[..., None])
        return density.conditional(
            density.with_shared_scale(net) if entry.shared else net, distribution, event
        )

    def _bottom_up(self, first: Density) -> tuple[Density, Density]:
        """Prior p(z2) p(z1 | z2) and posterior q(z1 | x) q(z2 | z1), z2 half as large as z1 with networks half as wide."""
        latent, upper = self.latent_dim, self.upper_dim
        half = dataclasses.replace(self, hidden=tuple(max(1, width // 2) for width in self.hidden))
        normal = lambda inputs, outputs, inwards: density.conditional(
            networks.network(half, (inputs,), (outputs, 2), inwards), density.normal(), (outputs,)
        )
        prior = joint.joint(density.standard_normal(upper), normal(upper, latent, False), upper)
        posterior = joint.joint(first, normal(latent, upper, True), latent, True)
        return prior, joint.reorder(posterior, latent)

    def _top_down(self, place: Place, spec: Spec) -> tuple[Density, Density]:
        """Prior p(z2) p(z1 | z2) and posterior q(z2 | x) q(z1 | x, z2), each layer of the same size."""
        latent = self.latent_dim
        below = density.conditional(
            networks.scaled(networks.network(self, ((latent,), spec.event_shape), (latent, 2)), spec, 1),
            density.normal(),
            (latent,),
        )
        first = PRIORS[self.prior].build(self, place)
        second = density.conditional(
            networks.network(self, (latent,), (latent, 2)), density.normal(), (latent,)
        )
        prior = joint.joint(first, second, latent)
        return prior, joint.joint(place.posterior, below, latent)


def _names(table: Mapping[str, object], **wanted: object) -> tuple[str, ...]:
    """The names of the entries whose attributes have the wanted values."""
    return tuple(
        name for name, entry in table.items() if all(getattr(entry, k) == v for k, v in wanted.items())
    )


def _encode(parts: Parts) -> Callable | None:
    """(params, x or (x, context), key=None) -> the mean of q(z|x), or a draw with a key."""

    def encode(params, x, key=None):
        own = parts.tied(params)["posterior"]
        if key is not None:
            return parts.posterior.sample(own, key, x)[0]
        if parts.posterior.mean is None:
            raise ValueError("this posterior has no mean in closed form; give a key for a draw")
        return parts.posterior.mean(own, x)

    return encode


def _decode(parts: Parts) -> Callable:
    """(params, z or (z, context)) -> the mean of p(x|z)."""

    def decode(params, z):
        if parts.decoder.mean is None:
            raise ValueError(
                "this decoder has no mean in closed form; draw with model.parts.decoder.sample(params['decoder'], key, z)"
            )
        return parts.decoder.mean(parts.tied(params)["decoder"], z)

    return decode
