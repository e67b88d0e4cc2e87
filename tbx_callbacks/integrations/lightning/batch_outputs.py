"""What the forward passes and the training_step of a LightningModule say of one batch: further losses, and logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._model.outputs import logits_in, losses_in
from tbx_callbacks.integrations.batches import labels_in

REMEDY = "return {'loss': loss, 'logits': logits} from training_step, of batches (inputs, labels) or {'labels': ...}"


class BatchOutputs:
    """Keeps what was said of the batch until its end; what training_step returns counts before what the model does.

    Args:
        monitor: takes it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._labels: Any = None
        self._passes: list[tuple[dict[str, Tensor], Any]] = []

    def begin(self, batch: Any) -> None:
        """A batch is worked on; its labels are read before anything takes them out."""
        self._labels = labels_in(batch)
        self._passes.clear()

    def on_forward(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any], outputs: Any) -> None:
        """The model ran; a hook."""
        if not module.training:
            return
        with self._engine.guard_outputs():
            self._passes.append((_found(outputs), kwargs.get("labels")))

    def end(self, returned: Any) -> None:
        """The batch is done, and training_step has returned this."""
        own: dict[str, Tensor] = {}
        with self._engine.guard_outputs():
            own = _found(returned if isinstance(returned, Mapping) else {})
        of_batch, self._labels = self._labels, None
        passes, self._passes = self._passes, []
        for said, labels in [(own, None), *passes]:
            found = said if said is own else {name: value for name, value in said.items() if name not in own}
            if "logits" in found:  # the first ones are those of the batch's labels: who knows what others are about
                labels, of_batch = of_batch if labels is None else labels, None
            if found:
                self._engine.record_outputs(found, labels)


def _found(outputs: Any) -> dict[str, Tensor]:
    logits = logits_in(outputs)
    return {**losses_in(outputs), **({} if logits is None else {"logits": logits})}
