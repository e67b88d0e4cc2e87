"""Tests the key `notify` of metric sets; no error repeats an address."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._config.json_schema import json_schema
from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._notify.message import EVENTS
from tests.helpers.web_server import SECRET

SET = """
metrics: [loss]
notify:
  - ${SLACK_WEBHOOK}
  - url: ${TEAM_URL}
    on: [error, crash]
  - mailto://${MAIL_USER}:${MAIL_PASSWORD}@example.com
"""


def load(notify: Any) -> Any:
    return load_config({"metrics": ["loss"], "notify": notify})


def test_notify_yaml_loads_with_events(tmp_path: Path) -> None:
    (tmp_path / "set.yaml").write_text(SET)
    config = load_config(tmp_path / "set.yaml")
    assert [target.events for target in config.notify] == [EVENTS, ("crash", "error"), EVENTS]
    assert [target.address.shown for target in config.notify] == ["${SLACK_WEBHOOK}", "${TEAM_URL}", "mailto://..."]


def test_notify_changes_no_digest() -> None:
    assert load(["https://example.com"]).digest == load([]).digest == load_config({"metrics": ["loss"]}).digest


def test_notify_inherited_replaced_and_removed(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(SET)
    base = str(tmp_path / "base.yaml")
    assert len(load_config({"extends": base}).notify) == 3
    assert len(load_config({"extends": base, "notify": ["https://example.com"]}).notify) == 1
    assert load_config({"extends": base, "notify": []}).notify == ()


WRONG: dict[str, tuple[Any, str]] = {
    "text": (f"https://{SECRET}", "notify must be a list of at most 10 receivers, got a str"),
    "many": ([f"https://h/{number}" for number in range(11)], "at most 10 receivers, got 11 entries"),
    "no url": ([SECRET], r"notify\[0\] must be a URL"),
    "number": ([3], r"notify\[0\] must be a URL .*, got int"),
    "key": ([{"url": f"https://h/{SECRET}", "onn": ["crash"]}], r"notify\[0\] must be .*, got onn; write url: and on:"),
    "url as key": ([{f"https://h/{SECRET}": None}], r"notify\[0\] must be .*, got another key"),
    "without url": ([{"on": ["crash"]}], r"notify\[0\] must name a url"),
    "event": ([{"url": f"https://{SECRET}.com", "on": ["crsh"]}], r"notify\[0\]\.on .*'crsh'; did you mean 'crash'"),
    "no event": (
        [{"url": f"https://{SECRET}.com", "on": []}],
        r"notify\[0\]\.on must be a list of crash, .* 0 entries",
    ),
    "events as text": ([{"url": "https://h", "on": "crash"}], r"notify\[0\]\.on must be a list of crash"),
    "twice": ([f"https://h/{SECRET}", {"url": f"https://h/{SECRET}"}], r"notify\[1\] must have an address of its own"),
}


@pytest.mark.parametrize("case", WRONG)
def test_notify_error_tells_rule_without_address(case: str) -> None:
    value, words = WRONG[case]
    with pytest.raises(ConfigError, match=words) as caught:
        load(value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_notify_address_absent_from_other_errors(tmp_path: Path) -> None:
    texts = [
        f"metrics: [loss]\nstrict: 3\nnotify: [https://h/{SECRET}]\n",
        f"metrics: [loss]\nnotify:\n  - https://h/{SECRET}: [\n",
        f"metrics: [loss]\nnotify:\n  - url: @https://h/{SECRET}\n",
    ]
    for text in texts:
        (tmp_path / "set.yaml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path / "set.yaml")
        assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_notify_address_absent_from_repr() -> None:
    assert SECRET not in repr(load([f"https://user:{SECRET}@h/{SECRET}", f"slack://{SECRET}/a"]))


def test_notify_schema_accepts_what_loads() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    for text in ("https://example.com/x", "${HOOK}", "slack://a/b/c"):
        assert validator.is_valid({"metrics": ["loss"], "notify": [text, {"url": text, "on": ["end"]}]})
    for wrong in ("x", ["x"], [{"on": ["end"]}], [{"url": "${A}", "on": ["finish"]}], [{"url": "${A}", "on": []}]):
        assert not validator.is_valid({"metrics": ["loss"], "notify": wrong})
    assert yaml.safe_load(SET)["notify"][1][True] == ["error", "crash"]  # YAML 1.1: `on` is true
