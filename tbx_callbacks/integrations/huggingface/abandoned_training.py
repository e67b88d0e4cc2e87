"""Detects that a Hugging Face Trainer was ended by an exception.

The Trainer fires no event then, so hooks would stay installed forever. Only the call stack tells: the Trainer resets
none of its state (`is_in_train` stays true). No object that dies with the training would do either, because an
interactive session keeps the traceback, and with it the training's frames. An attached callback sees exceptions of
`training_step`, but not those outside of it, and a callback need not be attached.
"""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

_LOOP = ("transformers.trainer", "train")
_EVENT = ("transformers.trainer_callback", "call_event")


class StillTraining:
    """Created inside `Trainer.train`; calling it returns whether the caller runs inside `Trainer.train` too.

    It inspects the call stack, which takes about a microsecond. It returns True where the stack cannot tell: in another
    thread (DataParallel, the backward pass on CUDA), or for a Trainer that is driven in another way.
    """

    def __init__(self) -> None:
        self._thread, self._can_tell = threading.get_ident(), _training(sys._getframe(1)) is not None

    def __call__(self) -> bool:
        return not self._can_tell or threading.get_ident() != self._thread or _training(sys._getframe(1)) is not None


def trainer_in_stack() -> Any:
    """The Trainer in whose `train` the caller runs; None if the stack does not tell."""
    frame = _training(sys._getframe(1))
    return None if frame is None else frame.f_locals.get("self")


def handler_in_stack() -> Any:
    """The Trainer's handler of callbacks whose event called the caller; None if the stack does not tell."""
    frame = _caller(sys._getframe(1), _EVENT)
    return None if frame is None else frame.f_locals.get("self")


def _training(frame: FrameType | None) -> FrameType | None:
    """The frame of `Trainer.train`, from which this one was called."""
    return _caller(frame, _LOOP)


def _caller(frame: FrameType | None, function: tuple[str, str]) -> FrameType | None:
    """The frame of a function, by its module and its name, from which this one was called."""
    module, name = function
    while frame is not None:
        if frame.f_code.co_name == name and frame.f_globals.get("__name__") == module:
            return frame
        frame = frame.f_back
    return None
