"""Reads a model and its optimizers: parameters, names, gradients, shards, optimizer state."""
