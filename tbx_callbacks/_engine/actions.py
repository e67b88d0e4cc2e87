"""What rank 0 decides about the training, and every rank does at the same step."""

from __future__ import annotations

from enum import IntFlag


class Action(IntFlag):
    """Stop, or save a checkpoint, or both; it travels to other ranks as a number."""

    NONE = 0
    STOP = 1
    CHECKPOINT = 2
