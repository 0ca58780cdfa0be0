"""The training objectives of a VAE by name."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from dlvm_jax.models import diffusion, implicit, objectives, regularised
from dlvm_jax.models.vae import Parts, dreg, vae
from dlvm_jax.recipes import networks
from dlvm_jax.recipes.vae_parts import latent_denoiser, latent_sampler

if TYPE_CHECKING:
    from dlvm_jax.models.density import Density
    from dlvm_jax.recipes.vae import VAE

__all__ = ["OBJECTIVES", "build_objective"]

MMD_WEIGHT, ADVERSARIAL_WEIGHT = 100.0, 1.0  # where no regulariser is given


class Objective(NamedTuple):
    """What training descends, by name.

    build:    (recipe, parts, density, examples) -> (init, objective) of the parameters of the VAE and of its helpers
    weighted: whether it takes several samples of each example
    uses:     settings that belong to it;  needs: those that must be given
    prior:    "gaussian" or "fixed" (without parameters), where it needs such a prior
    posterior: the only posterior it goes with, None for all
    layers, conditional: whether it goes with two layers, and with a context
    """

    build: Callable
    help: str
    uses: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    prior: str | None = None
    posterior: str | None = None
    weighted: bool = False
    layers: bool = False
    conditional: bool = False


def _elbo(recipe, parts, model, examples):
    closed_form = parts.prior.normal is not None and parts.posterior.normal is not None
    kl = recipe.kl if recipe.kl != "auto" else "analytic" if closed_form else "sampled"
    trained = vae(*parts, kl=kl)
    return model.init, _warmed_up(recipe, lambda beta: objectives.negative_elbo(trained, beta))


def _free_bits(recipe, parts, model, examples):
    return model.init, _warmed_up(
        recipe, lambda beta: regularised.free_bits(*parts, nats=recipe.free_nats, beta=beta)
    )


def _warmed_up(recipe, objective_of):
    """The objective at the recipe's beta, which grows to it where there is a warm-up."""
    if recipe.beta_warm_up:
        return objectives.warm_up(objective_of, recipe.beta, recipe.beta_warm_up)
    return objective_of(recipe.beta)


def _total_correlation(recipe, parts, model, examples):
    return model.init, regularised.total_correlation(*parts, beta=recipe.beta, examples=examples)


def _weighted(alpha_of):
    def build(recipe, parts, model, examples):
        return model.init, objectives.importance_weighted(model, recipe.samples, alpha_of(recipe))

    return build


def _dreg(recipe, parts, model, examples):
    return model.init, dreg(*parts, samples=recipe.samples)


def _info(kl_weight_of):
    def build(recipe, parts, model, examples):
        weight = MMD_WEIGHT if recipe.regulariser is None else recipe.regulariser
        return model.init, regularised.info(*parts, kl_weight=kl_weight_of(recipe), mmd_weight=weight)

    return build


def _adversarial(recipe, parts, model, examples):
    weight = ADVERSARIAL_WEIGHT if recipe.regulariser is None else recipe.regulariser
    return implicit.adversarial_autoencoder(networks.critic(recipe.code_dim), *parts, weight=weight)


OBJECTIVES = {
    "elbo": Objective(
        _elbo, "(beta-)ELBO", uses=("kl", "beta", "beta_warm_up"), layers=True, conditional=True
    ),
    "iwae": Objective(
        _weighted(lambda recipe: 0.0),
        "importance-weighted bound",
        uses=("samples",),
        weighted=True,
        layers=True,
        conditional=True,
    ),
    "dreg": Objective(
        _dreg,
        "the same with doubly reparameterised gradients",
        uses=("samples",),
        weighted=True,
        layers=True,
        conditional=True,
    ),
    "renyi": Objective(
        _weighted(lambda recipe: recipe.alpha),
        "Renyi bound",
        uses=("samples", "alpha"),
        needs=("alpha",),
        weighted=True,
        layers=True,
        conditional=True,
    ),
    "free-bits": Objective(
        _free_bits,
        "ELBO with free bits",
        uses=("beta", "beta_warm_up", "free_nats"),
        needs=("free_nats",),
        prior="gaussian",
        posterior="normal",
        conditional=True,
    ),
    "total-correlation": Objective(
        _total_correlation, "beta-TCVAE", uses=("beta",), prior="gaussian", posterior="normal"
    ),
    "wae": Objective(_info(lambda recipe: 0.0), "WAE with MMD", uses=("regulariser",), prior="fixed"),
    "info": Objective(
        _info(lambda recipe: recipe.beta), "InfoVAE, beta weighs the KL", uses=("beta", "regulariser")
    ),
    "adversarial": Objective(_adversarial, "adversarial autoencoder", uses=("regulariser",), prior="fixed"),
}


def build_objective(
    recipe: "VAE", parts: Parts, model: "Density", examples: int
) -> tuple[Callable, Callable]:
    """(init, objective) of a recipe.  Some priors are trained in a way of their own."""
    if recipe.prior == "implicit":
        return model.init, implicit.implicit_prior_objective(networks.critic(recipe.latent_dim), *parts)
    if recipe.prior == "diffusion":  # evaluated by its exact density, trained by its bound
        bound = diffusion.bound_density(latent_denoiser(recipe.latent_dim), latent_sampler)
        parts = parts._replace(prior=bound)
    return OBJECTIVES[recipe.objective].build(recipe, parts, model, examples)
