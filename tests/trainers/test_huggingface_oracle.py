"""Tests every metric under the real HF Trainer against a naive second implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor

from tbx_callbacks import TbxTrainerCallback
from tests.helpers.data import collate, rows
from tests.helpers.models import trainer
from tests.helpers.oracles import Recorder, RecordingTrainer, Step, by_layer, by_module, by_parameter, norm, total
from tests.helpers.runs import Run

SET = {
    "every": "log",
    "metrics": [
        "loss",
        "learning_rate",
        "clip",
        "throughput",
        {"grad_norm": {"by": "total"}},
        {"grad_norm": {"by": "layer"}},
        {"grad_norm": {"by": "module", "every": 3}},
        {"grad_norm_clipped": {"by": "total"}},
        {"grad_norm_clipped": {"by": "parameter"}},
        {"weight_norm": {"by": "layer", "every": 3}},
        {"weight_norm": {"by": {"attention": r"\.attention\.", "rest": r"^(?!.*attention)"}}},
        {"weight_histogram": {"every": 4}},
        {"grad_histogram": {"every": 4}},
        "nonfinite",
        {"update_norm": {"by": "layer"}},
        {"update_ratio": {"by": "total"}},
        {"update_ratio": {"by": "layer", "every": 3}},
        {"update_histogram": {"every": 4}},
        {"optimizer_state": {"every": 3}},
    ],
}
GROUPS = {"layer": by_layer, "module": by_module, "parameter": by_parameter, "total": total}
CLIPPING = {"off": 0.0, "loose": 1e6, "binding": 0.05}


def train(folder: Path, *, attached: bool, accumulation: int, max_norm: float, **args: object):
    recorder = Recorder()
    callback = TbxTrainerCallback(SET)
    run = trainer(
        folder,
        cls=RecordingTrainer,
        callbacks=[callback, recorder],
        gradient_accumulation_steps=accumulation,
        max_grad_norm=max_norm,
        **args,
    )
    run.recorder = recorder
    if attached:
        callback.attach(run)
    run.train()
    return Run(callback.log_dir), recorder.steps, run


@pytest.fixture(scope="module", params=[(c, a, n) for c in CLIPPING for a in (True, False) for n in (1, 3)], ids=str)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    clipping, attached, accumulation = request.param
    folder = tmp_path_factory.mktemp("run")
    read, steps, run = train(
        folder, attached=attached, accumulation=accumulation, max_norm=CLIPPING[clipping], max_steps=12
    )
    return clipping, attached, accumulation, read, steps, run


def compare(read: Run, family: str, expected: dict[int, dict[str, float]]) -> None:
    for step, groups in expected.items():
        for group, value in groups.items():
            assert read.at(f"{family}/{group}")[step] == pytest.approx(value, rel=1e-5), (family, group, step)


def test_oracle_steps_as_scheduled(case) -> None:
    _, _, _, read, _, _ = case
    logged, thirds = [2, 4, 6, 8, 10, 12], [3, 6, 9, 12]
    assert read.steps("train/loss") == logged
    assert read.steps("lr/AdamW/pg1") == logged
    assert read.steps("grad_norm/total") == logged
    assert read.steps("grad_norm_clipped/classifier.weight") == logged
    assert read.steps("weight_norm/bert.pooler") == thirds
    assert list(read.histograms["weights/bert.pooler"]) == [1, 4, 8, 12]


def test_oracle_grad_norm_before_clipping_exact(case) -> None:
    clipping, attached, _, read, steps, _ = case
    for step in (2, 4, 6, 8, 10, 12):
        compare(read, "grad_norm", {step: {name: norm(g) for name, g in by_layer(steps[step].before_clip).items()}})
        compare(read, "grad_norm", {step: {"total": norm(steps[step].before_clip)}})
    # Derived only when the trainer logged its norm; exact at every due step when clipping is visible.
    module = "bert.encoder.layer.0.attention.self.query"
    measured = [3, 6, 9, 12] if attached or clipping == "off" else [6, 12]
    assert read.steps(f"grad_norm/{module}") == measured
    expected = {step: {module: norm(by_module(steps[step].before_clip)[module])} for step in measured}
    compare(read, "grad_norm", expected)


def test_oracle_total_norm_equals_trainer_and_layers(case) -> None:
    clipping, _, _, read, _, _ = case
    logged = clipping != "off" or Version(transformers.__version__) >= Version("5.3")  # before, only when it clipped
    assert ("train/grad_norm" in read.scalars) == logged
    for step, value in read.scalars["grad_norm/total"]:
        if logged:
            assert value == pytest.approx(read.at("train/grad_norm")[step], rel=1e-5)
        layers = [read.at(f"grad_norm/{layer}")[step] for layer in by_layer({f"{p}.x": torch.zeros(1) for p in LAYERS})]
        assert sum(layer**2 for layer in layers) == pytest.approx(value**2, rel=1e-5)


LAYERS = ("bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler", "classifier")


def test_oracle_grad_norm_clipped_exact(case) -> None:
    clipping, _, _, read, steps, _ = case
    for step in (2, 12):
        clipped = steps[step].after_clip
        compare(read, "grad_norm_clipped", {step: {"total": norm(clipped)}})
        compare(read, "grad_norm_clipped", {step: {name: norm(g) for name, g in by_parameter(clipped).items()}})
        if clipping == "binding":
            assert norm(clipped) == pytest.approx(CLIPPING[clipping], rel=1e-3)
            assert norm(steps[step].before_clip) > 2 * norm(clipped)


def test_oracle_clip_factor_exact(case) -> None:
    clipping, attached, _, read, steps, _ = case
    if clipping == "off":
        assert read.family("clip") == set()
        return
    for step, factor in read.scalars["clip/factor"]:
        expected = min(1.0, CLIPPING[clipping] / (norm(steps[step].before_clip) + 1e-6))
        assert factor == pytest.approx(expected, rel=1e-5)
    if attached:
        assert {value for _, value in read.scalars["clip/share"]} == {1.0 if clipping == "binding" else 0.0}
    else:
        assert "clip/share" not in read.scalars


def test_oracle_weight_norm_exact(case) -> None:
    _, _, _, read, steps, _ = case
    for step in (3, 12):
        compare(read, "weight_norm", {step: {name: norm(g) for name, g in by_layer(steps[step].weights).items()}})
    weights = steps[4].weights
    attention = {name: tensor for name, tensor in weights.items() if ".attention." in name}
    rest = {name: tensor for name, tensor in weights.items() if "attention" not in name}
    compare(read, "weight_norm", {4: {"attention": norm(attention), "rest": norm(rest)}})


def updates(step: Step) -> dict[str, Tensor]:
    return {name: after.double() - step.weights_before[name].double() for name, after in step.weights.items()}


def test_oracle_updates_exact(case) -> None:
    _, _, _, read, steps, _ = case
    assert read.steps("update_norm/classifier") == read.steps("update_ratio/total") == [2, 4, 6, 8, 10, 12]
    assert read.steps("update_ratio/classifier") == [3, 6, 9, 12]
    for step in (2, 12):
        compare(read, "update_norm", {step: {name: norm(u) for name, u in by_layer(updates(steps[step])).items()}})
        compare(read, "update_ratio", {step: {"total": norm(updates(steps[step])) / norm(steps[step].weights)}})
    for step in (3, 12):
        layers = by_layer(steps[step].weights)
        ratios = {name: norm(u) / norm(layers[name]) for name, u in by_layer(updates(steps[step])).items()}
        compare(read, "update_ratio", {step: ratios})
    for layer, group in by_layer(updates(steps[8])).items():
        proto = read.histograms[f"updates/{layer}"][8]
        flat = torch.cat([update.reshape(-1) for update in group.values()])
        assert proto.num == flat.numel()
        assert proto.sum_squares == pytest.approx(flat.square().sum().item(), rel=1e-5)
        assert (proto.min, proto.max) == pytest.approx((flat.min().item(), flat.max().item()), rel=1e-5)


def test_oracle_optimizer_state_exact(case) -> None:
    _, _, _, read, steps, _ = case
    assert read.steps("optimizer_state/effective_lr/classifier") == [3, 6, 9, 12]
    for step in (3, 12):
        moments, rate = steps[step].moments, steps[step].rates[0]
        for key, kept in moments.items():
            norms = {name: norm(group) for name, group in by_layer(kept).items()}
            compare(read, f"optimizer_state/{key}", {step: norms})
        for layer, group in by_layer(moments["exp_avg"]).items():
            elements = [
                rate * (m / (1 - 0.9**step)) / ((moments["exp_avg_sq"][name] / (1 - 0.999**step)).sqrt() + 1e-8)
                for name, m in group.items()
            ]
            rms = torch.cat([e.reshape(-1) for e in elements]).square().mean().sqrt().item()
            compare(read, "optimizer_state/effective_lr", {step: {layer: rms}})


def test_oracle_learning_rate_of_step(case) -> None:
    _, _, _, read, steps, _ = case
    for step, value in read.scalars["train/learning_rate"]:
        assert read.at("lr/AdamW/pg1")[step] == value == pytest.approx(steps[step].rates[0], rel=1e-6)
        assert read.at("lr/AdamW/pg2")[step] == pytest.approx(steps[step].rates[1], rel=1e-6)
    assert len({value for _, value in read.scalars["lr/AdamW/pg1"]}) > 1


@pytest.mark.parametrize("family", ["weights", "grads"])
def test_oracle_histograms_exact(case, family: str) -> None:
    _, _, _, read, steps, _ = case
    compared = 0
    for step in (4, 8, 12):
        tensors = steps[step].weights if family == "weights" else steps[step].after_clip
        for layer, group in by_layer(tensors).items():
            values = torch.cat([tensor.reshape(-1) for tensor in group.values()]).numpy()
            proto = read.histograms[f"{family}/{layer}"][step]
            assert proto.num == values.size
            assert proto.min == values.min()
            assert proto.max == values.max()
            assert proto.sum == pytest.approx(values.astype(np.float64).sum(), rel=1e-4, abs=1e-5)
            assert proto.sum_squares == pytest.approx(np.square(values.astype(np.float64)).sum(), rel=1e-5)
            edges = np.linspace(np.float64(values.min()), np.float64(values.max()), 65)
            counts, _ = np.histogram(values.astype(np.float64), bins=edges)
            assert list(proto.bucket_limit) == pytest.approx(edges.tolist(), rel=1e-12, abs=1e-12)
            assert sum(proto.bucket) == values.size
            if np.abs(values[:, None] - edges[None, 1:-1]).min() > 1e-7:  # no element near an edge
                assert list(proto.bucket) == [0, *counts]
                compared += 1
    assert compared > 5


def test_oracle_throughput_counts_samples_and_tokens(case) -> None:
    _, _, accumulation, read, _, run = case
    for step, rate in read.scalars["perf/samples_per_s"]:
        steps_per_s = read.at("perf/steps_per_s")[step]
        # the last step of an epoch may be smaller
        assert rate / steps_per_s == pytest.approx(4 * accumulation, rel=0.35)
        tokens = read.at("perf/tokens_per_s")[step]
        assert 3 <= tokens / rate <= 8
    # Over the whole run the counts are exact: the mask's sum over all training batches.
    loader = run.get_train_dataloader()
    assert sum(batch["attention_mask"].sum().item() for batch in loader) == collate(rows())["attention_mask"].sum()


def test_oracle_nonfinite_all_zero(case) -> None:
    _, _, _, read, _, _ = case
    for name in ("found", "losses", "gradients/total", "weights/total"):
        assert {value for _, value in read.scalars[f"nonfinite/{name}"]} == {0.0}
    assert read.family("nonfinite") == {"found", "losses", "gradients/total", "weights/total"}
