"""What runs did, as figures for notebooks and as one page that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbx_callbacks.rules.base import Rule
from tbx_callbacks.runs.reader import Progress

if TYPE_CHECKING:
    import plotly.graph_objects as go

Logdir = str | os.PathLike[str]
EXTRA = "a report needs plotly and jinja2, which are not installed; run: pip install 'tbx-callbacks[report]'"


def figures(*logdirs: Logdir) -> dict[str, go.Figure]:
    """Every figure of a report on the runs in some folders, by name, to show in a notebook.

    Raises:
        UnreadableError: a folder cannot be read, or holds no run.
        ImportError: plotly or TensorBoard is not installed.
    """
    _check()
    from tbx_callbacks.report.loaded_runs import read
    from tbx_callbacks.report.sections import sections

    found = sections(read(logdirs))
    return {name: figure for section in found for name, figure in (section.figures | section.more).items()}


def plot_losses(*logdirs: Logdir) -> go.Figure:
    """The losses of runs in some folders, with where findings begin.

    Raises:
        UnreadableError: a folder cannot be read, or no run has a loss.
        ImportError: plotly or TensorBoard is not installed.
    """
    _check()
    from tbx_callbacks.report.line_charts import LOSS
    from tbx_callbacks.report.line_figures import loss_chart
    from tbx_callbacks.report.loaded_runs import read
    from tbx_callbacks.runs.reader import UnreadableError

    figure = loss_chart(read(logdirs), LOSS)
    if figure is None:
        raise UnreadableError(f"a run must have a loss to plot, but those in {', '.join(map(str, logdirs))} have none")
    return figure


def write_report(
    logdirs: Sequence[Logdir],
    path: Logdir,
    *,
    png: Logdir | None = None,
    rules: Mapping[str, Rule] | None = None,
    progress: Callable[[str], Progress] | None = None,
    refresh: float | None = None,
) -> Path:
    """Writes the page on the runs in some folders and returns its path.

    Args:
        logdirs: runs' folders, or folders with runs below them.
        path: of the page; what was there is replaced at once, so that nobody reads half a page.
        png: a folder for pictures of the main figures.
        rules: by name; all with their defaults when left out.
        progress: called with a run's name, gives what is called while it is read.
        refresh: seconds after which the page loads itself anew.

    Raises:
        UnreadableError: a folder cannot be read, or holds no run.
        ImportError: plotly, jinja2 or TensorBoard is not installed, or matplotlib for pictures.
    """
    _check()
    from tbx_callbacks.report.loaded_runs import read
    from tbx_callbacks.report.page import render

    subjects = read(logdirs, rules=rules, progress=progress)
    page = Path(path)
    page.parent.mkdir(parents=True, exist_ok=True)
    part = page.with_name(f".{page.name}.part")
    part.write_text(render(subjects, refresh=refresh), encoding="utf-8")
    part.replace(page)
    if png is not None:
        from tbx_callbacks.report.pictures import export

        export(subjects, Path(png))
    return page


def _check() -> Any:
    try:
        import jinja2
        import plotly
    except ImportError as error:
        raise ImportError(EXTRA) from error
    return plotly, jinja2
