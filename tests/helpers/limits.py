"""Time limits of processes that tests start; they only end a hang, and so grow with the load of the machine."""

from __future__ import annotations

import os

MOST = 20.0
"""No limit grows beyond so many times its length."""


def limit(seconds: float) -> float:
    """Seconds that work may take which takes far less than `seconds` on an idle machine."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    return seconds * min(MOST, max(2.0, 2.0 * load))
