"""Merges the values of a step over ranks, and carries messages of rank 0."""
