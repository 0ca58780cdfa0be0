"""Posteriors of simulators, learned from simulations and compared with the exact ones."""
