"""Prints to the terminal; every line passes `printable`, so text from files, tags and names cannot steer it."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console, ConsoleDimensions, ConsoleOptions
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from tbx_callbacks._text import printable, reason, short, words

_SIGPIPE = 128 + 13  # the exit code that a shell shows for a command that the signal SIGPIPE ended


_PIPED_WIDTH = 2000


def full_table(*columns: str, **options: Any) -> Table:
    """Returns a table whose cells are folded where they do not fit, never cut."""
    table = Table(**options)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


class Terminal(Console):
    """A console whose text is printable; rich's own colours and cursor movements stay."""

    @property
    def size(self) -> ConsoleDimensions:
        found = super().size
        is_piped = not self.is_terminal and "COLUMNS" not in os.environ
        return ConsoleDimensions(_PIPED_WIDTH, found.height) if is_piped else found  # nothing is wrapped or cut

    @size.setter
    def size(self, value: tuple[int, int]) -> None:
        self._width, self._height = value

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, "\n"), **options)  # before it is measured and wrapped

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text, "\n"), segment.style)

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError:
            if not self.stderr:
                raise  # an error that cannot be printed has only its exit code

    def on_broken_pipe(self) -> None:
        """Goes on without a reader; rich would end the command with exit code 1."""


console = Terminal(highlight=False)
errors = Terminal(highlight=False, stderr=True)


class _Lines(logging.Handler):
    """Prints the warnings of the package and of the libraries that it uses, one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _print_line(record.levelname.lower(), record.getMessage())
        except Exception:  # as in every handler
            self.handleError(record)


def print_warnings() -> None:
    """Prints log messages from warnings up, and Python's own warnings, unless the process logs them already."""
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(_Lines(logging.WARNING))
        warnings.showwarning = _show_warning
        threading.excepthook = lambda error: _show_error("a thread", error.exc_value)
        sys.unraisablehook = lambda error: _show_error("the removal of an object", error.exc_value)


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    _print_line("warning", f"{category.__name__}: {words(message)}")


def _print_line(level: str, text: str) -> None:
    errors.print(f"[yellow]{level}:[/yellow] {escape(printable(text))}", soft_wrap=True)


def _show_error(where: str, error: BaseException | None) -> None:
    """Prints an error that ends no command, and the line that raised it."""
    if error is None or isinstance(error, SystemExit):  # which ends a thread quietly, as in Python
        return
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    _print_line("warning", f"{where} failed: {reason(error)}{place}")


class StdoutError(OSError):
    """The standard output is closed, or cannot be written."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the standard output must be writable: {why}")


class ReaderGoneError(StdoutError):
    """The reader of a pipe has seen enough, as in `doctor LOGDIR | head`. This is no fault."""


class _Stdout:
    """The standard output; its errors are told from those of other files.

    Args:
        stream: the standard output of Python; None if it is closed.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._named_errors():
            return int(self._stream.write(text))

    def flush(self) -> None:
        with self._named_errors():
            self._stream.flush()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        if self._stream is None:
            raise StdoutError("it is closed")
        try:
            yield
        except BrokenPipeError as error:
            raise ReaderGoneError("its reader is gone") from error
        except (OSError, ValueError) as error:  # a ValueError: code has closed the stream
            raise StdoutError(words(getattr(error, "strerror", None) or error)) from error


@contextmanager
def checked_stdout() -> Iterator[None]:
    """Ends the process with one line and exit code 2 if the standard output cannot be written, to its last byte.

    If the reader of a pipe is gone, the process ends without a line and with the exit code of other commands.
    """
    stream = sys.stdout
    stdout: Any = _Stdout(stream)
    sys.stdout = stdout
    try:
        try:
            yield
        finally:
            if sys.stdout is None:
                raise StdoutError("code that was imported has removed it")
            if stream is not None:
                stdout.flush()
    except ReaderGoneError:
        _discard(stream)
        raise SystemExit(_SIGPIPE) from None
    except StdoutError as error:
        _discard(stream)
        errors.print(f"[red]error:[/red] {escape(printable(str(error)))}", soft_wrap=True)
        raise SystemExit(2) from None
    finally:
        sys.stdout = stream


def _discard(stream: Any) -> None:
    """Lets what waits in a stream go to nowhere, instead of failing once more when Python ends."""
    try:
        descriptor = stream.fileno()
    except (AttributeError, OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def print_pairs(pairs: Mapping[str, str]) -> None:
    """Prints names with texts beside them; without a terminal each pair is one line, however long."""
    width = max(map(len, pairs), default=0)
    if not console.is_terminal:
        for name, text in pairs.items():
            console.print(escape(f"{name:{width}}  {text}"), soft_wrap=True)
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in pairs.items():
        table.add_row(f"[bold]{escape(name)}[/bold]", escape(text))
    console.print(table)


def print_error(words: str) -> None:
    """Prints an error on one line."""
    errors.print(f"[red]error:[/red] {escape(printable(words))}", soft_wrap=True)


def fail(words: str) -> NoReturn:
    """Prints an error on one line, and ends the command with exit code 2."""
    print_error(words)
    raise typer.Exit(2)


class Commands(TyperGroup):
    """The commands; messages about wrong arguments are printable as well, which a file name may be (`report *`)."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _printable_errors():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        try:
            with _printable_errors():
                return super().invoke(ctx)
        except KeyboardInterrupt:  # of the user, or of code that a set names
            errors.print("[red]error:[/red] interrupted")
            raise typer.Exit(130) from None


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


def print_json_line(data: object) -> None:
    """Prints JSON on one line; otherwise as `print_json`."""
    sys.stdout.write(json.dumps(data, allow_nan=False, default=_plain).replace("\x7f", "\\u007f") + "\n")


def _plain(value: object) -> object:
    """A number of numpy, which a rule may give, as one of Python; text for anything else."""
    return value.item() if hasattr(value, "item") else short(value)
