"""Pure functions on tensors; nothing here knows a trainer, a rank or a file."""
