"""Defines `TbxTracker`, which writes the values of `Accelerator.log` to TensorBoard."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from accelerate.tracking import GeneralTracker
from torch import Tensor

from tbx_callbacks import tags
from tbx_callbacks._distributed.rank import is_rank_zero
from tbx_callbacks._text import short
from tbx_callbacks.integrations.notebook import announce
from tbx_callbacks.metrics.host_values import FinalValue, HParams, HParamsEnd, HParamsMetrics, Text
from tbx_callbacks.metrics.hparam_values import HParamValue, plain_hparams
from tbx_callbacks.runs.folders import absolute, beside, fresh_folder
from tbx_callbacks.writers.summary_writer import NullSummaryWriter, SummaryWriter
from tbx_callbacks.writers.tensorboard import TensorBoardWriter

logger = logging.getLogger(__name__)


class TbxTracker(GeneralTracker):  # type: ignore[misc]
    """Writes what a script passes to `accelerator.log` to TensorBoard, one event a call, on the main process only.

    ```python
    accelerator = Accelerator(log_with=TbxTracker(log_dir="runs/exp1"))
    accelerator.init_trackers("exp1", config=vars(args))  # the HParams tab
    accelerator.log({"train_loss": loss}, step=step)
    accelerator.end_training()
    ```

    Accelerate takes trackers of other packages as objects; it has no name for them. Numbers become scalars, texts go to
    the Text tab, and the numbers of a nested mapping get tags `<name>/<key>`. Other values are left out, with one
    warning. Metrics of the model and the optimizer need a `TbxLoop`.

    Args:
        log_dir: folder of the run. Default: `$TENSORBOARD_LOGGING_DIR`, or else a new folder in `runs/`. If the folder
            holds a run, the new one is written beside it.
    """

    name = "tbx_callbacks"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, log_dir: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        requested = os.fspath(log_dir) if log_dir is not None else os.environ.get("TENSORBOARD_LOGGING_DIR")
        self._requested = absolute(os.path.expanduser(requested)) if requested else None
        self._writer: TensorBoardWriter | None = None
        self._hparams: Mapping[str, HParamValue] = {}
        self._step = 0
        self._shown: dict[str, None] = {}  # tags that the HParams tab shows
        self._warned: set[str] = set()

    @property
    def log_dir(self) -> str | None:
        """Folder of the run; None before it is opened, and on other processes."""
        return None if self._writer is None else self._writer.log_dir

    @property
    def tracker(self) -> SummaryWriter | NullSummaryWriter:
        """The run's tensorboardX `SummaryWriter`, what `get_tracker(..., unwrap=True)` returns."""
        writer = self._open()
        return NullSummaryWriter() if writer is None else writer.summary_writer

    def start(self) -> None:
        """Opens the run on the main process; older releases of Accelerate do not call it, so that the first value does.

        Raises:
            LogDirError: the folder cannot be written.
        """
        self._open()

    def store_init_configuration(self, values: Any) -> None:
        """Writes hyper-parameters for the HParams tab."""
        writer = self._open()
        if writer is not None:
            self._hparams = {**self._hparams, **plain_hparams(values)}
            writer.write(0, {tags.HPARAMS_START: HParams(self._hparams)})

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Writes values of a step. Without a step, it is the number after the last one."""
        writer = self._open()
        if writer is None:
            return
        self._step = self._step + 1 if step is None else int(step)
        final = self._final_values(values)
        new = [tag for tag, value in final.items() if isinstance(value, float) and tag not in self._shown]
        if new and self._hparams:
            self._shown.update(dict.fromkeys(new))
            final[tags.HPARAMS_METRICS] = HParamsMetrics(self._hparams, list(self._shown))
        if final:
            writer.write(self._step, final)

    def finish(self) -> None:
        """Closes the run."""
        if self._writer is not None:
            if self._hparams:
                self._writer.write(self._step, {tags.HPARAMS_END: HParamsEnd(True)})
            self._writer.close()

    def _open(self) -> TensorBoardWriter | None:
        if self._writer is None and is_rank_zero():
            folder = fresh_folder("runs") if self._requested is None else beside(self._requested)
            writer = TensorBoardWriter(folder)
            _ = writer.summary_writer
            self._writer = writer
            announce(folder)
        return self._writer

    def _final_values(self, values: Mapping[str, Any], prefix: str = "") -> dict[str, FinalValue]:
        final: dict[str, FinalValue] = {}
        for name, value in values.items():
            tag = tags.clean(f"{prefix}{name}")
            if isinstance(value, Mapping):
                final.update(self._final_values(value, f"{tag}/"))
            elif isinstance(value, str):
                final[tag] = Text(value)
            elif (number := _number(value)) is not None:
                final[tag] = number
            elif tag not in self._warned:
                self._warned.add(tag)
                logger.warning("%s is left out: it is no number or text, but %s; log a number", tag, short(value))
        return final


def _number(value: Any) -> float | None:
    """The value of a number, or of a tensor or array with one element; None for anything else."""
    if isinstance(value, Tensor) and value.numel() != 1:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
