"""Tests that the README matches the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tbx_callbacks import load_config
from tbx_callbacks.testing import measure
from tests.helpers.runs import ROOT

EXTENDING = ROOT / "docs" / "extending.md"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def sets_in_readme() -> list[str]:
    return [block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "extends:" in block]


def test_readme_outside_metric_loads_and_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = re.search(r"```python\n# my_pkg/metrics\.py\n(.*?)```", README, re.DOTALL)
    writers = re.search(r"```python\n# my_pkg/writers\.py\n(.*?)```", EXTENDING.read_text(encoding="utf-8"), re.DOTALL)
    assert metrics is not None
    assert writers is not None
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "__init__.py").touch()
    (tmp_path / "my_pkg" / "metrics.py").write_text(metrics.group(1))
    (tmp_path / "my_pkg" / "writers.py").write_text(writers.group(1))
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_pkg"]:
        monkeypatch.delitem(sys.modules, name)  # of another test
    _, extension = sets_in_readme()
    config = load_config(yaml.safe_load(extension))
    assert [writer.name for writer in config.writers] == ["tensorboard", "my_pkg.writers.CsvLines"]
    model = torch.nn.Linear(2, 2)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.ones_(model.bias)
    (item,) = [item for item in config.items if item.name == "my_pkg.metrics.SmallShare"]
    assert measure(item.metric, model, select=item.select) == {"small_share/total": 4 / 6}
    for name in ("my_pkg.metrics", "my_pkg.writers", "my_pkg"):
        monkeypatch.delitem(sys.modules, name)


def test_readme_yaml_example_loads() -> None:
    example, _ = sets_in_readme()
    config = load_config(yaml.safe_load(example))
    assert config.every == 50
    assert "memory" not in {item.name for item in config.items}


def test_readme_shown_error_is_raised() -> None:
    shown = re.search(r"error: my_metrics\.yaml: (.*?)```", README, re.DOTALL)
    assert shown is not None
    with pytest.raises(ValueError, match="grad_norm") as raised:
        load_config({"metrics": ["loss", "clip", {"grad_norm": {"by": "layr"}}]})
    assert " ".join(shown.group(1).split()) == str(raised.value).removeprefix("a mapping: ")


def test_readme_linked_files_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_readme_commands_are_make_targets() -> None:
    targets = set(re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= targets
    assert "make test" in (ROOT / ".ci" / "run").read_text()
