"""Reads event files of any TensorBoard writer into a `Run`."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tbx_callbacks import tags
from tbx_callbacks._text import label, short
from tbx_callbacks.runs.event_values import (
    LeftOut,
    checked_buckets,
    histogram_buckets,
    named,
    number,
    numbers,
    tensor_array,
    texts,
)
from tbx_callbacks.runs.folders import is_remote, is_second_series
from tbx_callbacks.runs.records import RECORD_BYTES, local_records, why_unreadable
from tbx_callbacks.runs.series import Floats, Histograms, Points, Run, Texts, listed_points, scalar_points, series_of

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
_MAX_NAMED, _MAX_LISTED = 3, 20  # files in an error, and in what is left out of a run
_HPARAMS = tags.HPARAMS_START
_PROGRESS_BYTES = 1 << 18  # bytes between two reports of progress


class UnreadableError(ValueError):
    """A folder contains no readable run; the message names the rule, the value and the remedy."""


def find_runs(logdir: str | os.PathLike[str]) -> dict[str, str]:
    """Returns `logdir` and the folders below it that contain event files: relative name -> path, sorted by name.

    A run that is also written against other axes (`axis: [step, samples]`) is one run, that of its steps.

    Raises:
        UnreadableError: `logdir` is not a folder, or there are no event files.
        ImportError: TensorBoard is not installed.
    """
    top = os.fspath(logdir)
    board = _tensorboard()
    if not is_remote(top) and not os.path.isdir(top):
        reason = "it is a file" if os.path.exists(top) else "it does not exist"
        raise UnreadableError(f"LOGDIR must be a folder with event files, got {short(top, 200)}: {reason}")
    try:
        found = set(board.io_wrapper.GetLogdirSubdirectories(top) if is_remote(top) else _local_folders(top))
    except (OSError, board.OpError) as error:
        raise UnreadableError(f"LOGDIR must be a folder that can be read, got {short(top, 200)}: {error}") from error
    run_folders = sorted(map(str, found))
    if not run_folders:
        raise UnreadableError(
            f"LOGDIR must hold event files (*tfevents*), but there are none in {short(top, 200)} or below; give the"
            " folder that the run was logged to"
        )
    return {_relative(folder, top): folder for folder in run_folders if not is_second_series(folder, run_folders)}


def _local_folders(top: str) -> Iterator[str]:
    """The folders with event files at or below `top`. Links are followed, but each folder is visited once.

    A folder that can also be reached without a link has the name that it has there.
    """
    visited: set[tuple[int, int]] = set()

    def warn(error: OSError) -> None:
        logger.warning("folder %r is left out: %s", error.filename, error.strerror)

    starts = [top]
    for start in starts:  # it grows while links are found
        for folder, below, names in os.walk(start, onerror=warn):
            identity = _identity(folder)
            if identity is None or identity in visited:
                below.clear()
                continue
            visited.add(identity)
            below.sort()
            paths = [os.path.join(folder, name) for name in below]
            starts += [path for path in paths if os.path.islink(path)]
            if any(_is_event_file(name) for name in names):
                yield folder


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except OSError:  # removed since
        return None
    return status.st_dev, status.st_ino


def read_run(folder: str | os.PathLike[str], *, progress: Progress | None = None) -> Run:
    """Reads one run: all event files of a folder, without those below it. Remote folders work as in TensorBoard.

    Files are read in order of name, which contains their time. As in TensorBoard, steps that a restart trains again
    replace the old ones. A session start removes everything from its step on. Without one, a step of a tag that does
    not follow the last one removes the tag's points from that step on. A truncated record, as in a file that is being
    written, ends its file.

    Args:
        folder: folder with event files.
        progress: called with the bytes read so far and the total, every 256 KiB.

    Raises:
        UnreadableError: there are no event files, or none of them holds an event that can be read. Files, events and
            values beside others that cannot be read are left out; `Run.left_out` names them.
        ImportError: TensorBoard is not installed.
    """
    top = os.fspath(folder)
    board = _tensorboard()
    try:
        sizes = _files(top, board)
    except (OSError, board.OpError) as error:
        raise UnreadableError(f"a run's folder must be readable, but {short(top, 200)} is not: {error}") from error
    builder, unread = _RunBuilder(), dict[str, int]()
    bytes_read, total = 0, sum(sizes.values())
    problems: list[str] = []
    for path, size in sizes.items():
        name, start = os.path.basename(path), bytes_read
        try:
            for record in board.remote_records(path) if is_remote(path) else local_records(path):
                builder.add_record(record, name, board)
                if (
                    progress
                    and (bytes_read + len(record) + RECORD_BYTES) // _PROGRESS_BYTES > bytes_read // _PROGRESS_BYTES
                ):
                    progress(bytes_read, total)
                bytes_read += len(record) + RECORD_BYTES
        except (OSError, board.OpError, MemoryError, OverflowError) as error:
            problems.append(f"{label(name)}: {why_unreadable(path, error)}")
            bytes_read = start + size
            continue
        if bytes_read == start:
            is_empty = "it is empty" if not size else "it holds no complete event, so it is damaged or no event file"
            problems.append(f"{label(name)}: {is_empty}")
        elif bytes_read - start < size:
            unread[name] = size - (bytes_read - start)
        bytes_read = max(bytes_read, start + size)
    if progress:
        progress(bytes_read, bytes_read)
    if not builder.events:
        raise UnreadableError(_none_readable(top, problems))
    more = len(problems) - _MAX_LISTED
    return builder.run(unread, problems if more <= 0 else [*problems[:_MAX_LISTED], f"{more} more files"])


def _none_readable(folder: str, problems: list[str]) -> str:
    files = "; ".join(problems[:_MAX_NAMED]) + (
        f"; and {len(problems) - _MAX_NAMED} more" * (len(problems) > _MAX_NAMED)
    )
    return f"event files must hold TensorBoard events, but those in {short(folder, 200)} hold none: {files}"


class _RunBuilder:
    """Builds a `Run` from events."""

    def __init__(self) -> None:
        self.events = 0
        self._scalars: defaultdict[str, Points[float]] = defaultdict(scalar_points)
        self._histograms: defaultdict[str, Points[Floats]] = defaultdict(listed_points)
        self._texts: defaultdict[str, Points[str]] = defaultdict(listed_points)
        self._plugins: dict[str, str] = {}
        self._hparams: dict[str, bool | float | str] = {}
        self._images: dict[str, bytes] = {}
        self._curves: dict[str, Floats] = {}
        self._left_out = LeftOut()

    def add_record(self, record: bytes, file: str, board: Any) -> None:
        """Adds the event of a record; one that cannot be parsed is left out."""
        try:
            event = board.Event.FromString(record)
        except board.DecodeError:
            self._left_out.add(f"an event of {short(file)}", "it is no event that TensorBoard knows")
        else:
            self._add_event(event, board)

    def _add_event(self, event: Any, board: Any) -> None:
        self.events += 1
        if event.HasField("session_log") and event.session_log.status == board.START:
            self._cut_all(event.step)
        for value in event.summary.value:
            try:
                self._add_value(value, event.step, event.wall_time, board)
            except ValueError as error:
                self._left_out.add(named(value.tag, event.step), str(error))

    def _add_value(self, value: Any, step: int, wall_time: float, board: Any) -> None:
        kind = value.WhichOneof("value")
        if value.tag == _HPARAMS and value.metadata.plugin_data.content:  # TensorFlow adds a tensor without a meaning
            self._hparams = board.hparams(value.metadata.plugin_data.content)
        elif kind == "simple_value":
            self._scalars[value.tag].add(step, value.simple_value, wall_time)
        elif kind == "histo":
            self._histograms[value.tag].add(step, histogram_buckets(value.histo), wall_time)
        elif kind == "image":
            self._images[value.tag] = value.image.encoded_image_string
        elif kind == "tensor":
            self._add_tensor(value, step, wall_time, board)

    def _cut_all(self, step: int) -> None:
        by_tag: tuple[Mapping[str, Points[Any]], ...] = (self._scalars, self._histograms, self._texts)
        for points in by_tag:
            for points_of_tag in points.values():
                points_of_tag.cut(step)

    def _add_tensor(self, value: Any, step: int, wall_time: float, board: Any) -> None:
        """Adds a TF2-style value. The plugin defines the meaning of the tensor; a tag names it in its first value."""
        plugin = self._plugins.setdefault(value.tag, value.metadata.plugin_data.plugin_name)
        if not plugin:
            raise ValueError("the first value of its tag names no plugin, which gives a tensor its meaning")
        if plugin not in ("scalars", "histograms", "text", "images", "pr_curves"):
            return
        tensor = tensor_array(value.tensor, board)
        if plugin == "scalars":
            self._scalars[value.tag].add(step, number(tensor), wall_time)
        elif plugin == "histograms":
            buckets = checked_buckets(numbers(tensor, None, 3))
            self._histograms[value.tag].add(step, buckets, wall_time)
        elif plugin == "text":
            words = "\n".join(part.decode("utf-8", "replace") for part in texts(tensor))
            self._texts[value.tag.removesuffix("/text_summary")].add(step, words, wall_time)
        elif plugin == "images":
            parts = texts(tensor)  # width, height, images
            if len(parts) > 2:
                self._images[value.tag] = parts[2]
        elif plugin == "pr_curves":
            self._curves[value.tag] = numbers(tensor, 6, None)[4:]

    def run(self, unread: Mapping[str, int], problems: list[str]) -> Run:
        return Run(
            {tag: series_of(points) for tag, points in self._scalars.items() if len(points)},
            {tag: Histograms(*_columns(points)) for tag, points in self._histograms.items() if len(points)},
            {tag: Texts(*_columns(points)) for tag, points in self._texts.items() if len(points)},
            unread,
            self._hparams,
            self._images,
            self._curves,
            (*(f"{problem} (left out)" for problem in problems), *self._left_out.sentences()),
        )


def _columns(points: Points[Any]) -> tuple[Any, tuple[Any, ...], Any]:
    steps, values, wall_times = points.arrays()
    return steps, tuple(values), wall_times


def _files(folder: str, board: Any) -> dict[str, int]:
    """Returns the event files of a folder with their sizes, sorted by name."""
    if is_remote(folder):
        paths = [str(path) for path in board.io_wrapper.ListDirectoryAbsolute(folder)]
    elif os.path.isdir(folder):
        paths = [os.path.join(folder, name) for name in os.listdir(folder)]
    else:
        raise UnreadableError(
            f"a run must be a folder with event files, got {short(folder, 200)}, which is not a folder"
        )
    event_files = sorted(
        path for path in paths if _is_event_file(os.path.basename(path)) and not path.endswith(".profile-empty")
    )
    if not event_files:
        raise UnreadableError(f"a run's folder must hold event files (*tfevents*), but {short(folder, 200)} holds none")
    return {path: _size(path, board) for path in event_files}


def _is_event_file(name: str) -> bool:
    return "tfevents" in name


def _size(path: str, board: Any) -> int:
    """The size of a file; 0 of one that cannot be read, which shows when it is opened."""
    try:
        return int(board.tf.io.gfile.stat(path).length) if is_remote(path) else os.stat(path).st_size
    except (OSError, board.OpError):
        return 0


def _relative(folder: str, top: str) -> str:
    rest = folder.rstrip("/").removeprefix(top.rstrip("/")).strip("/") if is_remote(top) else None
    return (rest or ".") if rest is not None else os.path.relpath(folder, top)


def _tensorboard() -> Any:
    """Returns the module with TensorBoard's loaders; imported on demand because TensorBoard is optional."""
    try:
        from tbx_callbacks.runs import tensorboard_loader as _tensorboard
    except ImportError as error:
        raise ImportError(
            "reading event files needs TensorBoard, which is not installed; run: pip install tbx-callbacks[view]"
        ) from error
    return _tensorboard
