"""Compares runs: their settings, versions and findings, and the step from which their curves part."""

from __future__ import annotations

from tbx_callbacks.comparison.compare import Comparison, Curve, Difference, compare
from tbx_callbacks.comparison.kinds import Kind

__all__ = ["Comparison", "Curve", "Difference", "Kind", "compare"]
