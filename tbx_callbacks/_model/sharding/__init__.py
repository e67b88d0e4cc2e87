"""Locates a parameter's elements, gradients and optimizer state on the ranks; one module per sharding strategy."""
