"""A fourth trainer in one file: a session under pytorch-ignite."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer

from tbx_callbacks.integrations import Session, TrainingInfo, samples_in, tokens_in


class TbxIgnite:
    """Logs a metric set from an ignite trainer whose process function returns the loss.

    ```python
    TbxIgnite("default", log_dir="runs/exp1").attach(trainer, model, optimizer)
    trainer.run(batches, max_epochs=3)
    ```
    """

    def __init__(self, config: Any = "default", **options: Any) -> None:
        self.session = Session(config, **options)

    def attach(self, engine: Engine, model: nn.Module, optimizer: Optimizer, *, log_every: int = 10) -> TbxIgnite:
        """Follows the engine's events."""
        info = TrainingInfo(model, optimizer, log_schedule=log_every)
        session = self.session
        engine.add_event_handler(Events.STARTED, lambda: session.start(info, step=session.step))
        engine.add_event_handler(Events.GET_BATCH_STARTED, session.stopwatch.start_waiting)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, session.stopwatch.stop_waiting)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_iteration)
        engine.add_event_handler(Events.COMPLETED, lambda: session.end(succeeded=True))
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)
        return self

    def evaluated(self, evaluator: Engine) -> None:
        """Logs the metrics of an evaluation that has ended, as `eval/<name>`."""
        self.session.evaluate(**evaluator.state.metrics)

    def _end_iteration(self, engine: Engine) -> None:
        state: Any = engine.state
        self.session.end_batch(
            loss=state.output,
            samples=samples_in(state.batch),
            tokens=tokens_in(state.batch),
            epoch=state.iteration / state.epoch_length,
        )
        if self.session.should_stop:
            engine.terminate()

    def _fail(self, engine: Engine, error: Exception) -> None:
        self.session.end(succeeded=False)
        raise error
