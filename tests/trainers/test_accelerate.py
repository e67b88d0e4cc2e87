"""Tests a plain loop under accelerate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tbx_callbacks import TbxLoop
from tests.helpers.data import EVERY_KIND as SET
from tests.helpers.data import collate, rows
from tests.helpers.models import bert
from tests.helpers.runs import Run


def test_loop_under_accelerate_clip_norm_exact(tmp_path: Path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = bert()
    loader = torch.utils.data.DataLoader(rows(32), batch_size=4, collate_fn=collate)
    model, optimizer, loader = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3), loader)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path, log_every=2, max_grad_norm=0.1) as loop:
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    loop.before_clip()
                    expected = accelerator.clip_grad_norm_(model.parameters(), 0.1).item()
                optimizer.step()
                optimizer.zero_grad()
            loop.end_step(loss=loss, samples=4, tokens=batch["attention_mask"].sum())
    read = Run(tmp_path)
    assert read.steps("train/loss") == read.steps("grad_norm/bert.encoder.layer.0") == [2, 4]
    assert read.at("grad_norm/total")[4] == pytest.approx(expected, rel=1e-5)
