"""Makes figures for the report's page, which has styles of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go


def plain_figure(traces: Sequence[Any]) -> go.Figure:
    """Returns a figure without plotly's template: to copy and check a template takes 20 times as long as the rest."""
    return go.Figure(traces, layout={"template": {}})


def styled(figure: go.Figure) -> go.Figure:
    """Gives a figure the template that it has in a notebook."""
    return figure.update_layout(template="plotly_white")
