"""Defines `Outbox`, which sends the messages to one address on a thread of its own."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence

from tbx_callbacks._notify.address import Address, AddressError
from tbx_callbacks._notify.delivery import deliver
from tbx_callbacks._notify.errors import DeliveryError
from tbx_callbacks._notify.message import Message
from tbx_callbacks._text import count

logger = logging.getLogger(__name__)

_PAUSES = (1.0, 4.0)  # seconds before the second and the third attempt
_MOST = 50  # messages that wait; more are dropped


class Outbox:
    """Sends messages one after the other; three attempts each. The first message that is lost costs one warning.

    So do messages that have not arrived when nobody waits for them any more, see `give_up`.

    The thread is a daemon: it never keeps the process alive. A forked child sends nothing.

    Args:
        address: where to.
        pauses: seconds before each further attempt.
        send: delivers one message, or raises DeliveryError or AddressError.
    """

    def __init__(
        self,
        address: Address,
        *,
        pauses: Sequence[float] = _PAUSES,
        send: Callable[[Address, Message], None] = deliver,
    ) -> None:
        self._address, self._pauses, self._send = address, tuple(pauses), send
        self._messages: deque[Message] = deque()
        self._state = threading.Condition()
        self._closed = self._warned = self._busy = False
        self._problem = "no answer so far"  # of the last attempt
        self._pid = os.getpid()
        # Now, for at the end of the process Python starts no threads.
        threading.Thread(target=self._work, name="tbx_callbacks notify", daemon=True).start()

    def post(self, message: Message) -> None:
        """Queues a message and returns at once."""
        if os.getpid() != self._pid:
            return
        with self._state:
            if self._closed:
                return
            if is_full := len(self._messages) >= _MOST:
                self._messages.popleft()
            self._messages.append(message)
            self._state.notify_all()
        if is_full:
            self._warn("too many messages wait")

    def close(self) -> None:
        """Accepts no more messages; the thread ends when those that wait are sent or given up."""
        if os.getpid() == self._pid:
            with self._state:
                self._closed = True
                self._state.notify_all()

    def wait(self, seconds: float) -> bool:
        """Waits until nothing is left to send; returns whether that is so in time."""
        if os.getpid() != self._pid:
            return True
        with self._state:
            return self._state.wait_for(lambda: not (self._messages or self._busy), timeout=seconds)

    def give_up(self) -> None:
        """Warns if messages are left: the process may end before they arrive."""
        if os.getpid() != self._pid:
            return
        with self._state:
            left, problem = len(self._messages) + self._busy, self._problem
        if left:
            have = "has" if left == 1 else "have"
            self._warn(f"{count(left, 'message')} {have} not arrived at the end ({problem})")

    # -- on the thread -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._state:
                self._busy = False
                self._state.notify_all()
                self._state.wait_for(lambda: self._messages or self._closed)
                if not self._messages:
                    return
                message, self._busy = self._messages.popleft(), True
            problem = self._attempt(message)
            if problem is not None:
                self._warn(problem)

    def _attempt(self, message: Message) -> str | None:
        """Sends a message, again after pauses; returns why it is lost, or None."""
        problem = "it was not tried"
        for pause in (*self._pauses, None):
            try:
                self._send(self._address, message)
                return None
            except (DeliveryError, AddressError) as error:
                problem = self._problem = str(error)
                if isinstance(error, AddressError) or error.is_final or pause is None:
                    break
            except BaseException as error:  # its text may hold the address
                return type(error).__name__
            threading.Event().wait(pause)
        return problem

    def _warn(self, problem: str) -> None:
        with self._state:
            warned, self._warned = self._warned, True
        if not warned:
            logger.warning(
                "notifications to %s are lost: %s; check the address and its server", self._address.shown, problem
            )
