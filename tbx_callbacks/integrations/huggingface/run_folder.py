"""Chooses the run's folder, and keeps it over checkpoints, trials and callbacks that the Trainer re-creates."""

from __future__ import annotations

import os
import weakref
from collections.abc import Collection, Mapping
from typing import Any

from transformers.trainer_callback import ExportableState

from tbx_callbacks._config.metric_set import Config
from tbx_callbacks.integrations.base import Integration
from tbx_callbacks.runs.folders import RunLocation, belongs, beside, fresh_folder, holds_run, is_remote


def choose(
    args: Any,
    state: Any,
    *,
    wanted: str | None,
    current: str | None,
    began: bool,
    running: bool,
    config: Config,
    kind: str,
    taken: Collection[str | None],
) -> RunLocation:
    """The folder of the training that begins now.

    Args:
        args: the Trainer's arguments.
        state: its state, with the step it starts from and what the checkpoint stored.
        wanted: the folder that the user asked for.
        current: the folder that this callback writes to already.
        began: whether a training has begun in `current` (and not only an evaluation).
        running: whether that training has not ended.
        config: the metric set, which tells several callbacks of one trainer apart.
        kind: name of the callback's class, under which the Trainer stores its state.
        taken: folders that other callbacks write to.
    """
    if state.global_step > 0:
        stored = _stored_folder(args, state.stateful_callbacks.get(kind, []), wanted, config, taken)
        folder = stored or (current if began else None) or wanted or fresh_folder(_runs(args))
        return RunLocation(folder, resume=is_remote(folder) or holds_run(folder) or folder == current)
    if running and current is not None and args.auto_find_batch_size:
        return RunLocation(current, resume=True)  # the Trainer starts over with smaller batches
    if state.is_hyper_param_search and state.trial_name:
        parent = wanted or _runs(args)
        return RunLocation(beside(os.path.join(parent, str(state.trial_name))))
    if current is not None and not began:
        return RunLocation(current)  # an evaluation before training opened it
    return RunLocation(beside(wanted) if wanted else fresh_folder(_runs(args)))


def before_training(args: Any, wanted: str | None) -> RunLocation:
    """The folder of numbers that are logged before a training, as by `trainer.evaluate()`."""
    return RunLocation(beside(wanted) if wanted else fresh_folder(_runs(args)))


def to_store(args: Any, folder: str | None, digest: str) -> dict[str, str]:
    """What a checkpoint keeps, so that a resumed run goes on in its folder, also when all of it was moved."""
    if folder is None:
        return {}
    if is_remote(folder):
        return {"digest": digest, "log_dir": folder}
    inside = os.path.relpath(folder, args.output_dir)
    return {"digest": digest, "log_dir": os.path.abspath(folder) if inside.startswith(os.pardir) else inside}


def _stored_folder(
    args: Any, stored: Any, wanted: str | None, config: Config, taken: Collection[str | None]
) -> str | None:
    """The folder that the checkpoint names, if it is still there."""
    for entry in stored if isinstance(stored, list) else [stored]:
        kept: Mapping[str, str] = entry.get("attributes", {}).get("stored", {})
        if "log_dir" not in kept or not config.matches(kept.get("digest")):
            continue
        folder = kept["log_dir"]
        if not is_remote(folder):
            folder = os.path.normpath(os.path.join(args.output_dir, folder))
        fits = (wanted is None or belongs(folder, wanted)) and folder not in taken
        if fits and (is_remote(folder) or holds_run(folder)):
            return folder
    return None


def _runs(args: Any) -> str:
    return os.path.join(args.output_dir, "runs")


# Callbacks in use, to find the one that a restored one replaces: see _adopt.
_in_use: weakref.WeakSet[HuggingFaceIntegration] = weakref.WeakSet()


class HuggingFaceIntegration(Integration, ExportableState):  # type: ignore[misc]
    """What a callback of the Hugging Face Trainer keeps beyond one training."""

    _args: Any = None
    stored: dict[str, str] = {}  # noqa: RUF012 - what a checkpoint kept; the Trainer sets it on the instance

    def state(self) -> dict[str, Any]:
        """What the Trainer keeps in a checkpoint: the run's folder."""
        kept = to_store(self._args, self.log_dir, self.config.digest) if self._args is not None else {}
        return {"args": {}, "attributes": {"stored": kept}}

    # -- for the adapter -------------------------------------------------------------------------------------------

    def _use(self, args: Any) -> None:
        """A Trainer takes the callback."""
        self._args = args
        _in_use.add(self)

    def _adopt(self, args: Any) -> None:
        """Becomes one with the callback that this one replaces.

        With `restore_callback_states_from_checkpoint` the Trainer makes a new callback in place of the user's. Both
        then share everything, so that the user's own reference, `attach` and `writer` stay alive.
        """
        if self._args is None:
            digest = self.stored.get("digest")
            replaced = [other for other in _in_use if other._args is args and other.config.matches(digest)]
            if replaced:
                self.__dict__ = replaced[0].__dict__
            self._args = args

    def _choose_location(self, args: Any, state: Any) -> RunLocation:
        return choose(
            args,
            state,
            wanted=self._wanted_dir,
            current=self.log_dir,
            began=self._began,
            running=self._running,
            config=self.config,
            kind=type(self).__name__,
            taken={other.log_dir for other in _in_use if other is not self and other._running},
        )

    def _location_before_training(self) -> RunLocation:
        if self._args is None and self._wanted_dir is None:
            raise RuntimeError(
                "callback.writer must be used after the callback was given to a Trainer, or with log_dir set;"
                " pass TbxTrainerCallback(log_dir=...) to use it earlier"
            )
        return before_training(self._args, self._wanted_dir)
