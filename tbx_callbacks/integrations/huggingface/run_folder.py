"""Chooses the run's folder, and keeps it over checkpoints and trials."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from tbx_callbacks._config.metric_set import Config
from tbx_callbacks.integrations.session import Session
from tbx_callbacks.runs.folders import RunLocation, absolute, belongs, beside, fresh_folder, holds_run, is_remote


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
        folder = absolute(stored or (current if session.started else None) or requested or fresh_folder(parent))
        return RunLocation(folder, resume=is_remote(folder) or holds_run(folder) or folder == current)
    if session.running and current is not None and args.auto_find_batch_size:
        return RunLocation(current, resume=True)  # the Trainer restarts with smaller batches
    if state.is_hyper_param_search and state.trial_name:
        return RunLocation(beside(os.path.join(parent, str(state.trial_name))))
    return None


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
