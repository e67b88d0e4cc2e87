"""Integrates the engine with the trainers: Hugging Face, Lightning and plain PyTorch loops."""
