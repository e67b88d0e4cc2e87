"""Views of predictions, read back from the event file and compared with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from problems import Run
from sklearn.metrics import average_precision_score, f1_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from tbx_callbacks import TbxLoop, log_predictions

NAMES = ["bad", "so so", "good"]


def loop(folder: Path) -> TbxLoop:
    model = torch.nn.Linear(2, 2)
    return TbxLoop(model, torch.optim.SGD(model.parameters(), lr=0.1), "minimal", log_dir=folder, start_step=7)


def predictions() -> tuple[np.ndarray, np.ndarray]:
    made = np.random.default_rng(0)
    labels = made.integers(0, 3, 200)
    return made.normal(size=(200, 3)) + 1.5 * np.eye(3)[labels], labels


def test_every_view(tmp_path: Path) -> None:
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
    first = max(wrong, key=lambda place: shares[place].max())
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


def test_nothing_is_wrong_and_no_texts(tmp_path: Path) -> None:
    with loop(tmp_path) as run:
        log_predictions(run, np.eye(2)[[0, 1, 1]] * 9, [0, 1, 1], texts=["a", "b", "c"], split="dev")
        log_predictions(run, np.eye(2)[[0, 1]] * 9, [0, 1], split="other")
    read = Run(tmp_path)
    assert read.texts["dev/worst"] == ["none is wrong"]
    assert "other/worst" not in read.texts
    assert read.at("other/f1/1") == {7: 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [0]}, r"logits must be \[samples, classes\] and labels \[samples\], got \(2, 2\) and \(1,\)"),
        ({"labels": [0, 1], "names": ["a"]}, "names must name each of the 2 classes, got 1"),
        ({"labels": [0, 1], "texts": ["a"]}, "texts must be one a sample, got 1 for 2"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, arguments: dict[str, list[object]], message: str) -> None:
    labels = arguments.pop("labels")
    with loop(tmp_path) as run, pytest.raises(ValueError, match=message):
        log_predictions(run, np.eye(2), labels, **arguments)
