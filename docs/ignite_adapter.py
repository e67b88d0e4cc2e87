"""A fourth trainer in one file: the engine under pytorch-ignite."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer

from tbx_callbacks._config.schedule import every
from tbx_callbacks._distributed.rank import is_rank_zero
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks.integrations.base import named_optimizers
from tbx_callbacks.integrations.batches import samples_in, tokens_in
from tbx_callbacks.integrations.step_counting import StepCountingIntegration
from tbx_callbacks.runs.folders import RunLocation, fresh_folder


class TbxIgnite(StepCountingIntegration):
    """Logs a metric set from an ignite trainer whose process function returns the loss.

    ```python
    TbxIgnite("default", log_dir="runs/exp1").attach(trainer, model, optimizer)
    trainer.run(batches, max_epochs=3)
    ```
    """

    def attach(self, engine: Engine, model: nn.Module, optimizer: Optimizer, *, log_every: int = 10) -> TbxIgnite:
        """Follows the engine's events."""
        self._is_writer = is_rank_zero()
        info = TrainingInfo(model=model, optimizers=named_optimizers(optimizer), log_schedule=every(log_every))
        engine.add_event_handler(Events.STARTED, self._started, info)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        engine.add_event_handler(Events.COMPLETED, self._ended, succeeded=True)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._failed)
        return self

    def evaluated(self, evaluator: Engine) -> None:
        """Logs the metrics of an evaluation that has ended, as `eval/<name>`."""
        if self._is_writer:
            self._engine.record_logs(
                self._step, {f"eval/{name}": float(v) for name, v in evaluator.state.metrics.items()}
            )

    def _started(self, engine: Engine, info: TrainingInfo) -> None:
        if self._is_writer:
            self._begin(RunLocation(self._wanted_dir or fresh_folder("runs")), self._step, info=info)

    def _iteration(self, engine: Engine) -> None:
        if self._is_writer:
            state: Any = engine.state
            inputs = state.batch if isinstance(state.batch, dict) else dict(enumerate(state.batch))
            fraction = state.iteration / state.epoch_length if self._log_due else None
            loss = state.output.detach()
            self._end_microbatch(loss=loss, samples=samples_in(inputs), tokens=tokens_in(inputs), epoch=fraction)

    def _ended(self, engine: Engine, *, succeeded: bool) -> None:
        if self._is_writer:
            self._end(self._step, succeeded=succeeded)

    def _failed(self, engine: Engine, error: Exception) -> None:
        self._ended(engine, succeeded=False)
        raise error
