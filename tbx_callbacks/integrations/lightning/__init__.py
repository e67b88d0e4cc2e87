"""The callback for the Lightning Trainer."""
