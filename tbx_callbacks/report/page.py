"""Renders the report as one self-contained HTML page."""

from __future__ import annotations

import html
import json
import secrets
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import plotly.graph_objects as go
import plotly.io
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from tbx_callbacks._text import count, printable
from tbx_callbacks.report import tables
from tbx_callbacks.report.colours import MANY_RUNS, ON_DARK, PATHS
from tbx_callbacks.report.loaded_runs import LoadedRun, clock
from tbx_callbacks.report.predictions import images, shown_in_views
from tbx_callbacks.report.sections import sections
from tbx_callbacks.report.text_tables import blocks
from tbx_callbacks.rules import Acknowledgement


def render(
    loaded_runs: Sequence[LoadedRun], *, not_found: Sequence[Acknowledgement] = (), refresh: float | None = None
) -> str:
    """Renders the page.

    It loads nothing from elsewhere. Its content security policy allows only its own two scripts, so text from runs
    stays text.

    Args:
        loaded_runs: the runs.
        not_found: acknowledgements that no finding matched.
        refresh: interval in seconds at which the page reloads itself; None never.
    """
    shown_sections = sections(loaded_runs)
    figures = {name: figure for section in shown_sections for name, figure in (section.figures | section.more).items()}
    environment = Environment(
        loader=PackageLoader("tbx_callbacks.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "format_value": tables.format_value,
        "relative_path": tables.relative_path,
        "heading": html.unescape,
        "counted": count,
    }
    return environment.get_template("page.html.j2").render(
        loaded_runs=loaded_runs,
        sections=shown_sections,
        findings=tables.findings(loaded_runs),
        not_found=not_found,
        differences=tables.differences(loaded_runs) if len(loaded_runs) > 1 else [],
        results=tables.results(loaded_runs),
        run_table=tables.run_table(loaded_runs) if len(loaded_runs) > MANY_RUNS else None,
        texts=[
            (loaded_run.name, tag, blocks(text))
            for loaded_run in loaded_runs
            for tag, text in tables.texts(loaded_run.run, without=shown_in_views(loaded_run)).items()
        ],
        paths=PATHS,
        images=images(loaded_runs),
        hyper_parameters=[tables.hyper_parameters(loaded_run.run) for loaded_run in loaded_runs],
        models=[tables.model(loaded_run.run) for loaded_run in loaded_runs],
        environments=[tables.environment(loaded_run) for loaded_run in loaded_runs],
        single_values=tables.single_values(loaded_runs),
        written=time.strftime("%Y-%m-%d %H:%M:%S"),
        data=Markup(_data(loaded_runs, figures, refresh)),
        style=Markup(_asset("page.css")),
        scripts=[Markup(get_plotlyjs()), Markup(_asset("page.js"))],
        nonce=secrets.token_urlsafe(16),
    )


def _data(loaded_runs: Sequence[LoadedRun], figures: dict[str, go.Figure], refresh: float | None) -> str:
    """The data for the page's script, as JSON that cannot close its enclosing element."""
    clocks = [clock(loaded_run.run) for loaded_run in loaded_runs]
    runs = [
        {
            "name": loaded_run.name,
            "colour": loaded_run.colour,
            "symbol": loaded_run.symbol,
            "steps": run_clock.steps.tolist(),
            "seconds": run_clock.seconds.round(2).tolist(),
            "samples": None if run_clock.samples is None else run_clock.samples.tolist(),
        }
        for loaded_run, run_clock in zip(loaded_runs, clocks, strict=True)
    ]
    figure_data = {name: _figure(figure) for name, figure in figures.items()}
    data = {"runs": runs, "figures": figure_data, "onDark": ON_DARK, "refresh": refresh}
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _figure(figure: go.Figure) -> dict[str, Any]:
    json_figure: dict[str, Any] = json.loads(plotly.io.to_json(figure, validate=False))
    for name in ("template", "title"):
        json_figure["layout"].pop(name, None)
    return json_figure


def _visible(value: Any) -> Any:
    """Text from runs without characters that reorder or hide other text; what is HTML stays."""
    return printable(value, "\n\t") if type(value) is str else value


def _asset(name: str) -> str:
    return (files("tbx_callbacks.report") / "templates" / name).read_text(encoding="utf-8")
