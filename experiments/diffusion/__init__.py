"""Train and evaluate diffusion models."""
