"""Tests the callback under the real HF Trainer: tags, cadences, folders, errors and unchanged training."""

from __future__ import annotations

import json
import logging
import math
import pickle
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from tbx_callbacks import ConfigError, TbxTrainerCallback
from tests.helpers.data import FULL, rows
from tests.helpers.models import bert, trainer
from tests.helpers.outside_package import install
from tests.helpers.runs import Run, files
from tests.helpers.variations import variations


def test_huggingface_tags_equal_tensorboard_callback(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    from torch.utils.tensorboard import SummaryWriter

    ours = TbxTrainerCallback("default")
    run = trainer(
        tmp_path, callbacks=[TensorBoardCallback(SummaryWriter(str(theirs))), ours], eval_strategy="steps", eval_steps=4
    )
    run.train()
    expected, read = Run(theirs).scalars, Run(ours.log_dir).scalars
    assert {tag for tag in read if tag.startswith(("train/", "eval/"))} == set(expected)
    for tag, series in expected.items():
        assert set(read[tag]) == set(series), tag
    assert {"train/loss", "train/train_loss", "eval/accuracy"} <= set(expected)


def test_huggingface_odd_metric_names_equal_tensorboard_callback(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    theirs, ours = tmp_path / "theirs", TbxTrainerCallback("default")
    callbacks = [TensorBoardCallback(SummaryWriter(str(theirs))), ours]
    run = trainer(tmp_path, callbacks=callbacks, eval_strategy="steps", eval_steps=4)
    run.compute_metrics = lambda prediction: {"F1 (macro) %": 0.5, "F1 [macro] %": 0.25}
    run.train()
    expected, read = Run(theirs).scalars, Run(ours.log_dir).scalars
    odd = {tag for tag in expected if "F1" in tag}
    assert odd == {"eval/F1 (macro) %", "eval/F1 [macro] %"}
    for tag in odd:
        assert read[tag] == expected[tag]
        assert read[tag.replace("eval/", "best/")][-1][1] == expected[tag][-1][1]


def test_huggingface_every_tag_steps_rise(tmp_path: Path) -> None:
    callback = TbxTrainerCallback("full")
    trainer(tmp_path, callbacks=[callback], eval_strategy="steps", eval_steps=2).train()
    for tag, series in Run(callback.log_dir).scalars.items():
        steps = [step for step, _ in series]
        assert steps == sorted(set(steps)), tag


@pytest.mark.parametrize(
    ("args", "logged"),
    [
        ({"logging_steps": 3}, [3, 6]),
        ({"logging_steps": 3, "logging_first_step": True}, [1, 3, 6]),
        ({"logging_steps": 0.25}, [2, 4, 6, 8]),
        ({"logging_strategy": "epoch", "max_steps": -1, "num_train_epochs": 2}, [8, 16]),
        (
            {
                "logging_strategy": "epoch",
                "max_steps": -1,
                "num_train_epochs": 2,
                "gradient_accumulation_steps": 3,
            },
            [3, 6],
        ),
    ],
)
def test_huggingface_log_cadence_follows_trainer(tmp_path: Path, args: dict[str, Any], logged: list[int]) -> None:
    callback = TbxTrainerCallback({"metrics": ["loss", "grad_norm", {"weight_norm": {"by": "total"}}]})
    trainer(tmp_path, callbacks=[callback], **args).train()
    read = Run(callback.log_dir)
    assert read.steps("train/loss") == logged
    assert read.steps("weight_norm/total") == logged
    assert read.steps("grad_norm/classifier") == logged


@pytest.mark.parametrize(("accumulation", "ends"), [(1, [4, 8, 12, 16]), (3, [2, 3, 5, 6])])
def test_huggingface_epochs_cadence_follows_data(tmp_path: Path, accumulation: int, ends: list[int]) -> None:
    callback = TbxTrainerCallback({"every": {"epochs": 0.5}, "metrics": ["loss", {"weight_norm": {"by": "total"}}]})
    args = {"max_steps": -1, "num_train_epochs": 2, "gradient_accumulation_steps": accumulation}
    trainer(tmp_path, callbacks=[callback], **args).train()
    assert Run(callback.log_dir).steps("weight_norm/total") == ends


def test_huggingface_outside_metric_rule_and_cadence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {"tbx_callbacks.metrics": {"kurtosis": "my_pkg.metrics:Kurtosis"}}
    install(tmp_path / "packages", monkeypatch, groups)
    callback = TbxTrainerCallback(
        {
            "strict": True,
            "metrics": [
                {"kurtosis": {"by": "total", "every": {"my_pkg.cadences.Fibonacci": {"start": 3}}}},
                {"my_pkg.metrics.Ones": {"every": {"per_decade": 4}}},
                {"weight_norm": {"by": "total", "every": {"at": [3, 4, 7]}}},
                "loss",
            ],
            "rules": {"my_pkg.rules.TooHigh": {"action": "stop", "threshold": 0.01}, "every": {"at": [6]}},
        }
    )
    trained = trainer(tmp_path, callbacks=[pickle.loads(pickle.dumps(callback))], max_steps=20)
    trained.train()
    (logged,) = [each for each in trained.callback_handler.callbacks if isinstance(each, TbxTrainerCallback)]
    read = Run(logged.log_dir)
    assert trained.state.global_step == 7  # one step after the evidence
    assert read.steps("kurtosis/total") == read.steps("weight_norm/total") == [3, 4, 7]
    assert read.at("kurtosis/total") == read.at("weight_norm/total")
    assert read.steps("ones") == [1, 2, 3, 6]
    assert list(read.texts) == ["alerts/my_pkg.rules.TooHigh"]


def test_huggingface_without_logging_writes_other_cadences(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = TbxTrainerCallback({"metrics": ["loss", "clip", {"weight_norm": {"by": "total", "every": 1}}]})
    trainer(tmp_path, callbacks=[callback], logging_strategy="no").train()
    read = Run(callback.log_dir)
    assert read.steps("weight_norm/total") == list(range(1, 9))
    assert "logging_strategy" in caplog.text
    assert "clip/factor" not in read.scalars


def test_huggingface_step_written_as_one_event(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    callback = TbxTrainerCallback("full")
    trainer(tmp_path, callbacks=[callback], max_steps=4).train()
    (path,) = files(callback.log_dir)
    events = [event for event in LegacyEventFileLoader(str(path)).Load() if event.step == 2]
    (event,) = events
    tags = {value.tag for value in event.summary.value}
    assert {"train/loss", "grad_norm/total", "lr/AdamW/pg1", "weight_norm/bert.pooler"} <= tags


def weights(model: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("max_norm", [0.0, 0.05])
def test_huggingface_training_with_callback_unchanged(tmp_path: Path, attached: bool, max_norm: float) -> None:
    def train(callbacks: list[Any]) -> tuple[list[Tensor], Tensor]:
        run = trainer(
            tmp_path, callbacks=callbacks, max_grad_norm=max_norm, logging_steps=1, max_steps=12, eval_strategy="epoch"
        )
        if callbacks and attached:
            callbacks[0].attach(run)
        run.train()
        return weights(run.model), torch.get_rng_state()

    with_callback, rng = train([TbxTrainerCallback(FULL)])
    without, plain_rng = train([])
    assert all(torch.equal(a, b) for a, b in zip(with_callback, without, strict=True))
    assert torch.equal(rng, plain_rng)
    different, _ = train([Nudge()]) if not attached else (None, None)
    if different is not None:
        # proves that the comparison can fail
        assert not all(torch.equal(a, b) for a, b in zip(different, without, strict=True))


class Nudge(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        with torch.no_grad():
            next(model.parameters()).add_(1e-6)


class Poison(TrainerCallback):
    """Puts a NaN or an Inf into the gradient of one layer at one step, with a hook in the backward pass."""

    def __init__(self, name: str, value: float, step: int) -> None:
        self.name, self.value, self.step, self.now = name, value, step, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        def poison(gradient: Tensor) -> Tensor:
            if self.now == self.step:
                gradient = gradient.clone()
                gradient.view(-1)[:3] = self.value
            return gradient

        model.get_parameter(self.name).register_hook(poison)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.now = state.global_step + 1


BAD = "bert.encoder.layer.1.output.dense.weight"


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_huggingface_attached_nonfinite_layer_named(
    tmp_path: Path, value: float, max_norm: float, caplog: pytest.LogCaptureFixture
) -> None:
    callback = TbxTrainerCallback("default")
    poison = Poison(BAD, value, step=4)
    run = trainer(tmp_path, callbacks=[callback, poison], max_grad_norm=max_norm, max_steps=4)
    callback.attach(run)
    run.train()
    read = Run(callback.log_dir)
    assert read.at("nonfinite/found") == {2: 0.0, 4: 1.0}
    assert read.at("nonfinite/gradients/total") == {2: 0.0, 4: 3.0}
    assert read.at("nonfinite/gradients/bert.encoder.layer.1") == {4: 3.0}
    assert read.family("nonfinite/gradients") == {"total", "bert.encoder.layer.1"}
    (printed,) = read.texts["nonfinite/first_bad"]
    assert "step 4" in printed
    assert "1 of 5 groups; backward reached bert.encoder.layer.1 first" in printed
    assert printed in caplog.text


def test_huggingface_not_attached_nonfinite_layer_not_named(tmp_path: Path) -> None:
    callback = TbxTrainerCallback("default")
    trainer(tmp_path, callbacks=[callback, Poison(BAD, math.nan, step=4)], max_grad_norm=1.0, max_steps=4).train()
    read = Run(callback.log_dir)
    assert read.at("nonfinite/found") == {2: 0.0, 4: 1.0}
    assert read.at("nonfinite/gradients/total") == {2: 0.0}
    assert read.family("nonfinite/gradients") == {"total"}
    assert "attach" in read.texts["nonfinite/first_bad"][0]
    assert 4 not in read.at("grad_norm/total")


class NanLoss(nn.Module):
    """A model with a NaN loss in one micro-batch and finite gradients."""

    def __init__(self, when: int) -> None:
        super().__init__()
        self.bert, self.when, self.calls = bert(), when, 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
        outputs = self.bert(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
        self.calls += self.training
        if self.calls == self.when and self.training:
            outputs.loss = outputs.loss + (torch.tensor(math.nan) - outputs.loss.detach())
        return outputs


def test_huggingface_hidden_nan_loss_counted(tmp_path: Path) -> None:
    callback = TbxTrainerCallback("default")
    trainer(
        tmp_path,
        model=NanLoss(when=3),
        callbacks=[callback],
        gradient_accumulation_steps=2,
        max_steps=6,
        max_grad_norm=0.0,
        remove_unused_columns=False,
    ).train()
    read = Run(callback.log_dir)
    assert all(math.isfinite(value) for _, value in read.scalars["train/loss"])
    assert read.at("nonfinite/losses") == {2: 1.0, 4: 0.0, 6: 0.0}
    assert read.at("nonfinite/found")[2] == 1.0


def test_huggingface_frozen_parameters_without_gradient_norms(tmp_path: Path) -> None:
    model = bert()
    model.bert.embeddings.requires_grad_(False)
    model.bert.encoder.layer[0].requires_grad_(False)
    callback = TbxTrainerCallback("full")
    trainer(tmp_path, model=model, callbacks=[callback], max_steps=50, logging_steps=50).train()
    read = Run(callback.log_dir)
    frozen = {"bert.embeddings", "bert.encoder.layer.0"}
    assert frozen <= read.family("weight_norm")
    assert not frozen & read.family("grad_norm")
    assert {"weights/bert.embeddings", "weights/bert.encoder.layer.0"} <= set(read.histograms)
    assert "grads/bert.embeddings" not in read.histograms
    assert "grads/bert.encoder.layer.1" in read.histograms


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.words.weight

    def forward(self, input_ids: Tensor, labels: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.words(input_ids).mean(1))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits[:, :2]}


def test_huggingface_tied_weights_count_once(tmp_path: Path) -> None:
    model = Tied()
    callback = TbxTrainerCallback(
        {"every": 1, "metrics": [{"weight_norm": {"by": "parameter"}}, {"weight_norm": {"by": "total"}}]}
    )
    trainer(tmp_path, model=model, callbacks=[callback], max_steps=1).train()
    read = Run(callback.log_dir)
    assert read.family("weight_norm") == {"words.weight", "total"}
    assert read.at("weight_norm/total")[1] == pytest.approx(model.words.weight.norm().item(), rel=1e-5)


class OwnLoss:
    """Logs a scalar of its own from compute_loss."""

    def make(self, callback: TbxTrainerCallback) -> type:
        from transformers import Trainer

        seen = self.seen = []

        class WithOwnLoss(Trainer):
            def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
                loss = super().compute_loss(model, inputs, *args, **kwargs)
                if model.training:
                    value = (loss[0] if isinstance(loss, tuple) else loss).detach() * 2
                    seen.append(value.item())
                    callback.log("aux/contrastive_loss", value)
                return loss

        return WithOwnLoss


def test_huggingface_user_scalars_averaged_until_next_point(tmp_path: Path) -> None:
    callback, own = TbxTrainerCallback("default"), OwnLoss()
    trainer(tmp_path, cls=own.make(callback), callbacks=[callback], gradient_accumulation_steps=2, max_steps=5).train()
    read = Run(callback.log_dir).at("aux/contrastive_loss")
    # logs every 2 steps of 2 micro-batches; the rest is written at the end
    expected = {2: own.seen[:4], 4: own.seen[4:8], 5: own.seen[8:]}
    assert read == {step: pytest.approx(sum(v) / len(v), rel=1e-5) for step, v in expected.items()}


def test_huggingface_user_scalar_bad_tag_refused() -> None:
    callback = TbxTrainerCallback("minimal")
    with pytest.raises(ValueError, match=r"a tag must be made of .* got 'my loss'; use 'my_loss' instead"):
        callback.log("my loss", 1.0)
    with pytest.raises(ValueError, match=r"aux/x must be a scalar, got shape \(2,\)"):
        callback.log("aux/x", torch.ones(2))


def test_huggingface_writer_offers_tensorboardx_methods(tmp_path: Path) -> None:
    callback = TbxTrainerCallback("minimal")
    with pytest.raises(RuntimeError, match="after the callback was given to a Trainer"):
        _ = callback.writer
    run = trainer(tmp_path, callbacks=[callback])
    run.train()
    callback.writer.add_text("note", "hello", 8)
    callback.writer.add_scalar("mine/score", 0.5, 8)
    callback.writer.flush()
    read = Run(callback.log_dir)
    assert read.texts["note"] == ["hello"]
    assert read.at("mine/score") == {8: 0.5}


def test_huggingface_other_ranks_write_nothing(tmp_path: Path) -> None:
    callback = TbxTrainerCallback("full", log_dir=str(tmp_path / "logs"))
    run = trainer(tmp_path, callbacks=[callback])
    run.state.is_world_process_zero = False
    callback.on_init_end(run.args, run.state, run.control)
    callback.on_train_begin(run.args, run.state, run.control, model=run.model)
    callback.on_log(run.args, run.state, run.control, {"loss": 1.0})
    callback.log("aux/x", 1.0)
    callback.writer.add_image("x", torch.zeros(3, 2, 2))
    callback.on_train_end(run.args, run.state, run.control)
    with pytest.raises(AttributeError, match="add_imagine"):
        callback.writer.add_imagine("x")
    assert not (tmp_path / "logs").exists()


def test_huggingface_pickled_callback_logs(tmp_path: Path) -> None:
    import pickle

    callback = TbxTrainerCallback({"extends": "full", "every": 2})
    run = trainer(tmp_path, callbacks=[pickle.loads(pickle.dumps(callback))])
    (copy,) = [c for c in run.callback_handler.callbacks if isinstance(c, TbxTrainerCallback)]
    run.train()
    assert Run(copy.log_dir).steps("train/loss") == [2, 4, 6, 8]
    assert callback.log_dir is None


def test_huggingface_folders_named_and_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    named = TbxTrainerCallback("minimal", log_dir="runs/exp1")
    trainer(tmp_path / "out", callbacks=[named], max_steps=2).train()
    assert len(files("runs/exp1")) == 1
    default = TbxTrainerCallback("minimal")
    run = trainer(tmp_path / "out", callbacks=[default], max_steps=2)
    run.evaluate()  # before training
    run.train()
    run.evaluate()  # after training: the same run, the same file
    assert Path(default.log_dir or "").parent == tmp_path / "out" / "runs"
    assert len(files(default.log_dir)) == 1
    assert Run(default.log_dir).steps("eval/accuracy") == [0, 2]
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "wanted"))
    by_environment = TbxTrainerCallback("minimal")
    trainer(tmp_path / "out", callbacks=[by_environment], max_steps=2).train()
    assert len(files(tmp_path / "wanted")) == 1


def test_huggingface_hparams_texts_and_layout_written(tmp_path: Path) -> None:
    from tensorboard.plugins.custom_scalar import layout_pb2
    from tensorboard.plugins.hparams import metadata

    callback = TbxTrainerCallback("default")
    run = trainer(tmp_path, callbacks=[callback], eval_strategy="steps", eval_steps=2, learning_rate=0.03)
    run.train()
    read = Run(callback.log_dir)
    content = read.plugin("hparams")
    started = metadata.parse_session_start_info_plugin_data(content["_hparams_/session_start_info"])
    assert started.hparams["learning_rate"].number_value == pytest.approx(0.03)
    assert started.hparams["model/hidden_size"].number_value == 16
    assert not {"output_dir", "logging_steps", "hub_token", "accelerator_config"} & set(started.hparams)
    experiment = metadata.parse_experiment_plugin_data(content["_hparams_/experiment"])
    shown = {info.name.tag for info in experiment.metric_infos}
    assert shown == {"eval/loss", "eval/accuracy", "best/loss", "best/accuracy"}
    assert metadata.parse_session_end_info_plugin_data(content["_hparams_/session_end_info"]).status == 1
    for name, better in (("loss", min), ("accuracy", max)):
        values = [value for _, value in read.scalars[f"eval/{name}"]]
        assert read.scalars[f"best/{name}"][-1][1] == better(values)
    assert json.loads(read.texts["args"][0].strip("`json\n"))["learning_rate"] == 0.03
    assert json.loads(read.texts["model_config"][0].strip("`json\n"))["hidden_size"] == 16
    (event,) = read._events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts["train and eval"] == ["^train/loss$", "^eval/.*loss$"]
    assert set(charts) == {"train and eval", "grad_norm", "weight_norm", "by parameter group"}
    assert charts["grad_norm"] == ["^grad_norm/(?!total$).+"]


def test_huggingface_regex_without_match_raises_before_training(tmp_path: Path) -> None:
    callback = TbxTrainerCallback({"metrics": [{"weight_histogram": {"include": r"encoder\.layers\.0"}}]})
    run = trainer(tmp_path, callbacks=[callback])
    with pytest.raises(
        ConfigError, match=r"weight_histogram\.include must match .* near names: bert\.encoder\.layer\."
    ):
        run.train()
    assert run.state.global_step == 0


def test_huggingface_two_metrics_of_one_tag_refused(tmp_path: Path) -> None:
    metrics = [{"weight_norm": {"include": "query"}}, {"weight_norm": {"include": "key"}}]
    run = trainer(tmp_path, callbacks=[TbxTrainerCallback({"metrics": metrics})])
    with pytest.raises(ConfigError, match=r"both write weight_norm/bert\.encoder\.layer\.0 and 1 more"):
        run.train()


def test_huggingface_attach_twice_changes_nothing(tmp_path: Path) -> None:
    callback = TbxTrainerCallback("default")
    run = trainer(tmp_path, max_grad_norm=0.05)
    assert callback.attach(run) is callback
    first = run.training_step, run.accelerator.clip_grad_norm_
    callback.attach(run)
    assert (run.training_step, run.accelerator.clip_grad_norm_) == first
    run.train()
    assert Run(callback.log_dir).scalars["clip/share"] == [(step, 1.0) for step in (2, 4, 6, 8)]


def test_huggingface_second_training_own_folder(tmp_path: Path) -> None:
    callback = TbxTrainerCallback("minimal")
    run = trainer(tmp_path, callbacks=[callback], max_steps=4)
    run.train()
    first = callback.log_dir
    run.train()
    assert callback.log_dir != first
    assert Run(first).steps("train/loss") == Run(callback.log_dir).steps("train/loss") == [2, 4]


def test_huggingface_hooks_removed_after_training_and_error(tmp_path: Path) -> None:
    class Boom(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise ZeroDivisionError

    callback = TbxTrainerCallback("full")
    run = trainer(tmp_path, callbacks=[callback, Boom()])
    with pytest.raises(ZeroDivisionError):
        run.train()
    run.remove_callback(Boom)
    run.train()
    assert not run.model._forward_hooks
    assert not run.optimizer.optimizer._optimizer_step_post_hooks


def test_huggingface_failing_metric_named_once_training_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tbx_callbacks.metrics.performance import Memory

    def broken(self: Memory, context: Any) -> Any:
        raise OSError("no such counter")

    monkeypatch.setattr(Memory, "__call__", broken)
    callback = TbxTrainerCallback("default")
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, callbacks=[callback]).train()
    assert caplog.text.count("metric memory failed at step 2 and is disabled") == 1
    assert Run(callback.log_dir).steps("train/loss") == [2, 4, 6, 8]
    strict = TbxTrainerCallback({"extends": "default", "strict": True})
    with pytest.raises(RuntimeError, match="metric memory failed at step 2"):
        trainer(tmp_path, callbacks=[strict]).train()


def test_huggingface_writer_closed_by_user_continues(tmp_path: Path) -> None:
    class Closes(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                with callback.writer as writer:
                    writer.add_text("note", "mine", 3)

    callback = TbxTrainerCallback("minimal")
    run = trainer(tmp_path, callbacks=[callback, Closes()])
    run.train()
    callback.writer.close()
    run.evaluate()
    callback.close()
    read = Run(callback.log_dir)
    assert read.steps("train/loss") == [2, 4, 6, 8]
    assert read.steps("eval/accuracy") == [8]


def test_huggingface_callback_added_before_evaluation_logs(tmp_path: Path) -> None:
    run = trainer(tmp_path, save_strategy="steps", save_steps=4)
    callback = TbxTrainerCallback("minimal")
    run.add_callback(callback)
    run.evaluate()
    run.train()
    assert Run(callback.log_dir).steps("train/loss") == [2, 4, 6, 8]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attached", "by"), variations(product((True, False), ("trainer", "accelerate")), (True, "trainer"))
)
def test_huggingface_compiled_model_not_recompiled(
    tmp_path: Path, attached: bool, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.utils import counters

    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "aot_eager" if by == "accelerate" else "no")

    frames = {}
    for name in ("plain", "watched"):
        torch._dynamo.reset()
        counters.clear()
        callback = TbxTrainerCallback("full")
        run = trainer(
            tmp_path / name,
            callbacks=[callback] if name == "watched" else [],
            torch_compile=by == "trainer",
            torch_compile_backend="aot_eager" if by == "trainer" else None,
            max_steps=12,
            # one shape, so that torch compiles each frame once
            remove_unused_columns=False,
        )
        run.train_dataset = [dict(row, attention_mask=[1] * 8) for row in run.train_dataset]
        if name == "watched" and attached:
            callback.attach(run)
        run.train()
        frames[name] = counters["frames"]["total"]
    assert frames["watched"] <= frames["plain"] + 2
    read = Run(callback.log_dir)
    assert read.steps("perf/tokens_per_s") == [2, 4, 6, 8, 10, 12]
    assert read.steps("nonfinite/losses") == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_huggingface_evaluation_not_in_throughput(tmp_path: Path, strategy: str) -> None:
    callback = TbxTrainerCallback({"every": 1, "metrics": ["throughput"]})
    run = trainer(tmp_path, callbacks=[callback], eval_strategy=strategy, eval_steps=8, max_steps=12)
    passed = 0.0
    clock = callback._session._engine.stopwatch.clock
    callback._session._engine.stopwatch.clock = lambda: clock() + passed

    def slow(prediction: Any) -> dict[str, float]:
        nonlocal passed
        passed += 1000.0
        return {"accuracy": 0.0}

    run.compute_metrics = slow
    run.train()
    assert passed >= 1000.0
    assert max(value for _, value in Run(callback.log_dir).scalars["perf/step_s"]) < 500.0


def test_huggingface_tensor_learning_rate_of_step(tmp_path: Path) -> None:
    model = bert()
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(1e-2))
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=8)
    callback = TbxTrainerCallback("minimal")
    run = trainer(tmp_path, model=model, callbacks=[callback])
    run.optimizer, run.lr_scheduler = optimizer, scheduler
    run.train()
    read = Run(callback.log_dir)
    for step, rate in read.scalars["train/learning_rate"]:
        assert read.at("lr/AdamW/pg1")[step] == pytest.approx(rate, rel=1e-5)


def test_huggingface_attached_own_loss_counted(tmp_path: Path) -> None:
    from transformers import Trainer

    class Own(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            loss = nn.functional.cross_entropy(outputs.logits, inputs["labels"])
            if self.state.global_step == 2 and model.training:
                loss = loss + (torch.tensor(math.nan) - loss.detach()).detach() * 0 + math.nan * 0 + _nan_value()
            return (loss, outputs) if return_outputs else loss

    def _nan_value() -> Tensor:
        return torch.tensor(math.nan)

    callback = TbxTrainerCallback("default")
    run = trainer(tmp_path, cls=Own, callbacks=[callback], max_grad_norm=1e9)
    callback.attach(run)
    run.train()
    losses = Run(callback.log_dir).at("nonfinite/losses")
    assert losses[2] == 0.0
    assert losses[4] >= 1.0


def test_huggingface_model_without_loss_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = TbxTrainerCallback("default")
    trainer(tmp_path, callbacks=[callback], label_smoothing_factor=0.1).train()
    assert caplog.text.count("NaN losses are not counted: the model returns no loss") == 1
    assert "nonfinite/losses" not in Run(callback.log_dir).scalars


def test_huggingface_user_scalars_after_training_written(tmp_path: Path) -> None:
    callback = TbxTrainerCallback("minimal")
    run = trainer(tmp_path, callbacks=[callback])
    run.train()
    callback.log("aux/before_evaluation", 1.0)
    run.evaluate()
    callback.log("aux/last", 2.0)
    callback.close()
    read = Run(callback.log_dir)
    assert read.scalars["aux/before_evaluation"] == [(8, 1.0)]
    assert [value for _, value in read.scalars["aux/last"]] == [2.0]
    for tag in ("lr/AdamW/pg1", "best/accuracy", "train/loss", "eval/accuracy"):
        with pytest.raises(ValueError, match="must not be one that a metric writes"):
            callback.log(tag, 1.0)


def test_huggingface_two_attached_callbacks_count_once(tmp_path: Path) -> None:
    first, second = TbxTrainerCallback("default"), TbxTrainerCallback("minimal", log_dir=tmp_path / "second")
    run = trainer(tmp_path, callbacks=[first, second], max_grad_norm=0.05)
    first.attach(run)
    second.attach(run)
    first.attach(run)
    run.train()
    for callback in (first, second):
        read = Run(callback.log_dir)
        assert {value for _, value in read.scalars["clip/share"]} == {1.0}
        assert all(
            3.9 < b / a < 4.1
            for (_, a), (_, b) in zip(*(read.scalars[f"perf/{u}_per_s"] for u in ("steps", "samples")), strict=True)
        )


def test_huggingface_error_outside_metric_training_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tbx_callbacks.metrics.values import Norm

    def broken(self: Norm, *args: Any) -> float:
        raise ArithmeticError("no root")

    monkeypatch.setattr(Norm, "result", broken)
    callback = TbxTrainerCallback("default")
    trainer(tmp_path, callbacks=[callback]).train()
    assert caplog.text.count("is not written: its value cannot be computed") == 3  # three families of norms
    with pytest.raises(ArithmeticError):
        trainer(tmp_path, callbacks=[TbxTrainerCallback({"extends": "default", "strict": True})]).train()


@pytest.mark.parametrize(
    "options",
    [
        {"eval_steps": 2},
        {"eval_steps": 3},
        {"eval_steps": 4, "eval_on_start": True},
        {"eval_steps": 2, "gradient_accumulation_steps": 2},
        {"eval_steps": 2, "eval_dataset": "several"},
    ],
)
def test_huggingface_scalars_of_evaluation_stay_apart(tmp_path: Path, options: dict[str, Any]) -> None:
    from transformers import Trainer

    callback = TbxTrainerCallback("minimal")
    seen: dict[int, list[float]] = {}

    class WithOwnLoss(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            value = (loss[0] if isinstance(loss, tuple) else loss).detach()
            if not model.training:
                seen.setdefault(self.state.global_step, []).append(value.item())
            callback.log("aux/loss", value if not model.training else -1.0)
            return loss

    run = trainer(
        tmp_path,
        cls=WithOwnLoss,
        callbacks=[callback],
        eval_strategy="steps",
        per_device_eval_batch_size=8,
        **{name: value for name, value in options.items() if name != "eval_dataset"},
    )
    several = "eval_dataset" in options
    if several:
        run.eval_dataset = {"one": rows(8, seed=5), "two": rows(8, seed=6)}
    run.train()
    callback.close()
    read = Run(callback.log_dir)
    assert {value for _, value in read.scalars["aux/loss"]} == {-1.0}
    assert len(read.steps("aux/loss")) == len(set(read.steps("aux/loss"))) == 4
    if several:
        for index, name in enumerate(("one", "two")):
            expected = {step: pytest.approx(losses[index], rel=1e-5) for step, losses in seen.items()}
            assert read.at(f"eval/{name}/aux/loss") == expected
            assert read.at(f"eval/{name}_loss") == expected
    else:
        expected = {step: pytest.approx(sum(losses) / len(losses), rel=1e-5) for step, losses in seen.items()}
        assert read.at("eval/aux/loss") == expected
        assert len(read.steps("eval/aux/loss")) == len(expected) > 1


def test_huggingface_scalar_of_step_begin_counted(tmp_path: Path) -> None:
    """The model is still in evaluation mode when the first step after an evaluation begins."""
    callback = TbxTrainerCallback("minimal")

    class Begins(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            callback.log("aux/begun", state.global_step + 1)
            if state.global_step == 5:
                run.evaluate()

    run = trainer(tmp_path, callbacks=[callback, Begins()], eval_strategy="steps", eval_steps=2)
    run.compute_metrics = lambda prediction: callback.log("aux/metric", 3.0) or {}  # type: ignore[func-returns-value]
    run.train()
    read = Run(callback.log_dir)
    assert read.at("aux/begun") == {2: 1.5, 4: 3.5, 6: 5.5, 8: 7.5}
    assert read.at("eval/aux/metric") == dict.fromkeys((2, 4, 5, 6, 8), 3.0)
    assert not {"aux/metric", "eval/aux/begun"} & set(read.scalars)


def test_huggingface_scalars_of_later_evaluations_written(tmp_path: Path) -> None:
    callback = TbxTrainerCallback("minimal")
    run = trainer(tmp_path, callbacks=[callback])
    run.compute_metrics = lambda prediction: callback.log("aux/rows", len(prediction.label_ids)) or {}  # type: ignore[func-returns-value]
    run.evaluate(rows(4))
    run.train()
    run.evaluate(rows(8))
    run.predict(rows(12))
    run.evaluate(rows(16), metric_key_prefix="hard")
    callback.close()
    read = Run(callback.log_dir)
    assert read.scalars["eval/aux/rows"] == [(0, 4.0), (8, 8.0)]
    assert read.scalars["test/aux/rows"] == [(8, 12.0)]
    assert read.scalars["eval/hard/aux/rows"] == [(8, 16.0)]
    assert "aux/rows" not in read.scalars


@pytest.mark.parametrize("report_to", ["tensorboard", "none"])
def test_huggingface_second_tensorboard_writer_mentioned_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, report_to: str
) -> None:
    run = trainer(tmp_path, callbacks=[TbxTrainerCallback("minimal")], report_to=report_to, max_steps=2)
    run.train()
    run.train()
    assert caplog.text.count("report_to has tensorboard too; remove it from report_to") == (report_to != "none")


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("requested", [True, False])
def test_huggingface_beside_tensorboard_callback_own_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    ours_first: bool,
    requested: bool,
) -> None:
    if requested:
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs" / "wanted"))
    ours, theirs = TbxTrainerCallback("minimal"), TensorBoardCallback()
    run = trainer(tmp_path, callbacks=[ours, theirs] if ours_first else [theirs, ours], max_steps=2)
    run.train()
    assert [len(files(folder)) for folder in (tmp_path / "runs").iterdir()] == [1, 1]
    assert Run(ours.log_dir).steps("train/loss") == [2]
    assert caplog.text.count("the Trainer has a TensorBoardCallback too; remove it from callbacks") == 1


@pytest.mark.parametrize("attached", [True, False])
def test_huggingface_callback_passed_twice_used_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, attached: bool
) -> None:
    callback = TbxTrainerCallback("default", log_dir=tmp_path / "runs" / "h1")
    run = trainer(tmp_path, callbacks=[callback, callback])
    if attached:
        callback.attach(run)
    run.train()
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["h1"]
    assert Run(callback.log_dir).steps("train/loss") == [2, 4, 6, 8]
    ours = [record.message for record in caplog.records if record.name.startswith("tbx_callbacks")]
    assert ours.count("the callback was passed twice; one is used") == 1
    assert not [message for message in ours if "returns no loss" in message]


def test_huggingface_callback_added_twice_used_once(tmp_path: Path) -> None:
    callback, run = TbxTrainerCallback("default"), trainer(tmp_path)
    run.add_callback(callback)
    run.add_callback(callback)
    run.train()
    assert Run(callback.log_dir).steps("train/loss") == [2, 4, 6, 8]
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_huggingface_callbacks_of_one_folder_warned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, other = (TbxTrainerCallback("minimal", log_dir=tmp_path / "h1") for _ in range(2))
    trainer(tmp_path, callbacks=[one, other], max_steps=2).train()
    assert other.log_dir == f"{tmp_path}/h1_2"
    text = f"{tmp_path}/h1 is the folder of another writer of this training; writing this run to {tmp_path}/h1_2"
    assert caplog.text.count(text) == 1


def test_huggingface_attached_to_other_trainer_warned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = TbxTrainerCallback("default")
    run = trainer(tmp_path, callbacks=[callback])
    callback.attach(trainer(tmp_path / "other"))
    run.train()
    assert caplog.text.count("the callback is attached to another Trainer; call callback.attach(trainer)") == 1
    assert "perf/samples_per_s" in Run(callback.log_dir).scalars


@pytest.mark.parametrize("logging_steps", [500, 5])
def test_huggingface_short_training_interval_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, logging_steps: int
) -> None:
    trainer(tmp_path, callbacks=[TbxTrainerCallback("minimal")], logging_steps=logging_steps).train()
    text = "no point of train/loss was due in 8 steps, because logging_steps is 500; set logging_steps=1"
    assert caplog.text.count(text) == caplog.text.count("no point of") == (logging_steps == 500)


def test_huggingface_wrong_argument_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    for wrong in (run.args, run.model, None):
        with pytest.raises(TypeError, match=r"trainer must be a transformers Trainer, got .*; create the Trainer"):
            TbxTrainerCallback("minimal").attach(wrong)
    with pytest.raises(TypeError, match="logdir must be a known argument, got logdir='x'; did you mean 'log_dir'"):
        TbxTrainerCallback("minimal", logdir="x")  # type: ignore[arg-type]
