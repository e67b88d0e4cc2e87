"""When and how metrics run in a training."""
