"""Evaluates the rules during the training, on the rank that writes."""

from __future__ import annotations

import functools
import logging
import operator
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial

from tbx_callbacks._config.rule_options import LiveRule, LiveRuleConfig, function_of
from tbx_callbacks._config.schedule import Schedule
from tbx_callbacks._distributed.background_worker import Worker
from tbx_callbacks._engine.live_history import RunHistory, read_history
from tbx_callbacks._text import reason
from tbx_callbacks.metrics.host_values import FinalValue, Text
from tbx_callbacks.rules import SEVERITIES, Acknowledgement, Action, Finding, diagnose
from tbx_callbacks.rules.base import ACTIONS
from tbx_callbacks.rules.finding_text import PREFIX, line, markdown, severity_of

logger = logging.getLogger(__name__)

_JUDGE_TIMEOUT = 10.0  # maximum wait at a step for rules that may act, in seconds
_CALL_TIMEOUT = 5.0  # maximum wait at the end of a training for functions called on findings, in seconds
_THREAD_SECONDS = 1.0  # maximum wait for a thread without jobs to end
OnFinding = Callable[[int, Finding], None]
Write = Callable[[int, Mapping[str, Text]], None]
Request = Callable[[int, Action], None]


class RuleRunner:
    """Records the values that are written, and evaluates the rules on request.

    All work is done on a separate thread, in the order of the calls; the training thread only queues it. A finding is
    reported once, and again if its severity rises.

    Args:
        rules: the rules, by name.
        write: writes texts of a step.
        acknowledged: findings that the project knows of; nothing happens on them.
        folder: the run's folder.
    """

    def __init__(
        self,
        rules: Mapping[str, LiveRule],
        *,
        write: Write,
        acknowledged: Sequence[Acknowledgement] = (),
        folder: str = "",
    ) -> None:
        self.seconds, self.evaluations = 0.0, 0
        self.on_finding: OnFinding | None = None
        """Receives the step and each new finding, on the thread of the rules."""
        self.fail: Callable[[Exception], None] | None = None
        """Receives errors of rules; they are logged if it is None. Either way the rule is disabled."""
        self._rules, self._write = dict(rules), write
        self._acknowledged, self._folder = acknowledged, folder
        self._history = RunHistory()
        self._severities: dict[str, int] = {}
        self._calls: list[threading.Thread] = []
        self._worker, self._warned = Worker("tbx_callbacks rules", self._on_record_error), False

    def restore(self, folder: str, step: int) -> None:
        """Loads the history of a resumed run up to `step` from its folder."""
        self._worker.submit(partial(self._load_history, folder, step))

    def record(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Records the values written at a step."""
        self._worker.submit(partial(self._history.record, step, values, time.time()))

    def judge(self, step: int, then: Callable[[Action], None] | None = None) -> Future[Action]:
        """Evaluates the rules on the values so far. The future never fails; `then` gets an action before that."""

        def job() -> Action:
            action = self._judge(step, is_final=False)
            if then is not None and action:
                then(action)
            return action

        return self._worker.call(job)

    def close(self, step: int, seconds: float) -> None:
        """Evaluates the whole run once more, reports new findings, and stops the thread."""
        is_judged = bool(wait([self._worker.call(partial(self._judge, step, is_final=True))], timeout=seconds).done)
        if not is_judged:
            logger.warning("rules did not finish within %g s at the end: findings may be missing", seconds)
        self._worker.close(_THREAD_SECONDS if is_judged else 0.0)
        deadline = time.monotonic() + _CALL_TIMEOUT
        for call in self._calls:
            call.join(max(0.0, deadline - time.monotonic()))

    def discard(self) -> None:
        """Stops the thread after the queued work."""
        self._worker.close()

    def _on_record_error(self, error: BaseException) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("live rules may miss values: recording them failed with %s", reason(error))

    # -- on the worker thread ----------------------------------------------------------------------------------------

    def _load_history(self, folder: str, step: int) -> None:
        run = read_history(folder)
        if run is None:
            self._rules = {name: entry for name, entry in self._rules.items() if not entry.rule.compares_with_start}
            return
        for tag, series in run.scalars.items():
            for at, value, wall_time in zip(series.steps, series.values, series.wall_times, strict=True):
                if at <= step:
                    self._history.record(int(at), {tag: float(value)}, float(wall_time))
        for tag, texts in run.texts.items():
            last_severity = severity_of(texts.values[-1])
            if tag.startswith(PREFIX) and last_severity is not None and texts.steps[-1] <= step:
                self._severities[tag.removeprefix(PREFIX)] = SEVERITIES.index(last_severity)

    def _judge(self, step: int, *, is_final: bool) -> Action:
        started = time.perf_counter()
        action, run = Action.NONE, self._history.run()
        for name, entry in list(self._rules.items()):
            try:
                diagnosis = diagnose(run, {name: entry.rule}, acknowledged=self._acknowledged, folder=self._folder)
                for finding in diagnosis.findings:
                    if self._is_new(finding):
                        action |= self._alert(finding, step, entry, is_final=is_final)
            except BaseException as error:  # not even sys.exit() in a rule ends the thread
                self._disable(name, step, error, is_final=is_final)
        self.evaluations += 1
        self.seconds += time.perf_counter() - started
        return action

    def _disable(self, name: str, step: int, error: BaseException, *, is_final: bool) -> None:
        del self._rules[name]
        if self.fail is not None and not is_final:
            self.fail(RuntimeError(f"rule {name} failed at step {step}: {reason(error)}"))
            return
        logger.warning("rule %s failed at step %d and is disabled: %s", name, step, reason(error))

    def _is_new(self, finding: Finding) -> bool:
        rank = SEVERITIES.index(finding.severity)
        if rank >= self._severities.get(finding.id, len(SEVERITIES)):
            return False
        self._severities[finding.id] = rank
        return True

    def _alert(self, finding: Finding, step: int, live_rule: LiveRule, *, is_final: bool) -> Action:
        acts = finding.severity != "note" or live_rule.rule.only_notes
        names = [name for name in ACTIONS if name in live_rule.response.actions] if acts and not is_final else []
        action = functools.reduce(operator.or_, (ACTIONS[name] for name in names), Action.NONE)
        requests = "".join(f"; {name} requested" for name in reversed(names))
        logger.warning("%s", line(finding, requests))
        self._write(step, {PREFIX + finding.id: Text(markdown(finding, step, requests))})
        if self.on_finding is not None:
            self.on_finding(step, finding)
        if live_rule.response.call and acts:
            call = threading.Thread(
                target=_call, args=(live_rule.response.call, finding), name="tbx_callbacks call", daemon=True
            )
            self._calls.append(call)
            call.start()
        return action


def _call(path: str, finding: Finding) -> None:
    """Calls a user's function on its own thread, where it may take long or fail without effect on the training."""
    try:
        function_of(path)(finding)
    except BaseException as error:  # also sys.exit()
        logger.warning("%s failed on the finding %s: %s", path, finding.id, reason(error))


class LiveRules:
    """Evaluates the rules when a step is published, if `schedule` was due since the last evaluation.

    Args:
        schedule: the steps.
        rule_runner: evaluates the rules.
        request: requests the action of the rules at a step, on their thread; None if the rules only report.
        first_steps: the number of published steps at the start at which the rules are evaluated in any case.
    """

    def __init__(
        self, schedule: Schedule, rule_runner: RuleRunner, request: Request | None, first_steps: int = 0
    ) -> None:
        self._schedule, self._last_step, self._first_steps = schedule, 0, first_steps
        self.runner, self._request, self._warned_slow = rule_runner, request, False

    def due(self, step: int) -> bool:
        """Whether to evaluate the rules at a published step; call it once for each."""
        due = self._schedule(step) or any(map(self._schedule, range(self._last_step + 1, step)))
        if self._first_steps:
            self._first_steps, due = self._first_steps - 1, True
        self._last_step = step
        return due

    def record(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Records the values written at a step."""
        self.runner.record(step, values)

    def judge(self, step: int) -> Callable[[], object] | None:
        """Starts the evaluation; returns a function that waits for it if rules may act, else None."""
        if self._request is None:
            self.runner.judge(step)
            return None
        return partial(self._await, self.runner.judge(step, partial(self._request, step)))

    def _await(self, judged: Future[Action]) -> None:
        """Waits until the rules are evaluated. Slow rules act after a later step, and are not waited for again."""
        if self._warned_slow:
            return
        if not wait([judged], timeout=_JUDGE_TIMEOUT).done:
            self._warned_slow = True
            logger.warning(
                "rules take longer than %g s: their actions come later than at the next step; use faster rules",
                _JUDGE_TIMEOUT,
            )

    def close(self, step: int, seconds: float) -> None:
        """Evaluates the rules for the last time, at the end of the run."""
        self.runner.close(step, seconds)

    def discard(self) -> None:
        """Stops evaluating."""
        self.runner.discard()


def create_live_rules(
    live: LiveRuleConfig,
    schedule: Schedule,
    *,
    request: Request | None,
    fail: Callable[[Exception], None] | None,
    write: Write,
    folder: str,
    resumed_from: tuple[str, int] | None,
    first_steps: int = 0,
    on_finding: OnFinding | None = None,
) -> LiveRules | None:
    """Creates the live rules of a run; None without rules.

    Args:
        live: the rules.
        schedule: the steps at which they are evaluated.
        request: requests the action of the rules at a step, on their thread; None if the rules only report.
        fail: receives errors of rules; they are logged if it is None.
        write: writes texts of a step.
        folder: the run's folder.
        resumed_from: folder and last step of the run that is resumed.
        first_steps: see `LiveRules`.
        on_finding: see `RuleRunner`.
    """
    if not (rules := live.active_rules()):
        return None
    rule_runner = RuleRunner(rules, write=write, acknowledged=live.acknowledged, folder=folder)
    if resumed_from is not None:
        rule_runner.restore(*resumed_from)
    rule_runner.fail, rule_runner.on_finding = fail, on_finding
    return LiveRules(schedule, rule_runner, request, first_steps)
