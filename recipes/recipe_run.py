"""Starts a recipe's command, and ends it: results, findings, report and log directory."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tbx_callbacks import ConfigError
from tbx_callbacks.cli.doctor import show_worst
from tbx_callbacks.cli.terminal import console, errors
from tbx_callbacks.report import write_report
from tbx_callbacks.rules.diagnose import diagnose_folder
from tbx_callbacks.runs.reader import UnreadableError

Config = Annotated[str, typer.Option("--config", help="Metric set: a name or a YAML file.")]
Steps = Annotated[int, typer.Option("--max-steps", min=1, max=1_000_000_000, help="Optimizer steps.")]
Rate = Annotated[float, typer.Option("--lr", min=0.0, max=1e6, help="Peak learning rate.")]
Batch = Annotated[int, typer.Option("--batch", min=1, max=1_000_000, help="Batch size.")]
Rows = Annotated[int, typer.Option("--rows", min=100, max=10_000_000, help="Number of generated training rows.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of the data, the weights and the order.")]
Output = Annotated[Path, typer.Option("--output-dir", help="Checkpoints and logs.")]


def start(main: Callable[..., None], about: str | None) -> None:
    """Runs a recipe's function as a command. A wrong metric set is one line and exit code 2.

    Args:
        main: the function, with the options of the command as annotated arguments.
        about: the help text.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=about)(main)
    try:
        app(prog_name=Path(sys.argv[0]).name if sys.argv[0].endswith(".py") else sys.argv[0])
    except ConfigError as error:
        errors.print(f"error: {error}", markup=False, emoji=False, soft_wrap=True)
        raise SystemExit(2) from error


def new_folder(output_dir: Path) -> Path:
    """A folder for the log of a run that starts now."""
    return output_dir / "runs" / time.strftime("%b%d_%H-%M-%S")


def finish(
    log_dir: str | Path | None,
    *,
    steps: int,
    started: float,
    columns: Sequence[str],
    rows: Mapping[str, Sequence[float]],
) -> None:
    """Prints a table of the results on the dev rows, and what `show_run` prints.

    Args:
        log_dir: the folder of the log.
        steps: finished steps.
        started: when the recipe started, in seconds of `time.time()`.
        columns: names of the numbers.
        rows: the numbers by the name of their row; NaN leaves a cell empty.
    """
    table = Table("", *columns, title=f"dev after {steps} steps, {time.time() - started:.0f} s")
    for name, numbers in rows.items():
        table.add_row(name, *("" if number != number else f"{number:.4f}" for number in numbers))
    console.print(table)
    show_run(log_dir or "")


def show_run(log_dir: str | Path) -> None:
    """Prints the worst findings, writes the report, and prints its path, the log directory and how to view it."""
    folder = Path(os.path.relpath(log_dir))
    try:
        show_worst(next(diagnose_folder(folder)).diagnosis, console)
        page = write_report([folder], folder / "report.html")
    except (ImportError, UnreadableError, OSError) as error:
        console.print(f"report not written: {error}", soft_wrap=True, markup=False)
    else:
        console.print(f"report: {page}", soft_wrap=True, markup=False)
    console.print(f"log directory: {folder}\nview: {_command()} view {folder.parent}", soft_wrap=True, markup=False)


def _command() -> str:
    """How to call `tbx-callbacks` here: by its path where the environment is not activated."""
    installed = Path(sys.executable).with_name("tbx-callbacks")
    if not installed.exists() or shutil.which("tbx-callbacks") == str(installed):
        return "tbx-callbacks"
    return os.path.relpath(installed) if installed.is_relative_to(Path.cwd()) else str(installed)
