"""Tests the integration example of docs/ under the real pytorch-ignite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.data import EVERY_KIND, collate, rows
from tests.helpers.models import bert
from tests.helpers.runs import ROOT, Run, module_at

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
