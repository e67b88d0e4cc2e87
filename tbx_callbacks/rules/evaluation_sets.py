"""Lists the evaluation sets of a run, each with its loss and its accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tbx_callbacks.rules.required_series import EVAL_ACCURACY, EVAL_LOSS, Need, evaluation_set
from tbx_callbacks.rules.series_stats import finite
from tbx_callbacks.runs.series import Run, Series

Entry = tuple[str, Series]


@dataclass(frozen=True)
class EvaluationSet:
    """One evaluation set: tag and points of its loss and its accuracy. `title` names the loss in a sentence."""

    title: str
    loss: Entry | None
    accuracy: Entry | None


def evaluation_sets(run: Run) -> list[EvaluationSet]:
    """Returns the evaluation sets in the order in which the run wrote them."""
    losses, accuracies = _by_set(EVAL_LOSS, run), _by_set(EVAL_ACCURACY, run)
    names = [*losses, *(name for name in accuracies if name not in losses)]
    return [EvaluationSet(_title(losses, name), losses.get(name), accuracies.get(name)) for name in names]


def _title(losses: Mapping[str, Entry], name: str) -> str:
    return f"evaluation loss {losses[name][0]}" if len(losses) > 1 and name in losses else "evaluation loss"


def _by_set(need: Need, run: Run) -> dict[str, Entry]:
    """Returns the first series of each set; Lightning may log one a second time, with `_epoch`."""
    series: dict[str, Entry] = {}
    for tag, one in need.all(run).items():
        series.setdefault(evaluation_set(need, tag), (tag, finite(one)))
    return series
