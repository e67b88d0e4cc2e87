"""Counts micro-batches from forward passes, for a Trainer whose batches the callback does not receive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tbx_callbacks._model.outputs import loss_in
from tbx_callbacks.integrations.batches import samples_in, tokens_in, usual_size


class ForwardPasses:
    """Collects the forward passes of one micro-batch, of which a training may make several.

    Passes on the same inputs (two passes with different dropout, an adversarial step) count once. Tokens of passes on
    different inputs (texts that are compared) are added; the samples are those of the first pass. Once the samples of a
    micro-batch are unknown, they stay so: later ones, of another size, might be misread.

    Args:
        batch_size: samples in a full micro-batch; None if it is unknown.
    """

    def __init__(self, batch_size: int | None) -> None:
        self._batch_size = batch_size
        self._are_views = False  # whether each pass of a micro-batch is known to take all of its samples
        self._counts_samples = True
        self.clear()

    def clear(self) -> None:
        """Forgets the passes of the micro-batch."""
        self._inputs: list[tuple[Tensor | None, int | None, Tensor | None]] = []
        self._loss: Tensor | None = None

    def add(self, outputs: Any, inputs: Mapping[Any, Any]) -> None:
        """Adds a pass in training mode."""
        loss = loss_in(outputs)
        if loss is not None:  # non-finite if any of them is
            loss = loss.float() if loss.dtype.itemsize < 4 else loss.clone()  # the model may reuse the memory
            self._loss = loss if self._loss is None else self._loss + loss
        key = _key(inputs)
        if not any(_is_same(key, known) for known, _, _ in self._inputs):
            usual = usual_size(inputs, self._batch_size)
            samples, tokens = usual or (samples_in(inputs, self._batch_size), tokens_in(inputs))
            self._inputs.append((key, samples, tokens))

    def take(self) -> tuple[Tensor | None, int | None, Tensor | None]:
        """Loss, samples and tokens of the micro-batch, None where unknown; then forgets its passes."""
        samples = self._samples() if self._counts_samples else None
        self._counts_samples = samples is not None
        loss, tokens = self._loss, self._tokens()
        self.clear()
        return loss, samples, tokens

    def _samples(self) -> int | None:
        if not self._inputs:
            return None
        samples = self._inputs[0][1]
        if len(self._inputs) > 1:
            self._are_views |= samples is not None and samples == self._batch_size
            return samples if self._are_views else None  # or each pass takes a part of the samples
        return samples

    def _tokens(self) -> Tensor | None:
        counts = [tokens for _, _, tokens in self._inputs]
        known = [tokens for tokens in counts if tokens is not None]
        if not known or len(known) < len(counts):
            return None
        total = known[0]
        for tokens in known[1:]:
            total = total + tokens.to(total.device)
        return total


def _key(inputs: Mapping[Any, Any]) -> Tensor | None:
    """The tensor by which passes on the same inputs are recognised. It is kept, so that its memory is not reused."""
    ids = inputs.get("input_ids")
    if isinstance(ids, Tensor):
        return ids
    values = [part for value in inputs.values() for part in (value.values() if isinstance(value, Mapping) else [value])]
    return next((value for value in values if isinstance(value, Tensor) and value.ndim), None)


def _is_same(key: Tensor | None, known: Tensor | None) -> bool:
    if key is None or known is None:
        return key is known
    return key is known or (key.data_ptr() == known.data_ptr() and key.shape == known.shape)
