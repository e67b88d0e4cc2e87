"""Converts the fields of JSON and CSV logs: steps, numbers and times."""

from __future__ import annotations

import datetime
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

NO_TIME = math.nan
"""The wall time of a value whose log does not tell it."""
EPOCH = "epoch"
"""The field whose number is the step in a log without steps."""
EPOCHS_AS_STEPS = "steps (epochs count as steps)"
"""The words for the missing steps of such a log."""
NOT_A_NUMBER = "it holds a text where a number must be"
"""The reason for which a text is left out."""
_LOSS, _VALIDATION, _TRAIN = "loss", "val_", "train"
_EARLIEST, _LATEST = 946_684_800.0, 253_402_300_800.0  # Unix times of the years 2000 and 10000
_LARGEST_STEP = 1 << 53
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "infinity": math.inf, "-inf": -math.inf, "-infinity": -math.inf}


def number_of(value: Any) -> float | None:
    """Returns a number, also one that is written as a text such as `NaN`; None for anything else."""
    if isinstance(value, (bool, int, float)):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return _NOT_FINITE.get(value.strip().lower()) if isinstance(value, str) else None


def csv_number(text: str) -> float | None:
    """Returns the number in a cell; None for an empty cell or another text."""
    try:
        return float(text)
    except ValueError:
        return None


def step_of(fields: Mapping[str, Any], keys: Iterable[str]) -> int | None:
    """Returns the step under the first of the keys that has one: a whole number of at least 0."""
    for key in keys:
        number = number_of(fields.get(key))
        if number is not None and number.is_integer() and 0 <= number <= _LARGEST_STEP:
            return int(number)
    return None


def time_of(fields: Mapping[str, Any], keys: Iterable[str]) -> tuple[str, float]:
    """Returns the key that holds a Unix time or an ISO date, and the time in seconds; `NO_TIME` if there is none.

    A number counts as a time from the year 2000 on: many logs have seconds per step under `time`.
    """
    for key in keys:
        value = fields.get(key)
        seconds = number_of(value)
        if seconds is None and isinstance(value, str):
            try:
                seconds = datetime.datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
            except (ValueError, OverflowError, OSError):
                continue
        if seconds is not None and _EARLIEST <= seconds < _LATEST:
            return key, seconds
    return "", NO_TIME


def keras_tags(names: Collection[str]) -> dict[str, str]:
    """Returns the tags of the fields of a log as Keras writes it: `loss` is `train/loss`, `val_loss` is `eval/loss`.

    Empty without a field `loss`: other tools write `train_loss`. A field that has a tag's name keeps it.
    """
    if _LOSS not in names:
        return {}
    plain = [name for name in names if name not in ("", EPOCH) and "/" not in name and not name.startswith(_TRAIN)]
    tags = {
        name: f"eval/{name.removeprefix(_VALIDATION)}" if name.startswith(_VALIDATION) else f"train/{name}"
        for name in plain
    }
    return {name: tag for name, tag in tags.items() if tag not in names}
