"""Remedies for class imbalance: sampling, weights, losses, and synthetic examples."""
