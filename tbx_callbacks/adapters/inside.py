"""Whether a Hugging Face Trainer still trains: on an exception it fires no event, and hooks would stay for ever."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType

_LOOP = ("transformers.trainer", "train")


def still_training() -> Callable[[], bool]:
    """To be called inside `Trainer.train`; what it returns says whether a later caller is inside it too.

    The calls that led to the caller are looked through, which takes about a microsecond. Where that cannot tell
    (another thread, as those of DataParallel and of the backward pass on CUDA; a Trainer that is driven in another
    way), it says yes.
    """
    thread, inside = threading.get_ident(), _is_inside(sys._getframe(1))

    def still() -> bool:
        return not inside or threading.get_ident() != thread or _is_inside(sys._getframe(1))

    return still


def _is_inside(frame: FrameType | None) -> bool:
    module, name = _LOOP
    while frame is not None:
        if frame.f_code.co_name == name and frame.f_globals.get("__name__") == module:
            return True
        frame = frame.f_back
    return False
