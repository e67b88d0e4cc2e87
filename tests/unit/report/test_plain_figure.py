"""Tests that figures have no template in the page, and plotly's in a notebook."""

from __future__ import annotations

import plotly.graph_objects as go

from tbx_callbacks.report.plain_figure import plain_figure, styled


def test_plain_figure_has_no_template() -> None:
    figure = plain_figure([go.Scatter(y=[1.0])]).update_layout(title="loss")
    assert figure.layout.template.layout.to_plotly_json() == {}


def test_styled_figure_equals_figure_with_template() -> None:
    traces = [go.Scatter(y=[1.0])]
    assert styled(plain_figure(traces)) == go.Figure(traces).update_layout(template="plotly_white")
