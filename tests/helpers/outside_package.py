"""Installs a package outside the project, with real entry points, for one test."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from tbx_callbacks.metrics.registry import METRIC_CLASSES
from tbx_callbacks.rules.registry import RULE_CLASSES
from tbx_callbacks.writers.registry import WRITER_CLASSES

METRIC = """
    from dataclasses import dataclass
    from tbx_callbacks.metrics import Context, Metric, Norm, Select, Sum, Values

    @dataclass(frozen=True)
    class Kurtosis(Metric):
        \"\"\"Squares of the weights.\"\"\"

        power: int = 2
        scale: float = 1.0

        tags = {"kurtosis/{group}": ""}
        select = Select(by="layer")

        def __call__(self, context: Context) -> Values:
            squares = context.selection.sums(context.weights.squares, context.weights.present)
            return {f"kurtosis/{group}": Norm(square) for group, square in squares.items()}

    @dataclass(frozen=True)
    class Ones(Metric):
        \"\"\"Writes 1.\"\"\"

        tags = {"ones": ""}

        def __call__(self, context: Context) -> Values:
            return {"ones": Sum(1.0)}

    class Plain(Metric):
        tags = {"plain": ""}

        def __call__(self, context: Context) -> Values:
            return {}

    number = 3
"""
RULE = """
    from collections.abc import Iterator
    from dataclasses import dataclass
    from tbx_callbacks.rules import Finding, Need, Rule

    @dataclass(frozen=True)
    class TooHigh(Rule):
        \"\"\"The last loss is above a limit.\"\"\"

        needs = (Need("the training loss", "loss", ("train/loss",)),)
        source = "a test"
        threshold: float = 2.0

        def __call__(self, run) -> Iterator[Finding]:
            tag, series = self.needs[0].first(run)
            if series.values[-1] > self.threshold:
                yield Finding(self.id, "error", (tag,), (int(series.steps[-1]),), "too high", "lower it", self.source)
"""
WRITER = """
    from tbx_callbacks.writers import Writer

    class Lines(Writer):
        def __init__(self, log_dir, *, path="lines.txt", sep=","):
            self.log_dir, self.path, self.sep = log_dir, path, sep

        def write(self, step, values):
            with open(f"{self.log_dir}/{self.path}", "a") as file:
                file.write(f"{step}{self.sep}{sorted(values)}\\n")

    class NeedsPath(Writer):
        def __init__(self, log_dir, path): ...
        def write(self, step, values): ...

    class Nothing: ...
"""
CADENCE = """
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Fibonacci:
        start: int = 1

        def __call__(self, step: int) -> bool:
            a, b = self.start, self.start + 1
            while a < step:
                a, b = b, a + b
            return a == step

    @dataclass(frozen=True)
    class Truthy:
        def __call__(self, step: int) -> int:
            return step % 2

    @dataclass(frozen=True)
    class Raises:
        def __call__(self, step: int) -> bool:
            raise RuntimeError("no")

    def even(step):
        return step % 2 == 0
"""
FILES = {"__init__": "", "metrics": METRIC, "rules": RULE, "writers": WRITER, "cadences": CADENCE}


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    entry_points: Mapping[str, Mapping[str, str]] | None = None,
    *,
    files: Mapping[str, str] = FILES,
    package: str = "my_pkg",
) -> Path:
    """Writes a package and its metadata to `folder`, and makes both importable until the test ends.

    Args:
        folder: an empty folder; it goes to sys.path.
        monkeypatch: undoes it.
        entry_points: group -> name -> value.
        files: text of each module, by name.
        package: name of the package.
    """
    for registry in (METRIC_CLASSES, RULE_CLASSES, WRITER_CLASSES):
        monkeypatch.setattr(registry, "_warned", set())  # a warning of an earlier test's package is no warning of this
    (folder / package).mkdir(parents=True)
    for name, text in files.items():
        (folder / package / f"{name}.py").write_text(dedent(text))
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [
        line
        for group, names in (entry_points or {}).items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in names.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)
    return folder
