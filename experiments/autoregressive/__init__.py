"""Train, evaluate and look into autoregressive models."""
