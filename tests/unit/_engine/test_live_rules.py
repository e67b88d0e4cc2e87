"""Tests live rules on series: each finding is written once, with its actions."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._config.rule_options import LiveRule, Response
from tbx_callbacks._config.schedule import every
from tbx_callbacks._engine.live_rules import LiveRules, RuleRunner
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.rules import RULES, Finding
from tbx_callbacks.rules.base import Action
from tbx_callbacks.rules.registry import GROUPS
from tbx_callbacks.rules.required_series import TRAIN_LOSS, Need
from tbx_callbacks.runs.series import Run
from tbx_callbacks.writers.base import MemoryWriter

FALLS_THEN_RISES = [*np.geomspace(0.7, 0.1, 60), *np.full(20, 0.9)]
called: list[Finding] = []


def note_down(finding: Finding) -> None:
    called.append(finding)


def fail(finding: Finding) -> None:
    raise ValueError("a fault of the user's")


class FedRules:
    """A rule runner on series that the test feeds, and its written findings."""

    def __init__(self, rules: Any) -> None:
        self.written: list[tuple[int, str, str]] = []
        live = load_config({"metrics": ["loss"], "rules": rules}).live
        self.runner = RuleRunner(
            live.active_rules(), write=self._write, acknowledged=live.acknowledged, folder="/runs/seed_1"
        )

    def _write(self, step: int, values: Mapping[str, Text]) -> None:
        self.written += [(step, tag, text.markdown) for tag, text in values.items()]

    def feed(self, tag: str, values: Any, every: int = 10) -> list[Action]:
        """Feeds a series; returns the action of the rules at each point."""
        actions = []
        for step, value in zip(range(every, every * len(values) + 1, every), values, strict=True):
            self.runner.record(step, {tag: float(value), "weights/a": Text("no number")})
            actions.append(self.runner.judge(step).result(60))
        return actions


def test_live_rules_finding_written_once_with_evidence(caplog: pytest.LogCaptureFixture) -> None:
    rules = FedRules({"divergence": None})
    with caplog.at_level(logging.WARNING):
        actions = rules.feed("train/loss", FALLS_THEN_RISES)
    assert set(actions) == {Action.NONE}
    ((step, tag, text),) = rules.written
    assert tag == "alerts/divergence"
    assert 610 <= step <= 660
    assert "The training loss was best around step 600" in text
    assert re.search(r"\| best \| 0\.1\d* \|", text)
    (record,) = caplog.records
    assert record.getMessage().startswith("error TBX-LOSS-001 divergence since step 600: The training loss was best")
    assert "[train/loss: best 0.1" in record.getMessage()


@pytest.mark.parametrize(
    ("entry", "acts"),
    [
        ({"rule": "divergence"}, False),
        ({"rule": "TBX-LOSS-001"}, False),
        ({"rule": "divergence", "tag": "train/*", "run": "seed_*"}, False),
        ({"rule": "divergence", "tag": "eval/*"}, True),
        ({"rule": "divergence", "run": "seed_2"}, True),
        ({"rule": "loss_spike"}, True),
    ],
)
def test_live_rules_acknowledged_finding_does_nothing(
    entry: dict[str, str], acts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rules = FedRules({"divergence": "stop", "acknowledged": [{**entry, "reason": "known"}]})
    with caplog.at_level(logging.WARNING):
        actions = rules.feed("train/loss", FALLS_THEN_RISES)
    assert (Action.STOP in actions, bool(rules.written), bool(caplog.records)) == (acts, acts, acts)


def test_live_rules_action_taken_once() -> None:
    actions = FedRules({"divergence": ["stop", "checkpoint"]}).feed("train/loss", FALLS_THEN_RISES)
    assert [action for action in actions if action] == [Action.STOP | Action.CHECKPOINT]


def test_live_rules_other_threshold_no_finding() -> None:
    assert not FedRules({"divergence": {"ratio": 20.0}}).feed("train/loss", FALLS_THEN_RISES)[-1]
    assert not FedRules({"divergence": {"ratio": 20.0}}).written


def test_live_rules_note_not_acted_on_repeated_worse() -> None:
    rules = FedRules({"nonfinite": "stop"})
    assert rules.feed("train/grad_norm", [1.0, np.inf, 1.0]) == [Action.NONE, Action.STOP, Action.NONE]
    fp16 = FedRules({"nonfinite": "stop"})
    fp16.runner.record(10, {"nonfinite/gradients/total": 3.0, "nonfinite/weights/total": 0.0})
    assert fp16.runner.judge(10).result(60) is Action.NONE
    fp16.runner.record(20, {"train/loss": np.nan})
    assert fp16.runner.judge(20).result(60) is Action.STOP
    assert [(step, text[:7]) for step, _, text in fp16.written] == [(10, "**note:"), (20, "**error")]


def test_live_rules_note_only_rule_acts() -> None:
    assert FedRules({"no_warmup": "stop"}).feed("train/learning_rate", np.linspace(5e-5, 0, 60)).count(Action.STOP) == 1
    only_notes = {name for name, rule in RULES.items() if rule.only_notes} - set(GROUPS["wiring"])
    assert only_notes == {"no_warmup", "plateau", "head_only"}


def test_live_rules_function_called_once_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    called.clear()
    config = load_config({"metrics": ["loss"], "rules": dict.fromkeys(("divergence", "loss_spike"))})
    functions = {"divergence": f"{__name__}.fail", "loss_spike": f"{__name__}.note_down"}
    rules = {
        name: LiveRule(one.rule, Response(("warn",), functions[name]))
        for name, one in config.live.active_rules().items()
    }
    assert list(rules) == ["divergence", "loss_spike"]
    runner = RuleRunner(rules, write=MemoryWriter().write)
    spiked = np.insert(FALLS_THEN_RISES, 40, 2.0)
    for step, loss in enumerate(spiked, 1):
        runner.record(step, {"train/loss": float(loss)})
        runner.judge(step)
    runner.close(len(spiked), 60)
    assert [finding.id for finding in called] == ["loss_spike"]
    assert called[0].steps[0] == 41
    assert caplog.text.count('.fail failed on the finding divergence: ValueError("a fault of the user\'s")') == 1


@dataclass(frozen=True)
class Broken:
    """A rule that raises an error."""

    id: ClassVar[str] = "broken"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS,)
    source: ClassVar[str] = ""

    error: type[BaseException] = KeyError

    def __call__(self, run: Run) -> Iterator[Finding]:
        raise self.error("a fault of the rule")
        yield


@pytest.mark.parametrize("error", [KeyError, SystemExit])
@pytest.mark.parametrize("strict", [False, True])
def test_live_rules_failing_rule_off_others_continue(
    strict: bool, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    rules, errors = FedRules({"divergence": None}), []
    rules.runner._rules["broken"] = LiveRule(Broken(error), Response())
    rules.runner.fail = errors.append if strict else None
    rules.feed("train/loss", FALLS_THEN_RISES)
    assert [tag for _, tag, _ in rules.written] == ["alerts/divergence"]
    printed = caplog.text.count(
        f"rule broken failed at step 10 and is disabled: {error.__name__}('a fault of the rule')"
    )
    assert printed == (0 if strict else 1)
    assert (
        list(map(str, errors)) == [f"rule broken failed at step 10: {error.__name__}('a fault of the rule')"] * strict
    )


def test_live_rules_due_at_first_published_step() -> None:
    runner = FedRules({"divergence": None}).runner
    live = LiveRules(every(7), runner, None)
    assert [step for step in range(2, 40, 2) if live.due(step)] == [8, 14, 22, 28, 36]
    live = LiveRules(every(5), runner, None)
    assert [step for step in (5, 10, 10, 11, 20) if live.due(step)] == [5, 10, 10, 20]
