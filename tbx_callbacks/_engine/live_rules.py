"""Asks the rules while the run trains, on the rank that writes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from functools import partial

from tbx_callbacks._config.live_rules import LiveRule, LiveRuleConfig, function_of
from tbx_callbacks._config.rules import Response
from tbx_callbacks._config.schedule import Schedule
from tbx_callbacks._distributed.messages import Messages
from tbx_callbacks._distributed.worker import Worker
from tbx_callbacks._engine.actions import Action
from tbx_callbacks._engine.live_history import RunHistory, read_history
from tbx_callbacks.metrics.host_values import FinalValue, Text
from tbx_callbacks.rules import SEVERITIES, Finding, diagnose
from tbx_callbacks.rules.formatting import PREFIX, line, markdown, severity_of

logger = logging.getLogger(__name__)

_CALLS = 5.0  # seconds that the end of a training waits for functions that were called
Write = Callable[[int, Mapping[str, Text]], None]


class RuleRunner:
    """Sees each batch that is written, and asks rules when it is told to.

    All of it happens in a thread of its own, in the order in which it was asked for; the training thread only hands
    over. A finding is said once, and again if it gets worse.

    Args:
        watched: the rules, by name.
        write: writes texts of a step.
    """

    def __init__(self, watched: Mapping[str, LiveRule], *, write: Write) -> None:
        self.seconds, self.judged = 0.0, 0
        self.fail: Callable[[Exception], None] | None = None
        """Gets errors of rules, which are said when it is None; in either case the rule is switched off."""
        self._rules, self._write = dict(watched), write
        self._memory = RunHistory()
        self._said: dict[str, int] = {}
        self._calls: list[threading.Thread] = []
        self._worker, self._blind = Worker("tbx_callbacks rules", self._missed), False

    def restore(self, folder: str, step: int) -> None:
        """The run goes on after a step: what its folder holds up to there is part of it."""
        self._worker.submit(partial(self._recall, folder, step))

    def record(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """What was written at a step."""
        self._worker.submit(partial(self._memory.record, step, values, time.time()))

    def judge(self, step: int, then: Callable[[Action], None] | None = None) -> Future[Action]:
        """Asks the rules about what was written up to now; the future never fails. `then` is told first."""

        def question() -> Action:
            action = self._judge(step, ended=False)
            if then is not None:
                then(action)
            return action

        return self._worker.call(question)

    def close(self, step: int, seconds: float) -> None:
        """Judges the whole run once more and lets go of the thread; the rest of its findings is said."""
        wait([self._worker.call(partial(self._judge, step, ended=True))], timeout=seconds)
        self.discard()
        until = time.monotonic() + _CALLS
        for call in self._calls:
            call.join(max(0.0, until - time.monotonic()))

    def discard(self) -> None:
        """Lets go of the thread when it has done what it was asked for."""
        self._worker.close()

    def _missed(self, error: Exception) -> None:
        if not self._blind:
            self._blind = True
            logger.warning("rules do not see everything that is written: %r", error)

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _recall(self, folder: str, step: int) -> None:
        run = read_history(folder)
        if run is None:
            self._rules = {name: one for name, one in self._rules.items() if not one.rule.compares_with_start}
            return
        for tag, series in run.scalars.items():
            for at, value, wall_time in zip(series.steps, series.values, series.wall_times, strict=True):
                if at <= step:
                    self._memory.record(int(at), {tag: float(value)}, float(wall_time))
        for tag, texts in run.texts.items():
            said = severity_of(texts.values[-1])
            if tag.startswith(PREFIX) and said is not None and texts.steps[-1] <= step:
                self._said[tag.removeprefix(PREFIX)] = SEVERITIES.index(said)

    def _judge(self, step: int, *, ended: bool) -> Action:
        started = time.perf_counter()
        action, run = Action.NONE, self._memory.run()
        for name, one in list(self._rules.items()):
            try:
                for finding in diagnose(run, {name: one.rule}).findings:
                    if self._is_news(finding):
                        action |= self._alert(finding, step, one, ended=ended)
            except Exception as error:
                self._failed(name, step, error, ended=ended)
        self.judged += 1
        self.seconds += time.perf_counter() - started
        return action

    def _failed(self, name: str, step: int, error: Exception, *, ended: bool) -> None:
        del self._rules[name]
        if self.fail is not None and not ended:
            self.fail(RuntimeError(f"rule {name} failed at step {step}: {error!r}"))
            return
        logger.warning("rule %s failed at step %d and is switched off: %r", name, step, error)

    def _is_news(self, finding: Finding) -> bool:
        rank = SEVERITIES.index(finding.severity)
        if rank >= self._said.get(finding.id, len(SEVERITIES)):
            return False
        self._said[finding.id] = rank
        return True

    def _alert(self, finding: Finding, step: int, watched: LiveRule, *, ended: bool) -> Action:
        acts = finding.severity != "note" or watched.rule.only_notes
        action = _action_of(watched.response) if acts and not ended else Action.NONE
        done = "".join(
            f"; {what}"
            for flag, what in ((Action.CHECKPOINT, "a checkpoint is asked for"), (Action.STOP, "a stop is asked for"))
            if flag in action
        )
        logger.warning("%s", line(finding, done))
        self._write(step, {PREFIX + finding.id: Text(markdown(finding, step, done))})
        if watched.response.call and acts:
            call = threading.Thread(
                target=_call, args=(watched.response.call, finding), name="tbx_callbacks call", daemon=True
            )
            self._calls.append(call)
            call.start()
        return action


def _action_of(response: Response) -> Action:
    flags = {"stop": Action.STOP, "checkpoint": Action.CHECKPOINT}
    action = Action.NONE
    for name in response.actions:
        action |= flags.get(name, Action.NONE)
    return action


def _call(path: str, finding: Finding) -> None:
    """A user's function may take its time, or fail: in a thread of its own that is nobody's business."""
    try:
        function_of(path)(finding)
    except Exception as error:
        logger.warning("%s failed on the finding %s: %r", path, finding.id, error)


RULES_TOPIC = "rules"
"""The name of what rules decide; its numbers are flags of `Action`, by their names."""


class LiveRules:
    """Rules are asked when a step is published at which `schedule` is due, or has been since they were asked last.

    Args:
        schedule: the steps.
        watcher: asks the rules.
        decisions: what they want done becomes one of these; None where they only say what they find.
    """

    def __init__(self, schedule: Schedule, watcher: RuleRunner, messages: Messages | None) -> None:
        self._schedule, self._checked = schedule, 0
        self.runner, self._messages = watcher, messages

    def due(self, step: int) -> bool:
        """Whether rules are asked about a step that is published; once for each."""
        due = self._schedule(step) or any(map(self._schedule, range(self._checked + 1, step)))
        self._checked = step
        return due

    def record(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """What is written at a step."""
        self.runner.record(step, values)

    def judge(self, step: int) -> Callable[[], None] | None:
        """Asks the rules; what it returns waits until they have decided, if they may."""
        if self._messages is None:
            self.runner.judge(step)
            return None
        judged = self.runner.judge(step, self._decide)

        def wait() -> None:
            judged.result()

        return wait

    def _decide(self, action: Action) -> None:
        """In the rules' thread."""
        if action and self._messages is not None:
            self._messages.send(RULES_TOPIC, {str(flag.name): 1.0 for flag in Action if flag in action})

    def close(self, step: int, seconds: float) -> None:
        """The run has ended: rules are asked for the last time."""
        self.runner.close(step, seconds)

    def discard(self) -> None:
        """Nobody asks any more."""
        self.runner.discard()


def create_live_rules(
    live: LiveRuleConfig,
    schedule: Schedule,
    messages: Messages,
    *,
    strict: bool,
    write: Write,
    before: tuple[str, int] | None,
) -> LiveRules | None:
    """The watch of a run; None without rules.

    Args:
        live: the rules.
        schedule: when they are asked.
        decisions: of the run.
        strict: raise errors of rules, when decisions are acted upon.
        write: writes texts of a step.
        before: the folder of a run that is resumed, and the step after which.
    """
    if not (watched := live.active_rules()):
        return None
    watcher = RuleRunner(watched, write=write)
    if before is not None:
        watcher.restore(*before)
    if strict:
        watcher.fail = messages.raise_later
    return LiveRules(schedule, watcher, messages if live.may_act else None)
