"""Compress examples with a trained model, and compare with what others need."""
