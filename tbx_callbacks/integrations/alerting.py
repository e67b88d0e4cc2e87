"""Sends the notifications of a session's trainings: findings, stalls, crashes and ends."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._notify.address import AddressError
from tbx_callbacks._notify.alerts import Alerts, Target
from tbx_callbacks._notify.delivery import check
from tbx_callbacks._notify.errors import DeliveryError
from tbx_callbacks._notify.message import CRASH, ERROR, STALL, WARNING, Message, end, finding, stall
from tbx_callbacks._notify.stall import StallClock, Watchdog
from tbx_callbacks._text import reason
from tbx_callbacks.rules.base import Finding

logger = logging.getLogger(__name__)

T = TypeVar("T")

_END_SECONDS = 5.0  # longest wait at the end of a training
_PERIOD = 5.0  # seconds between two looks at the steps
_FLOOR = 60.0  # seconds of training that are never a stall
_TOTAL_FLOOR = 1800.0  # the same with evaluations, checkpoints and the start


class Alerting:
    """The notifications of one training after another, on the rank that writes; nothing without receivers.

    Args:
        targets: the receivers.
        has_rules: whether the set has rules, without which there are no findings.
    """

    def __init__(self, targets: Sequence[Target], *, has_rules: bool = True) -> None:
        self._targets, self._has_rules = tuple(targets), has_rules
        self._alerts: Alerts | None = None
        self._folder = ""
        self._watchdog: Watchdog | None = None

    def check(self) -> None:
        """Checks the addresses, and warns of a receiver that would get nothing; sends nothing.

        Raises:
            ConfigError: one cannot be used. The message does not contain it.
        """
        for index, target in enumerate(self._targets):
            try:
                check(target.address)
            except AddressError as error:
                raise ConfigError(f"notify[{index}] {error}") from None
            except DeliveryError as error:
                raise ConfigError(f"notify[{index}] must be an address that can be used, but {error}") from None
            if not self._has_rules and {ERROR, WARNING}.issuperset(target.events):
                logger.warning(
                    "notifications to %s are left out: the set has no rules; add rules, or extend default",
                    target.address.shown,
                )

    @property
    def on_finding(self) -> Callable[[int, Finding], None] | None:
        """Sends a finding of a step; None without receivers."""
        return self._send_finding if self._targets else None

    def begin(self, folder: str | None, owner: T, progress: Callable[[T], tuple[int, float]]) -> None:
        """Begins a training.

        Args:
            folder: the run's folder; None on ranks that do not write, which send nothing.
            owner: of the training; it is not kept alive.
            progress: returns the number of finished steps, and the seconds of training; called on another thread.
        """
        self.stop()
        if folder is None or not self._targets:
            return
        self._folder, self._alerts = folder, Alerts(self._targets)
        if any(STALL in target.events for target in self._targets):
            self._watchdog = Watchdog(_looks(self._alerts, folder, weakref.ref(owner), progress), _PERIOD)

    @contextmanager
    def ending(self, step: int, *, succeeded: bool, error: BaseException | None) -> Iterator[None]:
        """Ends a training around the work that is left, whose findings are still sent; then waits, but not for long."""
        alerts = self._alerts
        if self._watchdog is not None:
            self._watchdog.stop()
        is_interrupted = isinstance(error, KeyboardInterrupt)
        if alerts is not None and not (succeeded or is_interrupted):
            why = "the training was left without its end" if error is None else reason(error)
            alerts.post(Message(CRASH, self._folder, step, why))
        try:
            yield
            if alerts is not None and (succeeded or is_interrupted):
                alerts.post(end(self._folder, step, is_interrupted=not succeeded))
        finally:
            self.stop(_END_SECONDS)

    def stop(self, seconds: float = 0.0) -> None:
        """Sends nothing more; waits at most so long for what is on its way."""
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._alerts is not None:
            self._alerts.close(seconds)
        self._alerts = self._watchdog = None

    def _send_finding(self, step: int, found: Finding) -> None:
        message = finding(self._folder, step, found.severity, found.code, f"{found.means} {found.advice}")
        if self._alerts is not None and message is not None:
            self._alerts.post(message)


def _looks(
    alerts: Alerts, run: str, owner: weakref.ref[T], progress: Callable[[T], tuple[int, float]]
) -> Callable[[], bool]:
    """Returns the function that looks for stalls. It returns False once the owner is gone.

    The training thread does nothing for it: the number of steps and the time are there in any case.
    """
    training, total = StallClock(_FLOOR), StallClock(_TOTAL_FLOOR, unmeasured=_TOTAL_FLOOR)

    def look() -> bool:
        target = owner()
        if target is None:
            return False
        step, seconds = progress(target)
        del target
        waited, waited_in_total = training.look(step, seconds), total.look(step, time.monotonic())
        if waited or waited_in_total:
            alerts.post(stall(run, step, waited or waited_in_total or 0.0, "no step has ended"))
        return True

    look()  # the number of steps before the first one: a training may hang before the next look
    return look
