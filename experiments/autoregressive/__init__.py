"""Train, evaluate and look into hierarchical VAEs."""
