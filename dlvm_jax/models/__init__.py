"""Densities and objectives: networks and mathematics joined."""

from dlvm_jax.models import density, objectives, vae

__all__ = ["density", "objectives", "vae"]
