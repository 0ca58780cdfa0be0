"""Defaults that a caller relies on: the constants of the papers, and weights of one, which leave a formula as it is printed."""

import inspect

from dlvm_jax.evaluate import disentanglement
from dlvm_jax.functional import bounds, densities, linear_gaussian
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
from dlvm_jax.models import autoencoder, density, diffusion, layered, noise_schedules, regularised, vamp
from dlvm_jax.models import objectives as training

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
]


def test_defaults_are_the_published_ones():
    for function, expected in DEFAULTS:
        parameters = inspect.signature(function).parameters
        assert {name: parameters[name].default for name in expected} == expected, function.__name__
