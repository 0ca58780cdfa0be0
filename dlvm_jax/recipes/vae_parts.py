"""The parts of a VAE by name: priors, posteriors and likelihoods.

An entry says how a part is built, what a help text says of it, and what it goes together with.  From these tables derive the
choices of the command line, the checks and their messages: a new prior is one entry.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import numpy as np

from dlvm_jax.data import Data, Spec
from dlvm_jax.functional.diffusion import dpm, schedules, solvers
from dlvm_jax.models import (
    curved,
    density,
    diffusion,
    flow_densities,
    flows,
    gaussian,
    implicit,
    latent_diffusion,
    logistic_mixtures,
    scalars,
)
from dlvm_jax.models.autoregressive import autoregressive
from dlvm_jax.models.density import Density, OutputDistribution
from dlvm_jax.models.vamp import vamp
from dlvm_jax.nets.denoisers import DenoisingMLP
from dlvm_jax.recipes import networks

if TYPE_CHECKING:
    from dlvm_jax.recipes.vae import VAE

__all__ = ["LIKELIHOODS", "POSTERIORS", "PRIORS", "latent_denoiser", "latent_sampler", "pseudo_inputs"]

FLAT, SPHERE, HYPERBOLIC = "R^M", "the sphere", "hyperbolic space"
ODE_STEPS = 20  # on MNIST 80 change one log-density by 0.003 nats, the mean of 500 by 0.0003


class Place(NamedTuple):
    """Where a prior stands: data and their constants, the posterior it belongs to, the shape of the context (or None)."""

    spec: Spec
    constants: dict[str, np.ndarray]
    posterior: Density
    context: tuple[int, ...] | None


def pseudo_inputs(data: Data, components: int, seed: int) -> np.ndarray:
    """Training images in a random order, as the model sees them: where the pseudo-inputs of a VampPrior start."""
    order = np.random.default_rng(seed).permutation(len(data.train))[:components]
    return np.asarray(data.train[order], np.float32) / _scale(data)


def _scale(data: Data) -> float:
    """What raw training images are divided by to be what the model sees of them."""
    if data.discrete and data.levels == 2:  # grey of a binarised set: probabilities
        return max(float(np.max(data.train)), 1.0)
    return 1.0 if data.discrete or not data.levels else float(data.levels)


class Prior(NamedTuple):
    """p(z) by name.

    build:      (recipe, place) -> Density
    space:      where z lives; the posterior's must be the same
    uses:       settings that belong to it
    gaussian, fixed: whether it is a diagonal Gaussian; whether it has no parameters
    objectives: the only ones that train it, None for all
    layers:     whether it can be the top of two layers
    """

    build: Callable[[Any, Place], Density]  # any recipe with these settings
    help: str
    space: str = FLAT
    uses: tuple[str, ...] = ()
    gaussian: bool = False
    fixed: bool = False
    objectives: tuple[str, ...] | None = None
    layers: bool = False


class Posterior(NamedTuple):
    """q(z|x) by name: `build(recipe, encoder) -> Density`, where `encoder(outputs)` makes a network with such outputs.

    space, uses: as of a prior;  conditional, layers: whether it takes a context; whether it can be that of two layers
    """

    build: Callable[["VAE", Callable], Density]
    help: str
    space: str = FLAT
    uses: tuple[str, ...] = ()
    conditional: bool = False
    layers: bool = False


class Likelihood(NamedTuple):
    """p(x|z) by name: `build(recipe, spec) -> OutputDistribution`.

    data: what it is of: "bits", "levels" (bits too) or "reals";  shared: whether one learned scale serves all elements
    uses: settings that belong to it
    """

    build: Callable[[Any, Spec], OutputDistribution]  # any recipe with these settings
    help: str
    data: str
    shared: bool = False
    uses: tuple[str, ...] = ()


def _learned(recipe, place):
    if place.context is None:
        return gaussian.learned_normal(recipe.latent_dim)
    net = networks.network(recipe, place.context, (recipe.latent_dim, 2))
    return density.conditional(net, density.normal(), (recipe.latent_dim,))


def _vamp(train):
    def build(recipe, place):
        return vamp(place.posterior, place.constants["pseudo_inputs"], networks.top(place.spec), train=train)

    return build


def _flow(recipe, place, layers=6):
    """RealNVP: affine couplings of the two halves, and a linear map after each."""
    latent = recipe.latent_dim
    if latent < 2:
        raise ValueError(f"prior='flow' couples latent units and needs two, got latent_dim={latent}")
    layer = flows.mlp_coupling(latent, scalars.affine(), (128, 128), activation=nn.gelu)
    return flows.transformed(
        density.standard_normal(latent), flows.stack(layer, latent, layers, unroll=layers)
    )


def latent_sampler(noise: Any, denoise: Callable) -> tuple[solvers.Solver, Any]:
    """DPM-Solver++ of second order in 50 steps: how a diffusion prior is sampled."""
    return dpm.dpm_multistep(noise, denoise), solvers.log_snr_times(noise, 50)


def latent_denoiser(latent: int, width: int = 128) -> diffusion.Denoiser:
    """The mixed-score denoiser of latent vectors, log-SNR from -10 to 10."""
    net = diffusion.denoising_net(DenoisingMLP((width, width)), (latent,))
    noise = diffusion.fixed(schedules.linear_log_snr(-10.0, 10.0))
    return latent_diffusion.mixed(diffusion.denoiser(net, noise, (latent,)))


PRIORS = {
    "standard": Prior(
        lambda recipe, place: density.standard_normal(recipe.latent_dim),
        "N(0, I)",
        gaussian=True,
        fixed=True,
        layers=True,
    ),
    "learned": Prior(_learned, "a learned Gaussian, of the context where there is one", gaussian=True),
    "mixture": Prior(
        lambda recipe, place: gaussian.mixture(recipe.latent_dim, recipe.components),
        "of Gaussians",
        uses=("components",),
    ),
    "vamp": Prior(_vamp(True), "VampPrior with trained pseudo-inputs", uses=("components",), layers=True),
    "vamp-data": Prior(_vamp(False), "VampPrior of training images", uses=("components",), layers=True),
    "autoregressive": Prior(
        lambda recipe, place: autoregressive(
            networks.made(recipe, recipe.latent_dim), density.normal(), (recipe.latent_dim,)
        ),
        "one unit after another",
    ),
    "flow": Prior(_flow, "RealNVP"),
    "implicit": Prior(
        lambda recipe, place: implicit.implicit_prior(networks.critic(recipe.latent_dim), recipe.latent_dim),
        "the aggregated posterior by density ratio",
        objectives=("elbo",),
    ),
    "diffusion": Prior(
        lambda recipe, place: diffusion.ode_density(
            latent_denoiser(recipe.latent_dim), latent_sampler, ODE_STEPS
        ),
        "trained by its bound, evaluated by its ODE: costly",
        objectives=("elbo",),
    ),
    "sphere": Prior(
        lambda recipe, place: curved.uniform_sphere(recipe.latent_dim + 1),
        "uniform on the sphere",
        SPHERE,
        fixed=True,
    ),
    "hyperbolic": Prior(
        lambda recipe, place: curved.standard_wrapped_normal(recipe.latent_dim, recipe.curvature),
        "wrapped normal on hyperbolic space",
        HYPERBOLIC,
        uses=("curvature",),
        fixed=True,
    ),
}


def _iaf(recipe, encoder):
    latent, features = recipe.latent_dim, 32
    net = encoder((2 * latent + features,))
    return flow_densities.iaf_posterior(
        net, networks.made(recipe, latent, features), latent, recipe.flow_steps
    )


def _flow_posterior(name):
    def build(recipe, encoder):
        latent = recipe.latent_dim
        flow = flow_densities.FLOWS[name](latent, recipe.flow_steps)
        outputs = flow_densities.outputs_needed(flow, latent)
        return flow_densities.flow_posterior(encoder((outputs,)), flow, latent)

    return Posterior(build, f"{name} flow", uses=("flow_steps",))


POSTERIORS = {
    "normal": Posterior(
        lambda recipe, encoder: density.conditional(
            encoder((recipe.latent_dim, 2)), density.normal(), (recipe.latent_dim,)
        ),
        "diagonal Gaussian",
        conditional=True,
        layers=True,
    ),
    "full-normal": Posterior(
        lambda recipe, encoder: gaussian.full_normal(
            encoder((gaussian.triangle_size(recipe.latent_dim),)), recipe.latent_dim
        ),
        "Gaussian of full covariance",
        conditional=True,
    ),
    **{name: _flow_posterior(name) for name in flow_densities.FLOWS},
    "iaf": Posterior(_iaf, "inverse autoregressive flow", uses=("flow_steps",)),
    "von-mises-fisher": Posterior(
        lambda recipe, encoder: curved.von_mises_fisher(
            encoder((recipe.latent_dim + 2,)), recipe.latent_dim + 1
        ),
        "on the sphere",
        SPHERE,
    ),
    "wrapped-normal": Posterior(
        lambda recipe, encoder: curved.wrapped_normal(
            encoder((recipe.latent_dim, 2)), recipe.latent_dim, recipe.curvature
        ),
        "on hyperbolic space",
        HYPERBOLIC,
    ),
}

LIKELIHOODS = {
    "bernoulli": Likelihood(lambda recipe, spec: density.bernoulli(), "of bits", "bits"),
    "normal": Likelihood(
        lambda recipe, spec: density.normal(), "a mean and a scale for each element", "reals"
    ),
    "shared-normal": Likelihood(
        lambda recipe, spec: density.normal(), "one learned scale for all", "reals", True
    ),
    "fixed-normal": Likelihood(
        lambda recipe, spec: density.fixed_normal(recipe.std), "of a given scale", "reals", uses=("std",)
    ),
    "discretised-logistic": Likelihood(
        lambda recipe, spec: density.discretised_logistic(spec.levels), "of integer levels", "levels"
    ),
    "discretised-normal": Likelihood(
        lambda recipe, spec: density.discretised_normal(spec.levels), "of integer levels", "levels"
    ),
    "logistic-mixture": Likelihood(
        lambda recipe, spec: logistic_mixtures.logistic_mixture(spec.levels, 5),
        "of five discretised logistics",
        "levels",
    ),
    "pixel-mixture": Likelihood(
        lambda recipe, spec: logistic_mixtures.pixel_mixture(spec.levels, 5, spec.event_shape[-1]),
        "of five logistics for a whole pixel, each channel given those before it",
        "levels",
    ),
    "categorical": Likelihood(
        lambda recipe, spec: density.categorical(spec.levels), "a probability for each level", "levels"
    ),
}
