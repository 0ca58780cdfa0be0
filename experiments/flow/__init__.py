"""Train and evaluate normalizing flows."""
