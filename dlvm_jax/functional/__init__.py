"""The mathematics: pure functions of arrays, one noun of the theory a file.

Functions work for any leading batch shape and return nats per example; means are taken by the caller.  Docstrings name the
exceptions: adversarial losses and divergences between samples are scalars.  All can be jitted, vmapped, pmapped and
differentiated.  Nothing here uses a network, an optimiser or a file.
"""

from dlvm_jax.functional import (
    adversarial,
    annealing,
    attention,
    autoencoding,
    bounds,
    calibration,
    chains,
    conditioning,
    densities,
    diffusion,
    divergences,
    flows,
    hierarchical,
    hyperbolic,
    linear_gaussian,
    mixtures,
    numerics,
    pixels,
    restoration,
    sbi,
    spherical,
    total_correlation,
    vector_quantisation,
)

__all__ = [
    "adversarial",
    "annealing",
    "attention",
    "autoencoding",
    "bounds",
    "calibration",
    "chains",
    "conditioning",
    "densities",
    "diffusion",
    "divergences",
    "flows",
    "hierarchical",
    "hyperbolic",
    "linear_gaussian",
    "mixtures",
    "numerics",
    "pixels",
    "restoration",
    "sbi",
    "spherical",
    "total_correlation",
    "vector_quantisation",
]
