"""Defines `View`, the choices of the user: the selected run, the heat map's family, the help."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from tbx_callbacks import tags
from tbx_callbacks.monitor.watched_runs import WatchedRun
from tbx_callbacks.report.layer_families import Families, families

KEYS = {
    "q": "quit (Ctrl-C, too)",
    "j, down, tab": "the next run",
    "k, up, shift-tab": "the run before",
    "g, G": "the first and the last run",
    "f, F": "the next and the previous kind of heat map",
    "h, ?": "this help; any key closes it",
}
"""The keys, and what they do."""
_MOVES = {"j": 1, "down": 1, "tab": 1, "k": -1, "up": -1, "shift-tab": -1}
_TURNS = {"f": 1, "F": -1}


@dataclass(frozen=True)
class View:
    """The choices of the user.

    Attributes:
        folder: of the selected run; None selects the run that changed last.
        family: of the heat map, if the run has it.
        is_help: whether the keys are shown.
    """

    folder: str | None = None
    family: str = tags.GRAD_NORM
    is_help: bool = False

    def selected(self, runs: Sequence[WatchedRun]) -> int | None:
        """The index of the selected run; None without runs."""
        for index, run in enumerate(runs):
            if run.folder == self.folder:
                return index
        return max(range(len(runs)), key=lambda index: _last_change(runs[index]), default=None)

    def pinned(self, runs: Sequence[WatchedRun]) -> View:
        """The choices with the selected run by its name: it stays selected when another run gets later points."""
        index = self.selected(runs)
        return self if index is None else dataclasses.replace(self, folder=runs[index].folder)

    def shown_family(self, known: Families) -> str | None:
        """The family to draw: the chosen one, or else the first that the run has."""
        return self.family if self.family in known else next(iter(known), None)

    def press(self, key: str, runs: Sequence[WatchedRun]) -> View:
        """The choices after a key; a key without a meaning changes nothing."""
        if self.is_help or key in ("h", "?"):
            return dataclasses.replace(self, is_help=not self.is_help)
        index = self.selected(runs)
        if index is None:
            return self
        if key in _TURNS:
            return self._turned(_TURNS[key], families(runs[index].run))
        target = {"g": 0, "G": len(runs) - 1}.get(key, (index + _MOVES.get(key, 0)) % len(runs))
        return dataclasses.replace(self, folder=runs[target].folder)

    def _turned(self, by: int, known: Families) -> View:
        names, shown = list(known), self.shown_family(known)
        if shown is None:
            return self
        return dataclasses.replace(self, family=names[(names.index(shown) + by) % len(names)])


def _last_change(run: WatchedRun) -> float:
    return run.changed or run.pace.last_time or 0.0
