"""tbx-callbacks: trainings without a change of their code, metric sets, TensorBoard, diagnoses, reports, recipes."""

from __future__ import annotations

import inspect
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import Progress

from tbx_callbacks._config.bundled import bundled_folder
from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._config.rule_options import function_of
from tbx_callbacks._config.validation import SpecError
from tbx_callbacks._extensions import suggest, without_imports, working_folder
from tbx_callbacks._text import short, some
from tbx_callbacks.autolog.script import ScriptError
from tbx_callbacks.cli.doctor import as_json, exit_code, parse_fail_on, print_diagnosis, print_settings
from tbx_callbacks.cli.outputs import header
from tbx_callbacks.cli.rule_file import PROJECT_FILE, project_settings
from tbx_callbacks.cli.run import Launch, prepare
from tbx_callbacks.cli.terminal import (
    Commands,
    ReaderGoneError,
    checked_stdout,
    console,
    errors,
    fail,
    print_json,
    print_pairs,
    print_warnings,
)
from tbx_callbacks.rules.acknowledged import unused
from tbx_callbacks.rules.diagnose import DiagnosedRun, diagnose_folder
from tbx_callbacks.runs.reader import UnreadableError

if TYPE_CHECKING:
    from tbx_callbacks.report.loaded_runs import LoadedRun

app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)

_RULES = f"YAML file with `rules:`: thresholds and acknowledged findings; default: {PROJECT_FILE}, if it is here."
_PIPE_WIDTH = 160  # columns of `top` where nothing tells them
_SHORTEST_WAIT = 0.1  # seconds
_LONGEST_WAIT = 86_400  # seconds; a browser's timer takes no more than 24 days


def main() -> None:
    """Entry point of the command."""
    launches: list[Launch] = []
    try:
        with checked_stdout():
            app(obj=launches)
    except SystemExit:
        if not launches:
            raise
    launches[0]()  # outside of the command line, whose output and errors are not the script's


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from tbx_callbacks import __version__

        console.print(f"tbx-callbacks {__version__}")
        raise typer.Exit


@app.callback()
def _prepare(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand == run.__name__:
        return  # the script's warnings are its own
    print_warnings()
    context.with_resource(working_folder())  # a metric set may name classes and functions of modules there


@app.command(context_settings={"allow_extra_args": True, "allow_interspersed_args": False})
def run(
    context: typer.Context,
    script: Annotated[str, typer.Argument(help="A Python file, a folder or zip with __main__.py; a module with -m.")],
    config: Annotated[
        str, typer.Option(envvar="TBX_CALLBACKS", help="A metric set: a bundled name, or a YAML file.")
    ] = "default",
    logdir: Annotated[str | None, typer.Option(envvar="TBX_CALLBACKS_LOGDIR", help="Folder of the run.")] = None,
    module: Annotated[bool, typer.Option("-m", help="Run a module, as python -m does.")] = False,
) -> None:
    """Run a training script, and log its Trainers, without a change of its code.

    Arguments after SCRIPT are the script's own. Also: torchrun ... -m tbx_callbacks run SCRIPT ...
    """
    try:
        launch = prepare(script, context.args, config=config, log_dir=logdir, is_module=module)
    except (ConfigError, ScriptError) as error:
        fail(str(error))
    context.ensure_object(list).append(launch)


# Commands that read metric sets import torch, which takes seconds; the others do without.
@app.command()
def sets(json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the bundled metric sets."""
    from tbx_callbacks.cli.metric_sets import sets_as_json, sets_table

    if json_:
        print_json(sets_as_json())
    else:
        console.print(sets_table())


@app.command()
def metrics(
    name: Annotated[str | None, typer.Argument(help="A metric: shows its tags, units, options and cost.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the metrics, or show one of them in full."""
    from tbx_callbacks.cli.metric_sets import metric_details, metric_summaries, metrics_as_json

    try:
        if json_:
            print_json(metrics_as_json(name))
            return
        if name is None:
            print_pairs(metric_summaries())
            return
        console.print(escape(metric_details(name)), soft_wrap=not console.is_terminal)
    except ConfigError as error:
        fail(str(error))


@app.command()
def check(
    file: Annotated[str, typer.Argument(help="A YAML file, or the name of a bundled set.")],
    no_code: Annotated[
        bool, typer.Option("--no-code", help="Import nothing that the set names; list what was not checked.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a metric set: print its metrics and rules, or the error.

    A metric set that names Python objects runs their code: only use files you trust, or --no-code.
    """
    from tbx_callbacks.cli.metric_sets import check_as_json, check_table

    skipped: list[str] = []
    try:
        with ExitStack() as stack:
            skipped = stack.enter_context(without_imports()) if no_code else []
            checked = check_as_json(file) if json_ else None
            table, summary = check_table(file)
    except ConfigError as error:
        fail(str(error))
    if checked is not None:
        print_json({**checked, "not_checked": list(dict.fromkeys(skipped))})
        return
    console.print(table)
    console.print(summary)
    if no_code:
        names = ", ".join(dict.fromkeys(skipped)) or "nothing: the set names no code"
        console.print(f"not checked, for they are code: {escape(names)}")


@app.command()
def schema(
    name: Annotated[str, typer.Argument(help="`set`, or a command: the schema of what it prints with --json.")] = "set",
) -> None:
    """Print a JSON Schema: of a metric set, for completion and checks in editors, or of a command's output."""
    from tbx_callbacks.cli.outputs import OUTPUTS, output_schema

    if name == "set":
        from tbx_callbacks._config.json_schema import json_schema

        print_json(json_schema())
    elif name in OUTPUTS:
        print_json(output_schema(name))
    else:
        fail(
            f"NAME must be set or a command with --json, got {name!r}; {suggest(name, ['set', *OUTPUTS], what='names')}"
        )


@app.command()
def view(
    logdir: Annotated[Path, typer.Argument(help="Folder with event files, or with such folders below it.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on localhost; 0 selects a free one.")] = 6006,
) -> None:
    """Start TensorBoard on localhost and print its URL."""
    try:
        from tensorboard import program
    except ImportError:
        fail("view needs TensorBoard, which is not installed; run: pip install tbx-callbacks[view]")
    if not logdir.is_dir():
        fail(f"LOGDIR must be a folder, got {str(logdir)!r}")
    if not any(logdir.rglob("*tfevents*")):
        console.print(f"[yellow]{escape(str(logdir))} contains no event files yet[/yellow]")
    board = program.TensorBoard()
    board.configure(logdir=str(logdir), host="localhost", port=port)
    try:
        url = board.launch()
    except program.TensorBoardPortInUseError:
        fail(f"port {port} is in use; choose another with --port, or --port 0 for a free one")
    except program.TensorBoardServerException as error:
        fail(f"TensorBoard did not start: {error}")
    console.print(f"TensorBoard on {escape(str(logdir))}: {url}  (Ctrl-C to stop)", soft_wrap=True)
    _stop_event().wait()
    console.print("stopped")


@app.command()
def doctor(
    logdir: Annotated[str, typer.Argument(help="Folder of a run, or of several runs, from any TensorBoard writer.")],
    rules: Annotated[Path | None, typer.Option(help=_RULES)] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KINDS",
            help="Fail not only on errors: warning (exit code 1), unjudged: too little to judge (3), or both:"
            " warning,unjudged.",
        ),
    ] = None,
) -> None:
    """Diagnose runs and print findings, worst first.

    Exit code: 0 no error found, 1 errors found, 2 unreadable; more with --fail-on.
    """
    try:
        kinds = parse_fail_on(fail_on or [])
    except ValueError as error:
        fail(str(error))
    try:
        file, settings = project_settings(rules)
        unreadable: list[str] = []
        with Progress(console=errors, transient=True, disable=not sys.stderr.isatty()) as bars:
            runs = list(
                diagnose_folder(
                    logdir,
                    rules=settings.rules,
                    acknowledged=settings.acknowledged,
                    progress=lambda name: _bar(bars, name),
                    on_unreadable=unreadable.append,
                )
            )
    except (ConfigError, UnreadableError, ImportError) as error:
        fail(str(error))
    not_found = unused(settings.acknowledged, [diagnosed.diagnosis.acknowledged for diagnosed in runs])
    if json_:
        print_json(as_json(runs, not_found=not_found, rules_file=file))
    else:
        for diagnosed in runs:
            print_diagnosis(diagnosed, console)
        print_settings(file, not_found, console)
    raise typer.Exit(exit_code([diagnosed.diagnosis for diagnosed in runs], kinds, unreadable))


@app.command()
def preflight(
    source: Annotated[str, typer.Argument(help="A function, as package.function, that returns the arguments.")],
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(metavar="KINDS", help="Fail not only on errors: warning (exit code 1), unjudged (3), or both."),
    ] = None,
) -> None:
    """Check a training before it begins.

    The function returns a mapping of the arguments of tbx_callbacks.preflight: model, batches, and perhaps optimizers,
    loss, evaluation and tokenizer. Exit codes are those of doctor.
    """
    from tbx_callbacks.integrations.preflight import preflight as check_training

    try:
        kinds = parse_fail_on(fail_on or [])
        function: Callable[[], object] = function_of(source, "SOURCE")  # type: ignore[assignment]
        arguments = function()
        if not isinstance(arguments, Mapping):
            fail(f"{source} must return the arguments of preflight by name, got {short(arguments)}; return a dict")
        known = inspect.signature(check_training).parameters
        if unknown := [name for name in arguments if name not in known]:
            nearest = suggest(str(unknown[0]), known, what="arguments")
            fail(f"{source} must return arguments of preflight, got {short(unknown[0])}; {nearest}")
        result = check_training(**arguments)
    except (SpecError, TypeError, ValueError) as error:
        fail(str(error))
    diagnosed = DiagnosedRun(source, source, result.run, result.diagnosis)
    if json_:
        print_json(as_json([diagnosed], command="preflight"))
    else:
        print_diagnosis(diagnosed, console, has_steps=False)
    raise typer.Exit(exit_code([result.diagnosis], kinds))


@app.command()
def report(
    logdir: Annotated[
        list[str], typer.Argument(help="Folders of runs, or of several runs; multiple runs are overlaid.")
    ],
    # Texts, because Path drops the slash at the end of a name, and makes the working folder of an empty one.
    output: Annotated[str, typer.Option("--output", "-o", help="Path of the report; - is standard output.")] = (
        "report.html"
    ),
    png: Annotated[str | None, typer.Option(help="Folder for PNG files of the main figures.")] = None,
    rules: Annotated[Path | None, typer.Option(help=_RULES)] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Update the report while runs grow, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two updates with --watch, 1 to 86400.")] = 30.0,
    md: Annotated[bool, typer.Option("--md", help="Print at most 60 lines of Markdown, for a pull request.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the path of the report as JSON.")] = False,
) -> None:
    """Write a self-contained HTML report: figures and findings of the runs."""
    from tbx_callbacks.report import write_report
    from tbx_callbacks.report.markdown import markdown
    from tbx_callbacks.report.output import is_stdout
    from tbx_callbacks.report.watch import follow

    def write(refresh: float | None = None) -> Path:
        _, settings = project_settings(rules)
        with Progress(console=errors, transient=True, disable=not sys.stderr.isatty()) as bars:
            return write_report(
                logdir,
                output,
                png=png,
                rules=settings.rules,
                acknowledged=settings.acknowledged,
                progress=lambda name: _bar(bars, name),
                refresh=refresh,
            )

    try:
        _check_report_options(every, output, watch=watch, prints={"--md": md, "--json": json_}, png=png)
        if md:
            sys.stdout.write(markdown(_loaded(logdir, rules)))
            return
        to_stdout = is_stdout(output)
        if watch:
            stopped = _stop_event()
            for result in follow(logdir, lambda: write(every), lambda: stopped.wait(every)):
                console.print(f"{time.strftime('%H:%M:%S')} {escape(str(result))}", soft_wrap=True)
        page = write()
        if json_:
            print_json({**header("report"), "report": str(page)})
            return
        (errors if to_stdout else console).print(f"report: {escape(str(page))}", soft_wrap=True)
    except (ConfigError, UnreadableError, ImportError, OSError) as error:
        if isinstance(error, ReaderGoneError) or (isinstance(error.__cause__, BrokenPipeError) and is_stdout(output)):
            raise ReaderGoneError("its reader is gone") from error
        fail(str(error))


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="Folder of a run, or a log file.")],
    rules: Annotated[Path | None, typer.Option(help=_RULES)] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Summarize a run in at most 2,400 characters, findings first."""
    from tbx_callbacks.cli.show import summary_as_json
    from tbx_callbacks.summary import summarize

    summary = summarize(_loaded_run(run, rules))
    print_json(summary_as_json(summary)) if json_ else sys.stdout.write(summary.text())


@app.command()
def around(
    run: Annotated[str, typer.Argument(help="Folder of a run, or a log file.")],
    step: Annotated[int, typer.Option(help="The step.")],
    window: Annotated[int, typer.Option(min=0, max=1000, help="Points before and after the step.")] = 5,
    curves: Annotated[str | None, typer.Option(help="Regex of the tags to show; default: the main curves.")] = None,
    rules: Annotated[Path | None, typer.Option(help=_RULES)] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the values around a step: the main curves, and the layers that changed most."""
    from tbx_callbacks.cli.show import around_as_json
    from tbx_callbacks.summary import values_around

    try:
        found = values_around(_loaded_run(run, rules), step, window=window, curves=curves)
    except ValueError as error:
        fail(str(error))
    print_json(around_as_json(found)) if json_ else sys.stdout.write(found.text())


@app.command()
def top(
    logdir: Annotated[str, typer.Argument(help="Folder with runs, which may come later; or a log file.")],
    every: Annotated[float, typer.Option(help="Seconds between two readings, 0.1 to 86400.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame with all runs, and end.")] = False,
    rules: Annotated[Path | None, typer.Option(help=_RULES)] = None,
) -> None:
    """Watch trainings in the terminal: verdicts, losses, gradient norms, layers, speed and time left.

    Keys: q quits, j and k change the run, f the heat map, h shows all keys.
    """
    from tbx_callbacks.monitor import Frame, View, WatchedRuns, follow

    if not _SHORTEST_WAIT <= every <= _LONGEST_WAIT:
        fail(f"--every must be a number of seconds from {_SHORTEST_WAIT} to {_LONGEST_WAIT}, got {every}")
    try:
        _, settings = project_settings(rules)
    except (ConfigError, ImportError) as error:
        fail(str(error))
    runs = WatchedRuns(logdir, rules=settings.rules, acknowledged=settings.acknowledged)
    if once:
        *_, last = runs.snapshots()
        if not last.runs:
            fail(last.problem)
        width = console.width if console.is_terminal or "COLUMNS" in os.environ else _PIPE_WIDTH
        console.print(Frame(last, View(), logdir, has_keys=False, is_whole=True), width=width)
    elif not sys.stdout.isatty() or console.is_dumb_terminal:
        fail("the standard output must be a terminal that can move its cursor; print one frame with --once")
    else:
        follow(runs, console, _stop_event(), every)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Folders of runs, or of several runs; log files too.")],
    curves: Annotated[str | None, typer.Option(help="Regex of further tags to compare.")] = None,
    rules: Annotated[Path | None, typer.Option(help=_RULES)] = None,
    md: Annotated[bool, typer.Option("--md", help="Print Markdown, for a pull request.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare runs: settings, versions, findings, and the step from which curves part.

    Runs that differ only in their seeds are of one kind: their spread is the noise. Others are compared with the first.
    """
    from tbx_callbacks.cli import compare as printing
    from tbx_callbacks.comparison import compare as compare_runs

    try:
        result = compare_runs(_loaded(runs, rules), curves=curves)
    except (ConfigError, UnreadableError, ImportError, ValueError) as error:
        fail(str(error))
    if json_:
        print_json(printing.as_json(result))
    elif md:
        sys.stdout.write(printing.as_markdown(result))
    else:
        printing.print_comparison(result, console)


@app.command()
def batch(
    run: Annotated[str, typer.Argument(help="Folder of a run that was logged with the metric bad_batches.")],
    step: Annotated[int | None, typer.Argument(help="A step; without one, the steps with batches are listed.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of each micro-batch to print.")] = 20,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the batch behind a step that went wrong: its rows and their losses, worst first."""
    from tbx_callbacks.cli.batch import as_json, find, load, print_batch, steps_table

    found, problem = find(run, step)
    if problem is not None:
        fail(problem)
    if step is None:
        if json_:
            print_json(as_json([one for paths in found.values() for one in load(paths)[0]]))
        else:
            console.print(steps_table(found))
            console.print(f"show one: tbx-callbacks batch {escape(run)} {next(iter(found))}", soft_wrap=True)
        return
    batches, problems = load(found[step])
    for words in problems:
        errors.print(words, markup=False, emoji=False, soft_wrap=True)
    if not batches:
        fail(f"the files of step {step} must hold batches, but none can be read")
    if json_:
        print_json(as_json(batches))
    else:
        for one in batches:
            print_batch(one, console, most=rows)


@app.command()
def watch(
    logdir: Annotated[str, typer.Argument(help="Folder of a run, or of several; it may still be empty.")],
    notify: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="Where to send events: a webhook, a URL of apprise, or '${NAME}'; repeatable."
        ),
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(metavar="EVENTS", help="The events to send: crash,stall,end,error,warning; default: all."),
    ] = None,
    rules: Annotated[Path | None, typer.Option(help=_RULES)] = None,
    every: Annotated[float, typer.Option(help="Seconds between two looks, 1 to 86400.")] = 30.0,
    json_: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
) -> None:
    """Watch runs from outside, until Ctrl-C: print and send what happens to them.

    The variables of a URL such as '${NAME}' are read from the environment, so it is in no list of processes.
    """
    from tbx_callbacks.cli import watch as watching

    if not 1 <= every <= _LONGEST_WAIT:
        fail(f"--every must be a number of seconds from 1 to {_LONGEST_WAIT}, got {every}")
    try:
        targets = watching.targets_of(notify or [], on or [])
        _, settings = project_settings(rules)
        stopped = _stop_event()
        events = watching.watch(
            logdir, lambda: stopped.wait(every), rules=settings.rules, acknowledged=settings.acknowledged
        )
        watching.watch_and_send(events, targets, prints_json=json_)
    except (ConfigError, ImportError, ValueError) as error:
        fail(str(error))


@app.command()
def skill() -> None:
    """Print a SKILL.md that tells a coding agent how to use these commands."""
    sys.stdout.write((Path(__file__).parent / "SKILL.md").read_text(encoding="utf-8"))


_PACKAGES_OF_RECIPES = frozenset(
    [
        "accelerate",
        "datasets",
        "jinja2",
        "lightning",
        "matplotlib",
        "peft",
        "plotly",
        "sklearn",
        "tensorboard",
        "tokenizers",
        "transformers",
        "trl",
    ]
)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def recipe(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the recipe, such as bert-sentiment.")] = "",
) -> None:
    """Run a bundled recipe; all further arguments go to the recipe (try: recipe bert-sentiment --help)."""
    folder = bundled_folder("recipes")
    runs_alone = 'if __name__ == "__main__":'
    scripts = [path for path in folder.glob("*.py") if runs_alone in path.read_text(encoding="utf-8")]
    recipes = sorted(path.stem.replace("_", "-") for path in scripts)
    if name in ("", "--help"):
        console.print(f"recipes: {', '.join(recipes)}; options: tbx-callbacks recipe {recipes[0]} --help")
        return
    if name not in recipes:
        fail(f"the recipe must be a known one, got {name!r}; {suggest(name, recipes, what='recipes')}")
    script = folder / f"{name.replace('-', '_')}.py"
    sys.path.insert(0, str(folder))
    sys.argv = [f"tbx-callbacks recipe {name}", *context.args]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _PACKAGES_OF_RECIPES:
            raise  # a module of the user, or a fault
        remedy = 'run: pip install "tbx-callbacks[recipes,ecosystem]"'
        fail(f"the recipe {name} needs {error.name}, which is not installed; {remedy}")


def _check_report_options(
    every: float, output: str, *, watch: bool, prints: Mapping[str, bool], png: str | None
) -> None:
    """Ends the command with an error if the options of `report` exclude each other."""
    from tbx_callbacks.report.output import is_stdout

    if not 1 <= every <= _LONGEST_WAIT:
        fail(f"--every must be a number of seconds from 1 to {_LONGEST_WAIT}, got {every}")
    asked = [name for name, is_asked in prints.items() if is_asked]
    if len(asked) > 1 or (asked and watch):
        fail(f"one of --md, --json and --watch may be given, got {', '.join([*asked, *['--watch'] * watch])}")
    if asked == ["--md"] and (png or output != "report.html"):
        fail("--md must be used without --output and --png: it prints to the standard output")
    if is_stdout(output) and (watch or asked):
        fail(f"{asked[0] if asked else '--watch'} must have a file, got {short(output)}; name one with --output")


def _loaded_run(logdir: str, rules: Path | None) -> LoadedRun:
    """Reads and diagnoses the only run of a folder."""
    try:
        loaded = _loaded([logdir], rules)
    except (ConfigError, UnreadableError, ImportError) as error:
        fail(str(error))
    if len(loaded) > 1:
        names = some([run.folder for run in loaded], 5)
        fail(f"RUN must be one run, got {len(loaded)} below {short(logdir)}: {names}; name one of them")
    return loaded[0]


def _loaded(logdirs: list[str], rules: Path | None) -> list[LoadedRun]:
    """Reads and diagnoses the runs, with a progress bar."""
    from tbx_callbacks.report.loaded_runs import read

    _, settings = project_settings(rules)
    with Progress(console=errors, transient=True, disable=not sys.stderr.isatty()) as bars:
        return read(
            logdirs,
            rules=settings.rules,
            acknowledged=settings.acknowledged,
            progress=lambda name: _bar(bars, name),
        )


def _stop_event() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set."""
    stopped = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: stopped.set())
    return stopped


def _bar(bars: Progress, name: str) -> Callable[[int, int], None]:
    task = bars.add_task(escape(f"reading {name}"), total=None)
    return lambda done, total: bars.update(task, completed=done, total=total)
