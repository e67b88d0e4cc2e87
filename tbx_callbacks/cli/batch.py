"""Prints the batches that a training kept because their step went wrong."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tbx_callbacks._text import printable
from tbx_callbacks.cli.outputs import finite, header
from tbx_callbacks.cli.terminal import full_table
from tbx_callbacks.runs import bad_batches
from tbx_callbacks.runs.bad_batches import BadBatch, BadRow

_MAX_NAMED = 20  # steps in a message


def find(run: str, step: int | None) -> tuple[Mapping[int, Mapping[int, str]], str | None]:
    """Returns the files of bad steps by step and rank, and what is wrong with the run or the step."""
    if not os.path.isdir(run):
        return {}, f"RUN must be the folder of a run, got {run!r}"
    found = bad_batches.files_in(run)
    if not found:
        return {}, (
            f"RUN must hold batches of bad steps, but {run!r} has none; add the metric bad_batches, or no step was bad"
        )
    if step is not None and step not in found:
        return found, f"STEP must be a bad step of the run, got {step}; there are {named(list(found))}"
    return found, None


def named(steps: Sequence[int]) -> str:
    """Lists steps."""
    more = f" and {len(steps) - _MAX_NAMED} more" if len(steps) > _MAX_NAMED else ""
    return ", ".join(map(str, steps[:_MAX_NAMED])) + more


def load(paths: Mapping[int, str]) -> tuple[list[BadBatch], list[str]]:
    """Reads the batches of all ranks; returns them, and a sentence for each file that cannot be read."""
    batches, problems = [], []
    for path in paths.values():
        try:
            batches.append(bad_batches.read(path))
        except (OSError, ValueError) as error:
            problems.append(f"{os.path.basename(path)} is left out: {error}")
    return batches, problems


def steps_table(found: Mapping[int, Mapping[int, str]]) -> Table:
    """A table of all bad steps, with their reasons."""
    table = full_table("step", "ranks", "why", box=None, header_style="bold")
    for step, paths in found.items():
        batches, problems = load(paths)
        reasons = list(dict.fromkeys(reason for batch in batches for reason in batch.reasons)) or problems
        table.add_row(str(step), ", ".join(map(str, paths)), escape(printable("; ".join(reasons))))
    return table


def print_batch(batch: BadBatch, console: Console, *, most: int) -> None:
    """Prints the reasons, and the rows of each micro-batch, those with the largest loss first."""
    reasons = escape(printable("; ".join(batch.reasons)))
    console.print(f"[bold]step {batch.step}, rank {batch.rank}[/bold]: {reasons}", soft_wrap=True)
    for micro_batch in batch.micro_batches:
        loss = "unknown" if micro_batch.loss is None else f"{micro_batch.loss:.6g}"
        console.print(f"micro-batch {micro_batch.number}: loss {loss}, {len(micro_batch.rows)} rows")
        if not micro_batch.rows:
            continue
        rows = sorted(micro_batch.rows, key=_badness, reverse=True)
        has_losses, has_texts = any(row.loss is not None for row in rows), any(row.text for row in rows)
        head = ["row"] + ["loss", "label", "predicted"] * has_losses + ["text"] * has_texts
        table = full_table(*head, box=None, header_style="bold", padding=(0, 2, 0, 2))
        for row in rows[:most]:
            numbers = [
                "" if row.loss is None else f"{row.loss:.6g}",
                *("" if each is None else str(each) for each in (row.label, row.predicted)),
            ]
            cells = [row.key, *(numbers if has_losses else []), *([row.text or ""] if has_texts else [])]
            table.add_row(*(escape(printable(cell)) for cell in cells))
        console.print(table)
        if len(rows) > most:
            console.print(f"  and {len(rows) - most} more rows: --rows {len(rows)}")


def as_json(batches: Sequence[BadBatch]) -> dict[str, Any]:
    """The batches as plain values; numbers that are not finite as texts."""
    return {**header("batch"), "batches": [finite(asdict(batch)) for batch in batches]}


def _badness(row: BadRow) -> float:
    """Sorts rows: those whose loss is not finite are the worst, those without a loss the best."""
    if row.loss is None:
        return -math.inf
    return row.loss if math.isfinite(row.loss) else math.inf
