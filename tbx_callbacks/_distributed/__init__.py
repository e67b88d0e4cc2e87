"""Merges the values of a step over ranks, and sends messages of rank 0 to all ranks."""
