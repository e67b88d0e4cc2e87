"""Tests that the README matches the code."""

from __future__ import annotations

import re

import pytest
import yaml

from tbx_callbacks import load_config
from tbx_callbacks.metrics.registry import METRICS
from tests.helpers.runs import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", METRICS)
def test_readme_has_row_of_metric(name: str) -> None:
    cls = METRICS[name]
    summary = (cls.__doc__ or "").strip().partition("\n\n")[0].replace("\n    ", " ")
    tags = "<br>".join(f"`{tag}`" for tag in cls.tags)
    units = "<br>".join(unit or "–" for unit in cls.tags.values())  # noqa: RUF001
    assert f"| `{name}` | {summary} | {tags} | {units} | {cls.cost} |" in README


def test_readme_rows_name_known_metrics() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == set(METRICS)


def test_readme_yaml_example_loads() -> None:
    (example,) = [block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "extends:" in block]
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
