"""Fine-tune BERT for sentiment with the Hugging Face Trainer and log the run to TensorBoard.

Without arguments it generates labelled sentences, and trains a vocabulary and a small BERT on them, offline.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sentiment import Task, run
from sentiment_results import SHOWN, Outcome, evaluation_line, scores, show_predictions
from torch import Tensor, nn
from transformers import DataCollatorWithPadding, ProgressCallback, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from tbx_callbacks import TbxTrainerCallback


class EvaluationProgress(ProgressCallback):  # type: ignore[misc]
    """The Trainer's progress bar, with the loss and one line per evaluation instead of all logged values."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Shows the loss in the bar, and prints evaluations."""
        if self.training_bar is None or not logs:
            return
        if "loss" in logs:
            self.training_bar.set_postfix_str(f"loss {logs['loss']:.4f}")
        if "eval_accuracy" in logs:
            dev = {name: logs[f"eval_{name}"] for name in SHOWN}
            self.training_bar.write(evaluation_line(state.global_step, state.epoch, dev))


def train(task: Task) -> Outcome | None:
    """Trains with the Trainer, which evaluates and saves at the end of each epoch."""
    callback = TbxTrainerCallback(task.config)
    current_split = ["dev", "eval"]  # the evaluated split, and the first part of its tags

    def metrics(prediction: Any) -> dict[str, float]:
        split, family = current_split
        show_predictions(callback, task.rows[split], prediction.predictions, prediction.label_ids, family)
        return scores(prediction.predictions, prediction.label_ids)

    trainer = Trainer(
        model=task.network,
        args=TrainingArguments(
            str(task.output_dir),
            learning_rate=task.lr,
            num_train_epochs=task.epochs,
            max_steps=task.max_steps,
            per_device_train_batch_size=task.batch,
            per_device_eval_batch_size=128,
            gradient_accumulation_steps=task.accumulate,
            max_grad_norm=task.max_grad_norm,
            warmup_steps=task.warmup,
            weight_decay=task.weight_decay,
            logging_steps=task.logging_steps,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            greater_is_better=True,
            report_to="none",
            disable_tqdm=False,
            use_cpu=not getattr(torch, "accelerator", torch.cuda).is_available(),  # else ranks train apart on CPU
            dataloader_pin_memory=torch.cuda.is_available(),
            seed=task.seed,
        ),
        train_dataset=task.encoded["train"],
        eval_dataset=task.encoded["dev"],
        processing_class=task.tokenizer,
        data_collator=DataCollatorWithPadding(task.tokenizer),
        compute_loss_func=mean_over_step,  # the model's own loss would grow with --accumulate and the ranks
        compute_metrics=metrics,
        callbacks=[callback],
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(EvaluationProgress)
    callback.attach(trainer)
    trainer.train(resume_from_checkpoint=str(task.checkpoint) if task.checkpoint else None)
    current_split[:] = ["test", "test"]
    test = trainer.evaluate(task.encoded["test"], metric_key_prefix="test") if "test" in task.encoded else None
    if not trainer.is_world_process_zero():
        return None
    evaluations = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
    best = max(evaluations, key=lambda entry: entry["eval_accuracy"], default=None)
    return Outcome(trainer.state.global_step, callback.log_dir or "", _scores(best, "eval"), _scores(test, "test"))


def mean_over_step(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    """This batch's part of the mean loss over all samples of a step; without their number, the batch's own mean."""
    total = nn.functional.cross_entropy(outputs.logits, labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def find(folder: Path) -> Path | None:
    """The newest checkpoint."""
    latest = get_last_checkpoint(str(folder))
    return Path(latest) if latest else None


def _scores(logged: dict[str, float] | None, prefix: str) -> dict[str, float] | None:
    return {name: logged[f"{prefix}_{name}"] for name in SHOWN} if logged else None


if __name__ == "__main__":
    run(train, find, __doc__)
