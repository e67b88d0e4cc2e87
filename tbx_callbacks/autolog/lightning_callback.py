"""Defines `AutomaticLightningCallback`, which gives way to a callback that the user's code passes."""

from __future__ import annotations

from typing import Any

from tbx_callbacks.integrations.lightning.callback import TbxLightningCallback


class AutomaticLightningCallback(TbxLightningCallback):
    """The callback for a Trainer whose code passes none.

    The factory cannot see the Trainer's other callbacks, and Lightning refuses two with one key. Until the Trainer
    starts, the key is therefore unique. Alone, it is that of `TbxLightningCallback`: checkpoints fit both.
    """

    _is_alone = False

    @property
    def state_key(self) -> str:
        """The key of the state in checkpoints."""
        return TbxLightningCallback.__qualname__ if self._is_alone else f"{type(self).__qualname__}_{id(self)}"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if any(isinstance(each, TbxLightningCallback) and each is not self for each in trainer.callbacks):
            trainer.callbacks = [each for each in trainer.callbacks if each is not self]
            return
        self._is_alone = True
        super().setup(trainer, pl_module, stage)
