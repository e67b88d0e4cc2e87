"""What rank 0 decides in a training, from what was measured: cadences within the budget, and what rules want done."""

from __future__ import annotations

from tbx_callbacks import tags
from tbx_callbacks._config.live_rules import LiveRuleConfig
from tbx_callbacks._config.metric_spec import Cadence
from tbx_callbacks._config.schedule import Schedule, never
from tbx_callbacks._distributed.messages import Numbers
from tbx_callbacks._engine.actions import Action
from tbx_callbacks._engine.budget import Budget
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.live_rules import RULES_TOPIC, create_live_rules
from tbx_callbacks._engine.plan import schedule_of
from tbx_callbacks._engine.publisher import Publisher
from tbx_callbacks._engine.runner import MetricRunner
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.writers.base import NullWriter


class Control:
    """Budget and rules of one training.

    Args:
        publisher: has the training's decisions; what is said is written there.
        program: the metrics.
        stopwatch: says what they took.
        share: of the training time that measuring may take; None sets no limit.
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
        """The steps about which rules are asked."""

    def start_rules(
        self, every: Cadence, log_schedule: Schedule, before: tuple[str, int] | None, *, whole: bool, strict: bool
    ) -> None:
        """Asks the rules from now on, where the run is written.

        Args:
            every: the set's cadence, for rules without one.
            log_schedule: the steps at which the trainer logs.
            before: the folder of a run that is resumed, and the step after which.
            whole: whether this rank hears of all others: one that does not decides nothing.
            strict: raise errors of rules.
        """
        live, messages = self._live, self._publisher.messages
        if live.active_rules():
            self.rule_schedule = schedule_of(live.every or every, log_schedule)
        if live.may_act and whole:
            messages.subscribe(RULES_TOPIC, self._take_verdict)
        if not isinstance(self._publisher.writer, NullWriter):
            write = self._publisher.write
            self._publisher.set_live_rules(
                create_live_rules(live, self.rule_schedule, messages, strict=strict, write=write, before=before)
            )

    def apply_budget(self, step: int) -> None:
        """A step was published: decides about cadences, when their costs are known."""
        said = self._budget.decide(step)
        if said is not None:
            self._publisher.write(step, {tags.OVERHEAD_BUDGET: Text(said)})

    def apply_messages(self, step: int) -> Action:
        """Acts upon what was decided, now that `step` is finished; what the adapter has to do."""
        self._action = Action.NONE
        self._publisher.messages.deliver(step)
        return self._action

    def _take_verdict(self, numbers: Numbers) -> None:
        for name in numbers:
            self._action |= Action[name]
