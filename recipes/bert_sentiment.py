"""Fine-tune BERT for sentiment with the Hugging Face Trainer and log the run to TensorBoard.

Without arguments it makes its own labelled sentences, trains a vocabulary and a small BERT on them, offline.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from sentiment_data import DataError, load_folder, load_hub, made_up
from sentiment_model import Sizes, build, tokenize
from sklearn.metrics import accuracy_score, f1_score
from transformers import DataCollatorWithPadding, ProgressCallback, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging as transformers_logging

from tbx_callbacks import ConfigError, TbxTrainerCallback

console = Console(highlight=False)


class EvaluationProgress(ProgressCallback):  # type: ignore[misc]
    """The Trainer's progress bar, with one line an evaluation instead of every number that is logged."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Prints evaluations only."""
        if self.training_bar is not None and logs and "eval_accuracy" in logs:
            shown = "  ".join(f"{name} {logs[f'eval_{name}']:.4f}" for name in ("loss", "accuracy", "f1"))
            self.training_bar.write(f"step {state.global_step:>5}  epoch {state.epoch:.2f}  dev: {shown}")


def main(
    data: Annotated[Path | None, typer.Option(help="Folder with train, dev (and test) .tsv, .csv or .jsonl.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Hub dataset, such as stanfordnlp/sst2, or a local one.")] = None,
    text_column: Annotated[str, typer.Option(help="Column with the texts.")] = "sentence",
    label_column: Annotated[str, typer.Option(help="Column with the labels, numbers or strings.")] = "label",
    model: Annotated[str | None, typer.Option(help="Pretrained model: hub name or folder.")] = None,
    vocab: Annotated[Path | None, typer.Option(help="BERT vocab.txt; without it one is trained on the data.")] = None,
    cased: Annotated[bool, typer.Option("--cased", help="Keep upper case (without --model).")] = False,
    config: Annotated[str, typer.Option(help="Metric set: a name or a YAML file.")] = "default",
    layers: Annotated[int, typer.Option(min=1, help="Layers (without --model).")] = 2,
    hidden: Annotated[int, typer.Option(min=2, help="Hidden size (without --model).")] = 128,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads (without --model).")] = 2,
    dropout: Annotated[float, typer.Option(min=0.0, max=0.9, help="Dropout of hidden layers (without --model).")] = 0.3,
    vocab_size: Annotated[int, typer.Option(min=100, help="Size of a trained vocabulary.")] = 4000,
    length: Annotated[int, typer.Option(min=4, help="Longest input, in tokens.")] = 48,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate; 2e-5 with --model, else 5e-4.")] = None,
    epochs: Annotated[float | None, typer.Option(min=0.0, help="Epochs; 3, or 8 on made-up data.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Sentences a batch.")] = 32,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches an optimizer step.")] = 1,
    max_steps: Annotated[int, typer.Option(help="Optimizer steps; overrides --epochs.")] = -1,
    logging_steps: Annotated[int, typer.Option(min=1, help="Steps between logged numbers.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the data, the weights and the order.")] = 0,
    output_dir: Annotated[Path, typer.Option(help="Checkpoints and logs.")] = Path("outputs/bert_sentiment"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train, evaluate at each epoch's end, and say where the logs are."""
    started = time.time()
    set_seed(seed)
    try:
        callback = TbxTrainerCallback(config)
        checkpoint = last_checkpoint(output_dir) if resume else None
        if data is not None and dataset is not None:
            raise DataError("the data must come from one place, got --data and --dataset; leave one out")
        if data is not None:
            rows = load_folder(data, text_column, label_column)
        else:
            rows = load_hub(dataset, text_column, label_column) if dataset else made_up(seed=seed)
        if hidden % heads:
            raise DataError(f"--hidden must be a multiple of --heads, got {hidden} and {heads}")
        sizes = Sizes(layers, hidden, heads, vocab_size, dropout, length)
        tokenizer, network = build(rows, model=checkpoint or model, vocab=vocab, sizes=sizes, cased=cased)
    except (DataError, ConfigError) as error:
        Console(stderr=True, highlight=False).print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    console.print(f"data: {data or dataset or 'made-up sentences'}; rows: {describe(rows)}; labels: {labels(rows)}")
    console.print(f"model: {model or 'BERT from random weights'}, {network.num_parameters() / 1e6:.1f} M parameters")
    encoded = tokenize(rows, tokenizer, length)
    trainer = Trainer(
        model=network,
        args=TrainingArguments(
            str(output_dir),
            learning_rate=lr or (2e-5 if model else 5e-4),
            num_train_epochs=epochs if epochs is not None else 3.0 if data or dataset else 8.0,
            max_steps=max_steps,
            per_device_train_batch_size=batch,
            per_device_eval_batch_size=128,
            gradient_accumulation_steps=accumulate,
            warmup_steps=0.1,
            weight_decay=0.01,
            logging_steps=logging_steps,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            greater_is_better=True,
            report_to="none",
            disable_tqdm=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            seed=seed,
        ),
        train_dataset=encoded["train"],
        eval_dataset=encoded["dev"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
        callbacks=[callback],
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(EvaluationProgress)
    callback.attach(trainer)
    trainer.train(resume_from_checkpoint=checkpoint)
    test = trainer.evaluate(encoded["test"], metric_key_prefix="test") if "test" in encoded else None
    if trainer.is_world_process_zero():
        report(trainer, callback, test, time.time() - started)


def last_checkpoint(folder: Path) -> str:
    """The newest checkpoint of a folder.

    Raises:
        DataError: there is none.
    """
    found = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if found is None:
        raise DataError(
            f"--resume needs a checkpoint in --output-dir, but {str(folder)!r} has none; leave --resume out"
        )
    return str(found)


def compute_metrics(prediction: Any) -> dict[str, float]:
    """Accuracy, and F1 of the second class (two classes) or the mean F1 over classes (more)."""
    chosen = np.argmax(prediction.predictions, axis=-1)
    average = "binary" if prediction.predictions.shape[-1] == 2 else "macro"
    return {
        "accuracy": float(accuracy_score(prediction.label_ids, chosen)),
        "f1": float(f1_score(prediction.label_ids, chosen, average=average, zero_division=0)),
    }


def report(trainer: Trainer, callback: TbxTrainerCallback, test: dict[str, float] | None, seconds: float) -> None:
    """Prints the results, the log folder and the command to look at it."""
    table = Table(
        "split", "loss", "accuracy", "F1", title=f"results after {trainer.state.global_step} steps, {seconds:.0f} s"
    )
    evaluations = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
    best = max(evaluations, key=lambda entry: entry["eval_accuracy"], default=None)
    for name, entry, prefix in (("dev (best)", best, "eval"), ("test", test, "test")):
        if entry is not None:
            table.add_row(name, *(f"{entry[f'{prefix}_{key}']:.4f}" for key in ("loss", "accuracy", "f1")))
    console.print(table)
    folder = Path(os.path.relpath(callback.log_dir or ""))
    console.print(f"logs: {folder}\nlook at them: tbx-callbacks view {folder.parent}", soft_wrap=True)


def describe(rows: Any) -> str:
    """Number of rows of each split."""
    return ", ".join(f"{split} {len(part)}" for split, part in rows.items())


def labels(rows: Any) -> str:
    """Names of the labels."""
    return ", ".join(rows["train"].features["label"].names)


if __name__ == "__main__":
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # of loading and saving; the Trainer's own stays
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=__doc__)(main)
    app(prog_name=Path(sys.argv[0]).name if sys.argv[0].endswith(".py") else sys.argv[0])
