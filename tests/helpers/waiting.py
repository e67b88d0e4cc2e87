"""Waits for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.helpers.limits import limit


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Returns when the condition holds; fails after this time (longer on a busy machine)."""
    deadline = time.monotonic() + limit(seconds)
    while not condition():
        assert time.monotonic() < deadline, f"the condition did not hold within {limit(seconds):.0f} s"
        time.sleep(0.05)
