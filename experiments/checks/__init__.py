"""Rows of our own: exact laws, orders of convergence, toys, experiments on rows that miss."""
