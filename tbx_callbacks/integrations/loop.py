"""Defines `TbxLoop`, the integration for plain PyTorch loops."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from tbx_callbacks import tags
from tbx_callbacks._config.validation import short
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks.integrations.arguments import check_module, check_whole_number
from tbx_callbacks.integrations.loss_graph import divides_mean
from tbx_callbacks.integrations.preflight import Loss, Preflight, preflight
from tbx_callbacks.integrations.session import ConfigSource
from tbx_callbacks.integrations.session_holder import SessionHolder
from tbx_callbacks.metrics.hparam_values import plain_hparams

logger = logging.getLogger(__name__)

T = TypeVar("T")
_LOG_EVERY = 10
_STEPS_WITHOUT_DIVISION = 20  # after them the losses are no longer examined


Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | Mapping[str, torch.optim.Optimizer]


class _Division:
    """Warns if a loop with gradient accumulation passes losses that it divided by the number of micro-batches."""

    def __init__(self) -> None:
        self._batches = self._divided = self._steps = self._found = 0

    def is_noticed(self, loss: Any, *, is_step: bool) -> bool:
        """Whether nothing more is to be noticed, after a micro-batch."""
        self._batches += 1
        self._divided += divides_mean(loss)
        if not is_step:
            return False
        batches, divided, self._batches, self._divided = self._batches, self._divided, 0, 0
        self._steps += 1
        self._found = self._found + 1 if batches > 1 and divided == batches else 0
        if self._found < 2:  # a step that a loss scale skipped looks like accumulation, but only once
            return self._steps >= _STEPS_WITHOUT_DIVISION
        logger.warning(
            "train/loss may be too small: %d batches make a step, and end_step gets a loss divided after its mean;"
            " pass the undivided loss",
            batches,
        )
        return True


class TbxLoop(SessionHolder):
    """Logs a metric set to TensorBoard from a plain PyTorch loop; a context manager.

    ```python
    with TbxLoop(model, optimizer, "default", log_dir="runs/exp1") as loop:
        for batch in batches:
            loss = criterion(model(batch.x), batch.y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=loss, samples=len(batch.x))
        loop.evaluate(accuracy=accuracy)
    ```

    A step is a batch in which any optimizer steps. Steps are counted from `start_step` + 1. `train/loss` is the mean of
    the losses since the last point, computed on their device. Other arguments, `writer`, `log` and `close` are those of
    `Session`. Without `log_dir` the run is written to a new folder in `runs/`.

    Args:
        model: the model, wrapped (DDP, compiled, prepared by Accelerate) or not.
        optimizer: one optimizer, several, or several by name; prepared by Accelerate or not.
        config: see `Session`.
        log_every: the interval, in optimizer steps, of the loss and of metrics with `every: log`. Default: `every` of
            the metric set if it is a number of steps, else 10.
        steps_per_epoch: optimizer steps in an epoch, for metrics with `every: {epochs: ...}`.
        max_grad_norm: the limit if the loop clips by norm; None if it does not clip. Norms before clipping then need a
            call of `before_clip`.
        hparams: hyper-parameters for the HParams tab, for example `vars(args)`; values that are not numbers become
            text. The optimizer, its rate, its weight decay and `max_grad_norm` are added.
        start_step: finished steps of a resumed loop. The run continues in `log_dir`, and TensorBoard hides later steps
            that the folder contains.
        scaler: the loop's GradScaler, so the metric `amp` can read the loss scale. Accelerate's is found in its
            optimizer.
        tokenizer: the tokenizer, for the texts of rows where a metric keeps them (`examples`).
        **options: see `Session`.
    """

    _not_copied = frozenset({"_optimizers"})
    _optimizers: Mapping[str, torch.optim.Optimizer] = {}

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers,
        config: ConfigSource = "default",
        *,
        log_every: int | None = None,
        steps_per_epoch: int | None = None,
        max_grad_norm: float | None = None,
        hparams: Mapping[str, Any] | None = None,
        start_step: int = 0,
        scaler: torch.amp.GradScaler | None = None,
        tokenizer: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(config, **options)
        check_module(model)
        if log_every is None:
            log_every = self.config.every if isinstance(self.config.every, int) else _LOG_EVERY
        check_whole_number("log_every", log_every, "pass the logging interval")
        check_whole_number("start_step", start_step, "pass the number of finished steps")
        if steps_per_epoch is not None:
            check_whole_number("steps_per_epoch", steps_per_epoch, "leave it out if it is unknown")
        if log_every < 1:
            raise ValueError(f"log_every must be at least 1 step, got {log_every}; pass the logging interval")
        if start_step < 0:
            raise ValueError(f"start_step must be at least 0, got {start_step}; pass the number of finished steps")
        if max_grad_norm is not None and not isinstance(max_grad_norm, (int, float)):
            raise TypeError(f"max_grad_norm must be a number, got {short(max_grad_norm)}; pass the limit of clipping")
        self._session.runs_dir = "runs"
        self._model, self._max_grad_norm = model, max_grad_norm
        own_hparams = plain_hparams(hparams or {})
        self._division: _Division | None = _Division()
        info = TrainingInfo(
            model=model,
            optimizers=optimizer,
            log_schedule=log_every,
            log_option="log_every",
            clipping="norm" if max_grad_norm else "none",
            hparams={**({"max_grad_norm": max_grad_norm} if max_grad_norm else {}), **own_hparams},
            texts={tags.ARGS: json.dumps(own_hparams, indent=2)} if own_hparams else {},
            scaler=scaler,
            steps_per_epoch=steps_per_epoch,
            may_clip=not max_grad_norm,
            clip_remedy="pass max_grad_norm, and call loop.before_clip() before clipping",
            predictions_remedy="pass outputs=... and labels=... to end_step",
            evaluates_in_loop=True,
            tokenizer=tokenizer,
        )
        self._optimizers = info.optimizers
        self._session.ends_unreported = True
        self._session.start(info, step=start_step)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__setstate__(state)
        self._session.disable("a copy of a TbxLoop writes nothing; create a TbxLoop for the model of the copy")

    @property
    def should_stop(self) -> bool:
        """Whether a rule requests a stop; True from one `end_step` on, the same one on every rank."""
        return self._session.should_stop

    @property
    def should_checkpoint(self) -> bool:
        """Whether a rule requests a checkpoint; True after one `end_step`, the same one on every rank."""
        return self._session.should_checkpoint

    def track(self, batches: Iterable[T], description: str | None = None) -> Iterator[T]:
        """Yields the batches, with a progress bar for terminals and notebooks that shows the logged loss.

        The metric `input_share` measures the time spent waiting for these batches. In evaluation mode, batches without
        a step are an evaluation: their time is not training time.
        """
        with tqdm(batches, desc=description, disable=not self._session.is_writer) as bar:
            for batch in self._time_waiting(bar):
                yield batch
                loss = self._session.last_value(tags.TRAIN_LOSS)
                if isinstance(loss, float):
                    bar.set_postfix(step=self.step, loss=f"{loss:.4g}", refresh=False)

    def before_clip(self, loss_scale: Tensor | None = None, *, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Captures the gradients of this step before clipping: exact norms, and the first non-finite layer.

        Call it in every step, between the backward pass and clipping.

        Args:
            loss_scale: the factor by which gradients are still multiplied, if a GradScaler has not unscaled them.
            optimizer: the optimizer that steps next, if several clip separately. Default: all optimizers.
        """
        self._session.before_clip(loss_scale, optimizer=optimizer, max_norm=self._max_grad_norm)

    def end_step(
        self,
        *,
        loss: Tensor | float | None = None,
        samples: int | None = None,
        tokens: Tensor | int | None = None,
        outputs: Any = None,
        labels: Tensor | None = None,
        batch: Any = None,
    ) -> None:
        """Ends one iteration of the loop; with gradient accumulation, call it for each micro-batch.

        Args:
            loss: loss of the (micro-)batch, 0-d; it stays on its device. With gradient accumulation, the loss before
                its division by the number of micro-batches: `train/loss` is the mean of these losses.
            samples: number of samples in the batch. Where ranks share one batch (tensor parallelism), this rank's
                share, so that the sum over ranks is right.
            tokens: number of tokens in the batch, with the same rule.
            outputs: the model's outputs: `logits` and perhaps further losses, by name (a mapping, a dataclass) or as a
                tuple that begins with the loss; or the logits alone.
            labels: labels of the batch, for the accuracy.
            batch: the batch itself, for metrics that tell its rows apart (`examples`).

        Raises:
            ValueError: the loss is not a scalar.
        """
        step = self.step if self._division is not None else 0
        self._session.end_batch(loss=loss, samples=samples, tokens=tokens, outputs=outputs, labels=labels, batch=batch)
        if self._division is not None and self._division.is_noticed(loss, is_step=self.step > step):
            self._division = None

    def preflight(
        self, batches: Any, *, loss: Loss | None = None, evaluation: Iterable[Any] | None = None, tokenizer: Any = None
    ) -> Preflight:
        """Checks the training on its first batches, before the loop begins, and logs what it finds; see `preflight`.

        Args:
            batches: the data loader of the training, or one of its batches.
            loss: computes the loss of a batch, as `loss(model, batch)`; it may return `(loss, outputs)`. Default: the
                loss that the model returns for `model(**batch)`.
            evaluation: the data loader of the evaluation, to find its rows among those of the training.
            tokenizer: the tokenizer, to count unknown tokens.
        """
        result = preflight(
            self._model,
            batches,
            optimizers=dict(self._optimizers),
            loss=loss,
            evaluation=evaluation,
            tokenizer=tokenizer,
        )
        return self._session.report(result)

    def evaluate(self, dataset: str | None = None, /, **metrics: Tensor | float) -> None:
        """Logs evaluation metrics at the current step, as `eval/<name>`.

        The evaluation came after the last step, so the time since then is not training time. See `evaluation` where it
        did not.

        Args:
            dataset: name of the evaluation set, if there are several. The tags are then `eval/<dataset>_<name>`.
            **metrics: numbers by name.
        """
        self._session.evaluate(dataset, **metrics)

    def evaluation(self) -> AbstractContextManager[None]:
        """A context for an evaluation or a checkpoint, `with loop.evaluation():`; its time is not training time."""
        return self._session.evaluation()

    def __enter__(self) -> TbxLoop:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._session.__exit__(kind, *error)

    @property
    def _trains_now(self) -> bool:
        """Whether the next batch belongs to the training. A model may train in evaluation mode."""
        return self._model.training or (self._session.trains_in_eval_mode and torch.is_grad_enabled())

    def _time_waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yields the batches; counts the waiting time while the model trains, except at the end of the data."""
        watch, iterator = self._session.stopwatch, iter(batches)
        evaluates, last_mark = not self._model.training, watch.marked_at
        try:
            while True:
                if self._trains_now:
                    watch.start_waiting()
                try:
                    batch = next(iterator)
                except StopIteration:
                    watch.cancel_waiting()
                    return
                watch.stop_waiting()
                if self._trains_now:
                    self._session.follow_batch(batch)
                step = self._session.step
                yield batch
                if self._session.step > step:
                    self._session.read_mode()
        finally:
            if evaluates and watch.marked_at == last_mark and watch.is_running:  # a model may train in evaluation mode
                watch.exclude()
                watch.resume()
