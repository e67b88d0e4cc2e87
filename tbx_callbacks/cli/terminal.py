"""Prints to the terminal; every line passes `printable`, so text from files, tags and names cannot steer it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console, ConsoleOptions
from rich.markup import escape
from rich.segment import Segment
from rich.text import Text
from typer.core import TyperGroup

from tbx_callbacks._text import printable, short


class Terminal(Console):
    """A console whose text is printable; rich's own colours and cursor movements stay."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, "\n"), **options)  # before it is measured and wrapped

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text, "\n"), segment.style)


console = Terminal(highlight=False)
errors = Terminal(highlight=False, stderr=True)


class _Lines(logging.Handler):
    """Prints the warnings of the package and of the libraries that it uses, one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            name = record.levelname.lower()
            errors.print(f"[yellow]{name}:[/yellow] {escape(record.getMessage())}", soft_wrap=True)
        except Exception:  # as in every handler
            self.handleError(record)


def print_warnings() -> None:
    """Prints log messages from warnings up, unless the process logs them already."""
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(_Lines(logging.WARNING))


def fail(words: str) -> NoReturn:
    """Prints an error on one line, and ends the command with exit code 2."""
    errors.print(f"[red]error:[/red] {escape(printable(words))}", soft_wrap=True)
    raise typer.Exit(2)


class Commands(TyperGroup):
    """The commands; messages about wrong arguments are printable as well, which a file name may be (`report *`)."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _printable_errors():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with _printable_errors():
            return super().invoke(ctx)


@contextmanager
def _printable_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(getattr(error, "message", None), str):
            error.message = printable(error.message, "\n")  # type: ignore[attr-defined]
        raise


def print_json(data: object) -> None:
    """Prints JSON: characters outside of ASCII, and those that steer a terminal, are escaped."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False, default=_plain).replace("\x7f", "\\u007f") + "\n")


def _plain(value: object) -> object:
    """A number of numpy, which a rule may give, as one of Python; text for anything else."""
    return value.item() if hasattr(value, "item") else short(value)
