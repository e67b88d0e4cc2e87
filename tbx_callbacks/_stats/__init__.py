"""Computes norms and histograms of tensors with pure functions."""
