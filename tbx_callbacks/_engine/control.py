"""Applies the runtime decisions of rank 0: longer intervals (overhead budget), stop and checkpoint (rules)."""

from __future__ import annotations

from tbx_callbacks import tags
from tbx_callbacks._config.cadence import Cadence
from tbx_callbacks._config.rule_options import LiveRuleConfig
from tbx_callbacks._config.schedule import Schedule, never
from tbx_callbacks._engine.budget import Budget
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.live_rules import OnFinding, create_live_rules
from tbx_callbacks._engine.metric_plan import schedule_of
from tbx_callbacks._engine.metric_runner import MetricRunner
from tbx_callbacks._engine.publisher import Publisher
from tbx_callbacks._wiring.batches import STEPS
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.rules.base import ACTIONS, Action
from tbx_callbacks.writers.base import NullWriter

_BUDGET = len(ACTIONS)
"""Index of the decision of the budget. The numbers before it request actions. Those after it are the factors by which
the interval of each metric grows; if all are 0, the budget is met for good."""


class Control:
    """The overhead budget and the live rules of one training.

    Args:
        publisher: writes the texts about decisions, and sends the decisions of this training.
        runner: runs the metrics.
        stopwatch: measures the monitoring time.
        share: the largest share of the training time for monitoring; None sets no limit.
        live: the rules.
    """

    def __init__(
        self,
        publisher: Publisher,
        runner: MetricRunner,
        stopwatch: Stopwatch,
        *,
        share: float | None,
        live: LiveRuleConfig,
    ) -> None:
        self._publisher, self._live, self._runner = publisher, live, runner
        self._decisions = publisher.decisions
        self._budget = None if share is None else Budget(share, stopwatch, runner)
        self._rules_may_act = False
        self.rule_schedule: Schedule = never
        """The steps at which the rules are evaluated."""
        self._set_size()

    def start_rules(
        self,
        every: Cadence,
        log_schedule: Schedule,
        resumed_from: tuple[str, int] | None,
        *,
        sees_all_ranks: bool,
        strict: bool,
        on_finding: OnFinding | None = None,
    ) -> None:
        """Starts evaluating the rules, on the rank that writes the run.

        Args:
            every: the cadence of the metric set, for rules without one.
            log_schedule: the steps at which the trainer logs.
            resumed_from: folder and last step of the run that is resumed.
            sees_all_ranks: whether this rank receives the values of all ranks. A rank that does not never acts on
                rules.
            strict: raise errors of rules.
            on_finding: see `RuleRunner`.
        """
        live = self._live
        if live.active_rules():
            self.rule_schedule = schedule_of(live.every or every, log_schedule)
        self._rules_may_act = live.may_act and sees_all_ranks
        self._set_size()
        if not isinstance(self._publisher.writer, NullWriter):
            self._publisher.set_live_rules(
                create_live_rules(
                    live,
                    self.rule_schedule,
                    request=self.request if live.may_act else None,
                    fail=self._decisions.raise_later if strict else None,
                    write=self._publisher.write,
                    folder=str(getattr(self._publisher.writer, "log_dir", "")),
                    resumed_from=resumed_from,
                    first_steps=STEPS if "wiring" in self._runner.needs else 0,
                    on_finding=on_finding,
                )
            )

    def request(self, step: int, action: Action) -> None:
        """Requests an action of every rank, from the rules at a step; called on rank 0, from any thread."""
        if self._rules_may_act:
            self._decisions.decide(
                *((index, 1.0) for index, flag in enumerate(ACTIONS.values()) if flag in action), step=step
            )

    def apply_budget(self, step: int) -> None:
        """Applies the overhead budget after a step was published, once the costs are known."""
        if self._budget is None or not self._decisions.is_decider:
            return
        decided = self._budget.decide(step)
        if decided is not None:
            factors = {_BUDGET + 1 + index: float(factor) for index, factor in decided.factors.items()}
            self._decisions.decide((_BUDGET, 1.0), *factors.items())
            if decided.report:
                self._publisher.write(step, {tags.OVERHEAD_BUDGET: Text(decided.report)})

    def apply_decisions(self, step: int) -> Action:
        """Applies the decisions that are due after `step`; returns what the integration has to do."""
        action = Action.NONE
        for numbers in self._decisions.deliver(step):
            for number, flag in zip(numbers, ACTIONS.values(), strict=False):
                action |= flag if number else Action.NONE
            if self._budget is not None and numbers[_BUDGET]:
                factors = numbers[_BUDGET + 1 :]
                if any(factors):
                    self._budget.stretch([int(factor) for factor in factors])
                else:
                    self._budget = None
                    self._set_size()
        return action

    def _set_size(self) -> None:
        """Sets the number of decisions that all ranks expect after each due step."""
        possible = self._rules_may_act or self._budget is not None
        self._decisions.size = _BUDGET + 1 + len(self._runner.metric_runs) if possible else 0
