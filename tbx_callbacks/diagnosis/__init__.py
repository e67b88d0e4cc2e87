"""From series to findings: what is wrong with a run, in words. Pure functions; they know no file and no trainer."""

from __future__ import annotations

from tbx_callbacks.diagnosis.finding import SEVERITIES, Finding, Severity
from tbx_callbacks.diagnosis.judge import Diagnosis, Unjudged, default_rules, diagnose
from tbx_callbacks.diagnosis.protocol import Rule
from tbx_callbacks.diagnosis.rules import RULES

__all__ = [
    "RULES",
    "SEVERITIES",
    "Diagnosis",
    "Finding",
    "Rule",
    "Severity",
    "Unjudged",
    "default_rules",
    "diagnose",
]
