"""One page of HTML that needs nothing else: figures, findings and tables of runs."""

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

from tbx_callbacks.report import tables
from tbx_callbacks.report.colours import ON_DARK
from tbx_callbacks.report.loaded_runs import LoadedRun, clock
from tbx_callbacks.report.predictions import images
from tbx_callbacks.report.sections import sections


def render(subjects: Sequence[LoadedRun], *, refresh: float | None = None) -> str:
    """The page.

    Nothing in it comes from elsewhere, and its policy allows no other script than its own two: text from runs is text.

    Args:
        subjects: the runs.
        refresh: seconds after which the page loads itself anew; never when left out.
    """
    shown = sections(subjects)
    figures = {name: figure for section in shown for name, figure in (section.figures | section.more).items()}
    environment = Environment(
        loader=PackageLoader("tbx_callbacks.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": tables.shown, "relative": tables.relative, "heading": html.unescape}
    return environment.get_template("page.html.j2").render(
        subjects=subjects,
        sections=shown,
        findings=tables.findings(subjects),
        differences=tables.differences(subjects) if len(subjects) > 1 else [],
        results=tables.results(subjects),
        texts=[(subject.name, tag, text) for subject in subjects for tag, text in tables.texts(subject.run).items()],
        images=images(subjects),
        hyper_parameters=[tables.hyper_parameters(subject.run) for subject in subjects],
        models=[tables.model(subject.run) for subject in subjects],
        environments=[tables.environment(subject) for subject in subjects],
        once=tables.once(subjects),
        written=time.strftime("%Y-%m-%d %H:%M:%S"),
        data=Markup(_data(subjects, figures, refresh)),
        style=Markup(_asset("page.css")),
        scripts=[Markup(get_plotlyjs()), Markup(_asset("page.js"))],
        nonce=secrets.token_urlsafe(16),
    )


def _data(subjects: Sequence[LoadedRun], figures: dict[str, go.Figure], refresh: float | None) -> str:
    """What the page's script reads, as JSON that cannot end the element that it stands in."""
    clocks = [clock(subject.run) for subject in subjects]
    runs = [
        {
            "name": subject.name,
            "colour": subject.colour,
            "steps": one.steps.tolist(),
            "seconds": one.seconds.round(2).tolist(),
            "samples": None if one.samples is None else one.samples.tolist(),
        }
        for subject, one in zip(subjects, clocks, strict=True)
    ]
    drawn = {name: _figure(figure) for name, figure in figures.items()}
    data = {"runs": runs, "figures": drawn, "onDark": ON_DARK, "refresh": refresh}
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _figure(figure: go.Figure) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(plotly.io.to_json(figure, validate=False))
    for name in ("template", "title", "updatemenus"):
        plain["layout"].pop(name, None)
    return plain


def _asset(name: str) -> str:
    return (files("tbx_callbacks.report") / "templates" / name).read_text(encoding="utf-8")
