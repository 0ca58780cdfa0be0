"""Defaults that a caller relies on: the constants of the papers, and weights of one, which leave a formula as it is printed."""

import importlib
import inspect
import math
import pkgutil

from dlvm_jax import evaluate, exact, functional, models
from dlvm_jax.evaluate import disentanglement, likelihood, posteriors
from dlvm_jax.exact import cosmology
from dlvm_jax.functional import annealing, bounds, calibration, densities, linear_gaussian, restoration, sbi
from dlvm_jax.functional.diffusion import (
    guidance,
    inverse,
    objectives,
    ode,
    schedules,
    sde,
    solvers,
    times,
    variational,
)
from dlvm_jax.functional.flows import image
from dlvm_jax.models import (
    autoencoder,
    density,
    diffusion,
    image_flows,
    implicit,
    latent_diffusion,
    layered,
    noise_schedules,
    regularised,
    scalars,
    vamp,
    vq_vae,
)
from dlvm_jax.models import objectives as training
from dlvm_jax.models import restoration as models_restoration

DEFAULTS = [
    (objectives.weight, {"cap": 5.0, "data_std": 0.5}),  # Hang et al. 2023; Karras et al. 2022
    (solvers.karras_times, {"rho": 7.0}),
    (times.log_normal_times, {"mean": -1.2, "std": 1.2}),
    (sde.predictor_corrector, {"snr": 0.16}),  # Song et al. 2021, of a preserved variance
    (variational.hybrid_loss, {"scale": 1e-3}),  # Nichol & Dhariwal 2021
    (schedules.linear_betas, {"first": 1e-4, "last": 0.02}),  # Ho et al. 2020
    (schedules.cosine_betas, {"offset": 0.008, "cap": 0.999}),
    (schedules.linear_log_snr, {"low": -5.0, "high": 13.3}),  # Kingma et al. 2021
    (noise_schedules.learned, {"low": -5.0, "high": 13.3}),
    (image.logit, {"alpha": 0.05}),
    (image.logit_inverse, {"alpha": 0.05}),
    (disentanglement.factor_vae_score, {"prune": 0.05}),
    (ode.integrate, {"rtol": 1e-5, "atol": 1e-5}),  # as SciPy's RK45 is called by Song et al. 2021
    (ode.adaptive, {"rtol": 1e-5, "atol": 1e-5}),
    (ode.edm_heun, {"inflation": 1.0}),
    (sde.euler_maruyama, {"churn": 1.0}),
    (guidance.classifier, {"scale": 1.0}),
    (inverse.dps, {"scale": 1.0}),
    (inverse.pigdm, {"data_std": 1.0}),
    (diffusion.denoiser, {"data_std": 1.0}),
    (variational.continuous_bound, {"t_weight": 1.0}),
    (bounds.elbo, {"beta": 1.0}),
    (bounds.elbo_sampled, {"beta": 1.0}),
    (linear_gaussian.beta_vae_optimum, {"beta": 1.0}),
    (training.negative_elbo, {"beta": 1.0}),
    (training.reverse_kl, {"beta": 1.0}),
    (regularised.free_bits, {"beta": 1.0}),
    (layered.layered_elbo, {"beta": 1.0}),
    (autoencoder.reconstruction, {"weight": 1.0}),
    (densities.bits_per_dim, {"bin_width": 1.0}),
    (density.fixed_normal, {"std": 1.0}),
    (vamp.vamp, {"scale": 1.0}),
    (annealing.adapt_step_size, {"step_size": 0.5}),
    (calibration.distances, {"scale": 1.0}),
    (cosmology.growth, {"redshift": 1.0}),
    (schedules.edm, {"sigma_min": 0.002, "sigma_max": 80.0}),  # Karras et al. 2022
    (schedules.variance_preserving, {"beta_min": 0.1, "beta_max": 20.0}),  # Song et al. 2021
    (schedules.sub_variance_preserving, {"beta_min": 0.1, "beta_max": 20.0}),
    (schedules.variance_exploding, {"sigma_min": 0.01, "sigma_max": 50.0}),
    (restoration.pnp, {"tolerance": 1e-4}),
    (sbi.ratio_loss, {"gamma": 1.0}),
    (sbi.truncation, {"left_out": 1e-4}),
    (diffusion.Denoiser, {"data_std": 1.0}),
    (image_flows.from_logits, {"alpha": 0.01}),
    (implicit.adversarial_autoencoder, {"weight": 1.0}),
    (latent_diffusion.mixed, {"weight": 0.5}),
    (models_restoration.autoencoder, {"temperature": 1.0}),
    (scalars.interval_spline, {"low": -1.0, "high": 1.0}),
    (scalars.rational_quadratic, {"bound": 5.0}),
    (vq_vae.averaged_book, {"commitment": 0.25, "decay": 0.99, "restart": 0.1}),  # van den Oord et al. 2017
    (vq_vae.trained_book, {"commitment": 0.25}),
    (likelihood.evaluate, {"bin_width": 1.0}),
    (posteriors.ecdf_band, {"level": 0.95}),
]


def test_defaults_are_the_published_ones():
    """The table has every default of a public function that is a real number, but 0 and infinity."""
    found = {}
    for package in (functional, models, exact, evaluate):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(info.name)
            for name in getattr(module, "__all__", ()):
                function = getattr(module, name)
                if callable(function) and getattr(function, "__module__", "") == info.name:
                    parameters = inspect.signature(function).parameters.values()
                    reals = {p.name: p.default for p in parameters if isinstance(p.default, float)}
                    found[function] = {n: v for n, v in reals.items() if v not in (0.0, math.inf)}
    assert {function: reals for function, reals in found.items() if reals} == dict(DEFAULTS)
