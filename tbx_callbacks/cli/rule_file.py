"""Finds the file of rules that belongs to a project."""

from __future__ import annotations

import os
from pathlib import Path

from tbx_callbacks._config.rule_options import RuleSettings, load_rule_settings
from tbx_callbacks.rules import default_rules

PROJECT_FILE = "tbx_callbacks.yaml"
"""The file that applies without `--rules`, if the working folder holds it."""


def project_settings(given: Path | None) -> tuple[str, RuleSettings]:
    """Returns the name and the settings of the file that is given, else of PROJECT_FILE; "" and defaults without one.

    Raises:
        ConfigError: the file is invalid.
    """
    if given is None and os.path.lexists(PROJECT_FILE):  # a broken link is an error, as a file of another form is
        given = Path(PROJECT_FILE)
    if given is None:
        return "", RuleSettings(default_rules())
    return str(given), load_rule_settings(given)
