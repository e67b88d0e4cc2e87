"""The trainers that drive the engine."""
