"""Whether a Hugging Face Trainer still trains: on an exception it fires no event, and hooks would stay for ever."""

from __future__ import annotations

import sys
import threading
from types import FrameType

_LOOP = ("transformers.trainer", "train")


class StillTraining:
    """Made inside `Trainer.train`, it says whether its later callers are inside it too.

    The calls that led to the caller are looked through, which takes about a microsecond. Where that cannot tell
    (another thread, as those of DataParallel and of the backward pass on CUDA; a Trainer that is driven in another
    way), it says yes.
    """

    def __init__(self) -> None:
        self._thread, self._tells = threading.get_ident(), _is_inside(sys._getframe(1))

    def __call__(self) -> bool:
        return not self._tells or threading.get_ident() != self._thread or _is_inside(sys._getframe(1))


def _is_inside(frame: FrameType | None) -> bool:
    module, name = _LOOP
    while frame is not None:
        if frame.f_code.co_name == name and frame.f_globals.get("__name__") == module:
            return True
        frame = frame.f_back
    return False
