"""The watcher on series: what is said, once, of what a run has written so far."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from tbx_callbacks._config.live_rules import LiveRule
from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._config.rules import Response
from tbx_callbacks._config.schedule import every
from tbx_callbacks._engine.actions import Action
from tbx_callbacks._engine.live_history import RunHistory
from tbx_callbacks._engine.live_rules import LiveRules, RuleRunner
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.rules import RULES, Finding, diagnose
from tbx_callbacks.rules.formatting import line, markdown
from tbx_callbacks.rules.needs import TRAIN_LOSS, Need
from tbx_callbacks.runs.series import Run
from tbx_callbacks.writers.base import MemoryWriter

FALLS_THEN_RISES = [*np.geomspace(0.7, 0.1, 60), *np.full(20, 0.9)]
called: list[Finding] = []


def note_down(finding: Finding) -> None:
    called.append(finding)


def fail(finding: Finding) -> None:
    raise ValueError("a fault of the user's")


class Fed:
    """A watcher and what it wrote."""

    def __init__(self, rules: Any) -> None:
        self.written: list[tuple[int, str, str]] = []
        live = load_config({"metrics": ["loss"], "rules": rules}).live
        self.watcher = RuleRunner(live.active_rules(), write=self._write)

    def _write(self, step: int, values: Mapping[str, Text]) -> None:
        self.written += [(step, tag, text.markdown) for tag, text in values.items()]

    def see(self, tag: str, values: Any, every: int = 10) -> list[Action]:
        """Feeds a series, judged at each of its points."""
        verdicts = []
        for step, value in zip(range(every, every * len(values) + 1, every), values, strict=True):
            self.watcher.record(step, {tag: float(value), "weights/a": Text("no number")})
            verdicts.append(self.watcher.judge(step).result(60))
        return verdicts


def test_a_finding_is_said_once_with_its_evidence(caplog: pytest.LogCaptureFixture) -> None:
    watched = Fed({"divergence": None})
    with caplog.at_level(logging.WARNING):
        verdicts = watched.see("train/loss", FALLS_THEN_RISES)
    assert set(verdicts) == {Action.NONE}
    ((step, tag, text),) = watched.written
    assert tag == "alerts/divergence"
    assert 610 <= step <= 660
    assert "The training loss was best around step 600" in text
    assert re.search(r"\| best \| 0\.1\d* \|", text)
    (record,) = caplog.records
    assert record.getMessage().startswith("error divergence since step 600: The training loss was best")
    assert "[train/loss: best 0.1" in record.getMessage()


def test_what_is_decided_comes_with_the_first_time_only() -> None:
    verdicts = Fed({"divergence": ["stop", "checkpoint"]}).see("train/loss", FALLS_THEN_RISES)
    assert [verdict for verdict in verdicts if verdict] == [Action.STOP | Action.CHECKPOINT]


def test_other_thresholds_find_other_things() -> None:
    assert not Fed({"divergence": {"ratio": 20.0}}).see("train/loss", FALLS_THEN_RISES)[-1]
    assert not Fed({"divergence": {"ratio": 20.0}}).written


def test_a_note_is_said_but_not_acted_on_and_said_again_when_it_gets_worse() -> None:
    watched = Fed({"nonfinite": "stop"})
    assert watched.see("train/grad_norm", [1.0, np.inf, 1.0]) == [Action.NONE, Action.STOP, Action.NONE]
    fp16 = Fed({"nonfinite": "stop"})
    fp16.watcher.record(10, {"nonfinite/gradients/total": 3.0, "nonfinite/weights/total": 0.0})
    assert fp16.watcher.judge(10).result(60) is Action.NONE
    fp16.watcher.record(20, {"train/loss": np.nan})
    assert fp16.watcher.judge(20).result(60) is Action.STOP
    assert [(step, text[:7]) for step, _, text in fp16.written] == [(10, "**note:"), (20, "**error")]


def test_rules_that_only_note_act_on_it() -> None:
    assert Fed({"no_warmup": "stop"}).see("train/learning_rate", np.linspace(5e-5, 0, 60)).count(Action.STOP) == 1
    assert {name for name, rule in RULES.items() if rule.only_notes} == {"no_warmup", "plateau", "head_only"}


def test_a_function_gets_the_finding_once_and_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    called.clear()
    config = load_config({"metrics": ["loss"], "rules": dict.fromkeys(("divergence", "loss_spike"))})
    functions = {"divergence": f"{__name__}.fail", "loss_spike": f"{__name__}.note_down"}
    rules = {
        name: LiveRule(one.rule, Response(("warn",), functions[name]))
        for name, one in config.live.active_rules().items()
    }
    assert list(rules) == ["divergence", "loss_spike"]
    watcher = RuleRunner(rules, write=MemoryWriter().write)
    spiked = np.insert(FALLS_THEN_RISES, 40, 2.0)
    for step, loss in enumerate(spiked, 1):
        watcher.record(step, {"train/loss": float(loss)})
        watcher.judge(step)
    watcher.close(len(spiked), 60)
    assert [finding.id for finding in called] == ["loss_spike"]
    assert called[0].steps[0] == 41
    assert caplog.text.count('.fail failed on the finding divergence: ValueError("a fault of the user\'s")') == 1


@dataclass(frozen=True)
class Broken:
    """A rule that fails."""

    id: ClassVar[str] = "broken"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS,)
    source: ClassVar[str] = ""

    def __call__(self, run: Run) -> Iterator[Finding]:
        raise KeyError("a fault of the rule")
        yield


@pytest.mark.parametrize("strict", [False, True])
def test_a_rule_that_fails_is_named_once_and_the_others_go_on(strict: bool, caplog: pytest.LogCaptureFixture) -> None:
    fed, errors = Fed({"divergence": None}), []
    fed.watcher._rules["broken"] = LiveRule(Broken(), Response())
    fed.watcher.fail = errors.append if strict else None
    fed.see("train/loss", FALLS_THEN_RISES)
    assert [tag for _, tag, _ in fed.written] == ["alerts/divergence"]
    said = caplog.text.count("rule broken failed at step 10 and is disabled: KeyError('a fault of the rule')")
    assert said == (0 if strict else 1)
    assert list(map(str, errors)) == ["rule broken failed at step 10: KeyError('a fault of the rule')"] * strict


def test_rules_are_asked_at_the_first_step_published_after_each_of_their_points() -> None:
    watcher = Fed({"divergence": None}).watcher
    watch = LiveRules(every(7), watcher, None)
    assert [step for step in range(2, 40, 2) if watch.due(step)] == [8, 14, 22, 28, 36]
    watch = LiveRules(every(5), watcher, None)
    assert [step for step in (5, 10, 10, 11, 20) if watch.due(step)] == [5, 10, 10, 20]


def test_memory_is_bounded_and_recent_points_stay() -> None:
    memory = RunHistory(old=100, recent=50)
    for step in range(1, 5001):
        memory.record(step, {"train/loss": 1 / step, "note": Text(str(step))}, step)
    series = memory["train/loss"]
    assert 100 <= len(series) <= 150
    assert series.steps[0] == 1
    assert list(series.steps[-50:]) == list(range(4951, 5001))
    assert set(np.diff(series.steps[:-50])) == {64}
    assert series.values == pytest.approx(1 / series.steps)
    assert memory.run().texts["note"].values == tuple(map(str, range(1, 21)))
    for step in range(3000, 3011):  # trained again from there
        memory.record(step, {"train/loss": 0.0}, step)
    series = memory["train/loss"]
    assert series.steps[-1] == 3010
    assert (np.diff(series.steps) > 0).all()
    assert (series.values[series.steps < 3000] > 0).all()


def test_thinned_series_are_judged_as_the_doctor_judges_whole_ones() -> None:
    whole, thinned = RunHistory(old=10**6), RunHistory(old=100, recent=100)
    dice = np.random.default_rng(0)
    losses = np.append(np.geomspace(0.7, 0.1, 3000), np.full(400, 0.9)) + dice.normal(0, 0.02, 3400)
    for step, loss in enumerate(losses, 1):
        for memory in (whole, thinned):
            memory.record(step, {"train/loss": float(loss)}, step)
    by_doctor, live = ([f.id for f in diagnose(memory.run()).findings] for memory in (whole, thinned))
    assert by_doctor == live == ["divergence"]


def test_text_from_a_run_is_no_markup() -> None:
    hostile = "<script>alert(1)</script>*a*|b|[x](javascript:1)\x1b[31m\n# head"
    finding = Finding("x", "error", (hostile,), (3,), hostile, hostile, hostile, {hostile: 1.0})
    text = markdown(finding, 5)
    assert "<" not in text
    assert r"\*a\*&#124;b&#124;\[x\]\(javascript:1\)?\[31m?\# head" in text
    assert "\x1b" not in line(finding)
    assert "\n" not in line(finding)
