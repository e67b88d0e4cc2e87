"""Finds where a parameter's elements, gradients and optimizer state live, one module a strategy."""
