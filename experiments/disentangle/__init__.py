"""Disentanglement on shapes with known factors."""
