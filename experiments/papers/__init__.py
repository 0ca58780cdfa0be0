"""Rows of published results: what a paper printed, and how this library computes it.

Every module holds the rows of one paper in a list `ROWS`.  To add a paper, write a module like `davidson2018`: nothing else has
to know of it.  What is compared with an exact value, or with nothing, stands in `experiments.checks`.
"""
