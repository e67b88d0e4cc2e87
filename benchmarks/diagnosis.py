"""Trains about a hundred faulty and healthy runs, and scores the doctor and the live rules on them.

Run: python benchmarks/diagnosis.py, about ten minutes; with --out FOLDER the runs are kept, and --score FOLDER scores
them again. With --rules or --planted it prints the other tables of docs/diagnosis.md: all rules, and the planted faults
of the tests. With --live: the cost of evaluating rules during a training.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TBX_CALLBACKS_QUIET", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes")]

from tbx_callbacks._config.metric_set import load_config  # noqa: E402
from tbx_callbacks._engine.live_rules import RuleRunner  # noqa: E402
from tbx_callbacks.rules import RULES  # noqa: E402
from tbx_callbacks.writers.base import MemoryWriter  # noqa: E402
from tests.helpers.confusion import confusion_row, judged, rule_row  # noqa: E402

STATES = tuple(f"optimizer_state/{kind}" for kind in ("exp_avg", "exp_avg_sq", "effective_lr"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="runs whose name contains this")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights, the batches and the splits")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the runs are kept; else they are deleted")
    parser.add_argument("--score", type=Path, metavar="FOLDER", help="score the runs there, and train nothing")
    parser.add_argument("--rules", action="store_true", help="print the table of rules only")
    parser.add_argument("--planted", action="store_true", help="print the planted faults of the tests only")
    parser.add_argument("--shift", type=int, default=0, help="with --planted: added to every seed")
    parser.add_argument("--live", action="store_true", help="print what asking rules live costs, and nothing else")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    if given.live:
        print(json.dumps(cost_of_rules()))
    elif given.rules:
        print("| rule | what | reads | thresholds | source |\n|---|---|---|---|---|")
        print("\n".join(rule_row(name) for name in RULES))
    elif given.planted:
        print_planted(given.shift)
    elif given.score is not None:
        print_scores(given.score, given.only)
    else:
        with tempfile.TemporaryDirectory() as folder:
            train(given.out or Path(folder), given.only, given.seed)
            print_scores(given.out or Path(folder), given.only)


def train(out: Path, only: str | None, seed: int) -> None:
    """Trains the runs whose name contains `only`, or all."""
    from benchmarks.diagnosis_runs.cases import all_cases
    from benchmarks.diagnosis_runs.training import train_all

    cases = [case for name, case in all_cases().items() if only is None or only in name]
    if not cases:
        raise SystemExit(f"--only must be a part of the name of a run, got {only!r}; see benchmarks/diagnosis_runs")
    started = time.perf_counter()
    train_all(cases, out, seed=seed)
    print(f"\n{len(cases)} runs trained in {time.perf_counter() - started:.0f} s")


def print_scores(out: Path, only: str | None) -> None:
    """Prints the scores of the runs in a folder."""
    from benchmarks.diagnosis_runs.cases import all_cases
    from benchmarks.diagnosis_runs.outcomes import read_outcomes
    from benchmarks.diagnosis_runs.tables import all_tables

    cases = [case for name, case in all_cases().items() if only is None or only in name]
    outcomes = list(read_outcomes(cases, out))
    if not outcomes:
        raise SystemExit(f"--score must be a folder that --out has filled, got {str(out)!r}; train with --out first")
    print("\n" + "\n\n".join(all_tables(outcomes)))


def print_planted(shift: int) -> None:
    """Trains the planted faults and healthy runs of the tests, and prints the findings on them."""
    from tests.helpers.planted_faults import FAULTS, HEALTHY

    start, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for title, names in (("planted fault", FAULTS), ("healthy run", HEALTHY)):
            print(f"\n| {title} | named | also said |\n|---|---|---|")
            for name in names:
                row = judged(name, Path(folder) / str(len(rows)), shift=shift)
                rows.append(row)
                print(confusion_row(row), flush=True)
    faults, healthy = rows[: len(FAULTS)], rows[len(FAULTS) :]
    symptoms = sum(len(row.expected) for row in faults)
    alarms = [finding for row in healthy for finding in row.diagnosis.findings]
    figures = {
        "symptoms": symptoms,
        "named": sum(rule in row.found for row in faults for rule in row.expected),
        "healthy": len(healthy),
        "errors_on_healthy": sum(finding.severity == "error" for finding in alarms),
        "warnings_on_healthy": sum(finding.severity == "warning" for finding in alarms),
        "notes_on_healthy": sum(finding.severity == "note" for finding in alarms),
        "seconds": round(time.perf_counter() - start, 1),
    }
    print("\n" + json.dumps(figures))


def cost_of_rules(points: int = 1000) -> dict[str, float]:
    """Generates a BERT-base run with the tags of the set `full`, and evaluates the rules at each point on their thread.

    `hand_over_us` is the cost of a point for the training thread, `ms` the duration of one evaluation by number of
    points.
    """
    layers = ["bert.embeddings", *(f"bert.encoder.layer.{n}" for n in range(12)), "bert.pooler", "classifier"]
    parameters = [f"{layer}.{n}.weight" for layer in layers for n in range(14)]
    by_layer = ("grad_norm", "grad_norm_clipped", "weight_norm", "update_norm", "update_ratio", "nonfinite/gradients")
    tags = [f"{family}/{layer}" for family in (*by_layer, *STATES) for layer in layers]
    tags += [f"{family}/{name}" for family in ("grad_norm", "weight_norm") for name in parameters]
    tags += ["train/loss", "lr/AdamW/pg1", "grad_norm/total", "clip/factor", "clip/share", "nonfinite/found"]
    dice, found = random.Random(0), {"tags": float(len(tags))}
    for rules, given in (("default", "default"), ("all", {"extends": "full", "rules": {"others": "warn"}})):
        watcher = RuleRunner(load_config(given).live.active_rules(), write=MemoryWriter().write)
        handed = 0.0
        for step in range(1, points + 1):
            values = {tag: dice.uniform(0.9, 1.1) for tag in tags}
            started = time.perf_counter()
            watcher.record(step, values)
            verdict = watcher.judge(step)
            handed += time.perf_counter() - started
            before = watcher.seconds
            verdict.result()
            if step in (100, points):
                found[f"{rules}_rules_{step}_points_ms"] = round(1e3 * (watcher.seconds - before), 2)
        found[f"{rules}_rules_hand_over_us"] = round(1e6 * handed / points, 1)
    return found


if __name__ == "__main__":
    main()
