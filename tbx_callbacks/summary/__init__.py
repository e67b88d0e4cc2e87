"""Short texts about a run, findings first: the whole run, and the values around a step."""

from __future__ import annotations

from tbx_callbacks.summary.around import Around, values_around
from tbx_callbacks.summary.lines import LIMIT
from tbx_callbacks.summary.run_summary import RunSummary, summarize

__all__ = ["LIMIT", "Around", "RunSummary", "summarize", "values_around"]
