"""Defines `Action`, the requests of rank 0 that every rank carries out after the same step."""

from __future__ import annotations

from enum import IntFlag


class Action(IntFlag):
    """Stop the training, save a checkpoint, or both. Ranks exchange it as a number."""

    NONE = 0
    STOP = 1
    CHECKPOINT = 2
