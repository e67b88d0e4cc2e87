"""Defines `Frame`, a whole screen: the list of runs, the selected run, and the keys."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.text import Text

from tbx_callbacks._text import count, printable
from tbx_callbacks.monitor.details import details
from tbx_callbacks.monitor.run_table import table
from tbx_callbacks.monitor.view import KEYS, View
from tbx_callbacks.monitor.watched_runs import Snapshot

_ASCII = str.maketrans({"─": "-", "│": "|", "•": "o", "…": "~", "·": ".", "░": ":", "▒": "+", "▓": "#", "█": "@"})
_SIGNS = {
    "grad norm": "of all gradients, before and after clipping",
    "x": "NaN or Inf",
    "0": "in a heat map: exactly 0",
    "log": "the scale is logarithmic",
}
_BRAILLE = range(0x2800, 0x2900)


@dataclass(frozen=True)
class Frame:
    """A picture of the runs that fills the space that it gets, and no more.

    Attributes:
        snapshot: the runs.
        view: the choices of the user.
        logdir: the folder, for the heading.
        message: the last warning; empty if there is none.
        has_keys: whether the last line names the keys.
        is_whole: whether all runs and all of the selected run are drawn, however many lines it takes: for a pipe.
    """

    snapshot: Snapshot
    view: View
    logdir: str
    message: str = ""
    has_keys: bool = True
    is_whole: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yields the lines."""
        has_colours = console.color_system is not None and not console.no_color
        height = None if self.is_whole else options.height or console.height
        for line in self.lines(options.max_width, height, has_colours=has_colours):
            yield _in_ascii(line) if options.ascii_only else line

    def lines(self, width: int, height: int | None, *, has_colours: bool) -> list[Text]:
        """Returns at most `height` lines of at most `width` columns; as many as it takes if `height` is None."""
        footer = [self._footer()] if (height is None or height > 1) and (self.has_keys or self.message) else []
        body = self._body(width, None if height is None else height - 1 - len(footer), has_colours=has_colours)
        if self.has_keys and height is not None:  # the last line is the last one of the screen
            body += [Text() for _ in range(height - 1 - len(footer) - len(body))]
        lines = [self._heading(), *body, *footer][:height]
        for line in lines:
            line.no_wrap = True
            line.truncate(width, overflow="ellipsis")
            if not has_colours:  # else spaces have them
                line.rstrip()
        return lines

    def _heading(self) -> Text:
        number = len(self.snapshot.runs)
        line = Text(no_wrap=True).append("tbx-callbacks top", "bold")
        line.append(f"  {printable(self.logdir)}", "cyan")
        if number:
            line.append(f"  {count(number, 'run')}")
        when = time.strftime("%H:%M:%S", time.localtime(self.snapshot.time))
        line.append(f"  reading {self.snapshot.reading}" if self.snapshot.reading else f"  {when}", "dim")
        return line

    def _footer(self) -> Text:
        line = Text(no_wrap=True).append("q quit  j/k run  f heat map  h help" if self.has_keys else "", "dim")
        return line.append(f"  {self.message}" if self.message else "", "yellow")

    def _body(self, width: int, height: int | None, *, has_colours: bool) -> list[Text]:
        runs = self.snapshot.runs
        selected = self.view.selected(runs)
        if self.view.is_help:
            return [Text(), *(Text(f"  {key:<18}{meaning}") for key, meaning in (KEYS | _SIGNS).items())]
        if selected is None:
            return self._waiting(width)
        number = len(runs) if height is None else min(len(runs), max(3, (height - 14) // 4))
        listed = table(
            runs, selected, self.snapshot.time, width, 1 + number if height is None else min(height, 1 + number)
        )
        rest = None if height is None else height - len(listed)
        return listed + details(runs[selected], self.view, self.snapshot.time, width, rest, has_colours=has_colours)

    def _waiting(self, width: int) -> list[Text]:
        if self.snapshot.reading or not self.snapshot.problem:
            return [Text(), Text("Reading the runs ...")]
        console = Console(width=max(20, width))
        return [
            Text(),
            Text("Waiting for a run:"),
            *Text(self.snapshot.problem).wrap(console, max(20, width)),
        ]


def _in_ascii(line: Text) -> Text:
    """The line for a terminal that cannot show other characters; its columns stay."""
    table = {ord(one): "?" for one in line.plain if ord(one) > 127} | _ASCII
    table |= {code: ":" for code in map(ord, line.plain) if code in _BRAILLE}
    line.plain = line.plain.translate(table)
    return line
