"""The run's folder over evaluations, checkpoints, trials and callbacks that the Hugging Face Trainer makes anew."""

from __future__ import annotations

import weakref
from typing import Any

from transformers.trainer_callback import ExportableState

from tbx_callbacks.adapters.base import Adapter
from tbx_callbacks.adapters.hf_folder import before_training, choose, to_store
from tbx_callbacks.folders import Place

# Callbacks in use, to find the one that a restored one replaces: see _adopt.
_in_use: weakref.WeakSet[HfRun] = weakref.WeakSet()


class HfRun(Adapter, ExportableState):  # type: ignore[misc]
    """What a callback of the Hugging Face Trainer keeps beyond one training."""

    _args: Any = None
    stored: dict[str, str] = {}  # noqa: RUF012 - what a checkpoint kept; the Trainer sets it on the instance

    def state(self) -> dict[str, Any]:
        """What the Trainer keeps in a checkpoint: the run's folder."""
        kept = to_store(self._args, self.log_dir, self.config.digest) if self._args is not None else {}
        return {"args": {}, "attributes": {"stored": kept}}

    # -- for the adapter -------------------------------------------------------------------------------------------

    def _use(self, args: Any) -> None:
        """A Trainer takes the callback."""
        self._args = args
        _in_use.add(self)

    def _adopt(self, args: Any) -> None:
        """Becomes one with the callback that this one replaces.

        With `restore_callback_states_from_checkpoint` the Trainer makes a new callback in place of the user's. Both
        then share everything, so that the user's own reference, `attach` and `writer` stay alive.
        """
        if self._args is None:
            digest = self.stored.get("digest")
            replaced = [other for other in _in_use if other._args is args and other.config.digest == digest]
            if replaced:
                self.__dict__ = replaced[0].__dict__
            self._args = args

    def _place(self, args: Any, state: Any) -> Place:
        return choose(
            args,
            state,
            wanted=self._wanted_dir,
            current=self.log_dir,
            began=self._began,
            running=self._running,
            digest=self.config.digest,
            kind=type(self).__name__,
            taken={other.log_dir for other in _in_use if other is not self and other._running},
        )

    def _early_place(self) -> Place:
        if self._args is None and self._wanted_dir is None:
            raise RuntimeError(
                "callback.writer must be used after the callback was given to a Trainer, or with log_dir set;"
                " pass TbxTrainerCallback(log_dir=...) to use it earlier"
            )
        return before_training(self._args, self._wanted_dir)
