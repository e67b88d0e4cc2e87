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
        self._single, self._has_compared = 0, False  # steps with one micro-batch; whether one had several
        self.is_active = False
        """Whether the gradients of this step are measured."""
        self._restart()

    def _restart(self) -> None:
        """Forgets the micro-batches before this one."""
        self._squares: list[Tensor] = []  # of each micro-batch
        self._total: Tensor | None = None
        self._scale: Tensor | None = None
        self._samples: list[int | None] = []
        self._weights: list[Tensor | None] = []
        self._before: list[Tensor | None] = []  # squared norm of the gradient before each micro-batch; None: not zeroed
        self._versions: list[int] = []  # of the gradients after a backward pass: how often they were written to
        self._problem = ""
        self._begin_batch()

    def _begin_batch(self) -> None:
        self._fired: set[int] = set()
        self._passes: set[int] = set()
        self._parts: list[Tensor] = []  # squared norms, of each parameter
        self._weight: Tensor | None = None

    def begin(self) -> None:
        """A due step begins."""
        self.end()
        self._result, self.is_active = None, True
        self._restart()
        trained = set().union(*map(ids_of, self._optimizers.values()))
        self._parameters = [p for p in self._model.parameters() if p.requires_grad and id(p) in trained]
        for index, parameter in enumerate(self._parameters):
            hook = torch.compiler.disable(partial(self._on_gradient, index))
            self._handles.append(parameter.register_hook(hook))

    def end(self) -> None:
        """Removes the hooks."""
        self.is_active = False
        while self._handles:
            self._handles.pop().remove()
        self._parameters = []

    def close(self) -> None:
        """The training ends: removes the hooks, and warns if all steps had a single micro-batch."""
        self.end()
        if self._single:
            self._warn_of_single()

    def weigh(self, weight: Tensor | None, problem: str = "") -> None:
        """Sets the share of the micro-batch in progress in the loss of all ranks; or says why it is not known.

        By default all micro-batches count alike.
        """
        if self.is_active:
            self._weight, self._problem = weight, problem or self._problem

    def end_batch(self, samples: int | None) -> None:
        """A micro-batch with this number of samples has ended."""
        if self.is_active and self._fired:
            self._samples.append(samples)
            self._weights.append(self._weight)
            self._squares.append(torch.stack([moved(part, self._parts[0].device) for part in self._parts]).sum())
            self._begin_batch()

    def take(self) -> Microbatches | None:
        """The micro-batches of the step that ends; None if they cannot be told, with one warning."""
        if self.is_active:
            self._result = self._finish()
            self.end()
            self._restart()
        return self._result

    def _finish(self) -> Microbatches | None:
        number, samples = len(self._samples), [count for count in self._samples if count]
        if not number or self._total is None:
            return None
        if self._problem:
            self._warn(self._problem)
            return None
        if number * self._ranks < 2:
            self._single += 1
            if self._single > 1:  # the first one may be the rest of an epoch
                self._warn_of_single()
            return None
        if len(samples) < number:
            self._warn("the samples of a micro-batch are unknown; pass samples=, or use batches of tensors by name")
            return None
        self._has_compared = True
        device = self._total.device
        squares, total = torch.stack([moved(part, device) for part in self._squares]), self._total
        if self._scale is not None:
            by = moved(self._scale, device).to(total.dtype).square()
            squares, total = squares / by, total / by
        sizes = torch.tensor(samples, dtype=total.dtype)
        return Microbatches(squares, total, moved(sizes, device), self._shares(total), ranks=self._ranks)

    def _shares(self, like: Tensor) -> Tensor:
        """The share of each micro-batch in the loss of all ranks; 0 before the gradients were set to zero."""
        is_kept = torch.ones(len(self._samples), dtype=like.dtype, device=like.device)
        for number, before in enumerate(self._before):
            if before is not None:  # a step was skipped, unless they are not zero
                is_kept[:number] *= moved(before, like.device).ne(0)
        known = [
            moved(weight, like.device).to(like.dtype).reshape(()) for weight in self._weights if weight is not None
        ]
        return torch.stack(known) * is_kept if known else is_kept / (is_kept.sum() * self._ranks)

    def _on_gradient(self, index: int, gradient: Tensor) -> None:
        """A backward pass has computed what it adds to the gradient of a parameter."""
        if not self.is_active:
            return
        try:
            if not self._fired:
                self._look_at_gradients()
            if index in self._fired:
                self._problem = "a micro-batch has several backward passes; add its losses"
            self._fired.add(index)
            current = torch._C._current_graph_task_id()
            if current not in self._passes:
                self._passes.add(current)
                at_end_of_backward(self._after_backward)
            with torch.no_grad():
                self._parts.append(square_norms([gradient.detach()])[0])
        except Exception as error:
            self._fail(error)

    def _look_at_gradients(self) -> None:
        """Looks whether a step before this micro-batch was skipped: its gradients are gone, or perhaps zero."""
        gradients = [parameter.grad.detach() for parameter in self._parameters if parameter.grad is not None]
        if not gradients:
            self._restart()
        is_written = bool(self._versions) and self._versions != [gradient._version for gradient in gradients]
        with torch.no_grad():
            self._before.append(square_norms(gradients).sum() if is_written else None)

    def _after_backward(self) -> None:
        if not self.is_active or self._is_abandoned():
            return
        try:
            gradients = [parameter.grad.detach() for parameter in self._parameters if parameter.grad is not None]
            with torch.no_grad():
                self._total = square_norms(gradients).sum()
            self._versions = [gradient._version for gradient in gradients]
            scale = scale_of(self._scaler)  # now: it is updated after the step
            self._scale = None if scale is None else scale.detach().clone().reshape(())
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.is_active = False  # the hooks are removed when the next step begins: one of them runs
        self._on_error(error)

    def _warn_of_single(self) -> None:
        if not self._has_compared:
            self._warn(
                "a step has one micro-batch to compare; accumulate gradients over several (gradient_accumulation_steps)"
            )

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            if is_rank_zero():
                logger.warning("gradient_noise is left out: %s", text)
