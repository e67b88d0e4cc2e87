"""Defines `Sharding`, the interface of a sharding strategy: it locates this rank's elements of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

ParameterState = Mapping[str, Any]
Closure = Callable[[], Any]


class StepEvents(Protocol):
    """Receives the events of optimizers' steps; `name` is the optimizer's."""

    @property
    def watches_steps(self) -> bool:
        """Whether `before_step` is needed in every step."""

    @property
    def awaits_first_step(self) -> bool:
        """Whether `before_step` is needed in the next step, which is the first one."""

    @property
    def due(self) -> Sequence[object]:
        """The metrics that are due. Without any, `before_step` is only called if `watches_steps`."""

    def name_of(self, optimizer: torch.optim.Optimizer) -> str | None:
        """Returns the name of an optimizer of this training; None for one whose steps are not reported."""

    def before_clip(self, scale: Tensor | None, optimizer: str | None, max_norm: float | None) -> None:
        """All gradients of this step exist; `scale` is the loss scale that they still contain."""

    def record_clipping(self, norm: Tensor | float, max_norm: float) -> None:
        """The gradients were clipped to `max_norm`; `norm` is their norm before."""

    def before_step(self, name: str, closure: Closure | None) -> Closure | None:
        """The step begins. With a closure, gradients do not exist yet; it may return another closure to call."""

    def after_step(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """The step has ended: weights and optimizer state are new."""

    def report(self, error: Exception) -> None:
        """Receives an error of the methods above, which must not reach the training."""


class Sharding(Protocol):
    """Reads this rank's elements of parameters, gradients and optimizer state, and reports an optimizer's steps.

    `find_sharding` chooses the strategy of a training. Lists are in the order of the given parameters. An element is
    None where this rank has nothing to read.
    """

    @classmethod
    def detect(cls, model: nn.Module, optimizer: Any) -> Sharding | None:
        """Returns the strategy for this model and the trainer's optimizer (in its wrappers); None if it is another."""

    @property
    def unsupported_reason(self) -> str | None:
        """Reason why the elements cannot be read, with the remedy; None when they can."""

    @property
    def clips_gradients(self) -> bool:
        """Whether the strategy clips gradients itself and reports it; the trainer's own reports are then ignored."""

    @property
    def frees_gradients(self) -> bool:
        """Whether the strategy keeps the gradients of a step itself, and frees them during it.

        A parameter without a gradient may then have been updated. After the step, `gradients` are those that it used.
        """

    def shard_ranks(self, parameters: Sequence[Tensor]) -> Mapping[int, Sequence[int]]:
        """Returns the global ranks that hold the shards of a plain tensor, by its id; full tensors are left out."""

    def weights(self, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """Returns this rank's elements of each parameter."""

    def gradients(self, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """Returns this rank's elements of each gradient; None also where they cannot be read."""

    def has_gradients(self, parameters: Sequence[Tensor]) -> list[bool]:
        """Whether each parameter has a gradient, readable or not, so that the optimizer updates it."""

    def optimizer_states(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]
    ) -> list[tuple[ParameterState | None, ParameterState]]:
        """Returns this rank's optimizer state of each parameter, and its parameter group (empty without one)."""

    def skipped(self, optimizer: torch.optim.Optimizer) -> Tensor | None:
        """Returns a tensor that is nonzero if the step was skipped because gradients overflowed; None if unknown."""

    def hook_steps(self, optimizers: Mapping[str, torch.optim.Optimizer], events: StepEvents) -> list[Any]:
        """Reports every step to `events`; returns handles with `remove`."""
