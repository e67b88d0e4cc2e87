"""Rules: `diagnose` asks each rule what is wrong with a run, and returns the findings.

Rules are pure functions of a run's series. They open no file and know no trainer.
"""

from __future__ import annotations

from tbx_callbacks.rules.base import SEVERITIES, Finding, Rule, Severity
from tbx_callbacks.rules.diagnose import Diagnosis, Unjudged, default_rules, diagnose
from tbx_callbacks.rules.registry import RULES

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
