"""Loads the data of the sentiment recipes: labelled sentences from files or a hub dataset, or generated ones."""

from __future__ import annotations

import codecs
import csv
import random
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Value, disable_progress_bars, load_dataset
from datasets import logging as datasets_logging
from datasets.exceptions import DatasetGenerationError
from sentiment_sentences import sentences

SPLITS = {"train": ("train",), "dev": ("dev", "validation", "valid", "eval"), "test": ("test",)}
ENDINGS = (".tsv", ".csv", ".jsonl")
REQUIRED = ("train", "dev")


datasets_logging.set_verbosity(datasets_logging.CRITICAL)  # errors are reported as DataError
disable_progress_bars()  # reading is quick; only the training has a progress bar


class DataError(ValueError):
    """Invalid training data. The message gives the location, the rule, the value and the remedy."""


def load_folder(folder: Path, text: str = "sentence", label: str = "label") -> DatasetDict:
    """Reads train, dev and optional test data from `.tsv`, `.csv` or `.jsonl` files; rows stay memory-mapped.

    In `.tsv` files quotes are ordinary characters; `.csv` files use standard quoting.

    Raises:
        DataError: a missing file or column, an empty split, a single class, an unknown label, or text that is not
            UTF-8.
    """
    if not folder.is_dir():
        raise DataError(f"--data must be a folder with train and dev files, got {str(folder)!r}")
    splits = {}
    for split, names in SPLITS.items():
        candidates = [folder / f"{name}{ending}" for name in names for ending in ENDINGS]
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is not None:
            splits[split] = _read(path)
        elif split in REQUIRED:
            raise DataError(f"{folder}: there must be a file {split}{'|'.join(ENDINGS)}, found {_names(folder)}")
    return _validate(DatasetDict(splits), str(folder), text, label)


def load_hub(name: str, text: str = "sentence", label: str = "label") -> DatasetDict:
    """Loads a dataset by its hub name, or from a local folder that `datasets` understands.

    Raises:
        DataError: it cannot be loaded, or fails the checks of `load_folder`.
    """
    try:
        loaded = load_dataset(name)
    except Exception as error:
        raise DataError(f"--dataset must name a dataset that can be loaded, got {name!r}: {error}") from error
    splits = {}
    for split, names in SPLITS.items():
        split_name = next((candidate for candidate in names if candidate in loaded), None)
        if split_name is not None:
            splits[split] = loaded[split_name]
        elif split in REQUIRED:
            raise DataError(f"{name}: there must be a {split} split, found {', '.join(loaded)}")
    if "test" in splits and label in splits["test"].column_names and set(splits["test"].unique(label)) == {-1}:
        del splits["test"]  # hub datasets hide test labels this way
    return _validate(DatasetDict(splits), name, text, label)


def made_up(train: int = 6000, dev: int = 600, test: int = 600, seed: int = 0) -> DatasetDict:
    """Generates review sentences with negation, contrast and intensifiers; the splits share no sentence."""
    pairs = sentences(random.Random(seed), train + dev + test)
    splits, start = {}, 0
    for split, size in (("train", train), ("dev", dev), ("test", test)):
        rows = pairs[start : start + size]
        splits[split] = Dataset.from_dict({"sentence": [r[0] for r in rows], "label": [r[1] for r in rows]})
        start += size
    return _validate(DatasetDict(splits), "generated data", "sentence", "label")


def _read(path: Path) -> Dataset:
    if _lines(path) < (1 if path.suffix == ".jsonl" else 2):
        raise DataError(f"{path}: a split must have rows, got none")
    try:
        if path.suffix == ".jsonl":
            return load_dataset("json", data_files=str(path), split="train")
        # Keep texts such as "null" or "NA", which datasets would drop as missing.
        style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
        return load_dataset("csv", data_files=str(path), split="train", keep_default_na=False, **style)
    except (DatasetGenerationError, ValueError, TypeError) as error:
        raise DataError(f"{path}: must be a readable {path.suffix} file: {error.__cause__ or error}") from error


def _lines(path: Path) -> int:
    """Number of lines of a UTF-8 file."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines, ends_open = 0, False
    with path.open("rb") as file:
        try:
            while chunk := file.read(1 << 20):
                text = decoder.decode(chunk)
                lines += text.count("\n")
                ends_open = not text.endswith("\n")
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            line = lines + 1 + error.object[: error.start].count(b"\n")
            raise DataError(f"{path}: must be UTF-8, got other bytes in line {line}; convert it first") from error
    return lines + ends_open


def _validate(splits: DatasetDict, source: str, text: str, label: str) -> DatasetDict:
    """Checks the splits; returns them with the columns `sentence` (string) and `label` (ClassLabel)."""
    for split, rows in splits.items():
        _check_rows(rows, f"{source}: {split}", text, label)
    names = _label_names(splits["train"], source, label)
    known = {name: index for index, name in enumerate(names)}
    for split, rows in splits.items():
        label_feature = rows.features[label]
        values = rows.unique(label)
        unknown = [value for value in values if _name(value, label_feature) not in known]
        if unknown:
            raise DataError(
                f"{source}: labels of {split} must be among those of train ({', '.join(names)}), got {unknown[0]!r}"
            )
    prepared = DatasetDict()
    for split, rows in splits.items():
        feature = rows.features[label]

        def convert(batch: dict[str, list[object]], feature: object = feature) -> dict[str, list[object]]:
            return {
                "sentence": [str(sentence) for sentence in batch[text]],
                "label": [known[_name(value, feature)] for value in batch[label]],
            }

        rows = rows.map(convert, batched=True, remove_columns=rows.column_names)
        prepared[split] = rows.cast_column("label", ClassLabel(names=names))
    return prepared


def _check_rows(rows: Dataset, where: str, text: str, label: str) -> None:
    for column in (text, label):
        if column not in rows.column_names:
            raise DataError(f"{where} must have a column {column!r}, got {', '.join(rows.column_names)}")
    if not len(rows):
        raise DataError(f"{where} must have rows, got none")
    if None in rows.unique(text):
        raise DataError(f"every row of {where} must have a text, got an empty one in column {text!r}")
    if not isinstance(rows.features[label], (ClassLabel, Value)):
        raise DataError(f"labels of {where} must be numbers or strings, got {rows.features[label]}")


def _label_names(train: Dataset, source: str, label: str) -> list[str]:
    values = train.unique(label)
    missing = [value for value in values if value is None or value == ""]
    if missing:
        raise DataError(f"{source}: every row of train must have a label, got an empty one")
    names = sorted({_name(value, train.features[label]) for value in values}, key=lambda name: (len(name), name))
    if len(names) < 2:
        raise DataError(f"{source}: train must have at least two classes, got only {', '.join(names)}")
    if len(names) > 1000:
        raise DataError(
            f"{source}: labels of train must be classes, got {len(names)} different ones such as {names[0]!r}"
        )
    return names


def _name(value: object, feature: object) -> str:
    if isinstance(feature, ClassLabel) and isinstance(value, int):
        return feature.int2str(value) if 0 <= value < feature.num_classes else str(value)
    return str(value)


def _names(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())[:8]
    return ", ".join(names) or "nothing"
