"""Applies the runtime decisions of rank 0: longer intervals (overhead budget), stop and checkpoint (rules)."""

from __future__ import annotations

from tbx_callbacks import tags
from tbx_callbacks._config.cadence import Cadence
from tbx_callbacks._config.rule_options import LiveRuleConfig
from tbx_callbacks._config.schedule import Schedule, never
from tbx_callbacks._distributed.rank0_messages import Numbers
from tbx_callbacks._engine.budget import Budget
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.live_rules import RULES_TOPIC, create_live_rules
from tbx_callbacks._engine.metric_plan import schedule_of
from tbx_callbacks._engine.metric_runner import MetricRunner
from tbx_callbacks._engine.publisher import Publisher
from tbx_callbacks._engine.rule_actions import Action
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.writers.base import NullWriter


class Control:
    """The overhead budget and the live rules of one training.

    Args:
        publisher: writes the texts about decisions, and owns this training's messages.
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
        self._publisher, self._live = publisher, live
        self._budget = Budget(share, stopwatch, runner, publisher.messages)
        self._action = Action.NONE
        self.rule_schedule: Schedule = never
        """The steps at which the rules are evaluated."""

    def start_rules(
        self,
        every: Cadence,
        log_schedule: Schedule,
        resumed_from: tuple[str, int] | None,
        *,
        sees_all_ranks: bool,
        strict: bool,
    ) -> None:
        """Starts evaluating the rules, on the rank that writes the run.

        Args:
            every: the cadence of the metric set, for rules without one.
            log_schedule: the steps at which the trainer logs.
            resumed_from: folder and last step of the run that is resumed.
            sees_all_ranks: whether this rank receives the values of all ranks. A rank that does not never acts on
                rules.
            strict: raise errors of rules.
        """
        live, messages = self._live, self._publisher.messages
        if live.active_rules():
            self.rule_schedule = schedule_of(live.every or every, log_schedule)
        if live.may_act and sees_all_ranks:
            messages.subscribe(RULES_TOPIC, self._on_rules_message)
        if not isinstance(self._publisher.writer, NullWriter):
            write = self._publisher.write
            self._publisher.set_live_rules(
                create_live_rules(
                    live, self.rule_schedule, messages, strict=strict, write=write, resumed_from=resumed_from
                )
            )

    def apply_budget(self, step: int) -> None:
        """Applies the overhead budget after a step was published, once the costs are known."""
        text = self._budget.decide(step)
        if text is not None:
            self._publisher.write(step, {tags.OVERHEAD_BUDGET: Text(text)})

    def apply_messages(self, step: int) -> Action:
        """Applies the messages that are due after `step`; returns what the integration has to do."""
        self._action = Action.NONE
        self._publisher.messages.deliver(step)
        return self._action

    def _on_rules_message(self, numbers: Numbers) -> None:
        for name in numbers:
            self._action |= Action[name]
