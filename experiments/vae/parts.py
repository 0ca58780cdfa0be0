"""The parts of a VAE by name: priors, posteriors, likelihoods, networks, objectives, and which of them go together."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import numpy as np

from dlvm_jax import nets
from dlvm_jax.functional.diffusion import dpm, schedules, solvers
from dlvm_jax.models import (
    curved,
    density,
    diffusion,
    flow_densities,
    flows,
    gaussian,
    hierarchical,
    implicit,
    latent_diffusion,
    objectives,
    regularised,
    scalars,
)
from dlvm_jax.models.vae import Parts, dreg, vae
from dlvm_jax.models.vamp import share_posterior_params, vamp
from dlvm_jax.nets.denoisers import DenoisingMLP
from experiments.vae import nets as vae_nets

__all__ = [
    *(
        "CONTINUOUS",
        "LIKELIHOODS",
        "Model",
        "build",
        "check",
        "code_dim",
        "latent_denoiser",
        "latent_sampler",
    ),
]

LIKELIHOODS = {
    "bernoulli": lambda levels: density.bernoulli(),
    "normal": lambda levels: density.normal(),
    "shared-normal": lambda levels: density.normal(),
    "unit-normal": lambda levels: density.fixed_normal(1.0),
    "discretised-logistic": density.discretised_logistic,
    "discretised-normal": density.discretised_normal,
    "logistic-mixture": lambda levels: density.logistic_mixture(levels, 5),
    "categorical": density.categorical,
}
CONTINUOUS = ("normal", "shared-normal", "unit-normal")

EUCLIDEAN = (
    *(
        "standard",
        "learned",
        "mixture",
        "vamp",
        "vamp-data",
        "autoregressive",
        "flow",
        "implicit",
        "diffusion",
    ),
)
PRIORS = (*EUCLIDEAN, "sphere", "hyperbolic")
PRIORS_OF = {"von-mises-fisher": ("sphere",), "wrapped-normal": ("hyperbolic",)}  # all others: EUCLIDEAN
WEIGHTED = ("iwae", "dreg", "renyi")
OBJECTIVES_OF_PRIOR = {  # one is trained by a discriminator, the other by a bound
    "implicit": ("elbo",),
    "diffusion": ("elbo",),
}
COMPONENTS = ("mixture", "vamp", "vamp-data")  # priors made of --components
FLOWS = (*flow_densities.FLOWS, "iaf")  # posteriors of --flow-steps
ODE_STEPS = 20  # on MNIST 80 change one log-density by 0.003 nats, the mean of 500 by 0.0003
FIXED = ("standard", "sphere", "hyperbolic")  # priors without parameters
PRIORS_OF_OBJECTIVE = {  # the first two need Gaussians, the others give a prior nothing to learn from
    "free-bits": ("standard", "learned"),
    "total-correlation": ("standard", "learned"),
    "wae": FIXED,
    "adversarial": FIXED,
}
POSTERIORS_OF_OBJECTIVE = {"free-bits": ("normal",), "total-correlation": ("normal",)}
BOTTOM_UP = {"prior": ("standard",), "net": ("mlp", "gated", "residual", "dense", "tanh")}
LAYERED = {
    "prior": ("standard", "vamp", "vamp-data"),
    "posterior": ("normal",),
    "objective": ("elbo", *WEIGHTED),
}
CONDITIONAL = {
    "prior": ("standard", "learned"),
    "posterior": ("normal", "full-normal"),
    "net": ("mlp", "gated", "residual", "dense", "tanh"),
    "objective": ("elbo", *WEIGHTED, "free-bits"),
}


def _possible(config):
    """(what asks for it, the names of each option that it allows), for all that a configuration asks for."""
    given = [
        (f"posterior {config.posterior}", {"prior": PRIORS_OF.get(config.posterior, EUCLIDEAN)}),
        (f"prior {config.prior}", {"objective": OBJECTIVES_OF_PRIOR.get(config.prior)}),
        (
            f"objective {config.objective}",
            {
                "posterior": POSTERIORS_OF_OBJECTIVE.get(config.objective),
                "prior": PRIORS_OF_OBJECTIVE.get(config.objective),
            },
        ),
    ]
    if config.layers == 2:
        given.append(("layers 2", LAYERED))
    if config.inference == "bottom-up":
        given.append(("inference bottom-up", BOTTOM_UP))
    if config.start_at_mean:
        given.append(("start-at-mean", {"likelihood": ("bernoulli",)}))
    if config.condition is not None:
        given.append((f"condition {config.condition}", CONDITIONAL))
    return given


def check(config):
    """Raise ValueError for parts that do not go together, with those that would."""
    for wish, rules in _possible(config):
        for option, names in rules.items():
            value = getattr(config, option)
            if names is not None and value not in names:
                raise ValueError(
                    f"--{option} {value} does not go with --{wish}; possible: {', '.join(names)}"
                )
    if config.inference == "bottom-up" and config.layers != 2:
        raise ValueError("--inference bottom-up needs --layers 2")
    if config.start_at_mean and config.condition not in (None, "label"):
        raise ValueError(f"--start-at-mean is of whole images, not of --condition {config.condition}")
    if config.layers == 2 and config.condition is not None:
        raise ValueError("--layers 2 and --condition do not go together; choose one")
    gaussian_pair = config.posterior == "normal" and config.prior in ("standard", "learned")
    if config.kl == "analytic" and (config.layers == 2 or not gaussian_pair):
        raise ValueError(
            "--kl analytic needs --posterior normal and --prior standard or learned; use --kl sampled or auto"
        )
    if config.prior == "flow" and config.latent_dim < 2:
        raise ValueError(
            f"--prior flow couples latent units and needs two, got --latent-dim {config.latent_dim}"
        )
    if config.objective in WEIGHTED and config.samples < 2:
        raise ValueError(f"--objective {config.objective} needs --samples of at least 2, such as 5")
    for option, objective in (("alpha", "renyi"), ("free_nats", "free-bits")):
        if config.objective == objective and getattr(config, option) is None:
            raise ValueError(f"--objective {objective} needs --{option.replace('_', '-')}, such as 0.5")
    uses = {
        "kl": (config.kl != "auto", "objective", ("elbo",)),
        "samples": (config.samples != 1, "objective", WEIGHTED),
        "alpha": (config.alpha is not None, "objective", ("renyi",)),
        "beta": (config.beta != 1, "objective", ("elbo", "free-bits", "total-correlation", "info")),
        "beta-warm-up": (config.beta_warm_up != 0, "objective", ("elbo", "free-bits")),
        "free-nats": (config.free_nats is not None, "objective", ("free-bits",)),
        "regulariser": (config.regulariser is not None, "objective", ("wae", "info", "adversarial")),
        "components": (config.components != 100, "prior", COMPONENTS),
        "flow-steps": (config.flow_steps != 4, "posterior", FLOWS),
        "curvature": (config.curvature != 1, "prior", ("hyperbolic",)),
    }
    for option, (given, of, wanted) in uses.items():
        if given and getattr(config, of) not in wanted:
            raise ValueError(f"--{option} belongs to --{of} {' or '.join(wanted)}, not {getattr(config, of)}")


class Model(NamedTuple):
    """A VAE ready for training.

    parts: its three densities;  density: the VAE, for evaluation;  init: (key) -> params
    objective: what is trained;  validation: what is watched, the same without warm-up
    """

    parts: Parts
    density: density.Density
    init: Callable
    objective: Callable
    validation: Callable


def _posterior(config, encoder):
    """q(z | x) by name; `encoder(outputs)` makes a network of x (and the context) with outputs of that shape."""
    latent, name = config.latent_dim, config.posterior
    if name == "normal":
        return density.conditional(encoder((latent, 2)), density.normal(), (latent,))
    if name == "full-normal":
        return gaussian.full_normal(encoder((gaussian.triangle_size(latent),)), latent)
    if name == "von-mises-fisher":
        return curved.von_mises_fisher(encoder((latent + 2,)), latent + 1)
    if name == "wrapped-normal":
        return curved.wrapped_normal(encoder((latent, 2)), latent, config.curvature)
    if name == "iaf":
        net, features = encoder((2 * latent + 32,)), 32
        return flow_densities.iaf_posterior(
            net, vae_nets.made(config, latent, features), latent, config.flow_steps
        )
    flow = flow_densities.FLOWS[name](latent)
    needed = flow_densities.outputs_needed(flow, config.flow_steps)
    return flow_densities.flow_posterior(encoder((needed,)), flow, config.flow_steps)


def _pseudo_inputs(config, dataset):
    """Training images, one for each component, in a fixed random order."""
    order = np.random.default_rng(config.seeds[0]).permutation(len(dataset.train))[: config.components]
    images = np.asarray(dataset.train[order], np.float32)
    if dataset.discrete and dataset.levels == 2:  # grey of a binarised set: probabilities
        return images / max(float(dataset.train.max()), 1.0)
    return images if dataset.discrete else images / dataset.levels


def _prior(config, dataset, posterior, context):
    """p(z) by name, and what it borrows; `context` is the context's shape, or None."""
    latent, name = config.latent_dim, config.prior
    if name == "learned" and context is not None:
        net = vae_nets.make(config, context, (latent, 2))
        return density.conditional(net, density.normal(), (latent,)), None
    if name in ("vamp", "vamp-data"):
        pseudo = _pseudo_inputs(config, dataset)
        return vamp(posterior, pseudo, vae_nets.top(dataset), train=name == "vamp"), share_posterior_params
    made = {
        "standard": lambda: density.standard_normal(latent),
        "learned": lambda: gaussian.learned_normal(latent),
        "mixture": lambda: gaussian.mixture(latent, config.components),
        "autoregressive": lambda: flow_densities.autoregressive(vae_nets.made(config, latent), latent),
        "flow": lambda: _flow_prior(latent),
        "implicit": lambda: implicit.implicit_prior(vae_nets.critic(latent), latent),
        "diffusion": lambda: diffusion.ode_density(latent_denoiser(latent), latent_sampler, ODE_STEPS),
        "sphere": lambda: curved.uniform_sphere(latent + 1),
        "hyperbolic": lambda: curved.standard_wrapped_normal(latent, config.curvature),
    }
    return made[name](), None


def _flow_prior(latent, layers=6):
    """A RealNVP prior: affine couplings of the two halves, and a linear map after each."""
    size, scalar = latent // 2, scalars.affine()
    net = nets.MLP((128, 128), (latent - size, scalar.width), activation=nn.gelu, head_init=nets.SMALL)
    coupled = flows.coupling(density.from_linen(net, (1, size)), scalar, size)
    layer = flows.chain(coupled, flows.lu_linear(latent))
    return flows.transformed(density.standard_normal(latent), flows.repeated(layer, layers, unroll=layers))


def latent_sampler(noise, denoise):
    """DPM-Solver++ of second order in 50 steps: how a diffusion prior is sampled."""
    return dpm.dpm_multistep(noise, denoise), solvers.log_snr_times(noise, 50)


def latent_denoiser(latent, width=128):
    """The mixed-score denoiser of latent vectors, log-SNR from -10 to 10."""
    net = diffusion.denoising_net(DenoisingMLP((width, width)), (latent,))
    noise = diffusion.fixed(schedules.linear_log_snr(-10.0, 10.0))
    return latent_diffusion.mixed(diffusion.denoiser(net, noise, (latent,)))


def _upper(config):
    """Numbers in z2 where inference goes bottom-up."""
    return max(1, config.latent_dim // 2)


def code_dim(config):
    """Numbers in a latent vector, of all layers: a point of the sphere S^M has M + 1, its coordinates in space."""
    if config.inference == "bottom-up":
        return config.latent_dim + _upper(config)
    return config.layers * (config.latent_dim + (config.prior == "sphere"))


def _bottom_up(config, encoder):
    """Prior p(z2) p(z1 | z2) and posterior q(z1 | x) q(z2 | z1), z2 half as large as z1 with networks half as wide."""
    latent, upper = config.latent_dim, _upper(config)
    half = dataclasses.replace(config, hidden=tuple(max(1, width // 2) for width in config.hidden))
    normal = lambda inputs, outputs, inwards: density.conditional(
        vae_nets.make(half, (inputs,), (outputs, 2), inwards), density.normal(), (outputs,)
    )
    prior = hierarchical.hierarchical(density.standard_normal(upper), normal(upper, latent, False), upper)
    posterior = hierarchical.hierarchical(
        _posterior(config, encoder), normal(latent, upper, True), latent, True
    )
    return prior, hierarchical.reorder(posterior, latent), None


def _two_layers(config, dataset, encoder):
    """Prior p(z2) p(z1 | z2) and posterior q(z2 | x) q(z1 | x, z2), each layer of the same size."""
    latent, shape = config.latent_dim, dataset.train.shape[1:]
    above = _posterior(config, encoder)
    below = density.conditional(
        vae_nets.scaled(vae_nets.make(config, ((latent,), shape), (latent, 2)), dataset, 1),
        density.normal(),
        (latent,),
    )
    first, tie = _prior(config, dataset, above, None)
    second = density.conditional(vae_nets.make(config, (latent,), (latent, 2)), density.normal(), (latent,))
    prior = hierarchical.hierarchical(first, second, latent)
    return (
        prior,
        hierarchical.hierarchical(above, below, latent),
        tie and hierarchical.share_top_posterior_params,
    )


def build(config, dataset, event, context=None):
    """The `Model` of a configuration for events of a shape (and a context of a shape, or None)."""
    check(config)

    def encoder(outputs):
        return vae_nets.scaled(
            vae_nets.make(config, event if context is None else (event, context), outputs), dataset
        )

    bottom_up = config.inference == "bottom-up"
    if bottom_up:
        prior, posterior, tie = _bottom_up(config, encoder)
    elif config.layers == 2:
        prior, posterior, tie = _two_layers(config, dataset, encoder)
    else:
        posterior = _posterior(config, encoder)
        prior, tie = _prior(config, dataset, posterior, context)
    code = (config.latent_dim if bottom_up else code_dim(config),)  # what the decoder sees
    family = LIKELIHOODS[config.likelihood](dataset.levels)
    shared = config.likelihood == "shared-normal"
    outputs = (*event, family.width - shared)
    net = vae_nets.make(config, code if context is None else (code, context), outputs, inwards=False)
    if bottom_up:
        net = vae_nets.last(net, config.latent_dim)
    if config.start_at_mean:
        net = vae_nets.shifted(net, dataset)
    decoder = density.conditional(density.with_shared_scale(net) if shared else net, family, event)
    parts = Parts(prior, posterior, decoder, tie)
    model = vae(*parts)
    init, objective, validation = _objectives(config, parts, model, len(dataset.train))
    return Model(parts, model, init, objective, validation)


def _objectives(config, parts, model, examples):
    """(init, objective, validation objective) by name."""
    name = config.objective
    if config.prior == "implicit":
        net = vae_nets.critic(config.latent_dim)
        objective = implicit.implicit_prior_objective(net, *parts)
        return model.init, objective, objective
    if config.prior == "diffusion":  # evaluated by its exact density, trained by its bound
        bound = diffusion.bound_density(latent_denoiser(config.latent_dim), latent_sampler)
        parts = parts._replace(prior=bound)
    if name == "adversarial":
        weight = 1.0 if config.regulariser is None else config.regulariser
        init, objective = implicit.adversarial_autoencoder(
            vae_nets.critic(code_dim(config)), *parts, weight=weight
        )
        return init, objective, objective
    gaussian_kl = parts.prior.normal is not None and parts.posterior.normal is not None
    kl = config.kl if config.kl != "auto" else "analytic" if gaussian_kl else "sampled"
    weighed = {
        "elbo": lambda beta: objectives.negative_elbo(vae(*parts, kl=kl), beta),
        "free-bits": lambda beta: regularised.free_bits(*parts, nats=config.free_nats, beta=beta),
        "total-correlation": lambda beta: regularised.total_correlation(*parts, beta=beta, examples=examples),
    }
    if name in weighed:
        plain = weighed[name](config.beta)
        if config.beta_warm_up:
            return model.init, objectives.warm_up(weighed[name], config.beta, config.beta_warm_up), plain
        return model.init, plain, plain
    mmd = 100.0 if config.regulariser is None else config.regulariser
    made = {
        "iwae": lambda: objectives.importance_weighted(model, config.samples),
        "renyi": lambda: objectives.importance_weighted(model, config.samples, config.alpha),
        "dreg": lambda: dreg(*parts, samples=config.samples),
        "wae": lambda: regularised.info(*parts, kl_weight=0.0, mmd_weight=mmd),
        "info": lambda: regularised.info(*parts, kl_weight=config.beta, mmd_weight=mmd),
    }[name]()
    return model.init, made, made
