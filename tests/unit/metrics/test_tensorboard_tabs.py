"""Tests the HParams, Text and Custom Scalars tabs."""

from __future__ import annotations

from tbx_callbacks.metrics.context import RunInfo
from tbx_callbacks.metrics.host_values import HParams, HParamsEnd, HParamsMetrics, Text
from tbx_callbacks.metrics.host_values import Layout as Charts
from tbx_callbacks.metrics.tensorboard_tabs import Hparams, Layout
from tests.helpers.contexts import context, finished

RUN = RunInfo(hparams={"lr": 0.1}, texts={"args": "{}"}, best={"eval/loss": 0.25}, succeeded=False)


def test_hparams_start_and_end_written() -> None:
    start = finished(Hparams()(context(event="start", run=RUN)))
    assert start == {"_hparams_/session_start_info": HParams({"lr": 0.1}), "args": Text("```json\n{}\n```")}
    assert finished(Hparams()(context(event="end", run=RUN))) == {"_hparams_/session_end_info": HParamsEnd(False)}


def test_hparams_evaluation_best_value_written() -> None:
    logs = {"eval/loss": 0.5, "eval/runtime": 3.0, "train/loss": 1.0}
    values = finished(Hparams()(context(event="log", run=RUN, logs=logs)))
    assert values["best/loss"] == 0.25
    assert values["_hparams_/experiment"] == HParamsMetrics({"lr": 0.1}, ["eval/loss", "best/loss"])
    assert Hparams()(context(event="log", run=RUN, logs={"train/loss": 1.0})) == {}


def test_layout_charts_of_families_without_nonfinite() -> None:
    run = RunInfo(families=("grad_norm", "nonfinite/gradients"))
    (charts,) = finished(Layout()(context(event="start", run=run))).values()
    assert isinstance(charts, Charts)
    assert charts.charts["by layer"] == {"grad_norm": ["^grad_norm/(?!total$).+"]}
    assert set(charts.charts) == {"loss", "by layer", "learning rate"}


def test_hparams_without_hyperparameters_no_experiment() -> None:
    run = RunInfo(best={"eval/loss": 0.25})
    values = finished(Hparams()(context(event="log", run=run, logs={"eval/loss": 0.5})))
    assert set(values) == {"best/loss"}
