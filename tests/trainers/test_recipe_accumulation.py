"""Tests that the recipes train the same, whatever the number of micro-batches in a step."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import DatasetDict
from sentiment import Task
from sentiment_data import made_up
from sentiment_model import Sizes, build, tokenize
from torch import Tensor, nn

from tests.helpers.runs import Run

RATE, ROWS = 0.05, 22  # with 8 rows a step, the last step of an epoch has six


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "set.yaml").write_text("{every: 1, metrics: [loss, grad_norm: {by: total}]}")
    whole = made_up(train=200, dev=20, test=20)
    rows = DatasetDict({"train": whole["train"].select(range(ROWS)), "dev": whole["dev"].select(range(8))})
    torch.manual_seed(0)
    sizes = Sizes(1, 16, 2, 300, 0.0, 32)
    tokenizer, network = build(rows, model=None, vocab=None, sizes=sizes, cased=False)
    return Task(
        rows=rows,
        encoded=tokenize(rows, tokenizer, 32),
        tokenizer=tokenizer,
        network=network,
        config=str(folder / "set.yaml"),
        lr=RATE,
        epochs=2.0,
        batch=8,
        accumulate=1,
        max_steps=-1,
        logging_steps=1,
        seed=0,
        output_dir=folder,
        checkpoint=None,
        max_grad_norm=0.5,
    )


def fresh_network(task: Task) -> Any:
    """The same weights for every training, in float64 and without dropout."""
    torch.manual_seed(1)
    network = type(task.network)(task.network.config)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network.double()


class SgdTrainer(transformers.Trainer):
    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE)
        return self.optimizer


def constant(task: Task, model: nn.Module, *_: Any) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


def trained(name: str, task: Task, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], dict[int, float]]:
    """The last weights, and the norms of the gradients before clipping."""
    recipe = importlib.import_module(name)
    if name == "bert_sentiment":
        monkeypatch.setattr(recipe, "Trainer", SgdTrainer)
    else:
        monkeypatch.setattr(recipe, "optimizer_and_schedule", constant)
    outcome = recipe.train(task)
    assert outcome is not None
    assert outcome.steps == 6
    assert len(list(Path(task.output_dir, "runs").iterdir())) == 1
    return list(task.network.state_dict().values()), Run(outcome.log_dir).at("grad_norm/total")


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["bert_sentiment", "bert_sentiment_lightning", "bert_sentiment_loop"])
def test_recipe_microbatches_train_as_one_batch(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = []
    for accumulate in (1, 2, 8):
        options = {"batch": 8 // accumulate, "accumulate": accumulate, "output_dir": tmp_path / str(accumulate)}
        found.append(trained(name, replace(task, network=fresh_network(task), **options), monkeypatch))
    (weights, norms), *others = found
    assert list(norms) == [1, 2, 3, 4, 5, 6]
    for other_weights, other_norms in others:
        assert other_norms == pytest.approx(norms, rel=1e-5)
        for weight, other in zip(weights, other_weights, strict=True):
            torch.testing.assert_close(other, weight, rtol=1e-9, atol=1e-12)
    assert not all(
        torch.equal(weight, start)
        for weight, start in zip(weights, fresh_network(task).state_dict().values(), strict=True)
    )
    assert "too large" not in caplog.text
