"""Measures the memory in which the recipes load and tokenize many rows. Run: python benchmarks/recipe_data.py [--json]

Each number of rows runs in its own process: a .csv file is read, a vocabulary trained, and all rows tokenized.
Anonymous memory belongs to the process. The peak also counts pages of files, which the system drops when it needs
memory.
"""

from __future__ import annotations

import csv
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = (20_000, 200_000)
WORDS = [f"word{number}" for number in range(5_000)]


def write(path: Path, number: int) -> None:
    """Writes rows of 20 random words, some with commas, quotes and line ends."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence", "label"])
        for index in range(number):
            text = " ".join(rng.choices(WORDS, k=20))
            writer.writerow([f'{text}, "quoted"\nsecond line' if index % 10 == 0 else text, index % 2])


def anonymous() -> int:
    """Memory of this process without pages of files, in bytes."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def measure(folder: Path, number: int) -> dict[str, float]:
    """Reads, trains a vocabulary and tokenizes; in the process that is measured."""
    os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
    sys.path[:0] = [str(ROOT), str(ROOT / "recipes")]
    from sentiment_data import load_folder
    from sentiment_model import tokenize, train_vocabulary

    most, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            most[0] = max(most[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    rows = load_folder(folder)
    loaded = time.perf_counter() - start
    encoded = tokenize(rows, train_vocabulary(rows["train"], 4000, False), 48)
    ended.set()
    watcher.join()
    assert len(encoded["train"]) == len(rows["train"]) == number
    return {
        "rows": number,
        "file_mib": (folder / "train.csv").stat().st_size / 2**20,
        "seconds_to_load": loaded,
        "anonymous_mib": most[0] / 2**20,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    results = []
    for number in NUMBERS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write(folder / "train.csv", number)
            write(folder / "dev.csv", 200)
            command = [sys.executable, __file__, "--measure", name, str(number)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    if "--json" in sys.argv:
        print(json.dumps(results))
        return
    print("| rows | file, MiB | seconds to load | anonymous memory, MiB | peak with pages of files, MiB |")
    print("|---|---|---|---|---|")
    for result in results:
        rows, file, seconds, own, peak = result.values()
        print(f"| {rows:,} | {file:.1f} | {seconds:.1f} | {own:.0f} | {peak:.0f} |")


if __name__ == "__main__":
    if "--measure" in sys.argv:
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
