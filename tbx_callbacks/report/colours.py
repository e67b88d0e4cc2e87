"""Defines colours, after Okabe and Ito, that are distinct for any colour vision, and variants for dark mode."""

from __future__ import annotations

RUNS = ("#0072b2", "#d55e00", "#009e73", "#b8609a", "#c98a00", "#3f9fd8", "#5b6270", "#7a4fbf")
SEVERITY = {"error": "#c62828", "warning": "#b26a00", "note": "#4a6572"}

ON_DARK = {
    "#0072b2": "#58a9e8",
    "#d55e00": "#f28a4f",
    "#009e73": "#3cc79d",
    "#b8609a": "#e29ac8",
    "#c98a00": "#f0bd4c",
    "#3f9fd8": "#9ad4f7",
    "#5b6270": "#b4bcc8",
    "#7a4fbf": "#b79af0",
    "#c62828": "#ff7b72",
    "#b26a00": "#f0b34a",
    "#4a6572": "#9db4c4",
    "#8a94a3": "#8a94a3",
}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
HEAT = "Viridis"
