"""The run's folder over fits, checkpoints and numbers logged outside of a training, under Lightning."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tbx_callbacks.adapters.counted import CountedSteps
from tbx_callbacks.adapters.lightning_listener import Listener
from tbx_callbacks.folders import Place, beside, fresh_folder, holds_run
from tbx_callbacks.verdict import Verdict


class LightningRun(CountedSteps):
    """What a callback of Lightning's Trainer keeps beyond one training."""

    _root: str | None = None
    _stored: Mapping[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """What Lightning keeps in a checkpoint: the run's folder and step."""
        return {"log_dir": self.log_dir and os.path.abspath(self.log_dir), "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what a checkpoint kept."""
        self._stored = state_dict

    # -- for the adapter -------------------------------------------------------------------------------------------

    def _resumed(self, trainer: Any) -> tuple[Place | None, int]:
        """Where a training goes on (None on ranks that do not write), and after which step."""
        step = self._stored.get("step", self._step) if trainer.global_step else 0
        place = self._place(step) if self._writes else None
        self._stored = {}  # a later fit goes on from here
        return place, step

    def _obey(self, trainer: Any) -> None:
        """Does what rules want in Lightning's own way, on every rank after the same step."""
        if Verdict.CHECKPOINT in self._verdict:
            keeper = trainer.checkpoint_callback
            folder = keeper and getattr(keeper, "dirpath", None)
            folder = folder or os.path.join(trainer.default_root_dir, "checkpoints")
            trainer.save_checkpoint(os.path.join(folder, f"alert-step={self._step}.ckpt"))
        if Verdict.STOP in self._verdict:
            trainer.should_stop = True

    def _listen(self, trainer: Any) -> None:
        """Takes what the module logs, until `_stop_listening`."""
        if not trainer.fast_dev_run and not any(isinstance(logger, Listener) for logger in trainer.loggers):
            trainer.loggers = [*trainer.loggers, Listener(self._take_logs, str(self._root))]

    def _stop_listening(self, trainer: Any) -> None:
        trainer.loggers = [logger for logger in trainer.loggers if not isinstance(logger, Listener)]

    def _take_logs(self, metrics: Mapping[str, float]) -> None:
        """Numbers that the module logged, after `_step` steps."""
        if self._measures:  # on all ranks: a metric gives way to a tag that is logged
            self._logged(self._step, {name: float(value) for name, value in metrics.items()})

    def _place(self, step: int) -> Place:
        stored = self._stored.get("log_dir")
        if step and stored and holds_run(stored) and self._wanted_dir in (None, stored):
            return Place(stored, purge=True)
        if step and (self.log_dir or self._wanted_dir):
            return Place(str(self.log_dir or self._wanted_dir), purge=True)
        return Place(self.log_dir) if self.log_dir and not self._began else self._early_place()

    def _early_place(self) -> Place:
        if self._wanted_dir:
            return Place(beside(self._wanted_dir))
        if self._root is None:
            return super()._early_place()
        return Place(fresh_folder(os.path.join(self._root, "runs")))
