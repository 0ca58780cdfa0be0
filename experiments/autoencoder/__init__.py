"""Train autoencoders and use their codes."""
