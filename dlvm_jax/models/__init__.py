"""Densities and objectives: networks and mathematics joined, one module a family.  Modules load on first use."""

from typing import Any

from dlvm_jax.lazy import attribute

__all__ = [
    "autoencoder",
    "autoregressive",
    "bijections",
    "curved",
    "density",
    "diffusion",
    "diffusion_latents",
    "draw",
    "flow_densities",
    "flows",
    "gaussian",
    "image_flows",
    "implicit",
    "joint",
    "latent_diffusion",
    "layered",
    "logistic_mixtures",
    "objectives",
    "pixel_decoder",
    "posterior",
    "ppca",
    "regularised",
    "restoration",
    "scalars",
    "sphere_flows",
    "super_resolution",
    "top_down",
    "vae",
    "vamp",
    "vq_vae",
]


def __getattr__(name: str) -> Any:
    return attribute(__name__, name, __all__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
