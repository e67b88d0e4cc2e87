"""Reads and diagnoses the runs of a folder again and again; a run whose files have not changed is not read again."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tbx_callbacks._text import printable, reason, words
from tbx_callbacks.monitor.pace import Pace, pace_of
from tbx_callbacks.rules import Acknowledgement, Diagnosis, Rule
from tbx_callbacks.rules.diagnose import diagnose
from tbx_callbacks.rules.folder_roles import Roles
from tbx_callbacks.runs.folders import is_remote
from tbx_callbacks.runs.formats import FORMATS, UnreadableError, is_log
from tbx_callbacks.runs.reader import find_runs, read_run
from tbx_callbacks.runs.series import Run

Files = tuple[tuple[str, int, int], ...]
"""Path, size and time of change of each file of a run."""


@dataclass(frozen=True, eq=False)
class WatchedRun:
    """A run as it was read last.

    Attributes:
        name: the name, printable.
        folder: the folder or the file.
        run: its scalars; a training has those of its evaluations in other folders, too.
        diagnosis: None if the run was never read.
        pace: its progress.
        problem: why it cannot be read now; empty if it was read.
        notes: what was left out, and rules that failed.
        histograms: the number of tags of histograms.
        changed: when its files changed last, as Unix time in seconds; 0 if that is unknown.
    """

    name: str
    folder: str
    run: Run = field(default_factory=Run)
    diagnosis: Diagnosis | None = None
    pace: Pace = field(default_factory=Pace)
    problem: str = ""
    notes: tuple[str, ...] = ()
    histograms: int = 0
    changed: float = 0.0


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All runs of the folder at a moment.

    Attributes:
        runs: those that were read so far, by name.
        time: Unix time in seconds.
        problem: why there is no run; empty if there are runs.
        reading: the run that is read now; empty if all were read.
    """

    runs: tuple[WatchedRun, ...] = ()
    time: float = 0.0
    problem: str = ""
    reading: str = ""


@dataclass(frozen=True)
class _Entry:
    """A run with the state of its files, and of its evaluations' files, before it was read."""

    files: tuple[Files, ...]
    own: Run
    watched: WatchedRun


class WatchedRuns:
    """The runs of a folder.

    Args:
        logdir: folder with runs, or a log file; it need not exist yet.
        rules: rules by name.
        acknowledged: findings that the project knows of.
    """

    def __init__(self, logdir: str, *, rules: Mapping[str, Rule], acknowledged: Sequence[Acknowledgement] = ()) -> None:
        self.logdir = logdir
        self._rules, self._acknowledged = rules, acknowledged
        self._entries: dict[str, _Entry] = {}

    def snapshots(self) -> Iterator[Snapshot]:
        """Reads each run that has changed; yields a snapshot before each of them, and one at the end."""
        try:
            folders = find_runs(self.logdir)
        except (UnreadableError, ImportError, OSError) as error:
            self._entries.clear()
            yield Snapshot((), time.time(), printable(words(error)))
            return
        roles = Roles(folders)
        files = {name: _files(folder) for name, folder in folders.items()}
        self._entries = {name: entry for name, entry in self._entries.items() if name in folders}
        for name in sorted(folders, key=lambda one: roles.training(one) == one):  # evaluations come first
            state = tuple(files[one] for one in (name, *roles.evaluations(name)))
            known = self._entries.get(name)
            if known is None or known.files != state or known.watched.folder != folders[name]:
                yield self._snapshot(folders, reading=printable(name))
                self._entries[name] = self._read(name, folders[name], state, roles)
        yield self._snapshot(folders)

    def _snapshot(self, folders: Mapping[str, str], reading: str = "") -> Snapshot:
        runs = tuple(self._entries[name].watched for name in folders if name in self._entries)
        return Snapshot(runs, time.time(), "", reading)

    def _read(self, name: str, folder: str, state: tuple[Files, ...], roles: Roles) -> _Entry:
        """A run that cannot be read keeps what was read of it before."""
        before = self._entries.get(name)
        notes: list[str] = []

        def note(rule: str, error: BaseException) -> None:
            notes.append(f"rule {rule} failed: {reason(error)}")

        try:
            run = read_run(folder)
            judged = roles.judged(name, run, lambda other: self._entries[other].own if other in self._entries else None)
            diagnosis = diagnose(judged, self._rules, acknowledged=self._acknowledged, folder=folder, on_error=note)
            notes += [f"{file}: {missing} bytes at its end cannot be read yet" for file, missing in run.unread.items()]
            watched = WatchedRun(
                self._shown(name),
                folder,
                Run(scalars=judged.scalars, status=run.status),
                diagnosis,
                pace_of(run),
                notes=tuple(printable(words(one)) for one in (*notes, *run.left_out)),
                histograms=len(run.histograms),
                changed=max((changed for _, _, changed in state[0]), default=0) / 1e9,
            )
            return _Entry(state, Run(scalars=run.scalars), watched)
        except Exception as error:  # one bad run, or a file that changes while it is read, must not end the view
            problem = words(error) if isinstance(error, (UnreadableError, ImportError)) else reason(error)
            kept = before.watched if before else WatchedRun(self._shown(name), folder)
            return _Entry(
                state,
                before.own if before else Run(),
                dataclasses.replace(kept, folder=folder, problem=printable(problem)),
            )

    def _shown(self, name: str) -> str:
        """The name of a run; the folder's own name for the run that it holds itself."""
        return printable(name if name != "." else os.path.basename(os.path.abspath(self.logdir)) or self.logdir)


def _files(path: str) -> Files:
    """The files of a run; those of a remote one always count as changed."""
    if is_remote(path):
        return (("", int.from_bytes(os.urandom(7), "big"), 0),)  # no time
    found: list[tuple[str, int, int]] = []
    for file in _logs(path):
        with contextlib.suppress(OSError):  # deleted since, or a link to nothing
            status = os.stat(file)
            found.append((file, status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))


def _logs(path: str) -> Iterator[str]:
    """The logs in a run's folder, and in those of its parts, such as checkpoints; the path itself, if it is a file."""
    if not os.path.isdir(path):
        yield path
        return
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            below = os.path.join(path, name)
            if is_log(name):
                yield below
            elif any(known.parts and known.parts.fullmatch(name) for known in FORMATS):
                with contextlib.suppress(OSError):
                    yield from (os.path.join(below, part) for part in os.listdir(below) if is_log(part))
