"""Averages scalars that users log on their device until the next point."""

from __future__ import annotations

import logging
import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tbx_callbacks._config.schedule import Schedule, never
from tbx_callbacks._config.validation import short
from tbx_callbacks._model.names import unwrap
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.values import Mean
from tbx_callbacks.tags import EARLIER, EVAL, EVALUATION, TEST, check_tag

logger = logging.getLogger(__name__)


class _Logged(NamedTuple):
    """Values logged in the evaluation in progress: step, tag, and whether gradients were enabled."""

    step: int
    tag: str
    with_gradients: bool


class UserScalars:
    """Running means by tag, of the training and of evaluations.

    Values that are logged while the model is evaluated never enter a mean of the training. They are written at the
    step of the evaluation, under the evaluation's own tag: see `evaluation_tag`.

    The model is evaluated while it is in evaluation mode, unless an optimizer steps in that mode, and while the trainer
    says so (`evaluating`).
    """

    def __init__(self) -> None:
        self.schedule: Schedule = never
        """The points at which means are written."""
        self.is_shared = False
        """Whether the means are merged over ranks. All ranks then take part at every point, with or without values."""
        self.evaluating = False
        """Whether the trainer says that the model is evaluated."""
        self.in_step = False
        """Whether a step has begun. The trainer may switch an evaluated model to training mode only later."""
        self.is_used = False
        """Whether this object has something to do in a step: a value was logged, or ranks may have values."""
        self._model: weakref.ref[nn.Module] | None = None
        # Sums and counts since the last point.
        self._training: dict[str, tuple[Number, int]] = {}
        self._in_progress: dict[_Logged, tuple[Number, int]] = {}
        self._evaluations: dict[tuple[int, str], tuple[Number, int]] = {}
        self._last_point: int | None = None
        self._last_tags: frozenset[str] = frozenset()

    def start(self, model: nn.Module, schedule: Schedule, *, is_shared: bool) -> None:
        """Starts a training of this model. Values that were logged before belong to it."""
        self.watch(model)
        self.evaluating = self.in_step = False  # an exception may have ended an evaluation
        self.schedule, self.is_shared, self._last_point = schedule, is_shared, None
        self.is_used |= is_shared

    def watch(self, model: object) -> None:
        """Sets the model whose mode tells whether it is evaluated."""
        self._model = weakref.ref(unwrap(model)) if isinstance(model, nn.Module) else None

    def add(self, tag: str, value: Tensor | float, step: int = 0) -> None:
        """Adds a value to the mean of its tag, without a host sync.

        Args:
            tag: the user's tag.
            value: a number or a tensor with one element.
            step: number of finished steps, for values of an evaluation.

        Raises:
            TypeError: the value is not a number.
            ValueError: TensorBoard would rewrite the tag, or the value is not a scalar.
        """
        number, self.is_used = scalar(tag, value), True
        if self.evaluating or (self._in_evaluation_mode and not (self.in_step and torch.is_grad_enabled())):
            _add(self._in_progress, _Logged(step, check_tag(tag), torch.is_grad_enabled()), number)
        else:
            _add(self._training, check_tag(tag), number)

    @property
    def _in_evaluation_mode(self) -> bool:
        model = None if self._model is None else self._model()
        return model is not None and not model.training

    def after_step(self) -> None:
        """Ends an evaluation, because an optimizer has made a step.

        If the model is in evaluation mode even now, it is trained in that mode, and values that were logged with
        gradients enabled belong to the training.
        """
        if not self._in_progress:
            return
        if self._in_evaluation_mode:
            for logged in [logged for logged in self._in_progress if logged.with_gradients]:
                _add(self._training, logged.tag, *self._in_progress.pop(logged))
        self.end_evaluation()

    def end_evaluation(self, name: str | None = EVAL) -> None:
        """Ends an evaluation; its values get the tags of `evaluation_tag`. Without a name they are discarded."""
        self.evaluating = False
        for logged, (total, count) in self._in_progress.items():
            if name is not None:
                _add(self._evaluations, (logged.step, evaluation_tag(logged.tag, name)), total, count)
        self._in_progress.clear()

    def discard_evaluations(self) -> bool:
        """Discards the values of all evaluations; returns whether there were any."""
        found = bool(self._in_progress or self._evaluations)
        self._in_progress.clear()
        self._evaluations.clear()
        return found

    # -- points ------------------------------------------------------------------------------------------------------

    def due(self, step: int) -> bool:
        """Whether there are means to write with this step.

        A single process writes those of an evaluation with the next step. Ranks write them with the next point.
        """
        if self.is_shared or self._training:
            return self._is_point(step) or (bool(self._evaluations) and not self.is_shared)
        return bool(self._evaluations)

    def pop(self, step: int, *, is_last: bool = False) -> dict[str, Mean]:
        """Returns the means that are due at this step and starts new ones. Ranks may log different tags.

        Args:
            step: the step with which they are written.
            is_last: whether no step follows. Then all means are due.
        """
        means: dict[str, Mean] = {}
        self.is_shared = self.is_shared and not is_last
        if is_last or self._is_point(step):
            late = self._last_tags & {*self._training} if step == self._last_point else ()
            if late:
                logger.warning(
                    "%s is not complete: it was logged after its last point; call log before the step ends", min(late)
                )
            means = {tag: Mean(*sums) for tag, sums in self._training.items() if tag not in late}
            self._training.clear()
            self._last_point, self._last_tags = step, frozenset(means)
        if is_last and not self.evaluating:
            self.end_evaluation()
        for (earlier, tag), sums in self._evaluations.items():
            means[tag if earlier == step else f"{EARLIER}{step - earlier}:{tag}"] = Mean(*sums)
        self._evaluations.clear()
        return means

    def _is_point(self, step: int) -> bool:
        return step > 0 and step != self._last_point and self.schedule(step)

    def pop_outside_training(self, step: int) -> dict[str, Mean]:
        """Returns all means, where no training is in progress. Values that no evaluation claims keep their tag."""
        for logged in [] if self.evaluating else [*self._in_progress]:  # the evaluation's end claims them
            _add(self._training, logged.tag, *self._in_progress.pop(logged))
        return self.pop(step, is_last=True)


def evaluation_tag(tag: str, name: str = EVAL) -> str:
    """The tag of a user scalar that was logged in the evaluation `name`: `eval`, `test`, or `eval/<set>` for one set.

    It is `<name>/<tag>`. A tag that says so itself (`eval/f1`, `val_f1`) is used as it is, or becomes `eval/<set>/f1`.
    """
    if tag.startswith((*EVALUATION, f"{TEST}/")):
        return tag if name in (EVAL, TEST) else f"{name}/{tag.removeprefix(f'{EVAL}/')}"
    return f"{name}/{tag}"


def scalar(name: str, value: object) -> Number:
    """The user's value as a number, or as a 0-d tensor on its device.

    Raises:
        TypeError: the value is not a number.
        ValueError: the value has several elements, or does not fit into a float64.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            what = f"shape {tuple(value.shape)}" if value.numel() != 1 else str(value.dtype)
            raise ValueError(f"{name} must be a scalar, got {what}; reduce it, for example with .mean()")
        return value.detach().reshape(()).float()
    try:
        if isinstance(value, str) or not hasattr(value, "__float__"):
            raise TypeError
        return float(value.item() if getattr(value, "size", None) == 1 else value)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError) as error:
        kind = ValueError if isinstance(error, OverflowError) else TypeError
        raise kind(
            f"{name} must be a number or a tensor with one element, got {short(value)}; pass float(...) of it"
        ) from None


def _add(sums: dict[Any, tuple[Number, int]], key: object, number: Number, count: int = 1) -> None:
    total, known = sums.get(key, (0.0, 0))
    sums[key] = (total + number, known + count)
