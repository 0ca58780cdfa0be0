"""Models whose every quantity is known in closed form: exact references for losses, bounds and samplers."""

from dlvm_jax.exact import cosmology, diffusion, discrete, energies, linear_gaussian, simulators

__all__ = ["cosmology", "diffusion", "discrete", "energies", "linear_gaussian", "simulators"]
