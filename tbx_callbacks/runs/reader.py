"""Reads event files of any TensorBoard writer into a `Run`."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks.runs.folders import is_remote, is_second_series
from tbx_callbacks.runs.series import Floats, Histograms, Points, Run, Texts, listed_points, scalar_points, series_of

Progress = Callable[[int, int], None]
_RECORD = 16  # bytes per record in addition to the event: length and two checksums
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
    wrapper = _tensorboard().io_wrapper
    if not is_remote(top) and not os.path.isdir(top):
        reason = "it is a file" if os.path.exists(top) else "it does not exist"
        raise UnreadableError(f"LOGDIR must be a folder with event files, got {top!r}: {reason}")
    run_folders = sorted({str(folder) for folder in wrapper.GetLogdirSubdirectories(top)})
    if not run_folders:
        raise UnreadableError(
            f"LOGDIR must hold event files (*tfevents*), but there are none in {top!r} or below; give the folder that"
            " the run was logged to"
        )
    return {_relative(folder, top): folder for folder in run_folders if not is_second_series(folder, run_folders)}


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
        UnreadableError: there are no event files, or one cannot be read.
        ImportError: TensorBoard is not installed.
    """
    top = os.fspath(folder)
    board = _tensorboard()
    try:
        sizes = _files(top, board)
        builder, unread = _RunBuilder(), {}
        bytes_read = 0
        for path, size in sizes.items():
            start, total = bytes_read, sum(sizes.values())
            for record in board.RawEventFileLoader(path).Load():
                builder.add_event(board.Event.FromString(record), board)
                if progress and (bytes_read + len(record) + _RECORD) // _PROGRESS_BYTES > bytes_read // _PROGRESS_BYTES:
                    progress(bytes_read, total)
                bytes_read += len(record) + _RECORD
            if bytes_read - start < size:
                unread[os.path.basename(path)] = size - (bytes_read - start)
                bytes_read = start + size
        if progress:
            progress(bytes_read, bytes_read)
    except (OSError, board.OpError, board.DecodeError) as error:
        raise UnreadableError(f"event files must be readable, but in {top!r} one is not: {error}") from error
    if not builder.events:
        raise UnreadableError(f"event files must hold TensorBoard events, but those in {top!r} hold none")
    return builder.run(unread)


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

    def add_event(self, event: Any, board: Any) -> None:
        self.events += 1
        if event.HasField("session_log") and event.session_log.status == board.START:
            self._cut_all(event.step)
        step, wall_time = event.step, event.wall_time
        for value in event.summary.value:
            kind = value.WhichOneof("value")
            if kind == "simple_value":
                self._scalars[value.tag].add(step, value.simple_value, wall_time)
            elif kind == "histo":
                self._histograms[value.tag].add(step, _buckets(value.histo), wall_time)
            elif kind == "image":
                self._images[value.tag] = value.image.encoded_image_string
            elif kind == "tensor":
                self._add_tensor(value, step, wall_time, board)
            elif value.tag == _HPARAMS:
                self._hparams = board.hparams(value.metadata.plugin_data.content)

    def _cut_all(self, step: int) -> None:
        by_tag: tuple[Mapping[str, Points[Any]], ...] = (self._scalars, self._histograms, self._texts)
        for points in by_tag:
            for points_of_tag in points.values():
                points_of_tag.cut(step)

    def _add_tensor(self, value: Any, step: int, wall_time: float, board: Any) -> None:
        """Adds a TF2-style value. The plugin defines the meaning of the tensor; a tag names it in its first value."""
        plugin = self._plugins.setdefault(value.tag, value.metadata.plugin_data.plugin_name)
        if plugin not in ("scalars", "histograms", "text", "images", "pr_curves"):
            return
        tensor = board.make_ndarray(value.tensor)
        if plugin == "scalars" and tensor.size == 1:
            self._scalars[value.tag].add(step, float(tensor.reshape(())), wall_time)
        elif plugin == "histograms" and tensor.ndim == 2:
            self._histograms[value.tag].add(step, tensor.astype(np.float64), wall_time)
        elif plugin == "text":
            words = "\n".join(part.decode("utf-8", "replace") for part in tensor.ravel())
            self._texts[value.tag.removesuffix("/text_summary")].add(step, words, wall_time)
        elif plugin == "images" and tensor.size > 2:  # width, height, images
            self._images[value.tag] = bytes(tensor.ravel()[2])
        elif plugin == "pr_curves" and tensor.ndim == 2 and len(tensor) == 6:
            self._curves[value.tag] = tensor[4:].astype(np.float64)

    def run(self, unread: Mapping[str, int]) -> Run:
        return Run(
            {tag: series_of(points) for tag, points in self._scalars.items() if len(points)},
            {tag: Histograms(*_columns(points)) for tag, points in self._histograms.items() if len(points)},
            {tag: Texts(*_columns(points)) for tag, points in self._texts.items() if len(points)},
            unread,
            self._hparams,
            self._images,
            self._curves,
        )


def _columns(points: Points[Any]) -> tuple[Any, tuple[Any, ...], Any]:
    steps, values, wall_times = points.arrays()
    return steps, tuple(values), wall_times


def _buckets(histogram: Any) -> Floats:
    """Returns `[K, 3]` as TensorBoard draws it: without empty outer buckets, which reach +-1.8e308 in old files."""
    counts, limits = np.array(histogram.bucket), np.array(histogram.bucket_limit)
    nonempty = np.flatnonzero(counts)
    if not nonempty.size:
        return np.empty((0, 3))
    first, last = nonempty[0], nonempty[-1]
    inner = limits[first:last]
    return np.stack([[histogram.min, *inner], [*inner, histogram.max], counts[first : last + 1]], axis=1)


def _files(folder: str, board: Any) -> dict[str, int]:
    """Returns the event files of a folder with their sizes, sorted by name."""
    wrapper, gfile = board.io_wrapper, board.tf.io.gfile
    if not is_remote(folder) and not os.path.isdir(folder):
        raise UnreadableError(f"a run must be a folder with event files, got {folder!r}, which is not a folder")
    event_files = sorted(path for path in wrapper.ListDirectoryAbsolute(folder) if wrapper.IsSummaryEventsFile(path))
    if not event_files:
        raise UnreadableError(f"a run's folder must hold event files (*tfevents*), but {folder!r} holds none")
    return {path: gfile.stat(path).length for path in event_files}


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
