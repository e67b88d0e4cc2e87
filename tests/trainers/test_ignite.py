"""Tests the integration example of docs/ under the real pytorch-ignite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.data import EVERY_KIND, collate, rows
from tests.helpers.models import bert
from tests.helpers.runs import ROOT, Run, files, module_at

ignite = pytest.importorskip("ignite.engine")
EXAMPLE = ROOT / "docs" / "ignite_adapter.py"


def test_ignite_metrics_match_naive_computation(tmp_path: Path) -> None:
    model, losses, norms = bert(), [], []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def train(engine: Any, batch: Any) -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        losses.append(loss.item())
        norms.append(float(torch.cat([p.grad.double().reshape(-1) for p in model.parameters()]).norm()))
        optimizer.step()
        return loss

    trainer = ignite.Engine(train)
    callback = module_at(EXAMPLE).TbxIgnite(EVERY_KIND, log_dir=tmp_path).attach(trainer, model, optimizer, log_every=2)
    evaluator = ignite.Engine(lambda engine, batch: None)
    evaluator.add_event_handler(ignite.Events.COMPLETED, lambda e: e.state.metrics.update(accuracy=0.5))
    evaluator.add_event_handler(ignite.Events.COMPLETED, callback.evaluated)
    trainer.add_event_handler(ignite.Events.EPOCH_COMPLETED, lambda e: evaluator.run([0]))
    trainer.run(torch.utils.data.DataLoader(rows(16), batch_size=4, collate_fn=collate), max_epochs=2)
    read = Run(tmp_path)
    expected = [(step, pytest.approx((losses[step - 2] + losses[step - 1]) / 2, rel=1e-5)) for step in (2, 4, 6, 8)]
    assert read.scalars["train/loss"] == expected
    assert read.scalars["grad_norm/total"] == [(s, pytest.approx(norms[s - 1], rel=1e-5)) for s in (2, 4, 6, 8)]
    assert read.at("train/epoch") == {2: 0.5, 4: 1.0, 6: 1.5, 8: 2.0}
    assert read.at("eval/accuracy") == {4: 0.5, 8: 0.5}


def test_ignite_exception_then_second_run_continues(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train(engine: Any, batch: Any) -> torch.Tensor:
        if bad and engine.state.iteration == 4:
            raise KeyError("a fault of the data")
        loss = model(batch).sum()
        loss.backward()
        optimizer.step()
        return loss

    metrics = {"every": 1, "metrics": ["loss", "input_share"]}
    trainer = ignite.Engine(train)
    callback = module_at(EXAMPLE).TbxIgnite(metrics, log_dir=tmp_path).attach(trainer, model, optimizer, log_every=1)
    bad = True
    with pytest.raises(KeyError):
        trainer.run([torch.ones(3, 2)] * 5)
    assert not callback.session.running
    assert not optimizer._optimizer_step_post_hooks
    bad = False
    trainer.run([torch.ones(3, 2)] * 5, max_epochs=2)
    callback.session.close()
    read = Run(tmp_path)
    assert len(files(tmp_path)) == 1
    assert read.steps("train/loss") == list(range(1, callback.session.step + 1))
    assert read.steps("perf/input_share")
