"""Defines `MicrobatchGradients`, which measures the gradient of each micro-batch of a step without copies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tbx_callbacks._distributed.rank import is_rank_zero
from tbx_callbacks._model.amp import scale_of
from tbx_callbacks._model.backward_pass import at_end_of_backward
from tbx_callbacks._model.optimizers import ids_of
from tbx_callbacks._stats.flat import moved
from tbx_callbacks._stats.norms import square_norms
from tbx_callbacks.metrics.context import Microbatches

logger = logging.getLogger(__name__)


class MicrobatchGradients:
    """Measures the squared norm of what each micro-batch adds to the gradient, and of the gradient itself.

    Hooks on the parameters see each addition, before the ranks reduce it. The gradient is read after each backward
    pass, so it is that before clipping. The hooks exist in due steps only.

    Args:
        model: the model.
        optimizers: the optimizers whose parameters count.
        scaler: the GradScaler, whose scale is divided out; None without one.
        ranks: number of ranks that average their gradients.
        is_abandoned: whether an exception has ended the training without notice.
        on_error: receives errors, which must not reach the backward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Mapping[str, torch.optim.Optimizer],
        scaler: Any,
        *,
        ranks: int,
        is_abandoned: Callable[[], bool],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._model, self._optimizers, self._scaler, self._ranks = model, optimizers, scaler, ranks
        self._is_abandoned, self._on_error = is_abandoned, on_error
        self._handles: list[Any] = []
        self._parameters: list[Tensor] = []
        self._warned: set[str] = set()
        self._result: Microbatches | None = None
        self._is_active = False
        self._restart()

    def _restart(self) -> None:
        """Forgets the micro-batches before this one."""
        self._squares: list[Tensor] = []  # of each parameter and micro-batch
        self._total: Tensor | None = None
        self._scale: Tensor | None = None
        self._samples: list[int | None] = []
        self._problem = ""
        self._begin_batch()

    def _begin_batch(self) -> None:
        self._fired: set[int] = set()
        self._passes: set[int] = set()

    def begin(self) -> None:
        """A due step begins."""
        self.end()
        self._result, self._is_active = None, True
        self._restart()
        trained = set().union(*map(ids_of, self._optimizers.values()))
        self._parameters = [p for p in self._model.parameters() if p.requires_grad and id(p) in trained]
        for index, parameter in enumerate(self._parameters):
            hook = torch.compiler.disable(partial(self._on_gradient, index))
            self._handles.append(parameter.register_hook(hook))

    def end(self) -> None:
        """Removes the hooks."""
        self._is_active = False
        while self._handles:
            self._handles.pop().remove()
        self._parameters = []

    def end_batch(self, samples: int | None) -> None:
        """A micro-batch with this number of samples has ended."""
        if self._is_active and self._fired:
            self._samples.append(samples)
            self._begin_batch()

    def take(self) -> Microbatches | None:
        """The micro-batches of the step that ends; None if they cannot be told, with one warning."""
        if self._is_active:
            self._result = self._finish()
            self.end()
            self._restart()
        return self._result

    def _finish(self) -> Microbatches | None:
        number, samples = len(self._samples), [count for count in self._samples if count]
        if not number or self._total is None:
            return None
        if self._problem or number * self._ranks < 2 or len(samples) < number:
            self._warn(number)
            return None
        square = torch.stack([moved(part, self._total.device) for part in self._squares]).sum()
        total = self._total
        if self._scale is not None:
            by = moved(self._scale, total.device).to(total.dtype).square()
            square, total = square / by, total / by
        return Microbatches(square=square, total=total, samples=tuple(samples), ranks=self._ranks)

    def _on_gradient(self, index: int, gradient: Tensor) -> None:
        """A backward pass has computed what it adds to the gradient of a parameter."""
        if not self._is_active:
            return
        try:
            if not self._fired and all(parameter.grad is None for parameter in self._parameters):
                self._restart()  # a step before this one was skipped
            if index in self._fired:
                self._problem = "a micro-batch has several backward passes; add its losses"
            self._fired.add(index)
            current = torch._C._current_graph_task_id()
            if current not in self._passes:
                self._passes.add(current)
                at_end_of_backward(self._after_backward)
            with torch.no_grad():
                self._squares.append(square_norms([gradient.detach()])[0])
        except Exception as error:
            self._fail(error)

    def _after_backward(self) -> None:
        if not self._is_active or self._is_abandoned():
            return
        try:
            gradients = [parameter.grad.detach() for parameter in self._parameters if parameter.grad is not None]
            with torch.no_grad():
                self._total = square_norms(gradients).sum()
            scale = scale_of(self._scaler)  # now: it is updated after the step
            self._scale = None if scale is None else scale.detach().clone().reshape(())
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._is_active = False  # the hooks are removed when the next step begins: one of them runs
        self._on_error(error)

    def _warn(self, number: int) -> None:
        if self._problem:
            text = self._problem
        elif number * self._ranks < 2:
            text = (
                "a step has one micro-batch to compare; accumulate gradients over several (gradient_accumulation_steps)"
            )
        else:
            text = "the samples of a micro-batch are unknown; pass samples=, or use batches of tensors by name"
        if text not in self._warned:
            self._warned.add(text)
            if is_rank_zero():
                logger.warning("gradient_noise is left out: %s", text)
