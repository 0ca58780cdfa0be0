"""Fit and evaluate probabilistic PCA."""
