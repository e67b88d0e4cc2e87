"""Exports the rules and `diagnose`, which applies every rule to a run and returns the findings.

Rules are pure functions of a run's series. They open no files and depend on no trainer.
"""

from __future__ import annotations

from tbx_callbacks.rules.acknowledged import AcknowledgedFinding, Acknowledgement
from tbx_callbacks.rules.base import SEVERITIES, Action, Finding, Rule, Severity, Unjudged
from tbx_callbacks.rules.diagnose import Diagnosis, default_rules, diagnose
from tbx_callbacks.rules.registry import RULES
from tbx_callbacks.rules.required_series import Need
from tbx_callbacks.rules.verdict import Verdict

__all__ = [
    "RULES",
    "SEVERITIES",
    "AcknowledgedFinding",
    "Acknowledgement",
    "Action",
    "Diagnosis",
    "Finding",
    "Need",
    "Rule",
    "Severity",
    "Unjudged",
    "Verdict",
    "default_rules",
    "diagnose",
]
