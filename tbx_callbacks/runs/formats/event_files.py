"""Reads event files of any TensorBoard writer, local and remote."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tbx_callbacks import tags
from tbx_callbacks._text import label, short
from tbx_callbacks.runs.event_values import (
    checked_buckets,
    histogram_buckets,
    named,
    number,
    numbers,
    tensor_array,
    texts,
)
from tbx_callbacks.runs.folders import is_remote
from tbx_callbacks.runs.formats.base import LogFormat, Progress, UnreadableError
from tbx_callbacks.runs.formats.run_builder import RunBuilder
from tbx_callbacks.runs.records import RECORD_BYTES, local_records, why_unreadable
from tbx_callbacks.runs.series import Run

_MAX_NAMED, _MAX_LISTED = 3, 20  # files in an error, and in what is left out of a run
_HPARAMS = tags.HPARAMS_START
_PROGRESS_BYTES = 1 << 18  # bytes between two reports of progress


class EventFiles(LogFormat):
    """The format of TensorBoard: all event files of a folder are one run."""

    files = "event files (*tfevents*)"

    def find(self, folder: str, below: Sequence[str], names: Sequence[str]) -> Mapping[str, str]:
        return {"": folder} if any(map(_is_event_file, names)) else {}

    def find_remote(self, top: str) -> dict[str, str]:
        """Returns the remote folders at or below `top` that hold event files: relative name -> path.

        Raises:
            UnreadableError: the folder cannot be read.
            ImportError: TensorBoard is not installed.
        """
        board = _tensorboard()
        try:
            folders = sorted(map(str, board.io_wrapper.GetLogdirSubdirectories(top)))
        except (OSError, board.OpError) as error:
            raise UnreadableError(
                f"LOGDIR must be a folder that can be read, got {short(top, 200)}: {error}"
            ) from error
        return {folder.rstrip("/").removeprefix(top.rstrip("/")).strip("/") or ".": folder for folder in folders}

    def accepts(self, file: str) -> bool:
        return False  # one of several event files would be a part of a run

    def read(self, path: str, progress: Progress | None = None) -> Run:
        """Reads all event files of a folder, in order of name, which contains their time.

        As in TensorBoard, steps that a restart trains again replace the old ones. A session start removes everything
        from its step on. Without one, a step of a tag that does not follow the last one removes the tag's points from
        that step on. A truncated record, as in a file that is being written, ends its file.
        """
        board = _tensorboard()
        try:
            sizes = _files(path, board)
        except (OSError, board.OpError) as error:
            raise UnreadableError(f"a run's folder must be readable, but {short(path, 200)} is not: {error}") from error
        reader, unread = _EventReader(), dict[str, int]()
        bytes_read, total = 0, sum(sizes.values())
        problems: list[str] = []
        for file, size in sizes.items():
            name, start = os.path.basename(file), bytes_read
            try:
                for record in board.remote_records(file) if is_remote(file) else local_records(file):
                    reader.add_record(record, name, board)
                    if (
                        progress
                        and (bytes_read + len(record) + RECORD_BYTES) // _PROGRESS_BYTES > bytes_read // _PROGRESS_BYTES
                    ):
                        progress(bytes_read, total)
                    bytes_read += len(record) + RECORD_BYTES
            except (OSError, board.OpError, MemoryError, OverflowError) as error:
                problems.append(f"{label(name)}: {why_unreadable(file, error)}")
                bytes_read = start + size
                continue
            if bytes_read == start:
                is_empty = (
                    "it is empty" if not size else "it holds no complete event, so it is damaged or no event file"
                )
                problems.append(f"{label(name)}: {is_empty}")
            elif bytes_read - start < size:
                unread[name] = size - (bytes_read - start)
            bytes_read = max(bytes_read, start + size)
        if progress:
            progress(bytes_read, bytes_read)
        if not reader.events:
            raise UnreadableError(_none_readable(path, problems))
        more = len(problems) - _MAX_LISTED
        return reader.run(unread, problems if more <= 0 else [*problems[:_MAX_LISTED], f"{more} more files"])


def _none_readable(folder: str, problems: list[str]) -> str:
    files = "; ".join(problems[:_MAX_NAMED]) + (
        f"; and {len(problems) - _MAX_NAMED} more" * (len(problems) > _MAX_NAMED)
    )
    return f"event files must hold TensorBoard events, but those in {short(folder, 200)} hold none: {files}"


class _EventReader:
    """Adds events to a run."""

    def __init__(self) -> None:
        self.events = 0
        self._builder = RunBuilder()
        self._plugins: dict[str, str] = {}

    def add_record(self, record: bytes, file: str, board: Any) -> None:
        """Adds the event of a record; one that cannot be parsed is left out."""
        try:
            event = board.Event.FromString(record)
        except board.DecodeError:
            self._builder.left_out.add(f"an event of {short(file)}", "it is no event that TensorBoard knows")
        else:
            self._add_event(event, board)

    def _add_event(self, event: Any, board: Any) -> None:
        self.events += 1
        if event.HasField("session_log") and event.session_log.status == board.START:
            self._builder.cut(event.step)
        for value in event.summary.value:
            try:
                self._add_value(value, event.step, event.wall_time, board)
            except ValueError as error:
                self._builder.left_out.add(named(value.tag, event.step), str(error))

    def _add_value(self, value: Any, step: int, wall_time: float, board: Any) -> None:
        kind = value.WhichOneof("value")
        if value.tag == _HPARAMS and value.metadata.plugin_data.content:  # TensorFlow adds a tensor without a meaning
            self._builder.hparams = board.hparams(value.metadata.plugin_data.content)
            self._builder.status = ""
        elif value.tag == tags.HPARAMS_END and value.metadata.plugin_data.content:
            self._builder.status = board.end_status(value.metadata.plugin_data.content)
        elif kind == "simple_value":
            self._builder.scalars[value.tag].add(step, value.simple_value, wall_time)
        elif kind == "histo":
            self._builder.histograms[value.tag].add(step, histogram_buckets(value.histo), wall_time)
        elif kind == "image":
            self._builder.images[value.tag] = value.image.encoded_image_string
        elif kind == "tensor":
            self._add_tensor(value, step, wall_time, board)

    def _add_tensor(self, value: Any, step: int, wall_time: float, board: Any) -> None:
        """Adds a TF2-style value. The plugin defines the meaning of the tensor; a tag names it in its first value."""
        plugin = self._plugins.setdefault(value.tag, value.metadata.plugin_data.plugin_name)
        if not plugin:
            raise ValueError("the first value of its tag names no plugin, which gives a tensor its meaning")
        if plugin not in ("scalars", "histograms", "text", "images", "pr_curves"):
            return
        tensor = tensor_array(value.tensor, board)
        if plugin == "scalars":
            self._builder.scalars[value.tag].add(step, number(tensor), wall_time)
        elif plugin == "histograms":
            buckets = checked_buckets(numbers(tensor, None, 3))
            self._builder.histograms[value.tag].add(step, buckets, wall_time)
        elif plugin == "text":
            words = "\n".join(part.decode("utf-8", "replace") for part in texts(tensor))
            self._builder.texts[value.tag.removesuffix("/text_summary")].add(step, words, wall_time)
        elif plugin == "images":
            parts = texts(tensor)  # width, height, images
            if len(parts) > 2:
                self._builder.images[value.tag] = parts[2]
        elif plugin == "pr_curves":
            self._builder.curves[value.tag] = numbers(tensor, 6, None)[4:]

    def run(self, unread: Mapping[str, int], problems: list[str]) -> Run:
        return self._builder.run(unread=unread, problems=problems)


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


def _tensorboard() -> Any:
    """Returns the module with TensorBoard's loaders; imported on demand because TensorBoard is optional."""
    try:
        from tbx_callbacks.runs import tensorboard_loader as _tensorboard
    except ImportError as error:
        raise ImportError(
            "reading event files needs TensorBoard, which is not installed; run: pip install tbx-callbacks[view]"
        ) from error
    return _tensorboard
