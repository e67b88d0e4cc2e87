"""Tests that every command prints JSON that its published schema describes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tbx_callbacks.cli.outputs import OUTPUTS, VERSION
from tbx_callbacks.runs.bad_batches import BadBatch, BadRow, MicroBatch, file_of, write
from tests.helpers.commands import run
from tests.helpers.report_runs import trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("runs")
    trained(top / "a", spike=60, extra={"eval/odd": math.nan})
    trained(top / "b", steps=60)
    rows = [BadRow("#1", math.inf, 1, None, "text"), BadRow("2")]
    path = Path(file_of(str(top / "a"), 60, 0))
    path.parent.mkdir()
    write(str(path), BadBatch(60, 0, ["loss is NaN"], [MicroBatch(1, math.nan, rows)]))
    return top


ARGUMENTS = {
    "doctor": ["a"],
    "show": ["a"],
    "around": ["a", "--step", "60"],
    "compare": ["a", "b"],
    "batch": ["a", "60"],
    "sets": [],
    "metrics": [],
    "check": ["default"],
    "report": ["a"],
}


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.parametrize("command", ARGUMENTS)
def test_output_matches_its_schema(folder: Path, command: str) -> None:
    done = run(command, *ARGUMENTS[command], "--json", cwd=folder)
    assert done.returncode in (0, 1), done.stderr
    data: dict[str, Any] = json.loads(done.stdout, parse_constant=refuse)
    schema = json.loads(run("schema", command).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(data, schema)
    assert (data["command"], data["schema_version"]) == (command, VERSION)


def test_preflight_output_matches_its_schema(tmp_path: Path) -> None:
    (tmp_path / "schema_training.py").write_text(
        "import torch\n\n\ndef build():\n    model = torch.nn.Linear(4, 2)\n"
        "    batches = [(torch.randn(8, 4), torch.arange(8) % 2)] * 3\n"
        "    return {'model': model, 'batches': batches, 'optimizers': torch.optim.SGD(model.parameters(), 0.1),\n"
        "            'loss': lambda model, batch: torch.nn.functional.cross_entropy(model(batch[0]), batch[1])}\n"
    )
    done = run("preflight", "schema_training.build", "--json", cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr
    jsonschema.validate(json.loads(done.stdout), json.loads(run("schema", "preflight").stdout))


def test_every_output_schema_is_tested() -> None:
    assert set(OUTPUTS) == {*ARGUMENTS, "preflight", "watch"}  # that of watch: test_watch.py


def test_schema_of_unknown_name_error_named() -> None:
    done = run("schema", "docter")
    assert done.returncode == 2
    assert "did you mean 'doctor'?" in done.stderr


def test_schema_refuses_other_output(folder: Path) -> None:
    data = json.loads(run("show", "a", "--json", cwd=folder).stdout)
    schema = json.loads(run("schema", "show").stdout)
    for change in ({"schema_version": 2}, {"extra": 1}, {"steps": None}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(data | change, schema)
