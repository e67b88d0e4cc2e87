"""Shows growing runs in a terminal: reads what has changed, draws a frame, and obeys keys."""

from __future__ import annotations

from tbx_callbacks.monitor.frame import Frame
from tbx_callbacks.monitor.live import follow
from tbx_callbacks.monitor.view import View
from tbx_callbacks.monitor.watched_runs import Snapshot, WatchedRun, WatchedRuns

__all__ = ["Frame", "Snapshot", "View", "WatchedRun", "WatchedRuns", "follow"]
