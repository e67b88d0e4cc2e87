"""Reads the log history that the Hugging Face Trainer saves in `trainer_state.json`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tbx_callbacks._text import label, short
from tbx_callbacks.runs.formats.base import LogFormat, Progress, UnreadableError
from tbx_callbacks.runs.formats.fields import NO_TIME, NOT_A_NUMBER, number_of, step_of
from tbx_callbacks.runs.formats.run_builder import RunBuilder
from tbx_callbacks.runs.series import Run

_FILE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_MOST_BYTES = 1 << 28
_SETTINGS = ("max_steps", "num_train_epochs", "logging_steps", "eval_steps", "save_steps", "train_batch_size")
_LACKS = ("wall times", "histograms", "texts", "values by layer or by parameter group")


class TrainerState(LogFormat):
    """The Trainer saves `trainer_state.json` in every checkpoint, and `save_state()` saves it in the output folder.

    A training is one run, its output folder. The file with the most steps holds its whole history, unless the newest
    file tells other values: then the others are of an earlier training. Tags are those of transformers' own
    TensorBoardCallback: `eval_loss` is `eval/loss`, `loss` is `train/loss`.
    """

    files, is_history, parts = _FILE, True, _CHECKPOINT

    def find(self, folder: str, below: Sequence[str], names: Sequence[str]) -> Mapping[str, str]:
        has_state = _FILE in names or any(map(os.path.isfile, _in_checkpoints(folder, below)))
        return {"": folder} if has_state else {}

    def accepts(self, file: str) -> bool:
        return file.endswith(".json") and _history(_load(file)) is not None

    def read(self, path: str, progress: Progress | None = None) -> Run:
        files = _states(path) if os.path.isdir(path) else [path]
        documents: list[tuple[int, float, str, Any]] = []
        problems: list[str] = []
        for file in files:
            try:
                document = _parse(file)
                documents.append((_last_step(_history(document) or []), os.path.getmtime(file), file, document))
            except (OSError, _DamagedError) as error:
                problems.append(f"{_relative(file, path)}: {error}")
        if not documents:
            raise UnreadableError(f"a run must have a {_FILE} that can be read, got {'; '.join(problems[:3])}")
        newest = max(documents, key=lambda found: (found[1], found[0]))
        ours = [found for found in documents if _agree(_history(found[3]) or [], _history(newest[3]) or [])]
        if len(ours) < len(documents):
            problems.append(f"{len(documents) - len(ours)} checkpoints of an earlier training in the same folder")
        _, _, file, document = max(ours, key=lambda found: found[:2])
        history = _history(document)
        if not history:
            raise UnreadableError(
                f"a {_FILE} must hold a log_history with steps, but {short(file, 200)} holds none; log more often, with"
                " a smaller logging_steps"
            )
        size = os.path.getsize(file)
        if progress:
            progress(size, size)
        return _run(document, history, _relative(file, path), problems)


def _run(document: Any, history: Sequence[Mapping[str, Any]], source: str, problems: Sequence[str]) -> Run:
    builder = RunBuilder()
    for entry in history:
        step = step_of(entry, ("step",))
        if step is None:
            builder.left_out.add("an entry of log_history", "it has no step")
            continue
        for key, value in entry.items():
            number = None if key == "step" else number_of(value)
            if number is not None:
                builder.scalars[_tag(key)].add(step, number, NO_TIME)
            elif isinstance(value, str):
                builder.left_out.add(label(key), NOT_A_NUMBER)
    if isinstance(document, Mapping):
        settings = {key: document[key] for key in _SETTINGS if isinstance(document.get(key), (int, float))}
        builder.hparams = {key: float(value) for key, value in settings.items()}
        last, reached = document.get("max_steps"), document.get("global_step")
        if isinstance(last, int) and isinstance(reached, int) and reached >= last > 0:
            builder.status = "succeeded"
    return builder.run(source=source, lacks=_LACKS, problems=problems)


def _tag(key: str) -> str:
    """The tag of transformers' TensorBoardCallback (`rewrite_logs` in transformers/integrations)."""
    for prefix in ("eval_", "test_"):
        if key.startswith(prefix):
            return f"{prefix[:-1]}/{key.removeprefix(prefix)}"
    return f"train/{key}"


def _states(folder: str) -> list[str]:
    """The state files of a training, by the name of its output folder or of one checkpoint."""
    try:
        below = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except OSError as error:
        raise UnreadableError(f"a run's folder must be readable, but {short(folder, 200)} is not: {error}") from error
    return [file for file in (os.path.join(folder, _FILE), *_in_checkpoints(folder, below)) if os.path.isfile(file)]


def _in_checkpoints(folder: str, below: Sequence[str]) -> list[str]:
    return [os.path.join(folder, name, _FILE) for name in below if _CHECKPOINT.fullmatch(name)]


def _relative(file: str, path: str) -> str:
    """The name of a file in a run's folder, or of the file that is the run."""
    return os.path.relpath(file, path) if file != path else os.path.basename(file)


class _DamagedError(ValueError):
    """A file that holds no document; the message says why, with the remedy."""


def _load(file: str) -> Any:
    try:
        return _parse(file)
    except (OSError, _DamagedError) as error:
        raise UnreadableError(f"{short(file, 200)} must be a JSON file that can be read, but {error}") from error


def _parse(file: str) -> Any:
    try:
        if os.path.getsize(file) > _MOST_BYTES:
            raise _DamagedError(f"it has more than {_MOST_BYTES:,} bytes")
        with open(file, encoding="utf-8") as opened:
            text = opened.read()
    except OSError as error:
        raise _DamagedError(f"it cannot be read: {error.strerror or type(error).__name__}") from error
    except UnicodeDecodeError as error:
        raise _DamagedError("it is no text in UTF-8") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        whole = text.strip()
        if whole and (whole[0] not in "{[" or (whole[-1] in "}]" and text[error.pos :].strip())):
            raise _DamagedError(f"line {error.lineno} is no JSON") from error
        folder = os.path.basename(os.path.dirname(os.path.abspath(file)))
        damaged = folder if _CHECKPOINT.fullmatch(folder) else "the file"
        words = "it is cut off" if whole else "it is empty"
        raise _DamagedError(f"{words}, as when a training ends while it saves; delete {damaged}") from error
    except (ValueError, RecursionError) as error:
        raise _DamagedError(f"it is no JSON that can be read: {error}") from error


def _history(document: Any) -> list[Mapping[str, Any]] | None:
    """The log history of a state, or a list of such entries; None if the document is something else."""
    entries = document.get("log_history") if isinstance(document, Mapping) else document
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        return None
    has_steps = any(step_of(entry, ("step",)) is not None for entry in entries)
    return entries if has_steps or isinstance(document, Mapping) else None


def _agree(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one history is the beginning of the other."""
    pairs = zip(one, other, strict=False)
    return all(json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True) for first, second in pairs)


def _last_step(history: Sequence[Mapping[str, Any]]) -> int:
    return max((step_of(entry, ("step",)) or 0 for entry in history), default=-1)
