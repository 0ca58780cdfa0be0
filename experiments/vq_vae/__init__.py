"""Train VQ-VAEs and priors of their codes, evaluate and look into them."""
