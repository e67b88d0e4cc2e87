"""Defines colours, after Okabe and Ito, that are distinct for any colour vision, and variants for dark mode."""

from __future__ import annotations

RUNS = (
    "#0072b2",
    "#d55e00",
    "#12a762",
    "#c982a6",
    "#824200",
    "#3a90ff",
    "#595959",
    "#6400f0",
    "#850f77",
    "#131339",
)
SEVERITY = {"error": "#c62828", "warning": "#b26a00", "note": "#4a6572"}

ON_DARK = {
    "#0072b2": "#5fa8f5",
    "#d55e00": "#f18a2a",
    "#12a762": "#3fdc8c",
    "#c982a6": "#f3dfe8",
    "#824200": "#a8754a",
    "#3a90ff": "#8ce0ff",
    "#595959": "#9b9b9b",
    "#6400f0": "#9a6cff",
    "#850f77": "#c95cb2",
    "#131339": "#6b71da",
    "#c98a00": "#f0bd4c",
    "#c62828": "#ff7b72",
    "#b26a00": "#f0b34a",
    "#4a6572": "#9db4c4",
}
SYMBOLS = ("circle", "square", "triangle-down", "cross", "star", "bowtie", "pentagon")
"""Symbols of runs. Their number and that of RUNS have no common divisor, so that 70 runs look different."""
PATHS = {
    "circle": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
    "square": "M-4.2-4.2h8.4v8.4h-8.4z",
    "triangle-down": "M-5.2-4.2h10.4L0 5z",
    "cross": "M-5-1.8h3.2v-3.2h3.6v3.2h3.2v3.6h-3.2v3.2h-3.6v-3.2h-3.2z",
    "star": "M0-5.6 1.3-1.8 5.3-1.7 2.1.7 3.3 4.5 0 2.2-3.3 4.5-2.1.7-5.3-1.7-1.3-1.8z",
    "bowtie": "M-5-4.6 0 0l5-4.6v9.2L0 0l-5 4.6z",
    "pentagon": "M0-5.2 4.9-1.6 3.1 4.2h-6.2l-1.8-5.8z",
}
"""The symbols as SVG paths, between -6 and 6."""
MANY_RUNS = 8
"""With more runs than this, lines have symbols and dashes beside their colours, and the page starts with a table."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
RUN_DASHES = DASHES[:3]
"""Dashes of many runs, in charts where a dash has no other meaning; 30 combinations with RUNS."""
HEAT = "Viridis"
CHANGE = ((0.0, "#b35806"), (0.5, "#e9ecef"), (1.0, "#542788"))
"""Scale of a change: smaller, equal, larger."""
