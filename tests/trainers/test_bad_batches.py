"""Tests that each trainer keeps the batch of a step that went wrong, and only that one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertLMHeadModel, Trainer

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tbx_callbacks._model.rows import fingerprints
from tbx_callbacks.runs.bad_batches import BadBatch, files_in, read_bad_batches
from tests.helpers.data import collate, rows
from tests.helpers.models import bert, tokenizer, trainer
from tests.helpers.runs import Run
from tests.trainers.test_examples import Module, fit

BATCH, BAD_ROW = 4, 19  # the row makes the loss of its batch NaN
SET: dict[str, Any] = {"every": 2, "strict": True, "metrics": ["loss", "bad_batches"]}


class Breaks(nn.Module):
    """A BERT whose loss is multiplied by a number in training, if the batch has the bad row."""

    def __init__(self, value: float = float("nan")) -> None:
        super().__init__()
        self.net, self.value = bert(), value

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **others: Any) -> Any:
        given = self.net(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
        if self.training and "idx" in others and bool((others["idx"] == BAD_ROW).any()):
            given.loss = given.loss * self.value
        return given


def data(number: int = 32) -> list[dict[str, Any]]:
    return [{**row, "idx": n} for n, row in enumerate(rows(number))]


def check(folder: Any, *, step: int, number: int = 1) -> BadBatch:
    """The first bad batch is that of the bad row, with its loss for each row."""
    first = read_bad_batches(folder)[0]
    assert first.step == step
    assert f"the loss of micro-batch {number} is nan" in first.reasons
    micro_batch = first.micro_batches[number - 1]
    assert BAD_ROW in [int(row.key) for row in micro_batch.rows]
    assert all(row.loss is not None and 0 < row.loss < 5 for row in micro_batch.rows)
    assert len(micro_batch.rows) == BATCH
    return first


class InOrder(Trainer):
    """A Trainer that keeps the order of the rows."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("attached", [True, False])
def test_bad_batches_under_huggingface(tmp_path: Path, attached: bool, accumulate: int) -> None:
    callback = TbxTrainerCallback({**SET, "strict": attached})
    run = trainer(
        tmp_path,
        model=Breaks(),
        cls=InOrder,
        callbacks=[callback],
        max_steps=8 // accumulate,
        gradient_accumulation_steps=accumulate,
        remove_unused_columns=False,
        eval_strategy="steps",
        eval_steps=1,
    )
    run.train_dataset = data()
    if attached:
        callback.attach(run)
    run.train()
    step, number = (5, 1) if accumulate == 1 else (3, 1)
    first = check(callback.log_dir, step=step, number=number)
    assert "gradients are not finite" in first.reasons  # clipping spreads them
    assert len(first.micro_batches) == accumulate
    assert all(step in files_in(callback.log_dir) for step in range(first.step, 8 // accumulate + 1)[:3])
    assert Run(callback.log_dir).scalars["bad_batches/steps"][-1][1] >= 1


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.filterwarnings("ignore")  # Lightning warns about settings that suit tests
def test_bad_batches_under_lightning(tmp_path: Path, accumulate: int) -> None:
    module, callback = Module(), TbxLightningCallback(SET, log_dir=tmp_path / "run")
    module.net = Breaks()
    from tests.trainers import test_examples

    batch_size, test_examples.BATCH = test_examples.BATCH, BATCH
    try:
        fit(module, callback, tmp_path, data(), accumulate_grad_batches=accumulate, max_epochs=1)
    finally:
        test_examples.BATCH = batch_size
    check(callback.log_dir, step=5 if accumulate == 1 else 3, number=1)


def train_loop(
    folder: Path, model: Any, config: Any, some: list[Any], *, accumulate: int = 1, start: int = 0, **options: Any
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    torch.manual_seed(1)
    with TbxLoop(model, optimizer, config, log_dir=folder, start_step=start, **options) as loop:
        for number, first in enumerate(range(start * accumulate * BATCH, len(some), BATCH), 1):
            batch = collate(some[first : first + BATCH])
            out = model(**batch)
            if torch.isfinite(out.loss):
                out.loss.backward()
            if number % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
            loop.end_step(loss=out.loss, outputs=out, labels=batch.get("labels"), batch=batch)


@pytest.mark.parametrize(("accumulate", "step", "number"), [(1, 5, 1), (2, 3, 1), (4, 2, 1)])
def test_bad_batches_in_loop(tmp_path: Path, accumulate: int, step: int, number: int) -> None:
    train_loop(tmp_path, Breaks(), SET, data(), accumulate=accumulate)
    first = check(tmp_path, step=step, number=number)
    assert first.reasons == [f"the loss of micro-batch {number} is nan"]
    assert [each.number for each in first.micro_batches] == list(range(1, accumulate + 1))
    assert list(files_in(tmp_path)) == [step]
    if accumulate < 4:  # a later point knows of it
        assert Run(tmp_path).scalars["bad_batches/steps"][-1][1] == 1


def test_bad_batches_last_step_is_judged(tmp_path: Path) -> None:
    train_loop(tmp_path, Breaks(), SET, data(20))
    assert list(files_in(tmp_path)) == [5]
    assert Run(tmp_path).at("bad_batches/steps") == {2: 0, 4: 0, 5: 1}


def test_bad_batches_exception_after_bad_loss_kept(tmp_path: Path) -> None:
    model = Breaks()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def train() -> None:
        with TbxLoop(model, optimizer, SET, log_dir=tmp_path) as loop:
            for first in range(0, 32, BATCH):
                batch = collate(data()[first : first + BATCH])
                out = model(**batch)
                out.loss.backward()
                optimizer.step()
                loop.end_step(loss=out.loss, outputs=out, labels=batch["labels"], batch=batch)
                if not torch.isfinite(out.loss):
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert list(files_in(tmp_path)) == [5]


class Raises(InOrder):
    """A Trainer that ends at its own NaN loss."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        stop_at_nan(loss[0] if isinstance(loss, tuple) else loss)
        return loss


class RaisingModule(Module):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        stop_at_nan(loss := super().training_step(batch, batch_idx))
        return loss


def stop_at_nan(loss: Tensor) -> None:
    if loss.isnan():
        raise FloatingPointError("the loss is NaN")


def check_ended(folder: Any, *, step: int, number: int, error: str | None = "FloatingPointError") -> None:
    """The only bad batch is the one in which the training has raised; the count of bad steps has it too."""
    (only,) = read_bad_batches(folder)
    assert only.step == step
    assert f"the loss of micro-batch {number} is nan" in only.reasons
    assert (f"{error} ended the training in micro-batch {number}" in only.reasons) == (error is not None)
    last = only.micro_batches[-1]
    assert last.number == number
    assert BAD_ROW in [int(row.key) for row in last.rows]
    assert all(row.loss is not None and 0 < row.loss < 5 for row in last.rows)
    assert Run(folder).scalars["bad_batches/steps"][-1][1] == 1


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("attached", [True, False])
def test_bad_batches_huggingface_training_raises_kept(tmp_path: Path, attached: bool, accumulate: int) -> None:
    callback = TbxTrainerCallback({**SET, "strict": attached})
    run = trainer(
        tmp_path,
        model=Breaks(),
        cls=Raises,
        callbacks=[callback],
        gradient_accumulation_steps=accumulate,
        remove_unused_columns=False,
    )
    run.train_dataset = data()
    if attached:
        callback.attach(run)
    with pytest.raises(FloatingPointError):
        run.train()
    callback.close()
    step, number = (5, 1) if accumulate == 1 else (3, 1)
    check_ended(callback.log_dir, step=step, number=number, error="FloatingPointError" if attached else None)


class OwnLoss(InOrder):
    """A Trainer whose loss is not the model's: from the logits, and NaN in another row."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        out = model(**inputs)
        loss = nn.functional.cross_entropy(out.logits, inputs["labels"])
        if bool((inputs["idx"] == BAD_ROW + BATCH).any()):
            loss = loss * float("nan")
        return (loss, out) if return_outputs else loss


NOT_JUDGED = "bad_batches does not judge losses: the Trainer computes its own loss, not the model's; call callback.att"


@pytest.mark.parametrize("attached", [True, False])
def test_bad_batches_losses_of_trainer_only(tmp_path: Path, attached: bool, caplog: pytest.LogCaptureFixture) -> None:
    callback = TbxTrainerCallback(SET)
    run = trainer(tmp_path, model=Breaks(), cls=OwnLoss, callbacks=[callback], remove_unused_columns=False)
    run.train_dataset = data()
    if attached:
        callback.attach(run)
    run.train()
    first = read_bad_batches(callback.log_dir)[0]  # later steps have broken weights
    own = ["the loss of micro-batch 1 is nan"] if attached else []
    assert (first.step, list(first.reasons)) == (6, [*own, "gradients are not finite"])
    assert caplog.text.count(NOT_JUDGED) == (not attached)


@pytest.mark.parametrize("kind", ["smoothing", "function", "neither"])
def test_bad_batches_other_losses_of_trainer_warned(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    callback = TbxTrainerCallback(SET)
    smoothing: dict[str, Any] = {"label_smoothing_factor": 0.1} if kind == "smoothing" else {}
    run = trainer(tmp_path, callbacks=[callback], max_steps=1, **smoothing)
    if kind == "function":
        run.compute_loss_func = lambda out, labels, **others: nn.functional.cross_entropy(out.logits, labels)
    run.train()
    assert caplog.text.count(NOT_JUDGED) == (kind != "neither")


@pytest.mark.filterwarnings("ignore")  # Lightning warns about settings that suit tests
def test_bad_batches_lightning_training_raises_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, callback = RaisingModule(), TbxLightningCallback(SET, log_dir=tmp_path / "run")
    module.net = Breaks()
    monkeypatch.setattr("tests.trainers.test_examples.BATCH", BATCH)
    with pytest.raises(FloatingPointError):
        fit(module, callback, tmp_path, data(), max_epochs=1)
    check_ended(callback.log_dir, step=5, number=1)


@pytest.mark.parametrize("is_tracked", [True, False])
@pytest.mark.parametrize("has_stepped", [True, False])
def test_bad_batches_loop_raises_kept(tmp_path: Path, is_tracked: bool, has_stepped: bool) -> None:
    model = Breaks()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batches = [collate(data()[first : first + BATCH]) for first in range(0, 32, BATCH)]

    def train() -> None:
        with TbxLoop(model, optimizer, SET, log_dir=tmp_path) as loop:
            for batch in loop.track(batches) if is_tracked else batches:
                out = model(**batch)
                if not has_stepped:
                    stop_at_nan(out.loss)
                out.loss.backward()
                optimizer.step()
                stop_at_nan(out.loss)
                optimizer.zero_grad()
                loop.end_step(loss=out.loss, outputs=out, labels=batch["labels"], batch=batch)

    with pytest.raises(FloatingPointError):
        train()
    check_ended(tmp_path, step=5, number=1)


def test_bad_batches_interrupted_fine_loop_keeps_nothing(tmp_path: Path) -> None:
    model = Breaks(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batches = [collate(data()[first : first + BATCH]) for first in range(0, 32, BATCH)]

    def train() -> None:
        with TbxLoop(model, optimizer, SET, log_dir=tmp_path) as loop:
            for number, batch in enumerate(loop.track(batches)):
                out = model(**batch)
                if number == 5:
                    raise KeyboardInterrupt
                optimizer.step()
                loop.end_step(loss=out.loss, outputs=out, labels=batch["labels"], batch=batch)

    with pytest.raises(KeyboardInterrupt):
        train()
    assert not files_in(tmp_path)


def test_bad_batches_spike_of_loss_kept(tmp_path: Path) -> None:
    others = [{**row, "idx": 1000 + n} for n, row in enumerate(data(25 * BATCH))]
    train_loop(tmp_path, Breaks(30.0), SET, [*others, *data(), *others])
    (only,) = read_bad_batches(tmp_path)
    assert only.step == 25 + 5
    assert "is a spike: the median of 29 steps before is 0.6" in only.reasons[0]
    assert BAD_ROW in [int(row.key) for row in only.micro_batches[0].rows]


def test_bad_batches_gradient_not_finite_kept(tmp_path: Path) -> None:
    model = Breaks(0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path) as loop:
        for step in range(1, 7):
            batch = collate(data()[step * BATCH : (step + 1) * BATCH])
            out = model(**batch)
            out.loss.backward()
            if step == 3:
                next(model.parameters()).grad[0, 0] = torch.inf  # type: ignore[index]
            saved = [parameter.detach().clone() for parameter in model.parameters()]
            optimizer.step()
            if step == 3:
                for parameter, old in zip(model.parameters(), saved, strict=True):
                    parameter.data.copy_(old)
            optimizer.zero_grad()
            loop.end_step(loss=out.loss, outputs=out, labels=batch["labels"], batch=batch)
    (only,) = read_bad_batches(tmp_path)
    assert (only.step, only.reasons) == (3, ["gradients are not finite"])
    assert [int(row.key) for row in only.micro_batches[0].rows] == [12, 13, 14, 15]


def test_bad_batches_step_skipped_by_scaler_not_kept(tmp_path: Path) -> None:
    model = Breaks(0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60, growth_interval=1000)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path, scaler=scaler) as loop:
        for first in range(0, 32, BATCH):
            batch = collate(data()[first : first + BATCH])
            with torch.autocast("cpu", torch.float16):
                out = model(**batch)
            scaler.scale(out.loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            loop.end_step(loss=out.loss, outputs=out, labels=batch["labels"], batch=batch)
    assert scaler.get_scale() < 2.0**60  # some were skipped
    assert not files_in(tmp_path)


def test_bad_batches_reused_memory_rows_right(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, memory = Breaks(), collate(data()[:BATCH])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    some = data(24)
    for row in some:
        del row["idx"]
    model.value = 1.0
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path) as loop:
        for number, first in enumerate(range(0, 24, BATCH), 1):
            for name, column in collate(some[first : first + BATCH]).items():
                memory[name].copy_(column)
            out = model(**{name: memory[name] for name in ("input_ids", "attention_mask", "labels")})
            out.loss.backward()
            loss = out.loss * (float("nan") if number in (2, 5) else 1.0)
            if number % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
            batch = {name: memory[name] for name in ("input_ids", "attention_mask")}
            loop.end_step(loss=loss, outputs=out, labels=memory["labels"], batch=batch)
    first, second = read_bad_batches(tmp_path)
    assert [len(each.rows) for each in first.micro_batches] == [BATCH, BATCH]
    assert all(not row.key.startswith("#") for row in first.micro_batches[0].rows)  # lost, and told
    named = []
    for start in (4, 16, 20):
        fresh = collate(some[start : start + BATCH])
        found = fingerprints(fresh, fresh["labels"], BATCH)
        assert found is not None
        named.append([f"#{n & (1 << 64) - 1:016x}" for n in found.tolist()])
    assert [row.key for row in first.micro_batches[1].rows] == named[0]
    assert [[row.key for row in each.rows] for each in second.micro_batches] == named[1:]
    assert caplog.text.count("rows of step 1 are left out: a later batch has overwritten their memory") == 1


def test_bad_batches_texts_only_if_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="datasets provides the sentences of the tokenizer")
    words = tokenizer()
    ids = [words("a good film")["input_ids"], words("it was bad")["input_ids"]]
    some = [{"input_ids": [*ids[n % 2], 0], "labels": n % 2, "idx": n} for n in range(32)]
    some = [{**row, "attention_mask": [int(number != 0) for number in row["input_ids"]]} for row in some]
    for texts, expected in ((0, {None}), (9, {"a good fi", "it was ba"})):
        model = Breaks()
        model.net = bert(vocab_size=len(words))
        folder = tmp_path / str(texts)
        train_loop(folder, model, {"metrics": [{"bad_batches": {"texts": texts}}]}, some, tokenizer=words)
        (only,) = read_bad_batches(folder)
        assert {row.text for row in only.micro_batches[0].rows} == expected


def test_bad_batches_resumed_loop_makes_files_again(tmp_path: Path) -> None:
    train_loop(tmp_path, Breaks(), SET, data())
    assert list(files_in(tmp_path)) == [5]
    train_loop(tmp_path, Breaks(0.5), SET, data(), start=4)  # a fine loss in step 5 now
    assert not files_in(tmp_path)


def test_bad_batches_language_model_has_rows_without_losses(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertLMHeadModel(BertConfig(**sizes, intermediate_size=32, max_position_embeddings=16, is_decoder=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path) as loop:
        for first in range(0, 32, BATCH):
            batch = collate(rows()[first : first + BATCH])
            ids = batch["input_ids"]
            out = model(ids, batch["attention_mask"], labels=ids)
            loss = out.loss * (float("nan") if first == 8 else 1.0)
            loss.backward()
            if first != 8:
                optimizer.step()
            else:
                optimizer.zero_grad()
                optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=loss, outputs=out, labels=ids, batch=batch)
    (only,) = read_bad_batches(tmp_path)
    assert only.step == 3
    assert [row.loss for row in only.micro_batches[0].rows] == [None] * BATCH
    assert all(row.key.startswith("#") for row in only.micro_batches[0].rows)


def test_bad_batches_training_same_to_the_bit(tmp_path: Path) -> None:
    watched, other = Breaks(0.1), Breaks(0.1)
    train_loop(tmp_path / "a", watched, SET, data())
    train_loop(tmp_path / "b", other, {"metrics": ["loss"]}, data())
    assert all(torch.equal(one, two) for one, two in zip(watched.parameters(), other.parameters(), strict=True))
    assert not (tmp_path / "b" / "bad_batches").exists()
