"""Defines `ConfigError`."""

from __future__ import annotations


class ConfigError(ValueError):
    """An invalid metric set. The message gives the location, the rule, the value and the remedy."""
