"""Let one speaker say what another said: a VQ-VAE of spoken digits, its sounds, and what classifiers make of them."""
