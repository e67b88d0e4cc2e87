"""The formats of logs that runs are read from; `FORMATS` lists them, the most complete first."""

from __future__ import annotations

import re

from tbx_callbacks.runs.folders import JSON_LINES_FILE
from tbx_callbacks.runs.formats.base import LogFormat, Progress, UnreadableError
from tbx_callbacks.runs.formats.event_files import EventFiles
from tbx_callbacks.runs.formats.json_lines import JsonLines
from tbx_callbacks.runs.formats.lightning_csv import LightningCsv
from tbx_callbacks.runs.formats.trainer_state import TrainerState
from tbx_callbacks.runs.formats.without_steps import WithoutSteps

EVENT_FILES = EventFiles()
FORMATS: tuple[LogFormat, ...] = (
    EVENT_FILES,
    JsonLines(JSON_LINES_FILE),
    LightningCsv(),
    TrainerState(),
    JsonLines("*.jsonl"),
    WithoutSteps(),
)
_LOG = re.compile(r".*tfevents.*|.*\.jsonl|metrics\.csv|trainer_state\.json")


def is_log(name: str) -> bool:
    """Whether a file of this name may be a log of a run, or a part of one."""
    return _LOG.fullmatch(name) is not None


__all__ = ["EVENT_FILES", "FORMATS", "LogFormat", "Progress", "UnreadableError", "is_log"]
