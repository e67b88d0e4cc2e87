"""Reads the batches that a training kept because their loss or their gradients were bad, from files beside the run."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tbx_callbacks.runs.folders import is_remote

FOLDER = "bad_batches"
_NAME = re.compile(r"step(\d{1,18})\.rank(\d{1,9})\.json")
_MOST_BYTES = 1 << 26
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class BadRow:
    """A row of a bad batch; None for what is not known."""

    key: str
    """Its id, or `#` and a fingerprint of its inputs."""
    loss: float | None = None
    label: int | None = None
    predicted: int | None = None
    text: str | None = None


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch of a bad step."""

    number: int
    """From 1, within the step."""
    loss: float | None
    rows: Sequence[BadRow]


@dataclass(frozen=True)
class BadBatch:
    """The batch of one rank in a bad step."""

    step: int
    rank: int
    reasons: Sequence[str]
    micro_batches: Sequence[MicroBatch]


def file_of(folder: str, step: int, rank: int) -> str:
    """The file of a rank's batch."""
    return os.path.join(folder, FOLDER, f"step{step:08d}.rank{rank}.json")


def files_in(folder: str | os.PathLike[str]) -> dict[int, dict[int, str]]:
    """The files of bad batches in a run's folder, by step and rank."""
    top = os.fspath(folder)
    found: dict[int, dict[int, str]] = {}
    if not is_remote(top):
        for path in sorted(glob.glob(os.path.join(glob.escape(top), FOLDER, "step*.rank*.json"))):
            if match := _NAME.fullmatch(os.path.basename(path)):
                found.setdefault(int(match[1]), {})[int(match[2])] = path
    return {step: dict(sorted(found[step].items())) for step in sorted(found)}


def write(path: str, batch: BadBatch) -> None:
    """Writes a batch; a reader sees the complete file or none.

    Raises:
        OSError: the file cannot be written.
    """
    fields = {
        "step": batch.step,
        "rank": batch.rank,
        "reasons": list(batch.reasons),
        "micro_batches": [
            {
                "number": each.number,
                "loss": _plain(each.loss),
                "rows": [
                    {
                        name: _plain(value) if name == "loss" else value
                        for name, value in vars(row).items()
                        if value is not None
                    }
                    for row in each.rows
                ],
            }
            for each in batch.micro_batches
        ],
    }
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(fields, file, allow_nan=False, indent=1)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def read(path: str) -> BadBatch:
    """Reads a batch.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no batch.
    """
    if os.path.getsize(path) > _MOST_BYTES:
        raise ValueError(f"a file of a batch must be at most {_MOST_BYTES >> 20} MiB")
    with open(path, encoding="utf-8") as file:
        try:
            fields = json.load(file)
            return BadBatch(
                int(fields["step"]),
                int(fields["rank"]),
                [str(reason) for reason in fields["reasons"]],
                [
                    MicroBatch(int(each["number"]), _number(each["loss"]), [_row(row) for row in each["rows"]])
                    for each in fields["micro_batches"]
                ],
            )
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError("it holds no batch of a training") from error


def read_bad_batches(folder: str | os.PathLike[str]) -> list[BadBatch]:
    """Reads the batches of all steps and ranks that a run has; those that cannot be read are left out."""
    batches = []
    for by_rank in files_in(folder).values():
        for path in by_rank.values():
            with contextlib.suppress(OSError, ValueError):
                batches.append(read(path))
    return batches


def _row(fields: Mapping[str, Any]) -> BadRow:
    label, predicted = fields.get("label"), fields.get("predicted")
    text = fields.get("text")
    return BadRow(
        str(fields["key"]),
        _number(fields.get("loss")),
        None if label is None else int(label),
        None if predicted is None else int(predicted),
        None if text is None else str(text),
    )


def _plain(loss: float | None) -> float | str | None:
    if loss is None or math.isfinite(loss):
        return loss
    return next(name for name, value in _NOT_FINITE.items() if value == loss or (loss != loss and value != value))


def _number(loss: Any) -> float | None:
    return None if loss is None else _NOT_FINITE[loss] if isinstance(loss, str) else float(loss)
