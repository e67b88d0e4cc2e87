"""Tests the overhead budget under the HF Trainer."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tbx_callbacks import TbxTrainerCallback
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run


def test_huggingface_budget_exceeded_writes_chosen_cadences(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    # A thousandth is too little for a model this small on any machine: histograms must become rarer.
    config = {"extends": "full", "every": 4, "overhead_budget": 1e-3, "metrics": [{"weight_histogram": {"every": 2}}]}
    callback = TbxTrainerCallback(config)
    with caplog.at_level(logging.WARNING, "tbx_callbacks._engine.budget"):
        run = trainer(tmp_path, model=bert(), callbacks=[callback], max_steps=60, logging_steps=4)
        callback.attach(run)
        run.train()
    texts = Run(callback.log_dir).texts["overhead_budget"]
    assert len(texts) == sum("monitoring took" in record.getMessage() for record in caplog.records) > 0
    assert "the budget is 0.10%; longer intervals:" in texts[0]
    assert "- weight_histogram (by: layer): every 2 steps -> every " in texts[0]
    assert not any(word in text for text in [*texts, caplog.text] for word in ("<", "never", " at 0x"))
    for text in texts:
        lines = text.splitlines()[2:]
        assert len(lines) == len(set(lines)) > 0
