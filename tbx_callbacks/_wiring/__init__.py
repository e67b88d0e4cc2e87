"""Checks that a training is put together right: its model, optimizers, losses, labels and modes."""
