"""The tables of docs/diagnosis.md: every rule, and what it says of planted faults and of healthy runs.

Run: python benchmarks/diagnosis.py, which trains all of them (about a minute); with --rules for the rules only.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "diagnosis"), str(ROOT / "tests"), str(ROOT / "recipes")]

from confusion import confusion_row, judged, rule_row  # noqa: E402
from planted import FAULTS, HEALTHY  # noqa: E402

from tbx_callbacks.diagnosis import RULES  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", action="store_true", help="print the table of rules only")
    parser.add_argument("--shift", type=int, default=0, help="added to every seed: trainings that set no threshold")
    given = parser.parse_args()
    print("| rule | what | reads | thresholds | source |\n|---|---|---|---|---|")
    print("\n".join(rule_row(name) for name in RULES))
    if given.rules:
        return
    logging.disable(logging.WARNING)
    start, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for title, names in (("planted fault", FAULTS), ("healthy run", HEALTHY)):
            print(f"\n| {title} | named | also said |\n|---|---|---|")
            for name in names:
                row = judged(name, Path(folder) / str(len(rows)), shift=given.shift)
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


if __name__ == "__main__":
    main()
