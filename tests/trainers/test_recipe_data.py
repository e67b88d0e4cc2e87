"""Tests that the recipes read every row of odd files as written, or name the file, the line and the rule."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from sentiment_data import DataError, describe_classes, load_folder, load_hub
from sentiment_model import train_vocabulary

from tests.helpers.processes import python
from tests.helpers.runs import ROOT, Run
from tests.helpers.variations import variations

ENDINGS = ("tsv", "csv", "jsonl")
RECIPES = ROOT / "recipes"
SMALL = ["--layers", "1", "--hidden", "16", "--heads", "2", "--vocab-size", "200", "--max-steps", "2"]
DEV = "sentence\tlabel\nfine film\t1\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def folder(path: Path, train: str | bytes, ending: str = "tsv", dev: str = DEV) -> Path:
    """A folder with a train file as given, and a dev file."""
    path.mkdir(parents=True, exist_ok=True)
    (path / f"train.{ending}").write_bytes(train if isinstance(train, bytes) else train.encode())
    (path / "dev.tsv").write_text(dev, encoding="utf-8", newline="")
    return path


def rows(data: DatasetDict, split: str = "train") -> list[tuple[str, str]]:
    """Texts and names of the labels."""
    names = data[split].features["label"].names
    return [(text, names[label]) for text, label in zip(data[split]["sentence"], data[split]["label"], strict=True)]


def encode(pairs: list[tuple[str, str]], ending: str) -> str:
    """A file of pairs, in Python's own spelling of the format."""
    if ending == "jsonl":
        return "".join(json.dumps({"sentence": text, "label": label}) + "\n" for text, label in pairs)
    if ending == "tsv":
        return "".join(f"{text}\t{label}\n" for text, label in [("sentence", "label"), *pairs])
    file = io.StringIO()
    csv.writer(file).writerows([("sentence", "label"), *pairs])
    return file.getvalue()


TEXTS = {
    "numbers": ["007", "1e5", "-0", "1_000", "0x1F", "3.10", "\uff19"],
    "missing": ["NaN", "null", "NA", "None", "N/A", "nan", "#N/A", "-"],
    "constants": ["True", "false", "inf", "-Infinity", "TRUE"],
    "dates": ["2020-01-01", "12:30", "2020-01-01T00:00:00Z"],
    "quotes": ['a "good" film', '"', '""', '"starts', 'ends"', "'single'", "5' 11\"", '"whole"'],
    "separators": ["a\u2028b", "a\x85b", "a\x0bb", "a\x0cb", "a\x1cb", "a\u2029b"],
    "control": ["a\x01b", "\x1b[31mred", "bell\x07", "\u200bzero", "a\ufeffb", "\x7f"],
    "spaces": ["  padded  ", " a", "b "],
    "scripts": ["süß", "好电影", "👍🏽", "e\u0301", "\U0010ffff", "مرحبا"],
    "commas": ["a,b", ",", "a;b|c", "#comment", "// x", "\\n", "a\\", "a\\tb"],
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", TEXTS)
def test_texts_stay_as_written(tmp_path: Path, kind: str, ending: str) -> None:
    pairs = [(text, str(index % 2)) for index, text in enumerate(TEXTS[kind] * 2)]
    assert rows(load_folder(folder(tmp_path / "data", encode(pairs, ending), ending))) == pairs


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_texts_with_lines_stay_as_written(tmp_path: Path, ending: str) -> None:
    texts = ["a\nb", "a\r\nb", "a\rb", "a\tb", "one, two\nthree", "\n\nx", 'said "no"\nand left', "x\n" * 50 + "y"]
    pairs = [(text, str(index % 2)) for index, text in enumerate(texts * 2)]
    assert rows(load_folder(folder(tmp_path / "data", encode(pairs, ending), ending))) == pairs


def test_random_texts_equal_those_written(tmp_path: Path) -> None:
    rng = random.Random(0)
    alphabet = "ab,;\"' 07\\\x85\u2028ü😀"
    made = ["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 9))) for _ in range(3000)]
    pairs = [(text, rng.choice(["yes", "no"])) for text in made if text.strip()]
    pairs += [("good", "yes"), ("bad", "no")]
    dev = "sentence\tlabel\nfine\tyes\n"
    for ending in ENDINGS:
        assert rows(load_folder(folder(tmp_path / ending, encode(pairs, ending), ending, dev))) == pairs


LAYOUTS = {
    "bom": b"\xef\xbb\xbfsentence\tlabel\na\t1\nb\t0\n",
    "crlf": b"sentence\tlabel\r\na\t1\r\nb\t0\r\n",
    "no last line end": b"sentence\tlabel\na\t1\nb\t0",
    "blank lines": b"\nsentence\tlabel\n\na\t1\n\n\nb\t0\n\n",
    "columns in other order": b"label\tsentence\n1\ta\n0\tb\n",
    "further columns": b"id\tsentence\tx\tlabel\n7\ta\t\t1\n8\tb\tz\t0\n",
    "header with spaces": b" sentence \tlabel \na\t1\nb\t0\n",
    "labels with spaces": b"sentence\tlabel\na\t 1\nb\t0 \n",
    "empty further column": b"sentence\tlabel\t\na\t1\t\nb\t0\t\n",
    "two unused columns of one name": b"x\tx\tsentence\tlabel\n1\t2\ta\t1\n1\t2\tb\t0\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", ["tsv", "csv"])
def test_layouts_give_same_rows(tmp_path: Path, layout: str, ending: str) -> None:
    train = LAYOUTS[layout].replace(b"\t", b"," if ending == "csv" else b"\t")
    assert rows(load_folder(folder(tmp_path / "data", train, ending))) == [("a", "1"), ("b", "0")]


JSON_ROWS = {
    "numbers as texts": ('{"sentence": 7, "label": 1}\n{"sentence": 1e5, "label": 0}\n', [("7", "1"), ("1e5", "0")]),
    "long number": (f'{{"sentence": {"9" * 5000}, "label": 1}}\n{{"sentence": "b", "label": 0}}', [("9" * 5000, "1")]),
    "unused keys differ": ('{"sentence": "a", "label": "1", "x": [{}]}\n{"label": 0, "sentence": "b"}', [("a", "1")]),
    "escapes": (
        '{"sentence": "a\\u0000\\n\\ud83d\\ude00", "label": 1}\n{"sentence": "b", "label": 0}',
        [("a\0\n😀", "1")],
    ),
    "crlf and blank lines": (
        '\r\n{"sentence": "a", "label": 1}\r\n\r\n{"sentence": "b", "label": 0}\r\n',
        [("a", "1")],
    ),
}


@pytest.mark.parametrize("name", JSON_ROWS)
def test_json_lines_read_as_written(tmp_path: Path, name: str) -> None:
    train, expected = JSON_ROWS[name]
    read = rows(load_folder(folder(tmp_path / "data", train, "jsonl")))
    assert len(read) == 2
    assert read[: len(expected)] == expected


# The labels of a train file, and its classes in their order: F1 is that of the second class.
LABELS = {
    "numbers": ("0 1", ["0", "1"]),
    "negative numbers": ("1 -1", ["-1", "1"]),
    "no zero": ("10 9 2", ["2", "9", "10"]),
    "floats": ("1.5 0.5 -2.5", ["-2.5", "0.5", "1.5"]),
    "booleans": ("True False", ["False", "True"]),
    "words": ("positive neutral negative", ["negative", "neutral", "positive"]),
    "words of other lengths": ("good bad ok", ["bad", "good", "ok"]),
    "yes and no": ("yes no", ["no", "yes"]),
    "quotes": ("\"1\" '1' 1", ["1", '"1"', "'1'"]),
    "long number": (f"{10**40} {10**40 + 1}", [str(10**40), str(10**40 + 1)]),
    "words and numbers": ("b 10 a 9", ["9", "10", "a", "b"]),
    "constants": ("nan inf null", ["inf", "nan", "null"]),
}


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_labels_become_classes_in_order(tmp_path: Path, name: str, ending: str) -> None:
    written, classes = LABELS[name][0].split(), LABELS[name][1]
    pairs = [(f"text {index}", label) for index, label in enumerate(written * 2)]
    dev = f"sentence\tlabel\nfine\t{written[0]}\n"
    data = load_folder(folder(tmp_path / "data", encode(pairs, ending), ending, dev))
    assert data["train"].features["label"].names == classes
    assert rows(data) == pairs
    assert data["dev"]["label"][:] == [classes.index(written[0])]


def test_json_labels_equal_those_of_tables(tmp_path: Path) -> None:
    train = '{"sentence": "a", "label": true}\n{"sentence": "b", "label": false}\n'
    data = load_folder(folder(tmp_path / "data", train, "jsonl", "sentence\tlabel\nfine\tTrue\n"))
    assert rows(data) == [("a", "True"), ("b", "False")]
    assert data["dev"]["label"][:] == [1]


def test_classes_described_with_that_of_f1(tmp_path: Path) -> None:
    data = load_folder(folder(tmp_path / "two", "sentence\tlabel\na\tpos\nb\tneg\n", dev="sentence\tlabel\na\tpos\n"))
    assert describe_classes(data) == "neg, pos (F1 of pos)"
    data = load_folder(folder(tmp_path / "three", "sentence\tlabel\na\t1\nb\t0\nc\t2\n"))
    assert describe_classes(data) == "0, 1, 2 (F1: mean of the classes)"


BLANK = ["", " ", "\u3000", "\x85", "\u2028 "]


@pytest.mark.parametrize("ending", ENDINGS)
def test_blank_texts_left_out_and_counted(tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture) -> None:
    pairs = [("good", "1"), *((text, "0") for text in BLANK), ("bad", "0")]
    dev = "sentence\tlabel\n\t1\nfine\t1\n"
    data = load_folder(folder(tmp_path / "data", encode(pairs, ending), ending, dev))
    assert rows(data) == [("good", "1"), ("bad", "0")]
    assert rows(data, "dev") == [("fine", "1")]
    line = 2 if ending == "jsonl" else 3
    (message,) = [record.getMessage() for record in caplog.records]
    first = f"{tmp_path / 'data' / f'train.{ending}'}, line {line}"
    assert message == f"left out: rows with a blank text, 6; the first is {first}"


BLANK_ROWS = {
    "commas": ("csv", "sentence,label,x\nfine,1,\n,,\npoor,0,\n,,\n", 2, 3),
    "too many commas": ("csv", "sentence,label\nfine,1\npoor,0\n,,,,\n", 1, 4),
    "commas before the header": ("csv", ",\nsentence,label\nfine,1\npoor,0\n", 1, 1),
    "quoted": ("csv", 'sentence,label\nfine,1\npoor,0\n"",""\n', 1, 4),
    "spaces and commas": ("csv", "sentence,label\nfine,1\n , \r\npoor,0\n", 1, 3),
    "after a text of two lines": ("csv", 'sentence,label\nfine,1\npoor,0\n"a\nb"," 1"\n,\n', 1, 6),
    "with blank texts": ("csv", "sentence,label\nfine,1\n,0\npoor,0\n,\n", 2, 3),
    "tabs": ("tsv", "sentence\tlabel\nfine\t1\n\t\npoor\t0\n", 1, 3),
    "spaces": ("tsv", "sentence\tlabel\nfine\t1\npoor\t0\n  \n", 1, 4),
}


@pytest.mark.parametrize("name", BLANK_ROWS)
def test_blank_rows_left_out_and_counted(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    ending, train, count, line = BLANK_ROWS[name]
    read = rows(load_folder(folder(tmp_path / "data", train, ending)))
    assert [row for row in read if row != ("a\nb", "1")] == [("fine", "1"), ("poor", "0")]
    (message,) = [record.getMessage() for record in caplog.records]
    first = f"{tmp_path / 'data' / f'train.{ending}'}, line {line}"
    assert message == f"left out: rows with a blank text, {count}; the first is {first}"


HEAD, MORE = "sentence,label\n", "fine,1\npoor,0\n"
LATER = "".join(f"row {index},{index % 2}\n" for index in range(1000))

BOOLEANS = '{{"sentence": "a", "label": {}}}\n{{"sentence": "b", "label": {}}}\n'

# Ending, content, line, and a part of the message.
BAD: dict[str, tuple[str, str | bytes, int, str]] = {
    "field too many in the first row": ("csv", f"{HEAD}well made, moving,1\n{MORE}", 2, "must have 2 fields"),
    "field too many in a later row": ("csv", f"{HEAD}{MORE}dull, long,0\n", 4, "must have 2 fields"),
    "quote in a text": ("csv", f'{HEAD}{MORE}a "good" film,1\n', 4, "got a double quote inside of a field"),
    "quote at the end of a text": ("csv", f'{HEAD}{MORE}a screen of 15",1\n', 4, "got a double quote inside"),
    "quote in a further column": ("csv", 'sentence,label,x\nfine,1,5"\n', 2, "got a double quote inside of a field"),
    "quote in a label": ("csv", f'{HEAD}{MORE}dull,0"\n', 4, "got a double quote inside of a field"),
    "quotes doubled in a bare text": ("csv", f'{HEAD}{MORE}a ""good"" film,1\n', 4, "got a double quote inside"),
    "space before a quoted text": ("csv", 'label,sentence\n1, "great film"\n', 2, "with a space before"),
    "space before a quoted label": ("csv", 'sentence,label\n"great", "1"\n', 2, "with a space before"),
    "space before a quoted name": ("csv", 'label, "sentence"\n1,fine\n', 1, "with a space before"),
    "space after a quoted text": ("csv", f'{HEAD}{MORE}"dull" ,0\n', 4, "must be a valid row"),
    "quote in a second line": ("csv", f'{HEAD}"a\nb","1" 2\n', 3, "must be a valid row"),
    "open quote in a second line": ("csv", 'label,sentence,x\n1,"a\nb","c\nd\n', 3, "must be a valid row"),
    "open quote after doubled ones": ("csv", f'{HEAD}{MORE}"so ""dull""\n""\nx,0\n', 4, "must be a valid row"),
    "forgotten quote, later quote": ("csv", f'{HEAD}{MORE}"dull,0\nnice,1\n"slow, long",0\n', 4, "put double quotes"),
    "forgotten quote, all quoted": ("csv", '"sentence","label"\n"dull,"0"\n"nice","1"\n', 2, "put double quotes"),
    "second header": ("csv", f"{HEAD}{MORE}{HEAD}nice,1\n", 4, "must not repeat the header, got sentence, label"),
    "second header with a mark": ("csv", f"\ufeff{HEAD}{MORE}\ufeff{HEAD}nice,1\n", 4, "must not repeat the header"),
    "second header, tabs": ("tsv", "sentence\tlabel\nfine\t1\nsentence\tlabel\n", 3, "must not repeat the header"),
    "second header, quoted": ("csv", f'{HEAD}{MORE}"sentence","label"\n', 4, "must not repeat the header"),
    "second header, other order": ("csv", f"{HEAD}{MORE}label,sentence\n1,nice\n", 4, "must not repeat the header"),
    "second header with spaces": ("csv", f"{HEAD}{MORE} sentence , label\r\n", 4, "must not repeat the header"),
    "second header after no line end": ("csv", f"{HEAD}fine,1\npoor,0{HEAD}nice,1\n", 3, "must have 2 fields"),
    "second mark in json": ("jsonl", '{"sentence": "a", "label": 1}\n\ufeff{"sentence": "b", "label": 0}', 2, "BOM"),
    "field too many in every row": ("csv", f"{HEAD}a, b,1\nc, d,0\n", 2, "put double quotes around a text"),
    "field too many, label first": ("csv", "label,sentence\n1,a, b\n0,c, d\n", 2, "got 3"),
    "trailing comma": ("csv", f"{HEAD}fine,1,\npoor,0,\n", 2, "got 3"),
    "trailing tab": ("tsv", "sentence\tlabel\nfine\t1\npoor\t0\t\n", 3, "must not end with a tab"),
    "field too few": ("tsv", "sentence\tlabel\nfine\t1\npoor\n", 3, "must have 2 fields as the header, got 1"),
    "quote never closed": ("csv", f'{HEAD}{MORE}"dull,0\n{LATER}', 4, "put double quotes around"),
    "quote closed by a later row": ("csv", f'{HEAD}{MORE}"dull,0\n{LATER}nice",1\n', 4, "got 1002 lines"),
    "quote closed by the next row": ("csv", f'{HEAD}{MORE}"dull,0\nnice film",1\n', 4, "close its quote"),
    "quote closed later, label first": ("csv", 'label,sentence\n1,a\n0,"dull\n1,b\n0,c"\n', 3, "close its quote"),
    "quote closed before a text": ("csv", f'{HEAD}"dull,0\n{MORE}"well made",1\n', 2, "must be a valid row"),
    "text after a quote": ("csv", f'{HEAD}{MORE}"dull" film,0\n', 4, "must be a valid row"),
    "lone carriage return": (
        "tsv",
        "sentence\tlabel\nfine\t1\npoor\rfilm\t0\n",
        3,
        "a text must hold no tab or line end",
    ),
    "old line ends": ("tsv", "sentence\tlabel\rfine\t1\rpoor\t0\r", 1, "must be a valid row"),
    "latin-1": ("tsv", b"sentence\tlabel\nfine\t1\ncaf\xe9\t0\n", 3, "must be UTF-8"),
    "utf-16": ("tsv", "sentence\tlabel\nfine\t1\npoor\t0\n".encode("utf-16"), 1, "must be UTF-8"),
    "utf-16 without mark": ("tsv", "sentence\tlabel\nfine\t1\n".encode("utf-16-le"), 1, "must be UTF-8 text"),
    "cut character": ("tsv", "sentence\tlabel\nfine\t1\npoor\t0\nü".encode()[:-1], 4, "must be UTF-8"),
    "nul": ("tsv", "sentence\tlabel\nfine\t1\nbad\0film\t0\n", 3, "got a NUL character"),
    "row without a text and a label": ("csv", "id,sentence,label\n1,a,1\n2,,\n", 3, "every row must have a label"),
    "json true and 1": (
        "jsonl",
        BOOLEANS.format("true", "1"),
        0,
        "either numbers or true and false, got 'True' and '1'",
    ),
    "json 0 and false": ("jsonl", BOOLEANS.format("0", "false"), 0, "got 'False' and '0'"),
    "json true and a float": ("jsonl", BOOLEANS.format("true", "0.5"), 0, "got 'True' and '0.5'"),
    "json true and a quoted number": ("jsonl", BOOLEANS.format("true", '"1"'), 0, "got 'True' and '1'"),
    "json quoted true and a number": ("jsonl", BOOLEANS.format('"TRUE"', "1"), 0, "got 'TRUE' and '1'"),
    "json true and quoted true": ("jsonl", BOOLEANS.format("true", '"true"'), 0, "must have one spelling"),
    "true and 1": ("tsv", "sentence\tlabel\na\ttrue\nb\t1\nc\tfalse\n", 0, "got 'false' and '1'"),
    "no header": ("csv", MORE, 1, "must have a column 'sentence', got fine, 1; the first line must name"),
    "quoted header": ("tsv", '"sentence"\t"label"\nfine\t1\n', 1, "must have a column 'sentence'"),
    "semicolons": ("csv", "sentence;label\nfine;1\n", 1, "must have a column 'sentence', got sentence;label"),
    "column twice": ("csv", "sentence,label,label\nfine,1,0\n", 1, "must have only one column 'label'"),
    "one spelling": ("tsv", "sentence\tlabel\na\t1\nb\t1.0\n", 0, "a class must have one spelling, got '1' and '1.0'"),
    "one case": ("tsv", "sentence\tlabel\na\tPos\nb\tpos\nc\tneg\n", 0, "got 'Pos' and 'pos'"),
    "blank label": ("tsv", "sentence\tlabel\na\t1\nb\t \n", 3, "every row must have a label"),
    "only blank texts": ("tsv", "sentence\tlabel\n \t1\n\t0\n", 0, "a split must have rows, got none with a text"),
    "byte order mark only": ("tsv", "\ufeff", 0, "a split must have rows, got none"),
    "labels are no classes": ("tsv", encode([(f"t{i}", f"c{i}") for i in range(1200)], "tsv"), 1002, "more than 1000"),
    "line of 17 MB": ("tsv", "sentence\tlabel\nfine\t1\n" + "a" * 17_000_000 + "\t0\n", 3, "must have at most"),
    "open quote of 17 MB": ("csv", f'{HEAD}{MORE}"dull,0\n' + "and so on\n" * 1_700_000, 4, "must be a valid row"),
    "json list": ("jsonl", '[{"sentence": "a", "label": 1}]', 1, "write one object a line"),
    "json over lines": ("jsonl", '{\n"sentence": "a",\n"label": 1\n}\n', 1, "must be one JSON object"),
    "json cut": ("jsonl", '{"sentence": "a", "label": 1}\n{"sentence": "b", "la', 2, "must be one JSON object"),
    "json, two a line": ("jsonl", '{"sentence": "a", "label": 1} {"sentence": "b", "label": 0}', 1, "Extra data"),
    "json key twice": ("jsonl", '{"sentence": "a", "label": 1, "label": 0}', 1, "a key occurs twice"),
    "json key absent": ("jsonl", '{"sentence": "a", "label": 1}\n{"label": 0}', 2, "must have a key 'sentence'"),
    "json null label": ("jsonl", '{"sentence": "a", "label": null}', 1, "every row must have a label"),
    "json NaN": ("jsonl", '{"sentence": "a", "label": NaN}', 1, "NaN is no JSON value"),
    "json nested text": ("jsonl", '{"sentence": {"a": "b"}, "label": 1}', 1, "a text must be a string"),
    "json boolean text": ("jsonl", '{"sentence": true, "label": 1}', 1, "a text must be a string, got True"),
    "json half a surrogate": ("jsonl", '{"sentence": "\\ud83d", "label": 1}', 1, "must be valid Unicode"),
    "json too deep": ("jsonl", "[" * 100_000, 1, "must be one JSON object"),
    "json raw control": ("jsonl", '{"sentence": "a\x01", "label": 1}', 1, "Invalid control character"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_row_named_with_line(tmp_path: Path, name: str) -> None:
    ending, train, line, part = BAD[name]
    with pytest.raises(DataError) as raised:
        load_folder(folder(tmp_path / "data", train, ending))
    message = str(raised.value)
    assert part in message
    path = tmp_path / "data" / f"train.{ending}"
    assert message.startswith(str(path))
    assert f"line {line}" in message or line == 0
    assert len(message) < 600 + len(str(path))


# A text over lines, and the labels of the file: some lines of the text look like rows, but not all do.
LISTS = {
    "ratings": ("Ratings:\nfood, 1\nservice, 0", "1 0"),
    "ratings without spaces": ("Ratings:\nfood,1\nservice,0\nnever again", "1 0"),
    "word labels": ("Ratings:\nfood, good\nservice, bad", "good bad"),
    "word labels without spaces": ("food,good\nservice,bad", "good bad"),
    "words after a comma": ("Well, yes\nreally", "yes no"),
    "numbers": ("1,000 times\nbetter", "1 0"),
    "a comma at the end": ("Hello,\nI loved it", "1 0"),
    "quotes": ('He said "food,1"\n"service,0"', "1 0"),
    "rows after a blank line": ("\nfood,1\nservice", "1 0"),
    "rows and commas": ("a,1\nb,0\nc,1\nso, well, fine", "1 0"),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_quoted_lines_like_rows_read(tmp_path: Path, name: str, quoting: int) -> None:
    text, labels = LISTS[name][0], LISTS[name][1].split()
    pairs = [("fine", labels[0]), ("poor", labels[1]), (text, labels[0]), (text, labels[1])]
    file = io.StringIO()
    csv.writer(file, quoting=quoting).writerows([("sentence", "label"), *pairs])
    dev = f"sentence\tlabel\nfine\t{labels[0]}\n"
    assert rows(load_folder(folder(tmp_path / "data", file.getvalue(), "csv", dev))) == pairs


# Rows of which one text has a stray quote at its start, and another one at its end.
SWALLOWED = {
    "sorted by label": (HEAD, '"a bad film,neg\nawful,neg\na screen of 15",pos\nfine,pos\nbad,neg\n', 2),
    "two rows": (HEAD, 'fine,pos\nbad,neg\n"dull,neg\nnice",pos\n', 4),
    "before all other labels": (HEAD, '"dull,neg\nso so,mid\nnice",pos\nfine,pos\nbad,neg\na,mid\n', 2),
    "carriage returns": (HEAD, '"dull,neg\r\nnice",pos\r\nfine,pos\r\nbad,neg\r\n', 2),
    "spaces before labels": (HEAD, 'fine, pos\nbad, neg\n"dull, neg\nnice", pos\n', 4),
    "labels first": ("label,sentence\n", 'neg,"dull\npos,nice\nneg,slow"\npos,fine\n', 2),
    "three columns": ("id,sentence,label\n", '1,"dull,neg\n2,slow,neg\n3,nice",pos\n4,fine,pos\n5,bad,neg\n', 2),
    "long span": (HEAD, '"dull,neg\n' + "slow,neg\n" * 500 + 'nice",pos\nfine,pos\nbad,neg\n', 2),
}


@pytest.mark.parametrize("name", SWALLOWED)
def test_rows_between_stray_quotes_named(tmp_path: Path, name: str) -> None:
    header, train, line = SWALLOWED[name]
    with pytest.raises(
        DataError, match=rf"train\.csv, line {line}: a quoted text must not hold whole rows, got \d+ lines"
    ):
        load_folder(folder(tmp_path / "data", header + train, "csv", dev="sentence\tlabel\nfine\tpos\n"))


@pytest.mark.parametrize("split", ["dev", "test"])
def test_labels_of_other_splits_checked(tmp_path: Path, split: str) -> None:
    data = folder(tmp_path / "data", "sentence\tlabel\na\t1\nb\t0\n")
    for label, part in (("1.0", "among those of train (0, 1), got '1.0'"), ("", "every row must have a label")):
        (data / f"{split}.tsv").write_text(f"sentence\tlabel\nfine\t1\npoor\t{label}\n")
        with pytest.raises(DataError) as raised:
            load_folder(data)
        assert f"{split}.tsv, line 3" in str(raised.value)
        assert part in str(raised.value)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


PLACES: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": _pipe,
    "broken link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_no_file_in_place_named(tmp_path: Path, place: str, split: str) -> None:
    data = folder(tmp_path / "data", "sentence\tlabel\na\t1\nb\t0\n")
    (data / f"{split}.tsv").unlink(missing_ok=True)
    PLACES[place](data / f"{split}.tsv")
    with pytest.raises(DataError, match=rf"{split}\.tsv must be a file, got a folder, a pipe"):
        load_folder(data)


def test_links_to_files_are_read(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", "sentence\tlabel\na\t1\nb\t0\n")
    (data / "train.tsv").rename(tmp_path / "elsewhere")
    (data / "train.tsv").symlink_to(tmp_path / "elsewhere")
    assert rows(load_folder(data)) == [("a", "1"), ("b", "0")]


@pytest.mark.parametrize("second", ["train.csv", "dev.jsonl", "validation.tsv"])
def test_two_files_of_split_refused(tmp_path: Path, second: str) -> None:
    data = folder(tmp_path / "data", "sentence\tlabel\na\t1\nb\t0\n")
    (data / second).write_text("sentence,label\nother,1\n")
    with pytest.raises(DataError, match=r"must be one file, got (train|dev)\.tsv, .*; keep one"):
        load_folder(data)


def test_same_column_twice_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be two columns, got 'label' for both"):
        load_folder(folder(tmp_path / "data", "sentence\tlabel\na\t1\n"), "label", "label")


def test_changed_file_read_again(tmp_path: Path) -> None:
    for label in ("1", "0"):
        data = load_folder(folder(tmp_path / "data", f"sentence\tlabel\na\t{label}\nb\t0\nc\t1\n"))
        assert rows(data)[0] == ("a", label)


@pytest.mark.parametrize("ending", ENDINGS)
def test_dataset_of_files_read_like_data(tmp_path: Path, ending: str) -> None:
    pairs = [(text, str(index % 2)) for index, text in enumerate(TEXTS["numbers"] + TEXTS["missing"])]
    data = tmp_path / "set"
    data.mkdir()
    for split in ("train", "validation"):
        (data / f"{split}.{ending}").write_text(encode(pairs, ending), encoding="utf-8")
    loaded = load_hub(str(data))
    assert rows(loaded) == rows(loaded, "dev") == pairs


def test_dataset_with_shifted_columns_named(tmp_path: Path) -> None:
    data = tmp_path / "set"
    data.mkdir()
    for split in ("train", "validation"):
        (data / f"{split}.csv").write_text(f"{HEAD}well made, moving,1\ndull, long,0\n")
    with pytest.raises(DataError, match=r"train\.csv, line 2: must have 2 fields"):
        load_hub(str(data))


def test_compressed_dataset_read_like_data(tmp_path: Path) -> None:
    pairs = [("NA", "1"), ("007", "0")]
    data = tmp_path / "set"
    data.mkdir()
    for split in ("train", "validation"):
        (data / f"{split}.csv.gz").write_bytes(gzip.compress(encode(pairs, "csv").encode()))
    assert rows(load_hub(str(data))) == pairs


def test_dataset_card_names_classes_of_files(tmp_path: Path) -> None:
    data = tmp_path / "set"
    data.mkdir()
    for split in ("train", "validation"):
        (data / f"{split}.csv").write_text(encode([("NA", "1"), ("007", "0")], "csv"), newline="")
    names = "{class_label: {names: {'0': negative, '1': positive}}}"
    features = f"[{{name: sentence, dtype: string}}, {{name: label, dtype: {names}}}]"
    splits = "[{name: train, num_examples: 2}, {name: validation, num_examples: 2}]"
    (data / "README.md").write_text(f"---\ndataset_info: {{features: {features}, splits: {splits}}}\n---\n")
    assert rows(load_hub(str(data))) == [("NA", "positive"), ("007", "negative")]


def test_cache_not_writable_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    with pytest.raises(DataError, match=r"cache must be writable: .*; set HF_DATASETS_CACHE"):
        load_folder(folder(tmp_path / "data", "sentence\tlabel\na\t1\nb\t0\n"))


def parquet(path: Path, features: Features | None = None, **splits: dict[str, list[object]]) -> str:
    path.mkdir()
    for split, columns in splits.items():
        Dataset.from_dict(columns, features=features).to_parquet(path / f"{split}.parquet")
    return str(path)


def test_typed_dataset_keeps_names_and_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = Features({"label": ClassLabel(names=["bad", "good"]), "sentence": Value("string")})
    train = {"label": [1, 0, 1], "sentence": ["007", "NA", " "]}
    test = {"label": [-1, -1], "sentence": ["a", "b"]}
    data = load_hub(parquet(tmp_path / "set", features, train=train, validation=train, test=test))
    assert rows(data) == rows(data, "dev") == [("007", "good"), ("NA", "bad")]
    assert set(data) == {"train", "dev"}
    messages = [record.getMessage() for record in caplog.records]
    assert [message.partition(":")[0] for message in messages] == [
        "the test split is left out",
        "left out",
    ]
    assert "2; the first is" in messages[1]


def test_typed_labels_read_by_value(tmp_path: Path) -> None:
    for name, (labels, classes) in {
        "integers": ([1, -1], ["-1", "1"]),
        "floats": ([0.5, 1.0], ["0.5", "1.0"]),
        "booleans": ([True, False], ["False", "True"]),
    }.items():
        columns = {"sentence": ["a", "b"], "label": labels}
        data = load_hub(parquet(tmp_path / name, train=columns, validation=columns))
        assert data["train"].features["label"].names == classes
        assert rows(data) == [("a", str(labels[0])), ("b", str(labels[1]))]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sentence": [7, 8], "label": [1, 0]}, "train, row 1: a text must be a string, got 7"),
        ({"sentence": ["a", None], "label": [1, 0]}, "train, row 2: every row must have a text"),
        ({"sentence": ["a", "b"], "label": [1.0, float("nan")]}, "train, row 2: every row must have a label"),
        ({"sentence": ["a", "b"], "label": [[1], [0]]}, r"train, row 1: a label must be a number or a string"),
        ({"text": ["a", "b"], "label": [1, 0]}, "train must have a column 'sentence', got text, label"),
    ],
)
def test_typed_dataset_bad_row_named(tmp_path: Path, columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_hub(parquet(tmp_path / "set", train=columns, validation=columns))


def test_word_of_a_megabyte_trains_vocabulary(tmp_path: Path) -> None:
    rng = random.Random(0)
    word = "".join(rng.choice("abcdefghij") for _ in range(1_000_000))
    data = load_folder(folder(tmp_path / "data", f"sentence\tlabel\ngood {word} film\t1\nbad film\t0\n"))
    assert rows(data)[0] == (f"good {word} film", "1")
    tokenizer = train_vocabulary(data["train"], 200, cased=False)
    assert tokenizer.tokenize(f"good {word} film") == ["good", "[UNK]", "film"]


def recipe(*arguments: object, cwd: Path, name: str = "bert_sentiment_loop") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cwd / "cache"), "COLUMNS": "200", "NO_COLOR": "1"}
    return python(RECIPES / f"{name}.py", *arguments, seconds=280, cwd=cwd, env=environment)


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", variations(["bert_sentiment", "bert_sentiment_lightning", "bert_sentiment_loop"], "bert_sentiment_loop")
)
def test_recipe_trains_on_odd_rows(tmp_path: Path, name: str) -> None:
    texts = [text for kind in TEXTS.values() for text in kind] + ["", "x" * 1_000_000]
    labels = ["très bien", '"so, so"', "-1", "a/b"]
    pairs = [(text, labels[index % 4]) for index, text in enumerate(texts)]
    data = folder(tmp_path / "data", encode(pairs, "csv"), "csv")
    (data / "dev.tsv").unlink()
    (data / "dev.jsonl").write_text(encode(pairs, "jsonl"))
    done = recipe("--data", data, *SMALL, "--output-dir", "out", cwd=tmp_path, name=name)
    assert done.returncode == 0, done.stderr
    assert f"rows: train {len(pairs) - 1}, dev {len(pairs) - 1}" in done.stdout
    assert 'labels: -1, "so, so", a/b, très bien (F1: mean of the classes)' in done.stdout
    assert done.stderr.count("left out: rows with a blank text, 2; the first is") == 1
    (run,) = (tmp_path / "out" / "runs").iterdir()
    assert Run(run).steps("eval/accuracy") == [2]
    assert list((tmp_path / "cache").glob("sentiment-*")) == []  # removed at the end


@pytest.mark.thorough
@pytest.mark.slow
def test_recipe_bad_row_one_line(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", f"{HEAD}{MORE}dull, long,0\n", "csv")
    done = recipe("--data", data, *SMALL, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {data / 'train.csv'}, line 4: must have 2 fields as the header, got 3; put ")
    assert not (tmp_path / "outputs").exists()


STEERING = {
    "header": ("train.csv", "\x1b[31msentence,label\nfine,1\n"),
    "label": ("train.csv", "sentence,label\nfine,1\npoor,\x1b]0;x\x07\n"),
    "file": ("\x1b[2J\x9b.txt", ""),
    "bidirectional": ("\u202etrain.txt", ""),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", variations(STEERING, "label"))
def test_recipe_error_holds_no_control_characters(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dev.csv").write_text("sentence,label\nfine,2\n")
    (tmp_path / "data" / STEERING[name][0]).write_text(STEERING[name][1])
    done = recipe("--data", "data", *SMALL, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: data")
    assert line.isprintable()


@pytest.mark.thorough
def test_recipe_output_holds_no_control_characters(tmp_path: Path) -> None:
    data = folder(tmp_path / "a\x1b[31mb", "sentence\tlabel\na\t[red]\x1b[2J\nb\t:smile:\n\t:smile:\n", dev="")
    (data / "dev.tsv").write_text((data / "train.tsv").read_text())
    done = recipe("--data", data, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "labels: :smile:, [red]?[2J (F1 of [red]?[2J)" in done.stdout
    for line in (*done.stdout.splitlines(), *(line for line in done.stderr.splitlines() if "left out" in line)):
        assert line.isprintable()


@pytest.mark.thorough
@pytest.mark.parametrize("output", variations(["file", "file/below", "/proc/none"], "file/below"))
def test_recipe_output_not_writable_one_line(tmp_path: Path, output: str) -> None:
    data = folder(tmp_path / "data", "sentence\tlabel\na\t1\nb\t0\n")
    (tmp_path / "file").write_text("kept")
    done = recipe("--data", data, *SMALL, "--output-dir", output, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: --output-dir must be a folder that can be written, got '{output}': ")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.thorough
@pytest.mark.slow
def test_recipe_model_of_other_kind_one_line(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", "sentence\tlabel\na\t1\nb\t0\n")
    three = folder(tmp_path / "three", "sentence\tlabel\na\t1\nb\t0\nc\t2\n")
    done = recipe("--data", three, *SMALL, "--output-dir", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    damaged = tmp_path / "damaged"
    (tmp_path / "out" / "checkpoint").rename(damaged)
    for options, message in (
        ([], "must have a classifier of the data's 2 classes or none; use its base model"),
        (["--data", three, "--length", "65"], "--length must be at most 64 for the model"),
    ):
        done = recipe("--data", data, "--model", damaged, *options, cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr.strip().splitlines()[-1]
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    done = recipe("--data", data, "--model", damaged, cwd=tmp_path)
    assert done.returncode == 2
    assert "error: --model must be a hub name or a folder with a model" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.thorough
def test_many_rows_take_bounded_memory() -> None:
    done = python(ROOT / "benchmarks" / "recipe_data.py", "--json", seconds=280, check=True)
    few, many = json.loads(done.stdout.splitlines()[-1])
    assert (few["rows"], many["rows"]) == (20_000, 200_000)
    assert many["anonymous_mib"] - few["anonymous_mib"] < 60
    assert many["file_mib"] > 10 * 0.9 * few["file_mib"]
