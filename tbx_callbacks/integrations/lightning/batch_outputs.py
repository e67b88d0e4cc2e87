"""Collects the losses and logits of one batch from the forward passes and `training_step`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tbx_callbacks._model.outputs import logits_in, losses_in
from tbx_callbacks.integrations.batches import labels_in
from tbx_callbacks.integrations.session import Session

REMEDY = "return {'loss': loss, 'logits': logits} from training_step; batches: (inputs, labels) or {'labels': ...}"


class BatchOutputs:
    """Collects a batch's losses and logits. Values that `training_step` returns override the model's outputs.

    Args:
        session: receives them at the end of the batch.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._labels: Any = None
        self._passes: list[tuple[dict[str, Tensor], Any]] = []

    def begin(self, batch: Any) -> None:
        """Begins a batch; reads its labels before anything removes them."""
        self._labels = None
        self._passes.clear()
        with self._session.guard_outputs():
            self._labels = labels_in(batch)
        self._session.expect_rows(batch)

    def on_forward(self, outputs: Any, kwargs: Mapping[str, Any]) -> None:
        """Collects the outputs of one forward pass; see `Session.on_forward`."""
        with self._session.guard_outputs():
            self._passes.append((_losses_and_logits(outputs), kwargs.get("labels")))

    def end(self, result: Any) -> None:
        """Ends the batch, whose `training_step` returned `result`."""
        step_outputs: dict[str, Tensor] = {}
        with self._session.guard_outputs():
            step_outputs = _losses_and_logits(result if isinstance(result, Mapping) else {})
        batch_labels, self._labels = self._labels, None
        passes, self._passes = self._passes, []
        for pass_outputs, labels in [(step_outputs, None), *passes]:
            new = (
                pass_outputs
                if pass_outputs is step_outputs
                else {name: value for name, value in pass_outputs.items() if name not in step_outputs}
            )
            if "logits" in new:  # only the first logits belong to the batch's labels
                labels, batch_labels = batch_labels if labels is None else labels, None
            if new:
                self._session.record_outputs(new, labels)


def _losses_and_logits(outputs: Any) -> dict[str, Tensor]:
    logits = logits_in(outputs)
    return {**losses_in(outputs), **({} if logits is None else {"logits": logits})}
