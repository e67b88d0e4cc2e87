"""Tests views of predictions against scikit-learn, read from the event file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import average_precision_score, f1_score, log_loss
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from tbx_callbacks import TbxLoop, log_predictions
from tests.helpers.runs import Run

NAMES = ["bad", "so so", "good"]


def loop(folder: Path) -> TbxLoop:
    model = torch.nn.Linear(2, 2)
    return TbxLoop(model, torch.optim.SGD(model.parameters(), lr=0.1), "minimal", log_dir=folder, start_step=7)


def predictions() -> tuple[np.ndarray, np.ndarray]:
    made = np.random.default_rng(0)
    labels = made.integers(0, 3, 200)
    return made.normal(size=(200, 3)) + 1.5 * np.eye(3)[labels], labels


def test_log_predictions_writes_every_view(tmp_path: Path) -> None:
    logits, labels = predictions()
    texts = [f"text {n} | <script>alert({n})</script>" for n in range(200)]
    with loop(tmp_path) as run:
        log_predictions(run, torch.tensor(logits), torch.tensor(labels), names=NAMES, texts=texts, worst=5)
    read = Run(tmp_path)
    expected = f1_score(labels, logits.argmax(-1), average=None)
    assert [read.at(f"eval/f1/{name}")[7] for name in ("bad", "so_so", "good")] == pytest.approx(expected)
    (worst,) = read.texts["eval/worst"]
    lines = worst.splitlines()[2:]
    assert len(lines) == 5
    shares = torch.tensor(logits).softmax(-1).numpy()
    wrong = np.flatnonzero(logits.argmax(-1) != labels)
    first = max(wrong, key=lambda index: shares[index].max())
    assert f"text {first} " in lines[0]
    assert f"{shares[first].max():.3f}" in lines[0]
    assert "<script" not in worst
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "tensors": 0}).Reload()
    (image,) = events.Images("eval/confusion_matrix")
    assert image.step == 7
    assert image.encoded_image_string.startswith(b"\x89PNG")
    (curve,) = events.Tensors("eval/precision_recall/good")
    true_positives, _, _, _, precision, recall = tensor_util.make_ndarray(curve.tensor_proto)
    assert true_positives[0] == (labels == 2).sum()
    area = -np.trapezoid(precision, recall) if hasattr(np, "trapezoid") else -np.trapz(precision, recall)
    assert area == pytest.approx(average_precision_score(labels == 2, shares[:, 2]), abs=0.03)


def test_log_predictions_all_right_or_no_texts(tmp_path: Path) -> None:
    with loop(tmp_path) as run:
        log_predictions(run, np.eye(2)[[0, 1, 1]] * 9, [0, 1, 1], texts=["a", "b", "c"], split="dev")
        log_predictions(run, np.eye(2)[[0, 1]] * 9, [0, 1], split="other")
    read = Run(tmp_path)
    assert read.texts["dev/worst"] == ["no wrong predictions"]
    assert "other/worst" not in read.texts
    assert read.at("other/f1/1") == {7: 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [0]}, r"logits must be \[samples, classes\] and labels \[samples\], got \(2, 2\) and \(1,\)"),
        ({"labels": [-100, -100], "texts": ["a", "b"]}, "labels must be classes of at least one sample, got none in 2"),
        ({"labels": [0, 2]}, "labels must be class numbers from 0 to 1, got 2; use -100 to leave one out"),
        ({"labels": [0.5, 1]}, "labels must be class numbers from 0 to 1, got 0.5"),
        ({"labels": [-1, 1], "texts": ["a", "b"]}, "labels must be class numbers from 0 to 1, got -1"),
        ({"labels": [0, 1], "names": ["a"]}, "names must name each of the 2 classes, got 1"),
        ({"labels": [0, 1], "names": np.array(["a", "b", "c"])}, "names must name each of the 2 classes, got 3"),
        (
            {"labels": [0, 1], "names": {"neg": 0, "pos": 1}},
            r"names must map the class numbers 0 to 1 to names, got the keys \['neg', 'pos'\]; pass id2label",
        ),
        ({"labels": [0, 1], "names": {"a", "b"}}, "names must be a sequence in the order of the classes, got {"),
        ({"labels": [0, 1], "names": "ab"}, "names must be a sequence in the order of the classes, got 'ab'"),
        ({"labels": [0, 1], "texts": "ab"}, "texts must be a sequence in the order of the samples, got 'ab'"),
        (
            {"labels": [0, 1], "texts": np.array("a")},
            r"texts must be a sequence in the order of the samples, got array\('a'",
        ),
        ({"labels": [0, 1], "texts": 3}, "texts must be a sequence in the order of the samples, got 3"),
        ({"labels": np.array(["b", "a"])}, "labels must be numbers, got 'b'; pass the place of each class in `names`"),
        ({"labels": [[0], [1]]}, r"got \(2, 2\) and \(2, 1\); flatten labels to one dimension"),
        ({"labels": [[1, 0], [0, 1]]}, r"of one-hot labels pass labels.argmax\(-1\)"),
        ({"labels": [[1, 1], [0, 1]]}, "multi-label targets have no single class: call it for each label with the two"),
        ({"labels": [0, 1], "texts": ["a"]}, "texts must have one entry per sample, got 1 for 2"),
    ],
)
def test_log_predictions_wrong_labels_refused(tmp_path: Path, arguments: dict[str, list[object]], message: str) -> None:
    labels = arguments.pop("labels")
    with loop(tmp_path) as run, pytest.raises(ValueError, match=message):
        log_predictions(run, np.eye(2), labels, **arguments)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.zeros((0, 2)), "labels must be classes of at least one sample, got none in 0; skip this call"),
        (
            (np.zeros((4, 2)), np.zeros((4, 3))),
            "logits must be one array or tensor, got tuple; if the model has several outputs, pass",
        ),
        (np.zeros((2, 5, 3)), "flatten token-level logits"),
        (np.zeros((2, 1)), r"one output pass the two columns \[0, x\]: x = logits.reshape\(-1\); np.stack\("),
        (np.zeros(2), r"of a binary model with one output pass the two columns \[0, x\]"),
    ],
)
def test_log_predictions_wrong_logits_refused(tmp_path: Path, logits: Any, message: str) -> None:
    with loop(tmp_path) as run, pytest.raises(ValueError, match=message):
        log_predictions(run, logits, np.zeros(len(logits), dtype=int))


class Items:
    """A sequence as map-style data sets are: a length and items only."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Any:
        return self.values[index]


LISTS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "array": np.array,
    "series with another index": lambda values: pd.Series(values, index=range(len(values))[::-1]),
    "iterator": iter,
    "sequence without an iterator": lambda values: Items(values),
}


@pytest.mark.parametrize("kind", LISTS)
def test_log_predictions_texts_and_names_by_position(tmp_path: Path, kind: str) -> None:
    logits = np.array([[5.0, 0], [0, 4], [3, 0], [0, 2]])  # the second and third are wrong, the second most
    with loop(tmp_path) as run:
        made = LISTS[kind]
        log_predictions(run, logits, [0, 0, 1, 1], names=made(["neg", "pos"]), texts=made(["a", "b", "c", "d"]))
    read = Run(tmp_path)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in read.texts["eval/worst"][0].splitlines()]
    assert [(row[0], row[2], row[3]) for row in cells[2:]] == [("pos", "neg", "b"), ("neg", "pos", "c")]
    assert set(read.family("eval/f1")) == {"neg", "pos"}


@pytest.mark.parametrize("names", [{1: "pos", 0: "neg"}, {"1": "pos", "0": "neg"}, {np.int64(0): "neg", 1: "pos"}])
def test_log_predictions_names_by_class_number(tmp_path: Path, names: Any) -> None:
    with loop(tmp_path) as run:
        log_predictions(run, np.eye(2)[[0, 1, 1]] * 9, [0, 0, 1], names=names)
    read = Run(tmp_path)
    assert (read.at("eval/f1/neg")[7], read.at("eval/f1/pos")[7]) == pytest.approx((2 / 3, 2 / 3))


def test_log_predictions_names_of_tensor(tmp_path: Path) -> None:
    with loop(tmp_path) as run:
        log_predictions(run, np.eye(2) * 9, [0, 1], names=torch.tensor([10, 20]))
    assert set(Run(tmp_path).family("eval/f1")) == {"10", "20"}


def test_log_predictions_text_none_is_empty(tmp_path: Path) -> None:
    with loop(tmp_path) as run:
        log_predictions(run, np.eye(2) * 9, [1, 0], texts=[None, 3])
    lines = Run(tmp_path).texts["eval/worst"][0].splitlines()[2:]
    assert sorted(line.split("|")[4].strip() for line in lines) == ["", "3"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_log_predictions_probabilities_warned_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dtype: torch.dtype
) -> None:
    logits, labels = predictions()
    probabilities = torch.tensor(softmax(np.repeat(logits, 10, 1), -1)).to(dtype)
    with loop(tmp_path) as run:
        log_predictions(run, logits - logits.max(-1, keepdims=True), labels, split="other")
        log_predictions(run, np.abs(logits), labels, split="other")
        log_predictions(run, np.log(softmax(logits, -1)), labels, split="other")
        assert not caplog.messages
        log_predictions(run, probabilities, labels)
        log_predictions(run, probabilities, labels)
    assert caplog.messages == [
        "eval/calibration and eval/worst are wrong: logits are probabilities already;"
        " pass the raw logits or the log-probabilities"
    ]


def test_log_predictions_failing_view_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no memory for a figure")

    monkeypatch.setattr("matplotlib.figure.Figure.subplots", fail)
    with loop(tmp_path) as run:
        log_predictions(run, np.eye(2) * 9, [0, 1], texts=["a", "b"])
    read = Run(tmp_path)
    assert read.at("eval/f1/1") == {7: 1.0}
    assert read.at("eval/calibration/ece")[7] == pytest.approx(1 / (1 + np.exp(9)), rel=1e-4)
    assert read.texts["eval/worst"] == ["no wrong predictions"]
    assert "eval/confusion_matrix is left out at step 7: MemoryError('no memory for a figure')" in caplog.messages


KINDS: dict[str, Callable[[torch.Tensor], Any]] = {
    "bfloat16": lambda logits: logits.bfloat16(),
    "with a gradient": lambda logits: logits.clone().requires_grad_(),
    "lists": lambda logits: logits.tolist(),
    "float16": lambda logits: logits.half(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_log_predictions_logits_of_every_kind(tmp_path: Path, kind: str) -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, -1.0], [1.0, 2.0]])
    with loop(tmp_path) as run:
        log_predictions(run, KINDS[kind](logits), torch.tensor([0, 1, 1, 1]))
    read = Run(tmp_path)
    assert (read.at("eval/f1/0")[7], read.at("eval/f1/1")[7]) == pytest.approx((2 / 3, 0.8))


def test_log_predictions_unlabelled_samples_left_out(tmp_path: Path) -> None:
    logits, labels = predictions()
    texts = [f"text {n}" for n in range(200)]
    some = labels.copy()
    some[:50] = -100
    with loop(tmp_path) as run:
        log_predictions(run, logits, some, texts=texts, worst=200)
        log_predictions(run, logits[50:], labels[50:], texts=texts[50:], worst=200, split="rest")
    read = Run(tmp_path)
    for number in range(3):
        assert read.at(f"eval/f1/{number}") == read.at(f"rest/f1/{number}")
    assert read.texts["eval/worst"] == read.texts["rest/worst"]
    assert "text 49 " not in read.texts["eval/worst"][0]


def test_log_predictions_nan_logits_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logits, labels = predictions()
    bad = np.concatenate([logits, np.full((9, 3), np.nan)])
    with loop(tmp_path) as run, caplog.at_level(logging.WARNING):
        log_predictions(run, bad, np.concatenate([labels, np.zeros(9, dtype=int)]))
        log_predictions(run, logits, labels, split="rest")
        log_predictions(run, bad[-9:], labels[:9], split="none")
    read = Run(tmp_path)
    assert [read.at(f"eval/f1/{n}") for n in range(3)] == [read.at(f"rest/f1/{n}") for n in range(3)]
    assert not read.family("none")
    assert caplog.text.count("samples whose largest logit is NaN or Inf are left out") == 2


def test_log_predictions_each_class_own_tag(tmp_path: Path) -> None:
    with loop(tmp_path) as run:
        log_predictions(run, np.eye(4)[[0, 1, 2, 2]], [0, 1, 2, 3], names=["a b", "a_b", "a/b", ""])
    read = Run(tmp_path)
    found = {tag: read.at(f"eval/f1/{tag}")[7] for tag in ("a_b", "a_b_2", "a_b_3", "_")}
    assert found == pytest.approx({"a_b": 1.0, "a_b_2": 1.0, "a_b_3": 2 / 3, "_": 0.0})


@pytest.mark.parametrize("name", [r"$\foo$", "$^$"])
def test_log_predictions_names_are_no_formulas(tmp_path: Path, name: str) -> None:
    with loop(tmp_path) as run:
        log_predictions(run, np.eye(2), [0, 1], names=["b", name])
    (image,) = EventAccumulator(str(tmp_path)).Reload().Images("eval/confusion_matrix")
    assert image.encoded_image_string.startswith(b"\x89PNG")


@pytest.mark.parametrize("classes", [150, 1000])
def test_log_predictions_many_classes_views_bounded(tmp_path: Path, classes: int) -> None:
    made = np.random.default_rng(0)
    labels = np.minimum(made.geometric(0.05, 3000) - 1, classes - 1)
    logits = made.normal(size=(3000, classes)) + 3 * np.eye(classes)[labels]
    with loop(tmp_path) as run:
        log_predictions(run, logits, labels, names=["macro", *(f"class {n}" for n in range(1, classes))])
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "tensors": 0, "scalars": 0}).Reload()
    (image,) = events.Images("eval/confusion_matrix")
    assert max(image.width, image.height) <= 1000
    assert len([tag for tag in events.Tags()["tensors"] if "precision_recall" in tag]) == 20
    read, most = Run(tmp_path), np.argsort(-np.bincount(labels, minlength=classes), kind="stable")[:20]
    each = f1_score(labels, logits.argmax(-1), labels=range(classes), average=None, zero_division=0)
    expected = {f"class_{n}" if n else "macro_2": pytest.approx(each[n], rel=1e-5) for n in most}
    macro = f1_score(labels, logits.argmax(-1), average="macro", zero_division=0)
    assert {tag: read.at(f"eval/f1/{tag}")[7] for tag in read.family("eval/f1")} == {
        **expected, "macro": pytest.approx(macro, rel=1e-5),
    }  # fmt: skip


def test_log_predictions_writes_calibration_of_kept_rows(tmp_path: Path) -> None:
    logits, labels = predictions()
    logits, labels = np.concatenate([3 * logits, np.full((5, 3), np.nan)]), np.concatenate([labels, [0] * 5])
    labels[:20] = -100
    with loop(tmp_path) as run:
        log_predictions(run, logits, labels, split="dev")
    read, kept = Run(tmp_path), slice(20, 200)

    def nll(temperature: float) -> float:
        return float(log_loss(labels[kept], softmax(logits[kept] / temperature, -1)))

    at = {name.rpartition("/")[2]: read.at(name)[7] for name in read.scalars if "/calibration/" in name}
    assert at.keys() == {"ece", "nll", "temperature", "ece_at_temperature", "nll_at_temperature"}
    assert at["nll"] == pytest.approx(nll(1), rel=1e-6)
    best = minimize_scalar(nll, bounds=(0.1, 20), method="bounded", options={"xatol": 1e-9})
    assert at["temperature"] == pytest.approx(best.x, rel=1e-5)
    assert at["nll_at_temperature"] == pytest.approx(best.fun, rel=1e-6)
    assert at["ece_at_temperature"] < at["ece"]
    (image,) = (
        EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload().Images("dev/calibration/reliability")
    )
    assert image.encoded_image_string.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("logits", "missing"), [(np.eye(2) * 9, {"temperature"}), (np.array([[0, -np.inf], [1.0, 0]]), {"nll"})]
)
def test_log_predictions_impossible_calibration_left_out(tmp_path: Path, logits: Any, missing: set[str]) -> None:
    with loop(tmp_path) as run:
        log_predictions(run, logits, [0, 1] if "nll" not in missing else [1, 0])
    written = {tag.rpartition("/")[2] for tag in Run(tmp_path).scalars if "/calibration/" in tag}
    assert "ece" in written
    assert written.isdisjoint({*missing, "ece_at_temperature", "nll_at_temperature", "temperature"})


@pytest.mark.parametrize("as_column", [False, True])
def test_log_predictions_remedy_for_one_output_right(tmp_path: Path, as_column: bool) -> None:
    made = np.random.default_rng(1)
    output = 2 * made.normal(size=100)
    labels = (made.random(100) < 1 / (1 + np.exp(-output))).astype(int)
    logits = output[:, None] if as_column else output
    x = logits.reshape(-1)
    with loop(tmp_path) as run:
        log_predictions(run, np.stack([0 * x, x], -1), labels)
    of_sigmoid = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(output), torch.tensor(labels * 1.0))
    assert Run(tmp_path).at("eval/calibration/nll")[7] == pytest.approx(of_sigmoid.item(), rel=1e-5)
