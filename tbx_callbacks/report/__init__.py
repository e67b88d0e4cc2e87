"""Creates figures for notebooks, and a self-contained HTML report of runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbx_callbacks.report.output import check_path, make_folder, write_file
from tbx_callbacks.rules.acknowledged import Acknowledgement, unused
from tbx_callbacks.rules.base import Rule
from tbx_callbacks.runs.reader import Progress

if TYPE_CHECKING:
    import plotly.graph_objects as go

Logdir = str | os.PathLike[str]
EXTRA = "a report needs plotly and jinja2, which are not installed; run: pip install 'tbx-callbacks[report]'"


def figures(*logdirs: Logdir) -> dict[str, go.Figure]:
    """Returns all figures of a report on the runs in some folders, by name, to show in a notebook.

    Raises:
        UnreadableError: a folder cannot be read, or contains no run.
        ImportError: plotly or TensorBoard is not installed.
    """
    _check()
    from tbx_callbacks.report.distributions import add_menu
    from tbx_callbacks.report.loaded_runs import read
    from tbx_callbacks.report.plain_figure import styled
    from tbx_callbacks.report.sections import sections

    all_sections = sections(read(logdirs))
    made = {name: figure for section in all_sections for name, figure in (section.figures | section.more).items()}
    for figure in made.values():
        if figure.layout.meta["kind"] == "histograms":
            add_menu(figure)
        styled(figure)
    return made


def plot_losses(*logdirs: Logdir) -> go.Figure:
    """Plots the losses of the runs in some folders, and marks the start of findings.

    Raises:
        UnreadableError: a folder cannot be read, or no run has a loss.
        ImportError: plotly or TensorBoard is not installed.
    """
    _check()
    from tbx_callbacks.report.charts import LOSS
    from tbx_callbacks.report.line_drawing import loss_chart
    from tbx_callbacks.report.loaded_runs import read
    from tbx_callbacks.report.plain_figure import styled
    from tbx_callbacks.runs.reader import UnreadableError

    figure = loss_chart(read(logdirs), LOSS)
    if figure is None:
        raise UnreadableError(f"a run must have a loss to plot, but those in {', '.join(map(str, logdirs))} have none")
    return styled(figure)


def write_report(
    logdirs: Sequence[Logdir],
    path: Logdir,
    *,
    png: Logdir | None = None,
    rules: Mapping[str, Rule] | None = None,
    acknowledged: Sequence[Acknowledgement] = (),
    progress: Callable[[str], Progress] | None = None,
    refresh: float | None = None,
) -> Path:
    """Writes the report on the runs in some folders and returns its path.

    Args:
        logdirs: folders of runs, or folders with runs below them.
        path: of the page, a file in a folder that exists; `-` is the standard output. An existing page is replaced at
            once, so no reader sees an incomplete page. See `output.write_file`.
        png: a folder for PNG files of the main figures; created if only its name is new.
        rules: the rules, by name; default: all, with their default thresholds.
        acknowledged: findings that the project knows of.
        progress: called with a run's name; returns the callback that reports reading progress.
        refresh: interval in seconds at which the page reloads itself.

    Raises:
        UnreadableError: no folder contains a run that can be read.
        OutputError: `path` or `png` cannot be written.
        ImportError: plotly, jinja2 or TensorBoard is not installed, or matplotlib for `png`.
    """
    _check()
    from tbx_callbacks.report.loaded_runs import read
    from tbx_callbacks.report.page import render

    check_path(path)  # before the runs are read, which may take long
    if png is not None:
        make_folder(png)
    loaded_runs = read(logdirs, rules=rules, acknowledged=acknowledged, progress=progress)
    not_found = unused(acknowledged, [loaded_run.diagnosis.acknowledged for loaded_run in loaded_runs])
    page = render(loaded_runs, not_found=not_found, refresh=refresh)
    files: dict[Logdir, bytes] = {path: page.encode("utf-8", "replace")}
    if png is not None:
        from tbx_callbacks.report.png_export import pictures

        files |= {Path(png, name): picture for name, picture in pictures(loaded_runs).items()}
    for each in files:  # all of them, before one is written
        check_path(each)
    for each, content in files.items():
        write_file(each, content)
    return Path(path)


def _check() -> Any:
    try:
        import jinja2
        import plotly
    except ImportError as error:
        raise ImportError(EXTRA) from error
    return plotly, jinja2
