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
    requested: str | None,
    current: str | None,
    has_begun: bool,
    running: bool,
    config: Config,
    callback_name: str,
    used: Collection[str | None],
) -> RunLocation:
    """The folder of the training that begins now.

    Args:
        args: the Trainer's arguments.
        state: its state, with the step it starts from and the states that the checkpoint stored.
        requested: the folder that the user requested.
        current: the folder that this callback already writes to.
        has_begun: whether a training has begun in `current` (not only an evaluation).
        running: whether that training has not ended.
        config: the metric set, which distinguishes several callbacks of one trainer.
        callback_name: the callback's class name, under which the Trainer stores its state.
        used: folders that other callbacks write to.
    """
    if state.global_step > 0:
        stored = _stored_folder(args, state.stateful_callbacks.get(callback_name, []), requested, config, used)
        folder = stored or (current if has_begun else None) or requested or fresh_folder(_default_parent(args))
        return RunLocation(folder, resume=is_remote(folder) or holds_run(folder) or folder == current)
    if running and current is not None and args.auto_find_batch_size:
        return RunLocation(current, resume=True)  # the Trainer restarts with smaller batches
    if state.is_hyper_param_search and state.trial_name:
        parent = requested or _default_parent(args)
        return RunLocation(beside(os.path.join(parent, str(state.trial_name))))
    if current is not None and not has_begun:
        return RunLocation(current)  # opened by an evaluation before training
    return RunLocation(beside(requested) if requested else fresh_folder(_default_parent(args)))


def before_training(args: Any, requested: str | None) -> RunLocation:
    """The folder for values that are logged before a training, for example by `trainer.evaluate()`."""
    return RunLocation(beside(requested) if requested else fresh_folder(_default_parent(args)))


def checkpoint_state(args: Any, folder: str | None, digest: str) -> dict[str, str]:
    """The state for a checkpoint, by which a resumed run finds its folder.

    The folder is stored relative to the output folder if it lies inside, so that both can be moved.
    """
    if folder is None:
        return {}
    if is_remote(folder):
        return {"digest": digest, "log_dir": folder}
    relative = os.path.relpath(folder, args.output_dir)
    return {"digest": digest, "log_dir": os.path.abspath(folder) if relative.startswith(os.pardir) else relative}


def _stored_folder(
    args: Any, stored: Any, requested: str | None, config: Config, used: Collection[str | None]
) -> str | None:
    """The folder stored in the checkpoint, if it still exists."""
    for entry in stored if isinstance(stored, list) else [stored]:
        entry_state: Mapping[str, str] = entry.get("attributes", {}).get("stored", {})
        if "log_dir" not in entry_state or not config.matches(entry_state.get("digest")):
            continue
        folder = entry_state["log_dir"]
        if not is_remote(folder):
            folder = os.path.normpath(os.path.join(args.output_dir, folder))
        is_valid = (requested is None or belongs(folder, requested)) and folder not in used
        if is_valid and (is_remote(folder) or holds_run(folder)):
            return folder
    return None


def _default_parent(args: Any) -> str:
    return os.path.join(args.output_dir, "runs")


# Callbacks in use, to find the one that a restored callback replaces: see _adopt.
_in_use: weakref.WeakSet[HuggingFaceIntegration] = weakref.WeakSet()


class HuggingFaceIntegration(Integration, ExportableState):  # type: ignore[misc]
    """The state of a Hugging Face callback that lasts longer than one training."""

    _args: Any = None
    stored: dict[str, str] = {}  # noqa: RUF012 - state from a checkpoint; the Trainer sets it on the instance

    def state(self) -> dict[str, Any]:
        """Returns the state that the Trainer stores in a checkpoint: the run's folder."""
        stored = checkpoint_state(self._args, self.log_dir, self.config.digest) if self._args is not None else {}
        return {"args": {}, "attributes": {"stored": stored}}

    # -- for the callback --------------------------------------------------------------------------------------------

    def _use(self, args: Any) -> None:
        """Registers the callback with a Trainer's arguments."""
        self._args = args
        _in_use.add(self)

    def _adopt(self, args: Any) -> None:
        """Shares the state of the callback that this one replaces.

        With `restore_callback_states_from_checkpoint` the Trainer creates a new callback in place of the user's. Both
        then share everything, so the user's own reference, `attach` and `writer` still work.
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
            requested=self._wanted_dir,
            current=self.log_dir,
            has_begun=self._has_begun,
            running=self._running,
            config=self.config,
            callback_name=type(self).__name__,
            used={other.log_dir for other in _in_use if other is not self and other._running},
        )

    def _location_before_training(self) -> RunLocation:
        if self._args is None and self._wanted_dir is None:
            raise RuntimeError(
                "callback.writer must be used after the callback was given to a Trainer, or with log_dir set;"
                " pass TbxTrainerCallback(log_dir=...) to use it earlier"
            )
        return before_training(self._args, self._wanted_dir)
