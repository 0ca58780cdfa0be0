"""Train and evaluate variational autoencoders."""
