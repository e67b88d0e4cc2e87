"""Trains with the Hugging Face Trainer and our callback, or with the Trainer's own TensorBoard callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from benchmarks.diagnosis_runs.cases import Facts, Logs, Place
from benchmarks.diagnosis_runs.checks_before import Checks, checked
from tbx_callbacks import TbxTrainerCallback

Scores = Callable[[Any], dict[str, float]]


def accuracy(prediction: Any) -> dict[str, float]:
    """Accuracy of the labels that are not ignored."""
    outputs, labels = prediction.predictions, prediction.label_ids
    outputs = outputs[0] if isinstance(outputs, tuple) else outputs
    counted = labels != -100
    return {"accuracy": float((outputs.argmax(-1) == labels)[counted].mean())}


def fine_tune(
    place: Place,
    model: Any,
    train: Any,
    dev: Any,
    *,
    logs: Logs = "full",
    steps: int = 160,
    rate: float = 2e-3,
    schedule: str = "linear",
    warmup: float = 0.1,
    batch: int = 16,
    clip: float = 1.0,
    scores: Scores | None = accuracy,
    trainer: type[Trainer] = Trainer,
    arguments: type[TrainingArguments] = TrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Facts:
    """Trains and evaluates every 20 steps.

    Args:
        place: folders and seed.
        model: the model.
        train: rows for training.
        dev: rows for evaluation, or several sets of rows by name.
        logs: the metric set, or `own`. Our callback is attached to the Trainer with `full`.
        steps: optimizer steps.
        rate: the peak of the learning rate.
        schedule: its schedule.
        warmup: the share of the steps that warm up.
        batch: rows in a batch.
        clip: the limit of the gradient norm.
        scores: computes the scores of an evaluation.
        trainer: the class of the Trainer.
        arguments: the class of its arguments.
        callbacks: further callbacks.
        options: further arguments of the Trainer.
        **more: further training arguments.
    """
    given = arguments(
        output_dir=str(place.work),
        max_steps=steps,
        learning_rate=rate,
        lr_scheduler_type=schedule,
        warmup_steps=int(warmup * steps),
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=128,
        max_grad_norm=clip,
        seed=place.seed,
        **{
            "weight_decay": 0.01,
            "logging_steps": 4,
            "eval_strategy": "steps",
            "eval_steps": 20,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            **more,
        },
    )
    monitor = _monitor(place, logs)
    running = trainer(
        model=model,
        args=given,
        train_dataset=train,
        eval_dataset=dev,
        compute_metrics=scores,
        callbacks=[monitor, *callbacks],
        **(options or {}),
    )
    running.remove_callback(PrinterCallback)
    found = Checks()
    if logs == "full":
        monitor.attach(running)
        evaluation = None if isinstance(dev, dict) else running.get_eval_dataloader()
        found = checked(lambda: monitor.preflight(running.get_train_dataloader(), evaluation=evaluation))
    running.train()
    return _facts(running.state.log_history, is_live=logs != "own", found=found)


def _monitor(place: Place, logs: Logs) -> Any:
    if logs == "own":
        return TensorBoardCallback(SummaryWriter(str(place.folder)))
    return TbxTrainerCallback({"extends": logs, "rules": {"others": "warn"}}, log_dir=str(place.folder))


def _facts(history: Sequence[Mapping[str, Any]], *, is_live: bool, found: Checks) -> Facts:
    losses = [entry["loss"] for entry in history if "loss" in entry]
    key = next(name for entry in history for name in entry if name.startswith("eval_") and name.endswith("loss"))
    evaluations = [entry for entry in history if key in entry]
    return Facts(
        first=losses[0],
        last=float(np.mean(losses[-4:])),
        eval_loss=evaluations[-1][key],
        best_eval=min(entry[key] for entry in evaluations),
        accuracy=evaluations[-1].get(key.removesuffix("loss") + "accuracy"),
        is_live=is_live,
        preflight=found.findings,
        preflight_failed=found.failed,
    )
