"""Restore images with a hierarchical VAE, a diffusion model and classical methods."""
