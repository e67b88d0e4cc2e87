"""Lists the keys of a metric set."""

from __future__ import annotations

METRIC_SET_KEYS = ("extends", "every", "strict", "overhead_budget", "axis", "rules", "metrics")
