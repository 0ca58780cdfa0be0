"""Rows of our own: exact laws, orders of convergence, toys, quantities that no paper prints, experiments on rows that miss.

Every module holds its rows in a list `ROWS`, as those of `experiments.papers` do.
"""
