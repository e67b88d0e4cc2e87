"""Wraps methods of one Hugging Face Trainer, so that an attached callback receives its batches and gradients.

The wrapped methods are public, and their behaviour is unchanged: `Trainer.train`, `training_step`, `evaluate` and
`predict`, and `Accelerator.clip_grad_norm_`. `compute_loss` is wrapped while a loss's graph is read. The metric `time`
adds `Trainer.get_batch_samples`, `CallbackHandler.call_event` and `Accelerator.backward`. Tested on transformers 4.52
to 5.23.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._model.amp import scale_of
from tbx_callbacks.integrations.batches import labels_in
from tbx_callbacks.integrations.huggingface.batch_size import BatchSize
from tbx_callbacks.integrations.huggingface.item_weights import ItemWeights
from tbx_callbacks.integrations.huggingface.loss_scale import (
    REMEDY,
    REMEDY_OF_FUNCTION,
    nearest_factor,
    warning,
)
from tbx_callbacks.integrations.loss_graph import is_mean, last_factor
from tbx_callbacks.integrations.session import Session
from tbx_callbacks.tags import TIME_BACKWARD, TIME_CALLBACKS, TIME_CLIP, TIME_DATA, TIME_FORWARD

logger = logging.getLogger(__name__)


class _Wrapped:
    """A method of one object, wrapped for one session.

    It does not keep the session alive, and does nothing but call the method once the session is gone. A deep copy of
    the object has the method itself, bound to the copy.

    Args:
        owner: the object.
        name: the method's name.
        session: the session.
    """

    def __init__(self, owner: Any, name: str, session: Session) -> None:
        method = getattr(owner, name)
        self._method = method.remaining if isinstance(method, _Wrapped) else method
        self._owner, self._session = owner, weakref.ref(session)
        wrapper: Any = self
        functools.update_wrapper(wrapper, self._method, updated=())  # not its attributes, if it is wrapped already
        setattr(owner, name, wrapper)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return deepcopy(self._method, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self._method,)

    @property
    def remaining(self) -> Any:
        """The method without the wrappers of sessions that are gone."""
        if self._session() is not None:
            return self
        return self._method.remaining if isinstance(self._method, _Wrapped) else self._method


def _itself(method: Any) -> Any:
    return method


class _Attached:
    """The sessions that a trainer or an accelerator is wrapped for; none in a copy."""

    def __init__(self) -> None:
        self.sessions: weakref.WeakSet[Session] = weakref.WeakSet()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Attached, ()


def attach(trainer: Any, session: Session) -> None:
    """Passes each micro-batch with its training loss, and the gradients before clipping, to the session.

    A second call changes nothing, except that the Trainer creates a new accelerator for each trial of a search.
    """
    if _mark_attached(trainer, session):
        _Training(trainer, "train", session)
        _TrainingStep(trainer, "training_step", session)
        for name in ("evaluate", "predict"):
            _Evaluation(trainer, name, session)
        if session.times_parts:
            _Forward(trainer, "training_step", session)
            _Part(trainer, "get_batch_samples", session, TIME_DATA)
            _Part(trainer.callback_handler, "call_event", session, TIME_CALLBACKS)
    if _mark_attached(trainer.accelerator, session):
        _Clipping(trainer.accelerator, "clip_grad_norm_", session)
        if session.times_parts:
            _Backward(trainer.accelerator, "backward", session)


def is_attached(trainer: Any, session: Session) -> bool:
    """Whether the session receives this trainer's micro-batches."""
    attached = getattr(trainer, _MARK, None)
    return attached is not None and session in attached.sessions


_MARK = "_tbx_callbacks_attached"


def _mark_attached(owner: Any, session: Session) -> bool:
    if is_attached(owner, session):
        return False
    owner.__dict__.setdefault(_MARK, _Attached()).sessions.add(session)
    return True


class _Training(_Wrapped):
    """Ends the session where the training raises."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._method(*args, **kwargs)
        except BaseException as error:
            if (session := self._session()) is not None:
                session.end(succeeded=False, error=error)  # the Trainer fires no event on an exception
            raise


class _Evaluation(_Wrapped):
    """Tells the session that the model is evaluated."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        session = self._session()
        with session.evaluation() if session is not None else contextlib.nullcontext():
            return self._method(*args, **kwargs)


class _Part(_Wrapped):
    """Times a part of the step; the training goes on with what it did before.

    Args:
        part: the tag of its time.
    """

    def __init__(self, owner: Any, name: str, session: Session, part: str) -> None:
        super().__init__(owner, name, session)
        self._part = part

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        session = self._session()
        times = None if session is None else session.stopwatch.times
        if times is None:
            return self._method(*args, **kwargs)
        times.begin(self._part)
        try:
            return self._method(*args, **kwargs)
        finally:
            times.end(self._part)


class _Forward(_Wrapped):
    """Times the forward pass, from the preparation of the micro-batch on."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        session = self._session()
        if session is not None and session.stopwatch.times is not None:
            session.stopwatch.times.switch(TIME_FORWARD)
        return self._method(*args, **kwargs)


class _Backward(_Wrapped):
    """Times the backward pass, from the loss on."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        session = self._session()
        times = None if session is None else session.stopwatch.times
        if times is None:
            return self._method(*args, **kwargs)
        times.switch(TIME_BACKWARD)
        result = self._method(*args, **kwargs)
        times.end_backward()
        return result


class _TrainingStep(_Wrapped):
    """Passes micro-batches to the session."""

    def __init__(self, owner: Any, name: str, session: Session) -> None:
        super().__init__(owner, name, session)
        self._loss_check = _LossCheck(owner) if _accumulates(owner.args) else None
        self._batch_size = BatchSize(owner)
        self._weights = ItemWeights(owner.args)

    def __call__(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        session = self._session()
        if session is None:
            return self._method(model, inputs, *args, **kwargs)
        needs_labels = session.needs_labels
        if needs_labels:  # label smoothing and compute_loss remove them before the forward pass
            with session.guard_outputs():
                session.expect_labels(labels_in(inputs))
            session.expect_rows(inputs)
        samples = tokens = None
        if session.needs_batches:  # read now: the training may change the batch
            samples, tokens = session.measure_batch(inputs, self._batch_size(inputs))
        weighs = session.needs_weights and session.weighs_batches
        labels = labels_in(inputs) if weighs else None  # now: the training may remove them
        readers = (
            self._readers(session, checks=needs_labels, weighs=weighs)
            if needs_labels or weighs or self._loss_check is not None
            else ()
        )
        try:
            with _reading_losses(self._owner, readers) if readers else contextlib.nullcontext():
                loss = self._method(model, inputs, *args, **kwargs)
        except BaseException:
            session.suspend()  # the Trainer fires no event on an exception
            raise
        finally:
            if needs_labels:
                session.expect_labels(None)
        if session.running:
            if self._loss_check is not None:
                self._check_loss(session, loss)
            if weighs:
                with session.guard_outputs():
                    num_items = args[0] if args else kwargs.get("num_items_in_batch")
                    session.weigh_batch(*self._weights.share(labels, num_items))
            if session.needs_batches:
                is_scalar = isinstance(loss, Tensor) and loss.numel() == 1
                session.record_batch(loss=loss if is_scalar else None, samples=samples, tokens=tokens)
        return loss

    def _readers(self, session: Session, *, checks: bool, weighs: bool) -> list[Callable[[Any, Any], None]]:
        """What reads the loss of this micro-batch, with its graph."""
        readers: list[Callable[[Any, Any], None]] = [] if self._loss_check is None else [self._loss_check.read]
        if checks and session.checks_losses:
            readers.append(lambda loss, _: session.check_loss(loss))
        if weighs and self._weights.needs_loss:
            readers.append(self._weights.read)
        return readers

    def _check_loss(self, session: Session, loss: Tensor) -> None:
        check, self._loss_check = self._loss_check, None
        if check is not None:
            with session.guard_outputs():
                check.finish(loss, is_writer=session.is_writer)


@contextlib.contextmanager
def _reading_losses(trainer: Any, readers: Sequence[Callable[[Any, Any], None]]) -> Iterator[None]:
    """Passes each training loss, with its graph, and the number of items to the readers before the backward pass."""
    own, original = trainer.__dict__.get("compute_loss"), trainer.compute_loss

    @functools.wraps(original)
    def compute_loss(model: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(model, *args, **kwargs)
        with contextlib.suppress(Exception):  # the result may be anything
            if model.training and torch.is_grad_enabled():
                for read in readers:
                    read(result[0] if isinstance(result, tuple) else result, kwargs.get("num_items_in_batch"))
        return result

    trainer.compute_loss = compute_loss
    try:
        yield
    finally:
        if trainer.__dict__.get("compute_loss") is compute_loss:  # the user may have replaced it
            del trainer.compute_loss
            if own is not None:
                trainer.compute_loss = own


class _LossCheck:
    """Warns if the Trainer does not divide a mean loss by the micro-batches of a step; reads the first micro-batch."""

    def __init__(self, trainer: Any) -> None:
        self._trainer, self._ranks = trainer, max(1, int(trainer.args.world_size))
        self._loss: Tensor | None = None
        self._times = 1.0

    def read(self, loss: Tensor, num_items: Any) -> None:
        """Reads the loss of the micro-batch, with its graph."""
        if self._loss is None and is_mean(loss, num_items):
            last = last_factor(loss)
            if self._is_own and last is not None and math.isclose(last, 1 / self._micro_batches):
                return  # the user's function divides
            self._loss = loss.detach().clone()
            self._times = float(self._ranks) if last == self._ranks else 1.0

    def finish(self, loss: Tensor, *, is_writer: bool) -> None:
        """Ends the check with the loss that `training_step` returned for the micro-batch."""
        if self._loss is None or not is_writer or not float(self._loss):
            return
        ratio = float(loss) / float(self._loss) * self._micro_batches * self._times
        factor = nearest_factor(ratio, self._micro_batches, self._ranks)
        if factor > 1:
            logger.warning(warning(factor, REMEDY_OF_FUNCTION if self._has_function else REMEDY))

    @property
    def _micro_batches(self) -> int:
        configured = self._trainer.args.gradient_accumulation_steps
        return int(getattr(self._trainer, "current_gradient_accumulation_steps", configured))

    @property
    def _has_function(self) -> bool:
        return getattr(self._trainer, "compute_loss_func", None) is not None

    @property
    def _is_own(self) -> bool:
        """Whether the user computes the loss."""
        return self._has_function or type(self._trainer).compute_loss.__module__ != "transformers.trainer"


def _accumulates(args: Any) -> bool:
    """Whether a loss can be too large by the micro-batches of a step or by the ranks."""
    return bool(args.gradient_accumulation_steps > 1 or args.world_size > 1)


class _Clipping(_Wrapped):
    """Passes gradients before clipping, and the norm of an accelerator's clipping, to the session."""

    def __call__(self, parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
        session = self._session()
        if session is None or not session.running:
            return self._method(parameters, max_norm, *args, **kwargs)
        if session.stopwatch.times is not None:
            session.stopwatch.times.switch(TIME_CLIP)
        if session.has_due_metrics:
            session.before_clip(scale_of(getattr(self._owner, "scaler", None)))
        norm = self._method(parameters, max_norm, *args, **kwargs)
        if norm is not None and math.isfinite(max_norm):  # some versions compute an unclipped norm by clipping to inf
            session.record_clipping(norm, max_norm)
        return norm
