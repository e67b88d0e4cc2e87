"""Defines `Session`, which logs a metric set from one trainer; every integration holds one."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import MethodType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from tbx_callbacks import tags
from tbx_callbacks._config.metric_set import Config, load_config
from tbx_callbacks._config.validation import short
from tbx_callbacks._distributed.at_exit import AtExit
from tbx_callbacks._distributed.rank import has_group, rank_variable
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.metric_plan import axis_specs
from tbx_callbacks._engine.step_times import PassTimes
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._engine.user_scalars import scalar
from tbx_callbacks._model.forward_hooks import Hook, before_forward, on_forward
from tbx_callbacks._model.optimizers import check_reports_steps, unwrap_optimizer
from tbx_callbacks._model.outputs import OUTPUTS
from tbx_callbacks._stats.types import Number
from tbx_callbacks._wiring.check import Check
from tbx_callbacks.integrations.alerting import Alerting
from tbx_callbacks.integrations.arguments import refuse_unknown
from tbx_callbacks.integrations.batches import (
    batch_count,
    labels_in,
    masks_in,
    samples_in,
    scalar_loss,
    scalar_norm,
    tokens_in,
    usual_size,
)
from tbx_callbacks.integrations.notebook import announce
from tbx_callbacks.integrations.preflight import PREFLIGHT_CHECKS, Preflight
from tbx_callbacks.integrations.rank_role import Change, RankRole
from tbx_callbacks.integrations.run_output import RunOutput
from tbx_callbacks.integrations.step_counting import StepCounter
from tbx_callbacks.metrics.host_values import FinalValue
from tbx_callbacks.rules.base import Action
from tbx_callbacks.rules.finding_text import line
from tbx_callbacks.runs.folders import RunLocation, absolute, beside, fresh_folder, never_taken
from tbx_callbacks.writers.base import NullWriter
from tbx_callbacks.writers.fan_out import FanOutWriter
from tbx_callbacks.writers.summary_writer import NullSummaryWriter, SummaryWriter

logger = logging.getLogger(__name__)

_DRAIN_SECONDS = 5.0  # maximum wait for the other ranks' values of the previous training
ConfigSource = str | os.PathLike[str] | Mapping[str, Any] | Config


class Session:
    """Logs a metric set to TensorBoard from one trainer. An integration holds one and passes the trainer's events on.

    Create one on every rank and make the same calls on every rank. All ranks compute metrics, and only rank 0 writes.
    The metrics run in the optimizers' own step hooks. There are two ways to tell the session about steps.

    **The session counts steps**, where the trainer has an event after each micro-batch. A step is a batch in which any
    optimizer steps. The session writes `train/loss` and `train/learning_rate`.

    ```python
    session = Session("default", log_dir="runs/exp1")
    session.start(TrainingInfo(model, optimizer, log_schedule=10))  # the training begins
    session.end_batch(loss=loss, samples=len(inputs))               # after each micro-batch
    session.evaluate(accuracy=accuracy)                             # after an evaluation
    session.end(succeeded=True)                                     # the training has ended, or failed
    ```

    **The trainer numbers its steps**, and has events before and after them. It also logs its own loss.

    ```python
    session.start(TrainingInfo(model, optimizer, log_schedule=10), step=finished_steps, numbered=True)
    session.begin_step(step)                                        # before the first micro-batch; from 1
    session.record_batch(loss=loss, samples=len(inputs))            # after each micro-batch
    session.end_step(step)                                          # after the optimizer's step
    session.record_logs({"train/loss": mean_loss}, step=step)       # the trainer logs
    ```

    Both ways: call `before_clip` between the backward pass and clipping, if the trainer clips. `end_batch` and
    `end_step` return the request of rules (`Action`): stop, save a checkpoint, or both. Call `end(succeeded=False)`
    where the trainer reports an exception.

    The first line on stderr says where the run is written, or a link in a notebook. `TBX_CALLBACKS_QUIET=1` in the
    environment switches it off.

    To continue a run, store `log_dir` and `step` in the trainer's checkpoint and pass them on:
    `start(info, RunLocation(log_dir, resume=True), step=step)`.

    A rank that neither writes nor shares its values with rank 0 ignores all calls. So does a session that has ended,
    but it still writes `evaluate`, `record_logs`, `log` and `writer`, and can start again. Calls about steps before
    the first `start` raise RuntimeError.

    A session that has ended holds no thread and no open file: what is written later opens the file again. Its copies
    (copy, pickle) have the same arguments and no run; they never write to the run of the original. In a forked child
    a session that runs writes nothing, until the child starts it again.

    Args:
        config: the name of a metric set (`minimal`, `default`, `full`), the path of a YAML file, a mapping of the same
            structure, or a `Config`.
        log_dir: folder of the run. Default: `$TENSORBOARD_LOGGING_DIR`, or else a new folder where the trainer keeps
            its output (see `runs_dir`). An existing run in the folder is not touched: the new run is written to a
            folder beside it, unless it resumes from a checkpoint of that run. May be an address that fsspec knows, such
            as `s3://...` or `gs://...`.
        flush_secs: longest time in seconds until a step is fsynced (default 2; 30 for uploads). The step is in the file
            as soon as it is over. Before the fsync, only a crash of the machine can lose it.
        max_mib: memory in MiB for values while the disk cannot be written.
        process_group: the ranks that train this model, if not all ranks do (`torch.distributed.new_group`). The first
            of them writes the run. Other ranks ignore all calls.

    Attributes:
        config: the metric set.
        requested_dir: the folder that the user or the environment requested; None without one.
        runs_dir: the folder in which a new run gets its own folder if `requested_dir` is None. None if the integration
            does not know it yet.
        is_taken: returns whether another writer of this training writes to a folder, or will. A new run avoids it.
        running: whether a training is in progress on this rank.
        ends_unreported: whether nothing reports the end of the training, as in a plain loop. A run that is closed then
            has ended, unless an exception is known.
        trains_in_eval_mode: whether the model was in evaluation mode when an optimizer stepped last.
        started: whether `start` was called.
        needs_batches: whether a metric of this training reads counts of micro-batches (samples, tokens, losses).
        needs_weights: whether a metric of this training reads the share of micro-batches in the loss.
        stopwatch: times the training. `pause()` and `resume()` exclude an evaluation or a checkpoint; the next step
            resumes too. `exclude()` does so where one is noticed late: it leaves out the time since the last `mark()`.
            The metric `input_share` needs `start_waiting()` when the trainer asks for its next batch, and
            `stop_waiting()` when the batch has arrived (`begin_step` does the latter).

    Raises:
        ConfigError: the metric set is invalid.
    """

    def __init__(
        self,
        config: ConfigSource = "default",
        *,
        log_dir: str | os.PathLike[str] | None = None,
        flush_secs: float | None = None,
        max_mib: float = 64.0,
        process_group: Any = None,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown(unknown, Session)
        if log_dir is not None and not isinstance(log_dir, (str, os.PathLike)):
            raise TypeError(f"log_dir must be a path, got {short(log_dir)}; pass the run's folder")
        if log_dir is not None and "\0" in os.fsdecode(log_dir):
            raise ValueError(f"log_dir must be a path without NUL, got {short(log_dir)}; pass the run's folder")
        self.config = load_config(config)
        requested = os.fspath(log_dir) if log_dir is not None else os.environ.get("TENSORBOARD_LOGGING_DIR")
        self.requested_dir = absolute(os.path.expanduser(requested)) if requested else None
        self.runs_dir: str | None = "runs"
        self.is_taken: Callable[[str], bool] = never_taken
        self.running = self.started = self.needs_batches = self.needs_weights = False
        self._engine = Engine(
            [*self.config.items, *axis_specs(self.config.axis)],
            every=self.config.every,
            strict=self.config.strict,
            writer=NullWriter(),
            budget=self.config.overhead_budget,
            live=self.config.live,
            best=dict(self.config.best),
        )
        self.stopwatch = self._engine.stopwatch
        self._options: dict[str, Any] = {"flush_secs": flush_secs, "max_mib": max_mib}
        self._output = RunOutput(self.config, **self._options)
        self._alerting = Alerting(self.config.notify, has_rules=bool(self.config.live.active_rules()))
        self._at_exit = AtExit(self, Session.close)
        self._role = RankRole(process_group)
        self._info: TrainingInfo | None = None  # of the training in progress
        self._counter: StepCounter | None = None  # likewise, if the session counts steps
        self._hooks: list[Any] = []
        self.trains_in_eval_mode = self.ends_unreported = False
        self._last_error = 0  # identifies the exception that an interactive session showed before the training
        self._passes: PassTimes | None = None  # where a metric reads the time of each part of a step
        self._clipped: tuple[Any, str | None] = (None, None)  # the optimizer of the last `before_clip`, and its name
        self._announced: str | None = None  # the folder that the user knows
        self._step = self._first_step = 0
        self._has_point = False  # whether the trainer has logged a step that it numbers
        self._action = Action.NONE
        self._preflight: dict[str, Check] = {}  # what no training can check by itself
        self._reads_masks = False  # whether a metric reads attention masks
        self._counts_samples = True  # False once the samples of a batch were unknown
        self._warned_samples = False
        _sessions.add(self)

    # -- the run -----------------------------------------------------------------------------------------------------

    @property
    def is_writer(self) -> bool:
        """Whether this rank writes the run: rank 0, unless the integration sets it."""
        return self._role.is_writer

    @is_writer.setter
    def is_writer(self, value: bool) -> None:
        self._role.assigned = value

    @property
    def is_active(self) -> bool:
        """Whether this rank takes part: it writes, or shares its values with the rank that writes."""
        return self._role.is_active

    @property
    def may_start(self) -> bool:
        """Whether this rank takes part in a training that starts now."""
        return self._role.is_member

    @property
    def log_dir(self) -> str | None:
        """Folder of the run; None before it is known, and on ranks that do not write."""
        return self._output.log_dir

    @property
    def step(self) -> int:
        """Number of finished optimizer steps."""
        return self._step if self._counter is None else self._counter.step

    @property
    def writer(self) -> SummaryWriter | NullSummaryWriter:
        """The run's tensorboardX `SummaryWriter`; on ranks other than 0 a writer that does nothing.

        Raises:
            RuntimeError: the run's folder is not known yet.
            LogDirError: the folder cannot be written.
        """
        if not self.is_writer:
            return NullSummaryWriter()
        if not self._output.is_known:
            self._open(self._new_location())
        return self._output.summary_writer

    def log(self, tag: str, value: Tensor | float) -> None:
        """Logs a user scalar, for example from a loss function.

        Values are averaged on their device until the next point of the set's cadence, without a host sync. Over ranks
        it is the mean of all values that any rank logged under the tag.

        Values that are logged while the model is evaluated are averaged separately for each evaluation. They are
        written at its step as `eval/<tag>`, as `eval/<set>/<tag>` with several evaluation sets, or as `test/<tag>`.

        Raises:
            TypeError: the value is not a number.
            ValueError: the tag contains characters that TensorBoard would rewrite, a metric writes it, or the value is
                not a scalar.
        """
        if self.is_active:
            self._engine.log(tag, value, self._measured_step)
            if not self.running:
                self._at_exit.register()  # nothing else may follow that would write it

    def log_dict(self, values: Mapping[str, Tensor | float]) -> None:
        """Logs several user scalars, by tag; see `log`."""
        for tag, value in values.items():
            self.log(tag, value)

    def begin_evaluation(self) -> None:
        """Begins an evaluation, until `end_evaluation`; see `log`.

        Not needed where the model is in evaluation mode then, and in training mode otherwise.
        """
        self._engine.user_scalars.evaluating = True

    def end_evaluation(self, name: str | None = tags.EVAL) -> None:
        """Ends the evaluation on one data set.

        Args:
            name: the first part of the tags of its scalars: `eval`, `test`, or `eval/<set>` for one set of several.
                None discards them.
        """
        self._engine.user_scalars.end_evaluation(name)

    def watch_model(self, model: Any) -> None:
        """Sets the model whose mode tells whether it is evaluated, before the training starts."""
        self._engine.user_scalars.watch(model)

    def last_value(self, tag: str) -> FinalValue | None:
        """The last value written under a tag, for example for a progress bar; None before the first one."""
        return self._engine.last_value(tag)

    # -- start and end -----------------------------------------------------------------------------------------------

    def start(
        self, info: TrainingInfo, location: RunLocation | None = None, *, step: int = 0, numbered: bool = False
    ) -> None:
        """Starts or resumes a training: opens the run's folder and hooks into the optimizers.

        A session that is still running was left by an exception. It starts again; its earlier run is marked as failed
        if the new one has another folder.

        Args:
            info: describes the training.
            location: the run's folder. Default: a training that resumes continues the folder that this session wrote
                last, or else the requested one. Any other training gets the requested folder, or one beside it if it
                holds a run, or else a new one in `runs_dir`.
            step: number of finished steps, of a training that resumes. TensorBoard then hides later steps that the
                folder contains.
            numbered: whether the integration calls `begin_step` and `end_step`. Otherwise the session counts the
                batches in which any optimizer steps.

        Raises:
            ConfigError: a regex matches nothing, two metrics would write the same tag, or an address of `notify` cannot
                be used on the rank that writes (a variable of the environment is missing).
            LogDirError: the folder cannot be written.
        """
        for name, given, wanted in (("info", info, TrainingInfo), ("location", location, RunLocation)):
            if not isinstance(given, wanted) and (name == "info" or given is not None):
                raise TypeError(f"{name} must be a {wanted.__name__}, got {type(given).__name__}; see its docstring")
        self._role.begin()
        if not self.is_active:
            self.started = True
            return
        location = (location or self._choose_location(step)) if self.is_writer else None
        self._finish_previous(location)
        self._unhook()
        resumed_from = folder = None
        if location is not None:
            self._alerting.check()
            folder = location.folder
            writer = self._open(location)
            if writer.has_event_file and location.folder != self._announced:
                self._announced = location.folder
                announce(location.folder)
            if location.resume:
                writer.purge(step + 1)
                resumed_from = location.folder, step
        if not numbered:
            check_reports_steps(info.optimizers)
        counter = None if numbered else StepCounter(self._engine, info, step)
        self._engine.start(
            info,
            resumed_from,
            self._role.process_group,
            awaits_group=self._role.awaits_group,
            folder=folder,
            finished_steps=step,
            on_finding=self._alerting.on_finding,
        )
        self._info, self._counter, self._step, self._action = info, counter, step, Action.NONE
        self._clipped = None, None
        self._counts_samples = True
        self.needs_batches = "batches" in self._engine.needs
        self.needs_weights = "microbatches" in self._engine.needs
        self._reads_masks = "padding" in self._engine.needs
        self.running = self.started = True
        self._last_error = id(getattr(sys, "last_value", None))
        self._first_step, self._has_point = step, False
        self._alerting.begin(folder, self, _progress)
        self._at_exit.register()
        self._watch_passes(info)
        self._add_preflight()
        if counter is not None:
            counter.begin()
            if info.evaluates_in_loop and self._engine.counters.wiring is not None:
                self._engine.counters.wiring.watch_evaluations()

    def _watch_passes(self, info: TrainingInfo) -> None:
        """Follows the passes of the model where a metric keeps batches, and times them where one reads the times."""
        if self._engine.keeps_batches:
            self.on_forward(self._follow_pass)
        if self.stopwatch.times is not None:
            self._passes = PassTimes(self.stopwatch.times)
            hook = Hook(self._passes.before_forward)
            self._hooks.append(before_forward(info.model, hook, compiled=info.compiled))
            call = _ForwardHook(self, info, self._passes.after_forward, counts_eval_mode=True)
            self._hooks.append(on_forward(info.model, call, compiled=info.compiled))

    def end(self, *, succeeded: bool = True, error: BaseException | None = None) -> None:
        """Ends the training: writes the remaining values and the final ones. Later evaluations are still written.

        Args:
            succeeded: False marks the run as failed in the HParams tab.
            error: what the training has raised, if it is known. `SystemExit` with the code 0 or None is no failure.
        """
        self._end(succeeded=succeeded, error=error)

    def _end(self, *, succeeded: bool, error: BaseException | None, is_known: bool = True) -> None:
        """Ends the training; without `is_known` the run stays without a status."""
        succeeded = succeeded or (isinstance(error, SystemExit) and error.code in (None, 0))
        if self.running and self._role.awaits_group and not has_group():
            self._look_for_group()
        if not self.running:
            return
        if not succeeded:
            self._engine.interrupt(error)
        if self._counter is not None:
            if succeeded:
                self._counter.warn_if_idle()
            self._counter.check_steps()
            if self._counter.stepped:
                self._counter.finish_step()
        elif self._engine.counters.wiring is not None and self._engine.has_stepped:
            self._engine.counters.wiring.add("no_optimizer_step", Check(0))
        if succeeded:
            self._warn_without_point()
        self._unhook()
        self._step, self._counter, self._info = self.step, None, None
        self.running = self.needs_batches = self.needs_weights = False
        with self._alerting.ending(self._step, succeeded=succeeded, error=error):
            self._engine.end(self._step, succeeded=succeeded, is_known=is_known)
        self._release()

    def _warn_without_point(self) -> None:
        """Warns of a training that was too short for a point of its loss."""
        assert self._info is not None
        steps, interval = self.step - self._first_step, getattr(self._info.log_schedule, "n", None)
        has_point = self._has_point if self._counter is None else self._counter.has_logged
        if has_point or interval is None or not 0 < steps < interval or not self.is_writer:
            return
        if any(item.name == "loss" for item in self.config.items):
            option = self._info.log_option
            logger.warning(
                "no point of train/loss was due in %d steps, because %s is %d; set %s=%d",
                steps,
                option,
                interval,
                option,
                max(1, min(10, steps // 10)),
            )

    def close(self) -> None:
        """Closes the event file. This happens automatically when the process ends.

        The unpublished values of a run that has not ended are written. It is marked as failed in the HParams tab, or
        as ended if `ends_unreported` is set and no exception is known.
        """
        self._close()

    def _close(self, *, is_dropped: bool = False) -> None:
        if self.running:
            error = self._error_in_progress() if self.ends_unreported else None
            succeeded = self.ends_unreported and error is None
            if succeeded and is_dropped and self.is_writer:
                logger.warning(
                    "the run has no end: its loop was dropped, and only `with` tells an end from an error; write with"
                    " TbxLoop(...) as loop"
                )
            self._end(succeeded=succeeded, error=error, is_known=not (succeeded and is_dropped))
        elif self._output.is_known:
            self._engine.record_logs(self._step, {})  # user scalars logged after the training
        self._engine.detach()
        self._unhook()
        self._output.close()
        self._at_exit.cancel()

    def _error_in_progress(self) -> BaseException | None:
        """The exception that is being handled, or that has ended the process since the training began."""
        last = getattr(sys, "last_value", None)
        return sys.exc_info()[1] or (None if last is None or id(last) == self._last_error else last)

    def suspend(self) -> None:
        """Removes all hooks of the engine, where an exception may have ended the training.

        If the training continues, the next step installs them again.
        """
        self._engine.suspend()

    def disable(self, reason: str) -> None:
        """Makes the session ignore all calls until it starts again. The first call about a step logs the reason."""
        self._role.disable(reason)
        self.started = True

    def __getstate__(self) -> dict[str, Any]:
        # A copy may belong to another rank or process. A process group cannot be copied.
        return {"config": self.config, "log_dir": self.requested_dir, "runs_dir": self.runs_dir, **self._options}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        arguments = dict(state)
        runs_dir = arguments.pop("runs_dir")
        self.__init__(**arguments)  # type: ignore[misc]
        self.runs_dir = runs_dir

    def __del__(self) -> None:
        # Without a reference nobody can end the training, or write what was logged after it.
        at_exit = self.__dict__.get("_at_exit")
        if at_exit is None or not at_exit.is_registered:
            return
        with contextlib.suppress(Exception):
            if self._engine.has_other_ranks:  # which a garbage collection does not wait for
                self._unhook()
                self._alerting.stop()
                self._engine.abandon()
                self._output.close()
            else:
                self._close(is_dropped=True)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.end(succeeded=kind is None, error=error[0] if error and isinstance(error[0], BaseException) else None)
        self.close()

    # -- steps that the session counts -------------------------------------------------------------------------------

    def end_batch(
        self,
        *,
        loss: Tensor | float | None = None,
        samples: int | None = None,
        tokens: Tensor | int | None = None,
        epoch: float | None = None,
        outputs: Any = None,
        labels: Any = None,
        batch: Any = None,
        is_step: bool = False,
    ) -> Action:
        """Ends a micro-batch, and the step if any optimizer made one; returns the request of rules.

        Args:
            loss: loss of the (micro-)batch, 0-d; it stays on its device.
            samples: number of samples in the batch. Where ranks share one batch (tensor parallelism), this rank's
                share, so that the sum over ranks is right.
            tokens: number of tokens in the batch, or their mask, with the same rule.
            epoch: finished epochs, with the fraction of the current one, for `train/epoch`.
            outputs: see `record_outputs`.
            labels: see `record_outputs`.
            batch: see `expect_rows`.
            is_step: whether the batch counts as a step even if no optimizer stepped, for trainers that count so.

        Returns:
            A request to stop persists; a checkpoint is requested once. All ranks receive the same.

        Raises:
            TypeError: the loss is not a number, or a count is not a whole one.
            ValueError: the loss is not a scalar, or a count is negative.
        """
        if self._role.awaits_group and self._role.may_have_changed():
            self._look_for_group()
        if self._counter is None:
            return self._ignore("end_batch", needs_numbered=False)
        times = self.stopwatch.times
        if times is not None:
            times.switch(tags.TIME_MONITORING)
        info = self._info
        if info is not None and info.model.training == self.trains_in_eval_mode:  # another mode than at the last step
            self._read_mode(self._counter)
        if not (samples is None or (type(samples) is int and samples >= 0)):
            samples = batch_count("samples", samples)
        if not (tokens is None or (type(tokens) is Tensor and not self._reads_masks)):
            tokens = self._token_count(tokens)
        wiring = self._engine.counters.wiring
        if outputs is not None or batch is not None or (wiring is not None and wiring.is_open):
            self._read_batch(loss, samples, outputs, labels, batch)
        if not (loss is None or (type(loss) is Tensor and not loss.ndim)):
            loss = scalar_loss(loss)  # the usual loss needs no call
        action = self._counter.end_batch(loss, samples, tokens, epoch, is_step=is_step)
        self.stopwatch.resume()
        if times is not None:
            times.switch(tags.TIME_OTHER)
        return action if action is self._action else self._add(action)

    def _read_mode(self, counter: StepCounter) -> None:
        if counter.stepped:
            self.read_mode()

    def read_mode(self) -> None:
        """Remembers the mode of the model, after a step of an optimizer."""
        if self._info is not None:
            self.trains_in_eval_mode = not self._info.model.training
            if self._passes is not None:
                self._passes.trains_in_eval_mode = self.trains_in_eval_mode

    def _read_batch(self, loss: Any, samples: int | None, outputs: Any, labels: Any, batch: Any) -> None:
        """Passes a micro-batch to what reads outputs and rows, and to the checks of the first steps."""
        if batch is not None:
            self.expect_rows(batch, labels)
        if outputs is not None:
            self.record_outputs(outputs, labels)
        wiring = self._engine.counters.wiring
        if wiring is not None and wiring.is_open:
            if outputs is None:
                wiring.add_predictions(None, labels)
            wiring.add_batch(loss, samples)

    def _token_count(self, tokens: Tensor | int) -> Tensor:
        """Returns a count as a tensor, and a mask as it is, whose rows have lengths for the metric `padding`."""
        if not isinstance(tokens, Tensor):
            return torch.tensor(batch_count("tokens", tokens))
        if self._reads_masks and tokens.ndim:
            self._engine.record_masks(masks_in({"attention_mask": tokens}))
        return tokens

    # -- steps that the trainer numbers ------------------------------------------------------------------------------

    def begin_step(self, step: int) -> None:
        """Begins a step whose first batch has arrived; `step` is its number once it is finished (1-based)."""
        if not self.running or self._counter is not None:
            self._ignore("begin_step", needs_numbered=True)
            return
        if step < 1:
            raise ValueError(f"step must be at least 1, got {step}; number steps from 1")
        if self._role.awaits_group and self._role.may_have_changed():
            self._look_for_group()
        self.stopwatch.stop_waiting()
        self.stopwatch.resume()
        scalars = self._engine.user_scalars
        scalars.in_step, scalars.evaluating = True, False  # an evaluation before is over
        self._step = step - 1
        self._engine.begin_step(step)
        if self.stopwatch.times is not None:
            self.stopwatch.times.cut(tags.TIME_MONITORING)  # since the wait has ended

    def record_batch(
        self, *, loss: Tensor | float | None = None, samples: int | None = None, tokens: Tensor | int | None = None
    ) -> None:
        """Counts one micro-batch; see `end_batch`."""
        if not self.running or self._counter is not None:
            self._ignore("record_batch", needs_numbered=True)
            return
        if not (samples is None or (type(samples) is int and samples >= 0)):
            samples = batch_count("samples", samples)
        tokens = tokens if tokens is None or isinstance(tokens, Tensor) else torch.tensor(batch_count("tokens", tokens))
        wiring = self._engine.counters.wiring
        if wiring is not None and wiring.is_open:
            wiring.add_batch(loss, samples)
        if not (loss is None or (type(loss) is Tensor and not loss.ndim)):
            loss = scalar_loss(loss)  # the usual loss needs no call
        self._engine.record_batch(loss=loss, samples=samples, tokens=tokens)

    def end_step(self, step: int, *, logs_follow: bool = False) -> Action:
        """Ends a step; returns the request of rules, as `end_batch` does.

        Args:
            step: number of finished steps.
            logs_follow: whether the trainer may call `record_logs` for this step. Its values are then written in one
                event with those of the step.
        """
        if not self.running or self._counter is not None:
            return self._ignore("end_step", needs_numbered=True)
        times = self.stopwatch.times
        if times is not None:
            times.cut()
        self._step, self._engine.user_scalars.in_step = step, False
        action = self._engine.end_step(step, flush=not logs_follow)
        if times is not None:
            times.cut(tags.TIME_MONITORING)
        return action if action is self._action else self._add(action)

    def measure_batch(self, batch: Any, batch_size: int | None = None) -> tuple[int | None, Tensor | None]:
        """Counts samples and tokens of a batch of any structure, for `end_batch` or `record_batch`.

        What cannot be counted is None. Once that happens to samples, they are None for the rest of the training, with
        one warning: the trainer's batches have a form that may also be misread. It never raises.

        Args:
            batch: see `samples_in` and `tokens_in`.
            batch_size: the trainer's own batch size, if it is known.
        """
        if self._reads_masks:
            self._engine.record_masks(masks_in(batch))
        if self._counts_samples and (usual := usual_size(batch, batch_size)) is not None:
            return usual
        samples = tokens = None
        with self._engine.guard_batches():
            tokens = tokens_in(batch)
            samples = samples_in(batch, batch_size) if self._counts_samples else None
            if samples is None:
                self.lack_samples(f"a batch ({type(batch).__name__}) has no known size", "use a mapping of tensors")
        return samples, tokens

    @property
    def weighs_batches(self) -> bool:
        """Whether a metric reads the share of a micro-batch in the loss in this step."""
        return self.needs_weights and self._engine.weighs_batches

    def weigh_batch(self, weight: Tensor | None, problem: str = "") -> None:
        """Sets the share of the micro-batch in the loss of all ranks, before its end.

        Args:
            weight: the share, 0-d; None if all micro-batches count alike.
            problem: why it is not known, with a remedy; empty if it is.
        """
        self._engine.weigh_batch(weight, problem)

    def measure_padding(self, inputs: Any) -> None:
        """Reads the attention masks of a forward pass, where a metric needs them and `measure_batch` is not called."""
        if self._reads_masks:
            self._engine.record_masks(masks_in(inputs))

    def lack_samples(self, reason: str, remedy: str) -> None:
        """Stops counting samples in this training; warns once if that leaves out a number."""
        self._counts_samples = False
        is_written = any(tags.SAMPLES_PER_SECOND in item.metric.tags for item in self.config.items)
        if self.is_active and not self._warned_samples and (is_written or "samples" in self.config.axis):
            self._warned_samples = True
            logger.warning("%s is left out: %s; %s", tags.SAMPLES_PER_SECOND, reason, remedy)

    # -- gradients and outputs ---------------------------------------------------------------------------------------

    def before_clip(
        self, loss_scale: Tensor | None = None, *, optimizer: Any = None, max_norm: float | None = None
    ) -> None:
        """Captures the gradients of this step before clipping: exact norms, and the first non-finite layer.

        Args:
            loss_scale: the factor by which gradients are still multiplied, if a GradScaler has not unscaled them.
            optimizer: the optimizer that steps next, wrapped or not; all optimizers if None.
            max_norm: the limit, if the trainer will clip by the norm of all these gradients.
        """
        if not self.running:
            self._ignore("before_clip")
            return
        recorder = self._engine.recorder
        if recorder is None or not (recorder.due or recorder.probes_clipping):
            return
        if optimizer is not self._clipped[0]:
            self._clipped = optimizer, None if optimizer is None else self._name_of(optimizer)
        name = self._clipped[1]
        if optimizer is not None and name is None:
            return  # not an optimizer of this training: its gradients are not measured
        self._engine.before_clip(loss_scale, optimizer=name, max_norm=max_norm)

    def record_clipping(self, norm: Tensor | float, max_norm: float) -> None:
        """Records that the trainer clipped this step's gradients to `max_norm`; `norm` is their norm before.

        Without it the clip factor is computed from the gradients that `before_clip` captured.
        """
        if not self.running:
            self._ignore("record_clipping")
            return
        self._engine.record_clipping(norm if type(norm) is Tensor and not norm.ndim else scalar_norm(norm), max_norm)

    def on_forward(self, hook: Callable[[Any, Mapping[Any, Any]], None]) -> None:
        """Calls `hook(outputs, inputs)` after each training pass of the model, until `end`.

        A training pass is a forward pass in training mode with gradients, except those that activation checkpointing
        repeats. `inputs` are the keyword arguments, and the positional ones by their number. Does nothing unless the
        training runs.
        """
        if self._info is not None:
            call = _ForwardHook(self, self._info, hook)
            self._hooks.append(on_forward(self._info.model, call, compiled=self._info.compiled))

    def record_outputs(self, outputs: Any, labels: Any = None) -> None:
        """Records the model's outputs for a micro-batch. Call it before the end of the batch.

        Args:
            outputs: `logits` and perhaps further losses, by name (a mapping, a dataclass) or as a tuple that begins
                with the loss; or the logits alone.
            labels: labels of the batch, for the accuracy. Default: those of `expect_labels`.
        """
        if self._engine.counters.wiring is not None:
            self._engine.counters.wiring.add_predictions(outputs, labels)
        if self.needs_outputs:
            self._engine.record_outputs(outputs, labels)

    def expect_labels(self, labels: Any) -> None:
        """Keeps the labels of the micro-batch that begins, for one pass whose outputs come without; None forgets them.

        Call it where something removes them from the batch before the model's forward pass.
        """
        self._engine.labels = labels
        self.check_labels(labels)

    def expect_rows(self, batch: Any, labels: Any = None) -> None:
        """Keeps which rows the micro-batch has that begins, if a metric records rows; it never raises.

        Args:
            batch: a mapping, an object or a sequence of tensors.
            labels: its labels; default: those with a usual name, or the integers of a pair.
        """
        if not (self.running and self._engine.wants_rows):
            return
        with self._engine.guard_outputs():
            labels, size = _labels_and_size(batch, labels)
            self._engine.expect_rows(batch, labels, size)

    def follow_batch(self, batch: Any) -> None:
        """Keeps a batch that has arrived: it is all that is known of it, should the training end before its end."""
        if self.running and self._engine.keeps_batches:
            with self._engine.guard_outputs():
                self._engine.expect_inputs(batch, *_labels_and_size(batch), is_pass=False)

    def _follow_pass(self, outputs: Any, inputs: Mapping[Any, Any]) -> None:
        with self._engine.guard_outputs():
            self._engine.expect_inputs(inputs, *_labels_and_size(inputs), is_pass=True)
            self._engine.add_pass(outputs)

    def check_labels(self, labels: Any) -> None:
        """Looks at the labels of the micro-batch that begins, in the first steps."""
        if self._engine.counters.wiring is not None:
            self._engine.counters.wiring.add_labels(labels)

    def report(self, result: Preflight) -> Preflight:
        """Logs the findings of a preflight, and keeps its checks for the run; returns it."""
        if self.is_writer:
            for finding in result.diagnosis.findings:
                logger.warning("preflight: %s", line(finding))
        self._preflight = {name: Check(*check) for name, check in result.checks.items() if name in PREFLIGHT_CHECKS}
        if self.running:
            self._add_preflight()
        return result

    def _add_preflight(self) -> None:
        if self._engine.counters.wiring is not None:
            for name, check in self._preflight.items():
                self._engine.counters.wiring.add(name, check)
            self._preflight = {}

    def check_loss(self, loss: Any) -> None:
        """Looks at the graph of a micro-batch's loss before its backward pass, in the first steps."""
        wiring = self._engine.counters.wiring
        if wiring is not None and wiring.is_open:
            wiring.add_loss(loss)

    @property
    def checks_losses(self) -> bool:
        """Whether the graphs of losses are read now, in the first steps."""
        return self._engine.counters.wiring is not None and self._engine.counters.wiring.is_open

    @property
    def times_parts(self) -> bool:
        """Whether a metric of the set reads the time of each part of a step."""
        return any("times" in item.metric.needs for item in self.config.items)

    def guard_outputs(self) -> AbstractContextManager[None]:
        """Catches errors while an integration reads outputs; logs the first one, or raises it if the set is strict."""
        return self._engine.guard_outputs()

    @property
    def needs_labels(self) -> bool:
        """Whether a metric of this training reads the labels of the batch that begins."""
        return self.running and self._engine.wants_labels

    @property
    def needs_outputs(self) -> bool:
        """Whether a metric of this training reads the model's outputs."""
        return self.running and not OUTPUTS.isdisjoint(self._engine.needs)

    @property
    def reads_gradients(self) -> bool:
        """Whether `before_clip` has something to do in this step."""
        recorder = self._engine.recorder
        return recorder is not None and (bool(recorder.due) or recorder.probes_clipping)

    @property
    def wants_epoch(self) -> bool:
        """Whether `end_batch` writes the epoch if this batch ends a step that it counts."""
        return self._counter is not None and self._counter.log_due

    @property
    def stepped(self) -> bool:
        """Whether an optimizer has made a step in the batch in progress, where the session counts the steps."""
        return self._counter is not None and self._counter.stepped

    @property
    def has_due_metrics(self) -> bool:
        """Whether a metric is due in this step."""
        recorder = self._engine.recorder
        return recorder is not None and bool(recorder.due)

    # -- logs and requests -------------------------------------------------------------------------------------------

    def record_logs(
        self,
        logs: Mapping[str, Number | str],
        *,
        step: int | None = None,
        clip_factor: float | None = None,
        is_point: bool = False,
    ) -> None:
        """Records values, by tag, that the trainer logged; before, during or after a training, on every rank.

        A metric whose tag the trainer logs is switched off.

        Args:
            logs: values of the whole run, not of this rank.
            step: number of finished steps. Default: the session's own.
            clip_factor: the factor by which clipping multiplied the gradients of this step, if the trainer logs it.
            is_point: whether these are the trainer's regular numbers of a training step. Metrics with `every: log` then
                have a point at this step, also where `log_schedule` did not predict it.

        Raises:
            RuntimeError: the run's folder is not known yet.
            LogDirError: the folder cannot be written.
        """
        self._has_point |= is_point
        self._record_logs(logs, step=step, clip_factor=clip_factor, on_all_ranks=True, is_point=is_point)

    def evaluate(self, dataset: str | None = None, /, **metrics: Tensor | float) -> None:
        """Logs evaluation metrics at the current step, as `eval/<name>`; on rank 0 or on every rank.

        The evaluation came after the last step, so the time since then is not training time. See `evaluation` where it
        did not.

        Args:
            dataset: name of the evaluation set, if there are several. The tags are then `eval/<dataset>_<name>`.
            **metrics: numbers by name.

        Raises:
            TypeError: a metric is not a number.
            ValueError: a metric or the name of the set cannot be written.
        """
        if dataset is not None and not isinstance(dataset, str):
            raise TypeError(
                f"dataset must be a name, got {short(dataset)}; pass metrics by name, as evaluate(loss=...)"
            )
        prefix = tags.check_tag(f"{tags.EVAL}/{dataset}_" if dataset else f"{tags.EVAL}/")
        logs: dict[str, Number | str] = {
            tags.check_tag(f"{prefix}{name}"): float(scalar(name, value)) for name, value in metrics.items()
        }
        if self.running and self.stopwatch.is_running:
            self.stopwatch.exclude()
            self.stopwatch.resume()
        self.end_evaluation(f"{tags.EVAL}/{dataset}" if dataset else tags.EVAL)
        if self._engine.counters.wiring is not None:
            self._engine.counters.wiring.add_evaluation()
        if not self.is_writer:
            return
        if self._counter is not None and self._counter.stepped:
            self._counter.add_evaluation(logs)  # they belong to the step whose batch has not ended
        else:
            self._record_logs(logs, on_all_ranks=False)

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """A context for an evaluation or a checkpoint: its time and its values are not those of the training."""
        was_running, times = self.stopwatch.is_running, self.stopwatch.times
        if was_running:
            self.stopwatch.pause()
        if times is not None:
            times.begin(tags.TIME_EVALUATION)
        self.begin_evaluation()
        try:
            yield
        finally:
            self.end_evaluation()
            if times is not None:
                times.end(tags.TIME_EVALUATION)
            if was_running:
                self.stopwatch.resume()

    @property
    def should_stop(self) -> bool:
        """Whether a rule requests a stop; True from the end of one step on, the same one on every rank."""
        return Action.STOP in self._action

    @property
    def should_checkpoint(self) -> bool:
        """Whether a rule requests a checkpoint; True after the end of one step, the same one on every rank."""
        return Action.CHECKPOINT in self._action

    # -- private -----------------------------------------------------------------------------------------------------

    @property
    def _measured_step(self) -> int:
        """The step of an evaluation that happens now."""
        return self.step + (self._counter is not None and self._counter.stepped)

    def _record_logs(
        self,
        logs: Mapping[str, Number | str],
        *,
        step: int | None = None,
        clip_factor: float | None = None,
        on_all_ranks: bool,
        is_point: bool = False,
    ) -> None:
        if not self.is_active:
            return
        if self.is_writer and not self._output.is_known:
            self._open(self._new_location())
        facts = None if clip_factor is None else {tags.TRAINER_CLIP_FACTOR: clip_factor}
        step = self.step if step is None else step
        self._engine.record_logs(
            step, logs, facts, on_all_ranks=on_all_ranks, is_point=is_point, is_over=step <= self.step
        )
        self.stopwatch.restart_waiting()
        if not self.running:
            self._release()

    def _release(self) -> None:
        """Closes what can be opened again, while no training runs."""
        if self._output.release():
            self._at_exit.cancel()
        else:
            self._at_exit.register()

    def _add(self, action: Action) -> Action:
        """Adds the requests of the step that has ended: a stop request persists, a checkpoint is requested once."""
        self._action = self._action & Action.STOP | action
        return self._action

    def _ignore(self, method: str, *, needs_numbered: bool | None = None) -> Action:
        """Ignores a call on a rank that takes no part, or after the end; raises RuntimeError where it is a mistake."""
        if not self.started:
            raise RuntimeError(f"{method} must be called after start; call start(TrainingInfo(...)) first")
        if text := self._role.take_reason():
            logger.warning("%s", text)
        if self.running and needs_numbered:
            raise RuntimeError(f"{method} must be called where steps are numbered; call start(..., numbered=True)")
        if self.running:
            raise RuntimeError(f"{method} must be called where the session counts steps; use record_batch and end_step")
        return Action.NONE

    def _name_of(self, optimizer: Any) -> str | None:
        """The name of a training's optimizer; None if it is unknown."""
        assert self._info is not None
        wanted = unwrap_optimizer(optimizer)
        name: str | None = self._info.optimizers.name_of(wanted)
        return name

    def _choose_location(self, step: int) -> RunLocation:
        """The folder of the training that starts after `step` steps."""
        resumed = (self.log_dir or self.requested_dir) if step else None
        if resumed:
            return RunLocation(resumed, resume=True)
        if self.log_dir and not self.started:
            return RunLocation(self.log_dir)  # opened before the training, for example by an evaluation
        return self._new_location()

    def _new_location(self) -> RunLocation:
        if self.requested_dir:
            return RunLocation(beside(self.requested_dir, self.is_taken))
        if self.runs_dir is None:
            raise RuntimeError(
                "callback.writer must be used after the callback was given to a Trainer, or with log_dir set;"
                " pass log_dir=... to use it earlier"
            )
        return RunLocation(fresh_folder(self.runs_dir, self.is_taken))

    def _open(self, location: RunLocation) -> FanOutWriter:
        """Opens the folder, or keeps it open; raises LogDirError now if it cannot be written."""
        if self.log_dir != location.folder:
            self._engine.wait_for_device()
        self._engine.writer = writer = self._output.open(location.folder)
        return writer

    def _finish_previous(self, location: RunLocation | None) -> None:
        """Writes the remaining values of an interrupted training, before its folder or its steps change."""
        if location is not None and location.folder != self.log_dir:
            self.end(succeeded=False)  # an exception ended it
        self._engine.flush_step()
        self._engine.drain(_DRAIN_SECONDS)

    def _look_for_group(self) -> None:
        """Starts again if the process group exists by now. Otherwise warns where a variable announced one."""
        change = self._role.look()
        if change is Change.JOINED:
            self._restart_with_group()
        elif change is Change.ABSENT:
            logger.warning(
                "this process writes no run: %s is set, but there is no process group; unset it, or call"
                " init_process_group first",
                rank_variable(),
            )
            self.end(succeeded=True)
        elif change is Change.SHARE:
            self._engine.warn_about_share()

    def _restart_with_group(self) -> None:
        """Starts again, so that ranks merge their values: the process group came after the training had begun."""
        assert self._info is not None
        info, folder, was_writer, numbered = self._info, self.log_dir, self.is_writer, self._counter is None
        stepped = self._counter is not None and self._counter.stepped
        lost = self._engine.discard_step()
        self._role.begin()
        if self._output.is_known and not self.is_writer:
            logger.warning(
                "%s is not written any more: the process group came after this loop; create the loop after"
                " init_process_group",
                folder,
            )
            self._output.forget()
            self._engine.writer = NullWriter()
        elif lost and was_writer:
            logger.warning(
                "metrics of step %d are not written: the process group came after this loop; create the loop after"
                " init_process_group",
                self.step + 1,
            )
        location = RunLocation(folder) if folder is not None and self.is_writer else None
        self.start(info, location, step=self.step, numbered=numbered)
        if stepped and self._counter is not None:
            self._counter.take_over()

    def _leave_to_parent(self) -> None:
        """In a forked child: removes the hooks, and leaves the run to the parent."""
        self._unhook()
        self._engine.detach()
        self.running = False
        self._output.forget()
        self.__setstate__(self.__getstate__())
        self.disable("this process writes nothing: it was forked from a training; create a callback in it")

    def _unhook(self) -> None:
        """Removes the session's own hooks from the model."""
        while self._hooks:
            self._hooks.pop().remove()


class _ForwardHook(Hook):
    """Calls an integration's function after a forward pass in training mode.

    Args:
        session: removes its hooks if the training was left without notice.
        info: describes the training.
        hook: see `Session.on_forward`.
        counts_eval_mode: whether passes with gradients in evaluation mode count too, if the model trains in it.
    """

    def __init__(
        self,
        session: Session,
        info: TrainingInfo,
        hook: Callable[[Any, Mapping[Any, Any]], None],
        *,
        counts_eval_mode: bool = False,
    ) -> None:
        self._session, self._still_training = weakref.ref(session), info.still_training
        self._counts_eval_mode = counts_eval_mode
        # A callback that is dropped while the model lives must not be kept by the model.
        self._get_hook = weakref.WeakMethod(hook) if isinstance(hook, MethodType) else lambda: hook

    def __call__(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any], outputs: Any) -> None:
        session, hook = self._session(), self._get_hook()
        if session is None or hook is None:
            return
        if not self._still_training():  # ended by an exception that the trainer does not report
            session._unhook()
            session.suspend()
            return
        trains = module.training or (self._counts_eval_mode and session.trains_in_eval_mode)
        if trains and torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1:
            named: Mapping[Any, Any] = dict(enumerate(args))
            hook(outputs, {**named, **kwargs} if named else kwargs)


def _labels_and_size(batch: Any, labels: Any = None) -> tuple[Any, int | None]:
    """The labels of a batch, and the number of its rows."""
    labels = labels_in(batch) if labels is None else labels
    has_rows = isinstance(labels, Tensor) and labels.ndim > 0
    return labels, labels.shape[0] if has_rows else samples_in(batch)


def _progress(session: Session) -> tuple[int, float]:
    """The number of finished steps, and the seconds of training, without evaluations and checkpoints."""
    return session.step, session.stopwatch.seconds


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child, the run is that of the parent."""
    for session in list(_sessions):
        if session.running:
            session._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
