"""Integrates the engine with the Hugging Face Trainer."""
