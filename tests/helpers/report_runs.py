"""Writes the runs of the report's tests through the real writer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.metrics.host_values import HParams, HParamsEnd, Text
from tbx_callbacks.writers.tensorboard import TensorBoardWriter

LAYERS = ["bert.embeddings", *(f"bert.encoder.layer.{n}" for n in range(4)), "bert.pooler", "classifier"]
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked=1'>"


def trained(
    folder: Path,
    *,
    steps: int = 120,
    lr: float = 1e-3,
    spike: int | None = None,
    extra: dict[str, Any] | None = None,
    succeeded: bool | None = None,
) -> Path:
    """Writes a run with the tags of the set `full` at every second step; its loss jumps at `spike`.

    `succeeded` is how it ended; None if it has not.
    """
    writer, dice = TensorBoardWriter(folder), np.random.default_rng(0)
    writer.write(
        1, {"_hparams_/session_start_info": HParams({"lr": lr, "batch": 8.0, "warm_up": True, "model": "bert"})}
    )
    writer.write(1, {"args": Text('```json\n{"lr": 0.1}\n```'), "model_config": Text('```json\n{"hidden": 64}\n```')})
    for step in range(2, steps + 1, 2):
        done = step / steps
        loss = 0.1 + 0.6 * math.exp(-4 * done) + dice.normal(0, 0.01)
        values: dict[str, Any] = {
            "train/loss": 5.0 if step == spike else loss,
            "lr/AdamW/decay": lr * (1 - done),
            "lr/AdamW/no_decay": lr * (1 - done),
            "grad_norm/total": 3 * math.exp(-done),
            "grad_norm_clipped/total": 1.0,
            "clip/factor": 1 / 3,
            "perf/step_s": 0.1,
            "perf/samples_per_s": 80.0,
            "perf/monitor_share": 0.01,
            "memory/rss_gib": 1.5,
            "aux/temperature": done,
        }
        for index, layer in enumerate(LAYERS):
            values[f"grad_norm/{layer}"] = 10.0 ** (index - 4) * math.exp(-done)
            values[f"weight_norm/{layer}"] = 10.0 + index + done
            values[f"update_ratio/{layer}"] = 1e-3 * math.exp(-done)
        if step % 20 == 0:
            values |= {"eval/loss": loss + 0.05, "eval/accuracy": 0.6 + 0.3 * done}
            for family, layer in ((f, name) for f in ("weights", "grads") for name in LAYERS):
                wide = 0.1 if family == "weights" else 0.01 * (1 - done / 2)
                values[f"{family}/{layer}"] = HistogramCounts((1, 5, 20, 5, 1), -wide, wide, 0.0, 1.0)
        writer.write(step, values | (extra or {}))
    if succeeded is not None:
        writer.write(steps, {"_hparams_/session_end_info": HParamsEnd(succeeded=succeeded)})
    writer.close()
    return folder


def ended(folder: Path, status: str) -> Path:
    """Writes a healthy run of 60 steps, as JSON lines, that has ended with a status."""
    folder.mkdir()
    lines = [{"step": step, "train/loss": 0.7 * 0.97**step} for step in range(1, 61)]
    text = "".join(json.dumps(line) + "\n" for line in [*lines, {"step": 60, "status": status}])
    (folder / "metrics.jsonl").write_text(text)
    return folder
