"""Runs metrics during training: decides when and how each one is computed."""
