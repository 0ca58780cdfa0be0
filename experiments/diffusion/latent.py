"""A diffusion model as the prior of a trained VAE, as a recipe."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax import recipes, train
from dlvm_jax.data import Data, Spec
from dlvm_jax.models import diffusion, latent_diffusion, objectives
from dlvm_jax.models.density import Density
from dlvm_jax.models.vae import vae as vae_of
from dlvm_jax.recipes import Model, Recipe
from dlvm_jax.recipes.base import Constants
from dlvm_jax.recipes.vae_parts import ODE_STEPS, PRIORS, latent_denoiser, latent_sampler
from dlvm_jax.settings import setting

__all__ = ["LatentDiffusion", "Parts", "latent_moments"]


class Parts(NamedTuple):
    """What the report compares.

    recipe, vae, held: the trained VAE, its model and parameters;  prior: the diffusion of its latent vectors
    bound, exact: the VAE with the diffusion as its prior, by the diffusion's bound and by its ODE
    """

    recipe: recipes.VAE
    vae: Model
    held: Any
    prior: Density
    bound: Density
    exact: Density


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentDiffusion(Recipe):
    """A diffusion prior of a VAE whose encoder and decoder stay as they are (Vahdat, Kreis, Kautz 2021; Rombach et al. 2022).

    The VAE goes into the constants, so that a run is read back without its folder.
    """

    vae: Path | None = setting(None, "folder of a finished run of experiments.vae")
    width: int = setting(128, "width of the two layers of the denoiser", at_least=1)

    training: ClassVar[Mapping[str, Any]] = {
        "steps": 5000,
        "batch_size": 200,
        "schedule": "cosine",
        "clip": 1.0,
        "ema": 0.999,
        "evaluations": 20,
    }

    def constants(self, data: Data, seed: int) -> Constants:
        """The VAE, and the mean and standard deviation of its latent vectors over the training set."""
        fitted = train.load(self.vae)
        check_vae(fitted.recipe)
        mean, std = latent_moments(fitted.model, fitted.params, data, jax.random.key(seed))
        leaves = {f"parameter {i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(fitted.params))}
        own = {f"constant {name}": value for name, value in fitted.constants.items()}
        recipe = np.array(json.dumps(fitted.recipe.as_json()))
        return {"recipe": recipe, "mean": mean, "std": std} | leaves | own

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """The VAE with the diffusion as its prior, whose parameters alone are trained."""
        self.check()
        recipe = recipes.from_json(json.loads(str(constants["recipe"])))
        vae, params = _vae(recipe, spec, constants)
        posterior, decoder, held = vae.parts.posterior, vae.parts.decoder, vae.parts.tied(params)
        denoiser = latent_denoiser(recipe.latent_dim, self.width)
        moments = jnp.asarray(constants["mean"]), jnp.asarray(constants["std"])
        scaled = lambda density: latent_diffusion.standardised(density, *moments)
        bound = scaled(diffusion.bound_density(denoiser, latent_sampler))
        exact = scaled(diffusion.ode_density(denoiser, latent_sampler, ODE_STEPS))
        objective = latent_diffusion.encoded(
            objectives.negative_log_likelihood(bound), posterior, held["posterior"]
        )
        with_prior = lambda prior: _of_prior(vae_of(prior, posterior, decoder), held, prior)
        return Model(
            with_prior(exact),
            bound.init,
            objective,
            objective,
            Parts(recipe, vae, params, bound, with_prior(bound), with_prior(exact)),
            lambda _, x, key=None: vae.encode(params, x, key),
            lambda _, z: vae.decode(params, z),
        )


def check_vae(recipe: Recipe) -> None:
    """Raise ValueError for a VAE whose latent space a diffusion cannot take over."""
    if not isinstance(recipe, recipes.VAE):
        raise ValueError(f"a diffusion prior is of a VAE, got a run of {type(recipe).__name__}")
    if recipe.layers > 1 or recipe.condition or PRIORS[recipe.prior].space != PRIORS["standard"].space:
        raise ValueError(
            "a diffusion prior takes over one layer on R^M without a condition, got a VAE with "
            f"layers={recipe.layers}, prior={recipe.prior!r} and condition={recipe.condition!r}"
        )


def latent_moments(model: Model, params: Any, data: Data, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each coordinate of z ~ q(z | x) over the training set."""

    @jax.jit
    def encode(key, raw):
        key_data, key_z = jax.random.split(key)
        return model.encode(params, data.preprocess(key_data, raw), key_z)

    blocks = range(0, len(data.train), 1000)
    z = np.concatenate(
        [encode(jax.random.fold_in(key, i), jnp.asarray(data.train[i : i + 1000])) for i in blocks]
    )
    return z.mean(0), z.std(0)


def _vae(recipe, spec, constants):
    """The VAE in the constants, and its parameters."""
    own = {
        name.removeprefix("constant "): value
        for name, value in constants.items()
        if name.startswith("constant ")
    }
    model = recipe.build(spec, own)
    expected = jax.eval_shape(model.init, jax.random.key(0))
    leaves = [constants[f"parameter {i}"] for i in range(len(jax.tree.leaves(expected)))]
    if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in jax.tree.leaves(expected)]:
        raise ValueError(
            f"the VAE is of other data than {spec.name}, {spec.protocol}, with examples of shape {spec.event_shape}"
        )
    return model, jax.tree.unflatten(jax.tree.structure(expected), map(jnp.asarray, leaves))


def _of_prior(joint, held, prior):
    """A VAE as a density whose only parameters are its prior's; the others are held."""
    whole = lambda params: {**held, "prior": params}
    return joint._replace(
        init=prior.init,
        sample=lambda params, *rest, **options: joint.sample(whole(params), *rest, **options),
        log_prob=lambda params, *rest: joint.log_prob(whole(params), *rest),
        terms=lambda params, *rest: joint.terms(whole(params), *rest),
    )
