"""Deprecated: `tbx_callbacks.rules` replaces this module."""

from __future__ import annotations

import warnings

from tbx_callbacks.rules import (
    RULES,
    SEVERITIES,
    Diagnosis,
    Finding,
    Need,
    Rule,
    Severity,
    Unjudged,
    default_rules,
    diagnose,
)

__all__ = [
    "RULES",
    "SEVERITIES",
    "Diagnosis",
    "Finding",
    "Need",
    "Rule",
    "Severity",
    "Unjudged",
    "default_rules",
    "diagnose",
]

warnings.warn(
    "tbx_callbacks.diagnosis is deprecated; import from tbx_callbacks.rules instead", DeprecationWarning, stacklevel=2
)
