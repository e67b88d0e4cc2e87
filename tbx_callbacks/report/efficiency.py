"""Says in sentences what a run tells about its batches: whether larger ones would help, and what padding costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.rules.series_stats import finite
from tbx_callbacks.runs.series import Floats, Run


def about_batches(loaded_runs: Sequence[LoadedRun]) -> str:
    """The sentences about all runs, each with the run's name if there are several."""
    several = len(loaded_runs) > 1
    texts = ((loaded_run.name, " ".join(_sentences(loaded_run.run))) for loaded_run in loaded_runs)
    return " ".join(f"{name}: {text}" if several else text for name, text in texts if text)


def _sentences(run: Run) -> list[str]:
    return [sentence for sentence in (_noise_sentence(run), _padding_sentence(run)) if sentence]


def _padding_sentence(run: Run) -> str:
    """How much of the batches is padding, and what grouping rows by length would save."""
    share, savable, at_limit = (
        _mean(run, tag) for tag in (tags.PADDING_SHARE, tags.PADDING_SAVABLE, tags.PADDING_AT_LIMIT)
    )
    if share is None:
        return ""
    text = f"{share:.0%} of the tokens in the batches were padding"
    if savable is not None:
        text += f"; batches of rows of similar lengths would save {savable:.0%} of the tokens"
    if at_limit:
        text += f"; {_percent(at_limit)} of the texts fill the tokenizer's limit, so they may have been cut"
    return f"{text}."


def _noise_sentence(run: Run) -> str:
    """What a larger batch would bring: McCandlish et al. 2018, section 2.3."""
    noise, size = _last(run, tags.NOISE_SCALE), _last(run, tags.NOISE_BATCH_SIZE)
    if noise is None or not size:
        return ""
    now, double = 1 + noise / size, 1 + noise / (2 * size)
    more = (1 + 2 * size / noise) / (1 + size / noise) - 1 if noise > 0 else 1.0
    return (
        f"A step had {size:,.0f} examples, and the gradient's noise scale was {_rounded(noise)} at its last point."
        f" By the rule 1 + N/B, the training needs {now:.2g} times the fewest possible steps. Twice the batch would"
        f" save {1 - double / now:.0%} of the steps, and take {more:.0%} more examples. The rule assumes a learning"
        " rate that is tuned for each size. This is the simple noise scale of the weights at that time: it usually"
        " grows during a training."
    )


def _last(run: Run, tag: str) -> float | None:
    """The last finite value."""
    values = _finite_values(run, tag)
    return float(values[-1]) if len(values) else None


def _mean(run: Run, tag: str) -> float | None:
    """The mean of the finite values."""
    values = _finite_values(run, tag)
    return float(values.mean()) if len(values) else None


def _finite_values(run: Run, tag: str) -> Floats:
    series = run.scalars.get(tag)
    return np.empty(0) if series is None else finite(series).values


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "less than 1%"


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"
