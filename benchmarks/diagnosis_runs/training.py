"""Trains runs one after the other, and stores their facts beside them."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import time
import traceback
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.diagnosis_runs.cases import Case, Facts, Place


@dataclass(frozen=True)
class Record:
    """The result of a training: its facts, or the reason why there are none.

    `failed` is the end of the traceback; `skipped` is the name of a package that is not installed.
    """

    seed: int
    cpu_seconds: float
    facts: Facts | None = None
    failed: str | None = None
    skipped: str | None = None


def run_folder(out: Path, name: str) -> Path:
    return out / "runs" / name


def train_all(cases: Iterable[Case], out: Path, *, seed: int) -> None:
    """Trains in `out`; what an earlier call left there of the same runs is replaced."""
    torch.set_num_threads(1)
    (out / "facts").mkdir(parents=True, exist_ok=True)
    for case in cases:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):  # progress bars
            record = train_one(case, out, seed=seed)
        stored = asdict(record)
        (out / "facts" / f"{case.name}.json").write_text(json.dumps(stored), encoding="utf-8")
        print(f"{case.name}: {_summary(record)}", flush=True)


def train_one(case: Case, out: Path, *, seed: int) -> Record:
    """Trains one run; an error becomes a part of the record."""
    place = Place(run_folder(out, case.name), out / "work" / case.name, seed)
    for folder in (place.folder, place.work):
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    started = time.process_time()
    found: dict[str, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the trainers
            found["facts"] = case.train(place)
    except ModuleNotFoundError as error:
        found["skipped"] = str(error.name)
    except Exception:
        found["failed"] = traceback.format_exc()[-1500:]
    shutil.rmtree(place.work, ignore_errors=True)
    return Record(seed=seed, cpu_seconds=round(time.process_time() - started, 1), **found)


def read_record(out: Path, name: str) -> Record | None:
    """Returns the record of a run; None if it was not trained."""
    file = out / "facts" / f"{name}.json"
    if not file.exists():
        return None
    stored = json.loads(file.read_text(encoding="utf-8"))
    if stored["facts"] is not None:
        found = tuple((rule, severity) for rule, severity in stored["facts"].pop("preflight"))
        stored["facts"] = Facts(**stored["facts"], preflight=found)
    return Record(**stored)


def _summary(record: Record) -> str:
    if record.failed:
        return f"failed: {record.failed.strip().splitlines()[-1]}"
    if record.skipped:
        return f"skipped: {record.skipped} is not installed"
    assert record.facts is not None
    numbers = {name: value for name, value in asdict(record.facts).items() if isinstance(value, float)}
    text = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items()) + f" ({record.cpu_seconds:g} s)"
    return text + (f"; preflight failed: {record.facts.preflight_failed}" if record.facts.preflight_failed else "")
