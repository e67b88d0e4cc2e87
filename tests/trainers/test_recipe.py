"""Tests the sentiment recipe: its data, tokenizer, errors and real trainings."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from functools import cache as cached
from pathlib import Path

import numpy as np
import pytest
from sentiment_data import DataError, load_folder, load_hub, made_up
from sentiment_model import read_vocabulary, train_vocabulary

from tests.helpers.commands import run_process
from tests.helpers.processes import python
from tests.helpers.runs import ROOT, SHARED, Run, files

RECIPES = ROOT / "recipes"
TWINS = ("bert_sentiment", "bert_sentiment_lightning", "bert_sentiment_loop")
REAL = SHARED / "sst2"
VOCAB = SHARED / "bert-base-uncased" / "vocab.txt"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="needs the real sentences in ../shared/data")
SMALL = ["--layers", "1", "--hidden", "16", "--heads", "2", "--max-steps", "12", "--logging-steps", "4"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def recipe(*arguments: object, cwd: Path, name: str = "bert_sentiment") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cwd / "cache"), "COLUMNS": "200", "NO_COLOR": "1"}
    return python(RECIPES / f"{name}.py", *arguments, seconds=280, cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, str]]:
    """The folder and the output of each recipe, trained with the full set."""

    @cached
    def train(name: str) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp(name)
        done = recipe(*SMALL, "--output-dir", "out", "--config", "full", cwd=folder, name=name)
        assert done.returncode == 0, done.stderr
        return folder, done.stdout

    return train


def write(folder: Path, **splits: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in splits.items():
        stem, _, ending = name.partition("_")
        (folder / f"{stem}.{ending or 'tsv'}").write_text(text, encoding="utf-8")
    return folder


TSV = "sentence\tlabel\ngood film\t1\nbad film\t0\n"


def test_made_up_sentences_disjoint_seeded_and_balanced() -> None:
    data = made_up(train=800, dev=200, test=200, seed=3)
    sentences = {split: data[split]["sentence"] for split in data}
    every = [sentence for split in sentences.values() for sentence in split]
    assert len(set(every)) == len(every) == 1200
    assert data["train"]["label"] == made_up(train=800, dev=200, test=200, seed=3)["train"]["label"]
    assert set(made_up(train=800, dev=200, test=200, seed=4)["train"]["sentence"]) != set(sentences["train"])
    assert 0.4 < sum(data["train"]["label"]) / 800 < 0.6
    assert data["train"].features["label"].names == ["negative", "positive"]


def test_made_up_sentences_not_trivial() -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    data = made_up()
    words = CountVectorizer(ngram_range=(1, 2)).fit(data["train"]["sentence"])
    bayes = MultinomialNB().fit(words.transform(data["train"]["sentence"]), data["train"]["label"])
    score = bayes.score(words.transform(data["dev"]["sentence"]), data["dev"]["label"])
    assert 0.55 < score < 0.8  # words and pairs of words help, but do not capture negation and contrast


@needs_real_data
def test_load_folder_quotes_lose_no_rows() -> None:
    data = load_folder(REAL)
    assert {split: len(data[split]) for split in data} == {"train": 6908, "dev": 872, "test": 1821}
    with (REAL / "train.tsv").open(encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert data["train"]["sentence"][:] == [row["sentence"] for row in expected]
    assert data["train"]["label"][:] == [int(row["label"]) for row in expected]


@needs_real_data
def test_real_vocabulary_read_whole() -> None:
    tokenizer = read_vocabulary(VOCAB, cased=False)
    assert len(tokenizer) == 30522
    assert tokenizer("Hello, world!")["input_ids"] == [101, 7592, 1010, 2088, 999, 102]


def test_load_folder_formats_give_same_rows(tmp_path: Path) -> None:
    rows = [("plain", "pos"), ('with "quotes" and, commas', "neg"), ("null", "pos"), ("NA", "neg"), ("süß 好", "pos")]
    for ending in ("tsv", "csv", "jsonl"):
        folder = tmp_path / ending
        folder.mkdir()
        for split in ("train", "dev"):
            with (folder / f"{split}.{ending}").open("w", encoding="utf-8", newline="") as file:
                if ending == "jsonl":
                    file.writelines(json.dumps({"sentence": s, "label": n}) + "\n" for s, n in rows)
                elif ending == "csv":
                    csv.writer(file).writerows([("sentence", "label"), *rows])
                else:
                    file.writelines("\t".join(row) + "\n" for row in [("sentence", "label"), *rows])
        data = load_folder(folder)
        assert data["train"]["sentence"][:] == [sentence for sentence, _ in rows]
        assert data["train"].features["label"].names == ["neg", "pos"]
        assert data["train"]["label"][:] == [1, 0, 1, 0, 1]


def test_load_hub_local_dataset_read(tmp_path: Path) -> None:
    write(tmp_path / "set", train_csv="text,stars\nfine,5\npoor,1\n", validation_csv="text,stars\nfine,5\n")
    data = load_hub(str(tmp_path / "set"), text="text", label="stars")
    assert data["train"]["sentence"][:] == ["fine", "poor"]
    assert data["dev"]["label"][:] == [1]
    with pytest.raises(DataError, match=r"--dataset must name a dataset that can be loaded, got 'no/such'"):
        load_hub("no/such")


BAD = {
    "no folder": (None, "--data must be a folder"),
    "no dev": ({"train": TSV}, r"there must be a file dev\.tsv\|\.csv\|\.jsonl, found train\.tsv"),
    "no column": (
        {"train": "text\tlabel\na\t1\nb\t0\n", "dev": TSV},
        r"train\.tsv, line 1: must have a column 'sentence', got text",
    ),
    "one class": ({"train": "sentence\tlabel\na\t1\nb\t1\n", "dev": TSV}, "at least two classes, got only 1"),
    "empty split": ({"train": TSV, "dev": "sentence\tlabel\n"}, r"dev\.tsv: a split must have rows, got none"),
    "empty file": ({"train": TSV, "dev": ""}, r"dev\.tsv: a split must have rows, got none"),
    "unknown label": (
        {"train": TSV, "dev": "sentence\tlabel\na\t2\n"},
        r"dev\.tsv, line 2: a label .* \(0, 1\), got '2'",
    ),
    "list labels": (
        {"train_jsonl": '{"sentence": "a", "label": [1]}\n{"sentence": "b", "label": [0]}\n', "dev": TSV},
        r"train\.jsonl, line 1: a label must be a number or a string, got \['1'\]",
    ),
    "no text": (
        {"train_jsonl": '{"sentence": "a", "label": 1}\n{"sentence": null, "label": 0}\n', "dev": TSV},
        r"train\.jsonl, line 2: every row must have a text, got none",
    ),
    "no label": ({"train": "sentence\tlabel\na\tx\nb\t\n", "dev": TSV}, r"train\.tsv, line 3: .* must have a label"),
}


@pytest.mark.parametrize("name", BAD)
def test_load_folder_bad_data_named(tmp_path: Path, name: str) -> None:
    splits, message = BAD[name]
    folder = tmp_path / "data"
    if splits is not None:
        write(folder, **splits)
    with pytest.raises(DataError, match=message):
        load_folder(folder)


def test_load_folder_not_utf8_named_with_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", train=TSV, dev=TSV)
    (folder / "train.tsv").write_bytes(TSV.encode() + "café\t1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"train\.tsv: must be UTF-8, got other bytes in line 4"):
        load_folder(folder)


def test_bad_vocabulary_named(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\nhello\n")
    with pytest.raises(DataError, match=r"--vocab must hold the special tokens .* lacks \[CLS\]"):
        read_vocabulary(path, cased=False)
    with pytest.raises(DataError, match="--vocab must be a readable UTF-8 file"):
        read_vocabulary(tmp_path / "none.txt", cased=False)


def test_trained_vocabulary_knows_its_sentences() -> None:
    data = made_up(train=300, dev=20, test=20)
    tokenizer = train_vocabulary(data["train"], 500, cased=False)
    encoded = tokenizer(data["dev"]["sentence"][:])["input_ids"]
    assert not any(tokenizer.unk_token_id in ids for ids in encoded)


@pytest.mark.thorough
@pytest.mark.slow
def test_trained_vocabulary_same_in_every_process() -> None:
    code = """
from sentiment_data import made_up
from sentiment_model import train_vocabulary
vocabulary = train_vocabulary(made_up(train=200, dev=20, test=20)["train"], 300, cased=False).get_vocab()
print(sorted(vocabulary.items()))
"""
    printed = {
        python("-c", code, check=True, cwd=RECIPES, env={**os.environ, "PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
    assert "##" in printed.pop()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "--data must be a folder"),
        (["--config", "defalt"], "did you mean 'default'?"),
        (["--data", "x", "--dataset", "y"], "the data must come from one place"),
        (["--model", "./no_such_model"], "--model must be a hub name or a folder"),
        (["--resume"], "--resume needs a checkpoint"),
        (["--data", ""], "--data must not be empty, got ''"),
        (["--data="], "--data must not be empty"),
        (["--dataset", ""], "--dataset must not be empty, got ''"),
        (["--data", " "], "--data must not be empty"),
        (["--model", ""], "--model must not be empty"),
        (["--vocab", ""], "--vocab must not be empty"),
        (["--config", ""], "--config must not be empty"),
        (["--output-dir", ""], "--output-dir must not be empty"),
        (["--text-column", ""], "--text-column must not be empty"),
        (["--label-column", ""], "--label-column must not be empty"),
        (["--epochs", "inf"], "--epochs must be 0 or more, and at most 1,000,000, got inf"),
        (["--epochs", "nan"], "--epochs must be 0 or more, and at most 1,000,000, got nan"),
        (["--epochs", "1e308"], "--epochs must be 0 or more, and at most"),
        (["--lr", "inf"], "--lr must be 0 or more, and at most"),
        (["--lr", "nan"], "--lr must be 0 or more, and at most"),
        (["--dropout", "nan"], "--dropout must be 0 or more, and at most 0.9, got nan"),
        (["--lr", "-1"], "--lr must be 0 or more, and at most 1,000,000, got -1.0"),
        (["--length", "1000000000"], "--length must be at most 100,000, got 1000000000"),
        (["--vocab-size", "1000000000000"], "--vocab-size must be at most"),
        (["--hidden", "1000000000"], "--hidden must be at most"),
        (["--layers", "1000000000"], "--layers must be at most"),
        (["--batch", "9" * 400], "--batch must be at most"),
        (["--accumulate", "9" * 30], "--accumulate must be at most"),
        (["--max-steps", "9" * 30], "--max-steps must be at most"),
        (["--logging-steps", "9" * 30], "--logging-steps must be at most"),
        (["--data", "a\x1b[31mb"], "got 'a\\x1b[31mb'"),
        (["--dataset", "a\x1b[31mb"], "--dataset must name a dataset"),
        (["--model", "./a\x1b[31mb\x9b"], "--model must be a hub name or a folder"),
        (["--config", "a\x1b[31mb"], "a"),
        (["--hidden", "15", "--heads", "2"], "--hidden must be a multiple of --heads"),
    ],
)
def test_recipe_bad_arguments_one_line_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["bert_sentiment.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(RECIPES / "bert_sentiment.py"), run_name="__main__")
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert all(character.isprintable() or character == "\n" for character in printed)
    last = printed.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert not (tmp_path / "outputs").exists()


@pytest.mark.thorough
@pytest.mark.slow
def test_recipe_process_bad_argument_no_traceback(tmp_path: Path) -> None:
    done = recipe("--resume", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [TWINS[0], *(pytest.param(name, marks=pytest.mark.thorough) for name in TWINS[1:])])
def test_recipe_trains_reports_and_resumes(trained: Callable[[str], tuple[Path, str]], name: str) -> None:
    base, printed = trained(name)
    (folder,) = (base / "out" / "runs").iterdir()
    assert re.search(rf"log directory: out/runs/{folder.name}\nview: \S*tbx-callbacks view out/runs\n", printed)
    assert f"report: out/runs/{folder.name}/report.html\n" in printed
    assert "<!doctype html>" in (folder / "report.html").read_text(encoding="utf-8")
    diagnosed = printed[printed.index("results after") : printed.index("report: ")]
    assert any(word in diagnosed for word in ("could judge this run", "Too little to judge: "))
    assert "rows: train 6000, dev 600, test 600; labels: negative, positive" in printed
    read = Run(folder)
    assert read.steps("train/loss") == [4, 8, 12]
    assert read.steps("eval/accuracy") == read.steps("eval/f1") == [12]
    assert read.steps("test/accuracy") == [12]
    assert read.at("eval/f1/positive")[12] == pytest.approx(read.at("eval/f1")[12])
    assert {"eval/worst", "test/worst"} <= set(read.texts)
    assert read.steps("test/f1/negative") == [12]
    assert f"{read.at('eval/accuracy')[12]:.4f}" in printed
    assert {"lr/AdamW/decay", "lr/AdamW/no_decay"} <= set(read.scalars) or name == "bert_sentiment"
    assert {"grad_norm/total", "grad_norm/bert.encoder.layer.0", "clip/factor", "train/learning_rate"} <= set(
        read.scalars
    )
    longer = ["--logging-steps", "4", "--max-steps", "16", "--output-dir", "out", "--config", "full", "--resume"]
    again = recipe(*longer, cwd=base, name=name)  # the model's sizes come from the checkpoint
    assert again.returncode == 0, again.stderr
    assert "results after 16 steps" in again.stdout
    assert [path.name for path in (base / "out" / "runs").iterdir()] == [folder.name]
    assert Run(folder).steps("train/loss") == [4, 8, 12, 16]


@pytest.mark.thorough
@pytest.mark.slow
def test_recipe_without_report_extra_prints_install_command(tmp_path: Path) -> None:
    (tmp_path / "plotly.py").write_text("raise ImportError")
    code = f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['r.py', *sys.argv[1:]];"
    code += f" runpy.run_path({str(RECIPES / 'bert_sentiment_loop.py')!r}, run_name='__main__')"
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(RECIPES)}
    environment |= {"COLUMNS": "200", "NO_COLOR": "1"}
    done = python("-c", code, *SMALL, "--output-dir", "out", seconds=280, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert (
        "report not written: a report needs plotly and jinja2, which are not installed; run: pip install" in done.stdout
    )


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("name", TWINS)
def test_recipe_partial_accumulation_window_steps(tmp_path: Path, name: str) -> None:
    lines = "sentence\tlabel\n" + "".join(f"word{n} film\t{n % 2}\n" for n in range(10))
    data = write(tmp_path / "data", train=lines, dev=lines)
    options = ["--batch", "2", "--accumulate", "2", "--epochs", "2", "--logging-steps", "1", "--vocab-size", "100"]
    done = recipe(*SMALL[:6], *options, "--data", data, "--output-dir", "out", cwd=tmp_path, name=name)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    read = Run(folder)
    assert read.steps("train/loss") == [1, 2, 3, 4, 5, 6]  # 5 batches an epoch are 3 steps
    assert read.steps("eval/accuracy") == [3, 6]
    rates = [0.0, 5e-4, 4e-4, 3e-4, 2e-4, 1e-4]
    assert list(read.at("train/learning_rate").values()) == pytest.approx(rates)


@pytest.mark.slow
def test_recipe_pretrained_model_from_folder(trained: Callable[[str], tuple[Path, str]], tmp_path: Path) -> None:
    checkpoint = next((trained("bert_sentiment")[0] / "out").glob("checkpoint-*"))
    done = recipe("--model", checkpoint, "--max-steps", "2", "--output-dir", "second", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"model: {checkpoint}" in done.stdout


@pytest.mark.slow
@needs_real_data
def test_recipe_real_sentences_train(tmp_path: Path) -> None:
    done = recipe(
        *SMALL,
        "--data",
        REAL,
        "--vocab",
        VOCAB,
        "--output-dir",
        "out",
        "--config",
        "full",
        "--accumulate",
        "2",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "rows: train 6908, dev 872, test 1821; labels: 0, 1" in done.stdout
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    assert len(files(folder)) == 1
    read = Run(folder)
    assert read.at("grad_norm/total").keys() == {4, 8, 12}
    for step, value in read.scalars["grad_norm/total"]:
        assert value == pytest.approx(read.at("train/grad_norm")[step], rel=1e-3)  # torch's float32 norm is less exact


@pytest.mark.thorough
@needs_real_data
@pytest.mark.slow
def test_recipe_real_sentences_reach_expected_accuracy(tmp_path: Path) -> None:
    done = recipe("--data", REAL, "--vocab", VOCAB, "--output-dir", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    assert max(value for _, value in Run(folder).scalars["eval/accuracy"]) >= 0.78


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_recipe_scores_equal_those_of_scikit_learn(classes: int) -> None:
    from sentiment_results import scores
    from sklearn.metrics import accuracy_score, f1_score

    rng = np.random.default_rng(classes)
    for size in (1, 7, 200):  # with few rows, some classes have none
        logits, labels = rng.normal(size=(size, classes)), rng.integers(classes, size=size)
        predicted = logits.argmax(-1)
        average = "binary" if classes == 2 else "macro"
        expected = f1_score(labels, predicted, average=average, zero_division=0)
        assert scores(logits, labels) == pytest.approx({"accuracy": accuracy_score(labels, predicted), "f1": expected})


@pytest.mark.thorough
@pytest.mark.slow
def test_recipe_command_help_lists_options() -> None:
    assert "--dataset" in run_process("recipe", "bert-sentiment", "--help").stdout
