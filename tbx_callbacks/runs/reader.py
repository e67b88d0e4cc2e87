"""Finds the runs in a folder, in any format of logs, and reads them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator

from tbx_callbacks._text import natural_order, short
from tbx_callbacks.runs.folders import is_remote, is_second_series
from tbx_callbacks.runs.formats import EVENT_FILES, FORMATS, LogFormat, Progress, UnreadableError
from tbx_callbacks.runs.series import Run

__all__ = ["Progress", "UnreadableError", "find_runs", "read_run"]

logger = logging.getLogger(__name__)


def find_runs(logdir: str | os.PathLike[str]) -> dict[str, str]:
    """Returns the runs at and below `logdir`: relative name -> path for `read_run`, sorted by name, numbers by value.

    Event files, `metrics.jsonl`, `metrics.csv`, the Trainer's `trainer_state.json` and other `*.jsonl` files with steps
    are runs. So are `metrics.csv` and `metrics.jsonl` without steps, which cannot be read. A folder is read in the
    first of these formats that it holds. The log history of a Trainer counts only if no event files, `metrics.jsonl` or
    `metrics.csv` lie below its output folder. A run that is also written against other axes (`axis: [step, samples]`)
    is one run, that of its steps. Remote folders hold event files.

    Raises:
        UnreadableError: `logdir` is neither a folder nor a log, or there are no runs.
        ImportError: the folder is remote, and TensorBoard is not installed.
    """
    top = os.fspath(logdir)
    if is_remote(top):
        found = EVENT_FILES.find_remote(top)
    elif os.path.isdir(top):
        found = _local_runs(top)
    elif os.path.exists(top):
        _file_format(top)
        found = {".": top}
    else:
        raise UnreadableError(f"LOGDIR must be a folder with runs, got {short(top, 200)}: it does not exist")
    if not found:
        formats = ", ".join(dict.fromkeys(known.files for known in FORMATS))
        raise UnreadableError(
            f"LOGDIR must hold logs of a run ({formats}), but there are none in {short(top, 200)} or below; give the"
            " folder that the run was logged to"
        )
    paths = set(found.values())
    return {name: found[name] for name in sorted(found, key=natural_order) if not is_second_series(found[name], paths)}


def read_run(path: str | os.PathLike[str], *, progress: Progress | None = None) -> Run:
    """Reads one run: the log of a folder, without those below it, or a log file.

    Args:
        path: a folder, local or remote; or a `trainer_state.json`, CSV file or file of JSON lines.
        progress: called with the bytes read so far and the total.

    Raises:
        UnreadableError: there is no log, or nothing in it can be read. Files and values that cannot be read beside
            others are left out; `Run.left_out` names them.
        ImportError: there are event files, and TensorBoard is not installed.
    """
    top = os.fspath(path)
    known, log = _folder_log(top) if is_remote(top) or os.path.isdir(top) else (_file_format(top), top)
    return known.read(log, progress)


def _folder_log(folder: str) -> tuple[LogFormat, str]:
    """The format of the log in a folder, and its path; without any log, that of event files, whose reader says so."""
    below, names = ([], []) if is_remote(folder) else _content(folder)
    for known in FORMATS:
        logs = known.find(folder, below, names)
        if len(logs) > 1:
            raise UnreadableError(
                f"a run's folder must hold one log, {short(folder, 200)} holds {', '.join(sorted(logs)[:5])}; name the"
                " file"
            )
        if logs:
            return known, next(iter(logs.values()))
    return EVENT_FILES, folder


def _file_format(file: str) -> LogFormat:
    for known in FORMATS:
        if os.path.isfile(file) and known.accepts(file):
            return known
    if "tfevents" in os.path.basename(file):
        reason = "it is one event file of a run; give its folder"
    else:
        reason = "it is no log with steps" if os.path.exists(file) else "it does not exist"
    raise UnreadableError(f"a run must be a folder with logs, or a log file, got {short(file, 200)}: {reason}")


def _local_runs(top: str) -> dict[str, str]:
    """The runs at or below a folder, by name."""
    found: dict[str, str] = {}
    folders = set[str]()  # with runs
    histories: dict[str, str] = {}  # folders of runs that another log may tell better, by name
    others: list[str] = []  # logs that may be only a few numbers
    for folder, below, names in walk_folders(top, on_error=_warn):
        for known in FORMATS:
            is_part = known.parts and known.parts.fullmatch(os.path.basename(folder))
            if is_part and os.path.dirname(folder) in folders:
                continue
            runs = known.find(folder, below, names)
            for name, path in runs.items():
                key = os.path.normpath(os.path.join(os.path.relpath(folder, top), name))
                found[key] = path
                folders.add(folder)
                if known.is_history:
                    histories[key] = folder
                if known.is_partial:
                    others.append(key)
            if runs:
                break
    logs = [os.path.join(path, "") for name, path in found.items() if name not in histories and name not in others]
    for name, folder in histories.items():
        if any(log.startswith(os.path.join(folder, "")) for log in logs):
            del found[name]
    return found


def _warn(error: OSError) -> None:
    logger.warning("folder %r is left out: %s", error.filename, error.strerror)


def walk_folders(
    top: str, *, on_error: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields folders with the names of the folders and files in them. Links are followed; each folder comes once.

    A folder that can also be reached without a link has the name that it has there.

    Args:
        top: the first folder.
        on_error: is called with the error of a folder that cannot be read; it is left out.
    """
    visited: set[tuple[int, int]] = set()
    starts = [top]
    for start in starts:  # it grows while links are found
        for folder, below, names in os.walk(start, onerror=on_error):
            identity = _identity(folder)
            if identity is None or identity in visited:
                below.clear()
                continue
            visited.add(identity)
            below.sort()
            paths = [os.path.join(folder, name) for name in below]
            starts += [path for path in paths if os.path.islink(path)]
            yield folder, list(below), sorted(names)


def _content(folder: str) -> tuple[list[str], list[str]]:
    _, below, names = next(os.walk(folder), (folder, [], []))
    return below, sorted(names)


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except OSError:  # removed since
        return None
    return status.st_dev, status.st_ino
