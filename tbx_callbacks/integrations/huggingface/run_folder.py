"""Chooses the run's folder, and keeps it over checkpoints and trials."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers.integrations import TensorBoardCallback

from tbx_callbacks._config.metric_set import Config
from tbx_callbacks.integrations.session import Session
from tbx_callbacks.runs.folders import (
    RunLocation,
    absolute,
    belongs,
    beside,
    fresh_folder,
    holds_run,
    is_default_name,
    is_remote,
    unused,
)


def choose(
    args: Any, state: Any, session: Session, *, callback_name: str, used: Collection[str | None]
) -> RunLocation | None:
    """The folder of the training that begins now; None where the session chooses it.

    Args:
        args: the Trainer's arguments.
        state: its state, with the step it starts from and the states that the checkpoint stored.
        session: logs the training.
        callback_name: the callback's class name, under which the Trainer stores its state.
        used: folders that other callbacks write to.
    """
    requested, current = session.requested_dir, session.log_dir
    parent = requested or runs_dir(args)
    if state.global_step > 0:
        stored_states = state.stateful_callbacks.get(callback_name, [])
        stored = _stored_folder(args, stored_states, requested, session.config, used)
        known = stored or (current if session.started else None)
        if known is None and requested:
            known = unused(requested, session.is_taken) if session.is_taken(requested) else requested
        folder = absolute(known or fresh_folder(parent, session.is_taken))
        return RunLocation(folder, resume=is_remote(folder) or holds_run(folder) or folder == current)
    if session.running and current is not None and args.auto_find_batch_size:
        return RunLocation(current, resume=True)  # the Trainer restarts with smaller batches
    if state.is_hyper_param_search and state.trial_name:
        return RunLocation(beside(os.path.join(parent, str(state.trial_name)), session.is_taken))
    return None


@dataclass(frozen=True)
class TakenFolders:
    """Tells whether another writer of a training writes to a folder, or will.

    Args:
        folders: those of the other writers.
        parents: folders in which a writer will create one that it names by time and host.
    """

    folders: frozenset[str] = frozenset()
    parents: frozenset[str] = frozenset()

    def __call__(self, folder: str) -> bool:
        parent, name = os.path.split(folder.rstrip("/"))
        return folder in self.folders or (parent in self.parents and is_default_name(name))


def tensorboard_callbacks(callbacks: Iterable[Any]) -> list[Any]:
    """Returns those of transformers' own callbacks that write event files."""
    return [callback for callback in callbacks if isinstance(callback, TensorBoardCallback)]


def taken_folders(args: Any, state: Any, callbacks: Iterable[Any], used: Iterable[str | None]) -> TakenFolders:
    """The folders of the other writers, whichever callback begins first.

    Args:
        args: the Trainer's arguments.
        state: its state.
        callbacks: those of the Trainer.
        used: folders of runs that other callbacks of this package write.
    """
    folders, parents = {folder for folder in used if folder}, set[str]()
    for callback in tensorboard_callbacks(callbacks):
        writer = callback.tb_writer
        known = getattr(writer, "log_dir", None) or getattr(writer, "logdir", None)  # of torch, of tensorboardX
        # Up to transformers 4 the arguments have the folder; from 5 on the callback names it when it begins.
        known = known or getattr(callback, "logging_dir", None) or getattr(args, "logging_dir", None)
        if known is None:
            parents.add(absolute(runs_dir(args)))
            continue
        folders.add(absolute(known))
        if state.trial_name:
            folders.add(absolute(os.path.join(known, str(state.trial_name))))
    return TakenFolders(frozenset(folders), frozenset(parents))


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
            folder = os.path.abspath(os.path.join(args.output_dir, folder))
        is_valid = (requested is None or belongs(folder, requested)) and folder not in used
        if is_valid and (is_remote(folder) or holds_run(folder)):
            return folder
    return None


def runs_dir(args: Any) -> str:
    """The folder that holds the folders of a Trainer's runs."""
    return os.path.join(args.output_dir, "runs")
