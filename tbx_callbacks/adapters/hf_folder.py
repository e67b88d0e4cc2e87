"""Where a run of the Hugging Face Trainer is written, and where it goes on after a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from tbx_callbacks.folders import Place, belongs, beside, fresh_folder, holds_run, is_remote


def choose(
    args: Any,
    state: Any,
    *,
    wanted: str | None,
    current: str | None,
    began: bool,
    running: bool,
    digest: str,
    kind: str,
    taken: Collection[str | None],
) -> Place:
    """The folder of the training that begins now.

    Args:
        args: the Trainer's arguments.
        state: its state, with the step it starts from and what the checkpoint stored.
        wanted: the folder that the user asked for.
        current: the folder that this callback writes to already.
        began: whether a training has begun in `current` (and not only an evaluation).
        running: whether that training has not ended.
        digest: tells metric sets, and so several callbacks of one trainer, apart.
        kind: name of the callback's class, under which the Trainer stores its state.
        taken: folders that other callbacks write to.
    """
    if state.global_step > 0:
        stored = _stored_folder(args, state.stateful_callbacks.get(kind, []), wanted, digest, taken)
        folder = stored or (current if began else None) or wanted or fresh_folder(_runs(args))
        return Place(folder, purge=is_remote(folder) or holds_run(folder) or folder == current)
    if running and current is not None and args.auto_find_batch_size:
        return Place(current, purge=True)  # the Trainer starts over with smaller batches
    if state.is_hyper_param_search and state.trial_name:
        parent = wanted or _runs(args)
        return Place(beside(os.path.join(parent, str(state.trial_name))))
    if current is not None and not began:
        return Place(current)  # an evaluation before training opened it
    return Place(beside(wanted) if wanted else fresh_folder(_runs(args)))


def before_training(args: Any, wanted: str | None) -> Place:
    """The folder of numbers that are logged before a training, as by `trainer.evaluate()`."""
    return Place(beside(wanted) if wanted else fresh_folder(_runs(args)))


def to_store(args: Any, folder: str | None, digest: str) -> dict[str, str]:
    """What a checkpoint keeps, so that a resumed run goes on in its folder, also when all of it was moved."""
    if folder is None:
        return {}
    if is_remote(folder):
        return {"digest": digest, "log_dir": folder}
    inside = os.path.relpath(folder, args.output_dir)
    return {"digest": digest, "log_dir": os.path.abspath(folder) if inside.startswith(os.pardir) else inside}


def _stored_folder(
    args: Any, stored: Any, wanted: str | None, digest: str, taken: Collection[str | None]
) -> str | None:
    """The folder that the checkpoint names, if it is still there."""
    for entry in stored if isinstance(stored, list) else [stored]:
        kept: Mapping[str, str] = entry.get("attributes", {}).get("stored", {})
        if "log_dir" not in kept or kept.get("digest") != digest:
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
