"""Integrates the engine with the Lightning Trainer."""
