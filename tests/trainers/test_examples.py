"""Tests that each trainer records the loss of every row of its training batches, once."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tbx_callbacks._model.rows import fingerprints
from tbx_callbacks.runs.examples import ExampleTable, file_of, read_examples
from tbx_callbacks.runs.json_lines import read
from tests.helpers.data import collate, rows
from tests.helpers.models import bert, tokenizer, trainer
from tests.helpers.runs import Run
from tests.trainers.test_huggingface_resume import StopAt

ROWS, BATCH, EPOCHS = 22, 8, 2  # the last batch of an epoch is incomplete
SET: dict[str, Any] = {"every": 3, "strict": True, "metrics": ["loss", {"examples": {"group_by": "source"}}]}


class Recorded(nn.Module):
    """A BERT that keeps the inputs, the labels and its logits in training mode; it ignores other columns."""

    def __init__(self) -> None:
        super().__init__()
        self.net = bert()
        self.seen: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None, **others: Any) -> Any:
        given = self.net(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
        if self.training and labels is not None:
            batch = {"input_ids": input_ids.clone(), "attention_mask": attention_mask.clone(), **others}
            self.seen.append((batch, given.logits.detach().double(), labels.clone()))
        return given


def data(*, ids: bool = False) -> list[dict[str, Any]]:
    """Rows, one without a label; with `ids` also a number and a source for each."""
    made = rows(ROWS)
    made[5]["labels"] = -100
    extra = [{"idx": 1000 + n, "source": n % 3} if ids else {} for n in range(ROWS)]
    return [{**row, **own} for row, own in zip(made, extra, strict=True)]


def expected(seen: list[Any], *, ids: bool) -> list[tuple[list[str], list[float], list[int], list[int]]]:
    """Keys, losses, labels and predictions of each micro-batch."""
    made = []
    for batch, logits, labels in seen:
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        found = fingerprints(batch, labels, len(labels))
        assert found is not None
        keys = [str(int(n)) for n in batch["idx"]] if ids else [f"#{n & (1 << 64) - 1:016x}" for n in found.tolist()]
        kept = [n for n, label in enumerate(labels.tolist()) if label != -100]
        guesses = logits.argmax(-1).tolist()
        made.append(([keys[n] for n in kept], losses[kept].tolist(), labels[kept].tolist(), [guesses[n] for n in kept]))
    return made


def check(folder: Any, seen: list[Any], steps: list[int], *, ids: bool = False) -> ExampleTable:
    written = list(read(file_of(str(folder), 0), lambda: pytest.fail("a line cannot be read")))
    assert [line["step"] for line in written] == steps
    for line, (keys, losses, labels, predicted) in zip(written, expected(seen, ids=ids), strict=True):
        assert line["rows"] == keys
        assert line["losses"] == pytest.approx(losses, rel=1e-4, abs=1e-6)
        assert (line["labels"], line["predicted"]) == (labels, predicted)
    table = read_examples(folder)
    assert table is not None
    assert len(table) == ROWS - 1
    assert set(table.seen.tolist()) == {EPOCHS}
    return table


def steps_of(accumulate: int) -> list[int]:
    """The step of each micro-batch: the last one of an epoch is a step too."""
    per_epoch = [0, 1, 2] if accumulate == 1 else [0, 0, 1]
    return [1 + epoch * (per_epoch[-1] + 1) + n for epoch in range(EPOCHS) for n in per_epoch]


def huggingface(folder: Path, callback: Any, model: Any, *, ids: bool = False, **options: Any) -> Any:
    return trainer(
        folder,
        model=model,
        callbacks=[callback],
        **{
            "max_steps": -1,
            "num_train_epochs": EPOCHS,
            "per_device_train_batch_size": BATCH,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "remove_unused_columns": not ids,
            **options,
        },
    )


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("attached", [True, False])
def test_examples_under_huggingface(tmp_path: Path, attached: bool, accumulate: int, ids: bool) -> None:
    model, callback = Recorded(), TbxTrainerCallback({**SET, "strict": ids})
    run = huggingface(tmp_path, callback, model, ids=ids, gradient_accumulation_steps=accumulate)
    run.train_dataset = data(ids=ids)
    if attached:
        callback.attach(run)
    run.train()
    check(callback.log_dir, model.seen, steps_of(accumulate), ids=ids)


def test_examples_with_label_smoothing_plain_losses(tmp_path: Path) -> None:
    model, callback = bert(), TbxTrainerCallback(SET)
    run = huggingface(tmp_path, callback, model, label_smoothing_factor=0.3)
    run.train_dataset = data()
    callback.attach(run)
    logits: list[Tensor] = []
    model.register_forward_hook(
        lambda module, args, out: logits.append(out.logits.detach().double()) if module.training else None
    )
    labels: list[Tensor] = []
    run.data_collator = lambda some: (labels.append(torch.tensor([row["labels"] for row in some])), collate(some))[1]
    run.train()
    table = read_examples(callback.log_dir)
    assert table is not None
    assert set(table.seen.tolist()) == {EPOCHS}
    first = next(read(file_of(str(callback.log_dir), 0), lambda: None))
    losses = nn.functional.cross_entropy(logits[0], labels[0], reduction="none")[labels[0] != -100]
    assert first["losses"] == pytest.approx(losses.tolist(), rel=1e-4)


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = Recorded()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.net(**batch).loss
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.net(**batch).loss)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.filterwarnings("ignore")  # Lightning warns about settings that suit tests
def test_examples_under_lightning(tmp_path: Path, accumulate: int, ids: bool) -> None:
    module, callback = Module(), TbxLightningCallback(SET, log_dir=tmp_path / "run")
    fit(module, callback, tmp_path, data(ids=ids), accumulate_grad_batches=accumulate, max_epochs=EPOCHS)
    check(callback.log_dir, module.net.seen, steps_of(accumulate), ids=ids)


def fit(module: Module, callback: Any, folder: Path, some: Any, *, checkpoint: Any = None, **options: Any) -> Any:
    loaders = [DataLoader(part, batch_size=BATCH, collate_fn=collate) for part in (some, rows(16, seed=5))]
    run = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        val_check_interval=1,
        **options,
    )
    run.fit(module, *loaders, ckpt_path=checkpoint)
    return run


def train_loop(
    folder: Path, config: Any, model: Any, some: Any, *, accumulate: int = 1, steps: range | None = None, **options: Any
) -> None:
    """Trains `EPOCHS` epochs, or the steps of a part of them."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    order, step = torch.Generator().manual_seed(0), 0
    torch.manual_seed(3)
    start = steps.start - 1 if steps is not None else 0
    with TbxLoop(model, optimizer, config, log_dir=folder, start_step=start, **options) as loop:
        for _ in range(EPOCHS):
            batches = torch.randperm(len(some), generator=order).split(BATCH)
            for number, chosen in enumerate(batches, 1):
                is_step = number % accumulate == 0 or number == len(batches)
                step += is_step
                if steps is not None and step not in steps:
                    continue
                batch = collate([some[n] for n in chosen])
                model.train()
                out = model(**batch)
                out.loss.backward()
                if is_step:
                    optimizer.step()
                    optimizer.zero_grad()
                loop.end_step(loss=out.loss, outputs=out, labels=batch["labels"], batch=batch)
                model.eval()
                with torch.no_grad():
                    loop.evaluate(loss=model(**collate(rows(4))).loss)


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_examples_in_loop(tmp_path: Path, accumulate: int, ids: bool) -> None:
    model = Recorded()
    train_loop(tmp_path, SET, model, data(ids=ids), accumulate=accumulate)
    table = check(tmp_path, model.seen, steps_of(accumulate), ids=ids)
    assert not table.texts
    if ids:
        assert [f"{(int(key) - 1000) % 3}" for key in table.keys] == list(table.groups)
        losses = [
            (int(source), float(loss))
            for batch, logits, labels in model.seen[: 3 * accumulate]
            for source, loss, label in zip(
                batch["source"], nn.functional.cross_entropy(logits, labels, reduction="none"), labels, strict=True
            )
            if label != -100
        ]
        if accumulate == 1:
            for source in range(3):
                own = [loss for group, loss in losses if group == source]
                assert Run(tmp_path).at(f"examples/loss/{source}")[3] == pytest.approx(sum(own) / len(own), rel=1e-5)


def test_examples_training_same_to_the_bit(tmp_path: Path) -> None:
    with_rows, without = Recorded(), Recorded()
    train_loop(
        tmp_path / "a", {"every": 1, "metrics": [{"examples": {"group_by": "source"}}]}, with_rows, data(ids=True)
    )
    train_loop(tmp_path / "b", {"every": 1, "metrics": ["loss"]}, without, data(ids=True))
    assert all(torch.equal(one, other) for one, other in zip(with_rows.parameters(), without.parameters(), strict=True))
    assert not list((tmp_path / "b").glob("examples*"))


def test_examples_resumed_loop_counts_no_step_twice(tmp_path: Path) -> None:
    model = Recorded()
    train_loop(tmp_path, SET, model, data(), steps=range(1, 6))
    train_loop(tmp_path, SET, model, data(), steps=range(4, 7))
    seen = [*model.seen[:3], *model.seen[5:]]
    check(tmp_path, seen, [1, 2, 3, 4, 5, 6])


def test_examples_resumed_huggingface_counts_no_step_twice(tmp_path: Path) -> None:
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    first, callback = Recorded(), TbxTrainerCallback(SET)
    run = huggingface(tmp_path, callback, first, **saving)
    run.train_dataset = data()
    run.add_callback(StopAt(5))
    with pytest.raises(KeyboardInterrupt):
        run.train()
    callback.close()
    second, callback = Recorded(), TbxTrainerCallback(SET)
    run = huggingface(tmp_path, callback, second, **saving)
    run.train_dataset = data()
    callback.attach(run)
    run.train(resume_from_checkpoint=True)
    check(callback.log_dir, [*first.seen[:4], *second.seen], [1, 2, 3, 4, 5, 6])


@pytest.mark.filterwarnings("ignore")
def test_examples_resumed_lightning_counts_no_step_twice(tmp_path: Path) -> None:
    first, callback = Module(), TbxLightningCallback(SET)
    run = fit(first, callback, tmp_path, data(), max_epochs=1)
    run.save_checkpoint(tmp_path / "one.ckpt")
    fit(Module(), callback, tmp_path, data(), max_epochs=2, checkpoint=tmp_path / "one.ckpt")  # trained again below
    second, again = Module(), TbxLightningCallback(SET)
    fit(second, again, tmp_path, data(), max_epochs=2, checkpoint=tmp_path / "one.ckpt")
    assert again.log_dir == callback.log_dir
    check(again.log_dir, [*first.net.seen, *second.net.seen], [1, 2, 3, 4, 5, 6])


def test_examples_texts_only_if_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="datasets provides the sentences of the tokenizer")
    words = tokenizer()
    texts = ["a good film", "it was not a bad day", "what a film"] * 4
    encoded = [{"input_ids": words(text)["input_ids"], "labels": n % 2} for n, text in enumerate(texts)]
    some = [
        {**row, "input_ids": row["input_ids"] + [0] * (12 - len(row["input_ids"])), "idx": n}
        for n, row in enumerate(encoded)
    ]
    some = [{**row, "attention_mask": [int(number != 0) for number in row["input_ids"]]} for row in some]
    model = Recorded()
    model.net = bert(vocab_size=len(words))
    config = {"every": 1, "metrics": [{"examples": {"texts": 14}}]}
    train_loop(tmp_path, config, model, some, tokenizer=words)
    table = read_examples(tmp_path)
    assert table is not None
    assert {table.texts[str(n)] for n in range(12)} == {text[:14] for text in texts}
    content = Path(file_of(str(tmp_path), 0)).read_text()
    assert content.count("film") == 4 + 4  # each row's text is written once


def test_examples_texts_without_tokenizer_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        train_loop(tmp_path, {"metrics": [{"examples": {"texts": 10}}]}, Recorded(), data())
    assert caplog.text.count("texts of rows are left out: no tokenizer is known; in a loop pass tokenizer=") == 1


def test_examples_without_batch_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Recorded()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path) as loop, caplog.at_level(logging.WARNING):
        for _ in range(6):
            batch = collate(rows(4))
            out = model(**batch)
            out.loss.backward()
            optimizer.step()
            loop.end_step(loss=out.loss, outputs=out, labels=batch["labels"])
    assert caplog.text.count("rows are not recorded: the rows of a batch cannot be told apart") == 1
    assert read_examples(tmp_path) is None


@pytest.mark.slow
@pytest.mark.thorough
def test_examples_flipped_labels_among_hardest_rows(tmp_path: Path) -> None:
    from sentiment_sentences import sentences

    made = sentences(random.Random(0), 6000)  # as many as in the recipe
    vocabulary: dict[str, int] = {}
    ids = torch.zeros(len(made), 32, dtype=torch.long)
    for index, (text, _) in enumerate(made):
        numbers = [1, *(vocabulary.setdefault(word, len(vocabulary) + 2) for word in text.split())][:32]
        ids[index, : len(numbers)] = torch.tensor(numbers)
    labels = torch.tensor([int(label == "positive") for _, label in made])
    flipped = torch.randperm(len(made), generator=torch.Generator().manual_seed(1))[: len(made) // 20]
    labels[flipped] = 1 - labels[flipped]
    model = bert(vocab_size=200, hidden_size=128, intermediate_size=256, max_position_embeddings=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    with TbxLoop(model, optimizer, {"every": 50, "metrics": ["examples"]}, log_dir=tmp_path) as loop:
        for epoch in range(8):
            for chosen in torch.randperm(len(made), generator=torch.Generator().manual_seed(epoch)).split(32):
                own = ids[chosen][:, : int((ids[chosen] != 0).sum(1).max())]
                batch = {"input_ids": own, "attention_mask": (own != 0).long(), "idx": chosen}
                out = model(batch["input_ids"], batch["attention_mask"], labels=labels[chosen])
                out.loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                loop.end_step(loss=out.loss, outputs=out, labels=labels[chosen], batch=batch)
    table = read_examples(tmp_path)
    assert table is not None
    hardest = {int(table.keys[n]) for n in table.hardest()[: len(made) // 10]}
    share = len(hardest & set(flipped.tolist())) / len(flipped)
    suspects = [int(table.keys[n]) for n in table.suspects()]
    right = len(set(suspects) & set(flipped.tolist()))
    print(f"flips among the hardest 10 %: {share:.3f}; {len(suspects)} suspects, {right} of them flips")
    assert share >= 0.8
