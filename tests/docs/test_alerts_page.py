"""Checks docs/alerts.md: its metric set, its commands and its numbers."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._notify import alerts, outbox, stall, webhook
from tbx_callbacks._notify.message import EVENTS, Message
from tbx_callbacks.cli import commands
from tbx_callbacks.integrations import alerting
from tests.helpers.commands import run
from tests.helpers.runs import ROOT

PAGE = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^tbx-callbacks (watch .+)$", PAGE, re.MULTILINE)


def test_page_metric_set_loads_from_file(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "set.yaml").write_text(text)
    first, second = load_config(tmp_path / "set.yaml").notify
    assert (first.address.shown, first.events) == ("${SLACK_WEBHOOK}", EVENTS)
    assert (second.address.shown, second.events) == ("mailto://...", ("crash", "stall"))
    assert second.address.expand({"MAIL_LOGIN": "me:pass"}) == "mailto://me:pass@example.com"
    assert run("check", str(tmp_path / "set.yaml")).returncode == 0  # without the variables
    assert list(yaml.safe_load(text)) == ["extends", "notify"]


def test_page_json_has_fields_of_message() -> None:
    (text,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert list(json.loads(text)) == list(Message("end", "a", 1, "x").as_json())


def test_page_table_lists_all_events() -> None:
    rows = re.findall(r"^\| (`[a-z`, ]+) \| ", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(EVENTS)


@pytest.mark.parametrize("command", COMMANDS)
def test_page_command_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    class Stopped:
        def wait(self, seconds: float) -> bool:
            return True

    monkeypatch.setattr(commands, "_stop_event", Stopped)
    monkeypatch.setenv("SLACK_WEBHOOK", "https://example.com/hook")
    for name in ("runs/exp1", "runs/exp2"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "train/loss": 1.0}\n')
    done = run(*shlex.split(command), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_page_numbers_are_those_of_code() -> None:
    assert (stall._TIMES, alerting._FLOOR, alerting._TOTAL_FLOOR) == (3.0, 60.0, 30 * 60.0)
    assert (alerts.MOST, outbox._MOST, outbox._PAUSES, webhook.TIMEOUT) == (20, 50, (1.0, 4.0), 5.0)
    assert (alerting._PERIOD, alerting._END_SECONDS) == (5.0, 5.0)
    words = (
        "three times",
        "at least 60 s",
        "30 minutes",
        "20 findings",
        "queue of 50",
        "of 1 s and 4 s",
        "every 5 seconds",
    )
    assert [each for each in words if each not in PAGE] == []
