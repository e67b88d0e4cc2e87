"""Loads the data of the sentiment recipes: labelled sentences from files or a hub dataset, or generated ones.

All rows pass the same checks, one by one, into Arrow files on the disk.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import reprlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, DownloadManager, load_dataset, load_dataset_builder
from sentiment_files import READERS, Columns, DataError, Row, check_file, file_ending, read_file, shorten
from sentiment_sentences import sentences

from tbx_callbacks._text import printable

SPLITS = {"train": ("train",), "dev": ("dev", "validation", "valid", "eval"), "test": ("test",)}
REQUIRED = ("train", "dev")
MOST_CLASSES = 1000
BATCH = 100  # rows that are in memory at once

Rows = Callable[[], Iterable[Row]]

logger = logging.getLogger(__name__)
datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are reported as DataError
datasets.disable_progress_bars()  # reading is quick; only the training has a progress bar


def load_folder(folder: Path, text: str = "sentence", label: str = "label") -> DatasetDict:
    """Reads train, dev and optional test data from `.tsv`, `.csv` or `.jsonl` files; rows stay memory-mapped.

    Texts and labels stay as they are spelled: `007` is no number. Blank rows, and rows with a blank text, are left
    out; one line says how many.

    Raises:
        DataError: a missing file or column, a row that does not follow the format, an empty split, a single class, a
            missing or unknown label, or text that is not UTF-8.
    """
    if not folder.is_dir():
        raise DataError(f"--data must be a folder with train and dev files, got {str(folder)!r}")
    columns = _columns(text, label)
    splits: dict[str, tuple[str, Rows]] = {}
    for split, names in SPLITS.items():
        candidates = [folder / f"{name}{ending}" for name in names for ending in READERS]
        found = [path for path in candidates if os.path.lexists(path)]
        if len(found) > 1:
            raise DataError(f"{folder}: {split} must be one file, got {shorten(p.name for p in found)}; keep one")
        if found:
            check_file(found[0])
            splits[split] = str(found[0]), partial(read_file, found[0], columns)
        elif split in REQUIRED:
            others = shorten(sorted(path.name for path in folder.iterdir()))
            raise DataError(f"{folder}: there must be a file {split}{'|'.join(READERS)}, found {others}")
    return _store(splits)


def load_hub(name: str, text: str = "sentence", label: str = "label") -> DatasetDict:
    """Loads a dataset by its hub name, or from a local folder that `datasets` understands.

    Its `.tsv`, `.csv` and `.jsonl` files are read as in `load_folder`, because `datasets` would guess types.

    Raises:
        DataError: it cannot be loaded, or fails the checks of `load_folder`.
    """
    columns = _columns(text, label)
    if os.path.lexists(name) and not Path(name).is_dir():
        raise DataError(f"--dataset must be a hub name or a folder, got the file {name!r}; see --data")
    try:
        parts = _parts_from_files(name, columns) or _parts_from_dataset(name, columns)
    except Exception as error:
        raise DataError(f"--dataset must name a dataset that can be loaded, got {name!r}: {error}") from error
    splits = {}
    for split, names in SPLITS.items():
        found = [candidate for candidate in names if candidate in parts]
        if found:
            splits[split] = f"{name}: {found[0]}", parts[found[0]]
        elif split in REQUIRED:
            raise DataError(f"{name}: there must be a {split} split, found {shorten(parts)}")
    if "test" in splits and all(str(row.label) == "-1" for row in splits["test"][1]()):
        logger.warning("the test split is left out: hub datasets hide its labels (-1)")
        del splits["test"]
    return _store(splits)


def made_up(train: int = 6000, dev: int = 600, test: int = 600, seed: int = 0) -> DatasetDict:
    """Generates review sentences with negation, contrast and intensifiers; the splits share no sentence."""
    pairs = iter(sentences(random.Random(seed), train + dev + test))
    sizes = {"train": train, "dev": dev, "test": test}
    rows = {split: [Row(split, *pair) for pair in islice(pairs, size)] for split, size in sizes.items()}
    return _store({split: (split, partial(iter, part)) for split, part in rows.items()})


def describe_classes(rows: DatasetDict) -> str:
    """Names the classes, and says which of them F1 is about."""
    names = rows["train"].features["label"].names
    f1 = f"F1 of {names[1]}" if len(names) == 2 else "F1: mean of the classes"
    return f"{', '.join(names)} ({f1})"


def _columns(text: str, label: str) -> Columns:
    if text == label:
        raise DataError(f"--text-column and --label-column must be two columns, got {text!r} for both")
    return Columns(text, label)


def _parts_from_files(name: str, columns: Columns) -> dict[str, Rows] | None:
    """The splits of a dataset of files that `sentiment_files` reads; None for other datasets."""
    builder = load_dataset_builder(name)
    files = {str(split): list(names) for split, names in (builder.config.data_files or {}).items()}
    if builder.name not in ("csv", "json") or not all(file_ending(file) for names in files.values() for file in names):
        return None
    feature = (builder.info.features or {}).get(columns.label)

    def rows(names: list[str]) -> Iterator[Row]:
        for file in names:
            path = Path(DownloadManager().download_and_extract(file))
            for row in read_file(path, columns, ending=file_ending(file)):
                yield row._replace(label=_class_name(row.label, feature))

    return {split: partial(rows, names) for split, names in files.items()}


def _parts_from_dataset(name: str, columns: Columns) -> dict[str, Rows]:
    def rows(part: Dataset, where: str) -> Iterator[Row]:
        for column in columns:
            if column not in part.column_names:
                raise DataError(f"{where} must have a column {column!r}, got {shorten(part.column_names)}")
        part, feature, number = part.select_columns(list(columns)), part.features[columns.label], 0
        for batch in part.iter(batch_size=1000):
            for text, label in zip(batch[columns.text], batch[columns.label], strict=True):
                number += 1
                yield Row(f"{where}, row {number}", text, _class_name(label, feature))

    return {split: partial(rows, part, f"{name}: {split}") for split, part in load_dataset(name).items()}


def _class_name(label: object, feature: Any) -> object:
    """The name of a class that a dataset stores as a number; other labels unchanged."""
    if isinstance(feature, ClassLabel) and str(label) in map(str, range(feature.num_classes)):
        return feature.int2str(int(str(label)))
    return label


def _store(splits: Mapping[str, tuple[str, Rows]]) -> DatasetDict:
    """Checks the rows of the splits, train first; returns them with `sentence` (string) and `label` (ClassLabel)."""
    names: list[str] = []
    checked, stored = [], {}
    folder = _scratch_folder()
    for split, (where, rows) in splits.items():
        part = CheckedRows(rows(), where, names)
        stored[split] = _write(part, folder / f"{split}.arrow")
        names = names or _sorted_classes(part.labels, where)
        checked.append(part)
    blank = [part.first_blank for part in checked if part.first_blank]
    if blank:
        number = sum(part.blank for part in checked)
        logger.warning("left out: rows with a blank text, %d; the first is %s", number, printable(blank[0]))
    return DatasetDict({split: part.cast_column("label", ClassLabel(names=names)) for split, part in stored.items()})


class CheckedRows:
    """Iterates over pairs of a text and the name of its class, and counts them. Leaves blank texts out.

    Args:
        rows: the rows of a split.
        where: the split, for messages.
        classes: the allowed classes; without any, all are.
    """

    def __init__(self, rows: Iterable[Row], where: str, classes: Collection[str] = ()) -> None:
        self.rows, self.where, self.classes = rows, where, dict.fromkeys(classes)
        self.labels: Counter[str] = Counter()
        self.blank = 0
        self.first_blank: str | None = None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for row in self.rows:
            if row.is_blank:
                self._leave_out(row)
                continue
            text, label = self._text(row), self._label(row)
            if text.strip():
                self.labels[label] += 1
                yield text, label
            else:
                self._leave_out(row)
            if len(self.labels) > MOST_CLASSES:
                raise DataError(
                    f"{row.where}: labels must be classes, got more than {MOST_CLASSES} such as {reprlib.repr(label)};"
                    " choose another --label-column"
                )
        if not self.labels:
            raise DataError(f"{self.where}: a split must have rows, got none{' with a text' if self.blank else ''}")

    def _leave_out(self, row: Row) -> None:
        self.blank += 1
        self.first_blank = self.first_blank or row.where

    @staticmethod
    def _text(row: Row) -> str:
        if row.text is None:
            raise DataError(f"{row.where}: every row must have a text, got none; add it or remove the row")
        if not isinstance(row.text, str):
            raise DataError(f"{row.where}: a text must be a string, got {reprlib.repr(row.text)}; convert the column")
        try:
            row.text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{row.where}: a text must be valid Unicode, got {error.reason}; correct it") from error
        return row.text

    def _label(self, row: Row) -> str:
        if not isinstance(row.label, str | int | float | None):
            raise DataError(f"{row.where}: a label must be a number or a string, got {reprlib.repr(row.label)}")
        label = "" if row.label is None or row.label != row.label else str(row.label).strip()
        if not label:
            raise DataError(f"{row.where}: every row must have a label, got an empty one; add it or remove the row")
        if self.classes and label not in self.classes:
            known = shorten(self.classes)
            raise DataError(f"{row.where}: a label must be among those of train ({known}), got {reprlib.repr(label)}")
        return label


def _sorted_classes(labels: Iterable[str], where: str) -> list[str]:
    """The classes: numbers by size, then words. F1 of two classes is that of the second: 1, True, positive, yes."""
    spellings: dict[Decimal | str, str] = {}
    for label in labels:
        other = spellings.setdefault(_number_or_word(label), label)
        if other != label:
            raise DataError(f"{where}: a class must have one spelling, got {other!r} and {label!r}; choose one")
    booleans = sorted(label for label in labels if label.casefold() in ("true", "false"))
    numbers = [label for label in labels if isinstance(_number_or_word(label), Decimal)]
    if booleans and numbers:
        raise DataError(
            f"{where}: labels must be either numbers or true and false, got {booleans[0]!r} and {numbers[0]!r};"
            " write a class in one way"
        )
    names = sorted(labels, key=lambda name: (isinstance(_number_or_word(name), str), _number_or_word(name)))
    if len(names) < 2:
        raise DataError(f"{where}: train must have at least two classes, got only {shorten(names)}; add rows of others")
    return names


def _number_or_word(label: str) -> Decimal | str:
    """Equal for labels that differ only in their spelling: `1` and `1.0`, `Yes` and `yes`."""
    try:
        number = Decimal(label)
    except InvalidOperation:
        return label.casefold()
    return number if number.is_finite() else label.casefold()


def _scratch_folder() -> Path:
    """A new folder on the disk of the datasets' cache, removed when the process ends."""
    try:
        cache = Path(datasets.config.HF_DATASETS_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix="sentiment-", dir=cache)
    except OSError as error:
        raise DataError(f"the datasets' cache must be writable: {error}; set HF_DATASETS_CACHE") from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _write(rows: Iterable[tuple[str, str]], path: Path) -> Dataset:
    """Writes texts and labels to an Arrow file; returns it memory-mapped."""
    schema = pa.schema({"sentence": pa.string(), "label": pa.string()})
    remaining = iter(rows)
    try:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            while batch := list(islice(remaining, BATCH)):
                texts, labels = zip(*batch, strict=True)
                writer.write_batch(pa.record_batch([pa.array(texts), pa.array(labels)], schema=schema))
    except OSError as error:
        raise DataError(f"the rows must be stored in {path.parent}: {error}; set HF_DATASETS_CACHE") from error
    return Dataset.from_file(str(path))
