"""Defines the command-line options that the sentiment recipes share, and the task they describe."""

from __future__ import annotations

import reprlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from datasets import DatasetDict
from sentiment_data import describe_classes, load_folder, load_hub, made_up
from sentiment_files import DataError
from sentiment_model import Sizes, build, tokenize
from sentiment_results import Outcome, report
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from tbx_callbacks import ConfigError, load_config
from tbx_callbacks.cli.terminal import console, errors  # they print no control characters of names and files

OUTPUT = Path("outputs") / Path(getattr(sys.modules["__main__"], "__file__", None) or "bert_sentiment").stem

MOST = {
    "layers": 1000,
    "hidden": 100_000,
    "heads": 100_000,
    "dropout": 0.9,
    "vocab_size": 1_000_000,
    "length": 100_000,
    "lr": 1_000_000,
    "epochs": 1_000_000,
    "batch": 1_000_000,
    "accumulate": 1_000_000,
    "max_steps": 1_000_000_000,
    "logging_steps": 1_000_000_000,
}
"""The largest values of the options: a larger one is a mistake, and ends in a lack of memory or an overflow."""


@dataclass(frozen=True)
class Task:
    """Data, model and settings of a training."""

    rows: DatasetDict
    """Sentences and labels, by split."""
    encoded: DatasetDict
    tokenizer: Any
    network: Any
    config: str
    lr: float
    epochs: float
    batch: int
    accumulate: int
    max_steps: int
    logging_steps: int
    seed: int
    output_dir: Path
    checkpoint: Path | None
    """The checkpoint to resume from."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises; then it falls to 0 linearly."""
    max_grad_norm: float = 1.0
    weight_decay: float = 0.01


def start_folder(output_dir: Path) -> Path:
    """The folder of the model's configuration and tokenizer, for checkpoints that contain only weights."""
    return output_dir / "start"


def run(train: Callable[[Task], Outcome | None], find: Callable[[Path], Path | None], about: str | None) -> None:
    """Runs a recipe as a command.

    Args:
        train: trains, and evaluates at the end of each epoch; returns None on ranks that print nothing.
        find: returns the latest checkpoint in an output folder. A checkpoint folder also contains the model and the
            tokenizer.
        about: describes the recipe.
    """

    def main(
        data: Annotated[
            str | None, typer.Option(help="Folder with train, dev and optional test files (.tsv, .csv, .jsonl).")
        ] = None,
        dataset: Annotated[
            str | None, typer.Option(help="Hub dataset, such as stanfordnlp/sst2, or a local dataset.")
        ] = None,
        text_column: Annotated[str, typer.Option(help="Column with the texts.")] = "sentence",
        label_column: Annotated[str, typer.Option(help="Column with the labels, numbers or strings.")] = "label",
        model: Annotated[str | None, typer.Option(help="Pretrained model: hub name or folder.")] = None,
        vocab: Annotated[
            str | None, typer.Option(help="BERT vocab.txt; default: train a vocabulary on the data.")
        ] = None,
        cased: Annotated[bool, typer.Option("--cased", help="Keep upper case (without --model).")] = False,
        config: Annotated[str, typer.Option(help="Metric set: a name or a YAML file.")] = "default",
        layers: Annotated[int, typer.Option(min=1, help="Layers (without --model).")] = 2,
        hidden: Annotated[int, typer.Option(min=2, help="Hidden size (without --model).")] = 128,
        heads: Annotated[int, typer.Option(min=1, help="Attention heads (without --model).")] = 2,
        dropout: Annotated[float, typer.Option(help="Dropout of hidden layers, up to 0.9 (without --model).")] = 0.3,
        vocab_size: Annotated[int, typer.Option(min=100, help="Size of a trained vocabulary.")] = 4000,
        length: Annotated[int, typer.Option(min=4, help="Maximum input length, in tokens.")] = 48,
        lr: Annotated[float | None, typer.Option(help="Peak learning rate; 2e-5 with --model, else 5e-4.")] = None,
        epochs: Annotated[float | None, typer.Option(help="Epochs; 3, or 8 on generated data.")] = None,
        batch: Annotated[int, typer.Option(min=1, help="Batch size.")] = 32,
        accumulate: Annotated[int, typer.Option(min=1, help="Batches per optimizer step.")] = 1,
        max_steps: Annotated[int, typer.Option(min=-1, help="Optimizer steps; overrides --epochs.")] = -1,
        logging_steps: Annotated[int, typer.Option(min=1, help="Steps between logged values.")] = 10,
        seed: Annotated[
            int, typer.Option(min=0, max=2**32 - 1, help="Seed of the data, the weights and the order.")
        ] = 0,
        output_dir: Annotated[str, typer.Option(help="Checkpoints and logs.")] = str(OUTPUT),
        resume: Annotated[bool, typer.Option("--resume", help="Resume from the last checkpoint.")] = False,
    ) -> None:
        """Train, evaluate after each epoch, and print the log directory."""
        options = dict(locals())
        started = time.time()
        set_seed(seed)
        try:
            _check_options(options)
            output = Path(output_dir)
            load_config(config)  # report configuration errors before any work
            checkpoint = _checkpoint(output, find) if resume else None
            rows = _rows(Path(data) if data else None, dataset, text_column, label_column, seed)
            if hidden % heads:
                raise DataError(f"--hidden must be a multiple of --heads, got {hidden} and {heads}")
            sizes = Sizes(layers, hidden, heads, vocab_size, dropout, length)
            source = str(_source(output, checkpoint)) if checkpoint else model
            tokenizer, network = build(
                rows, model=source, vocab=Path(vocab) if vocab else None, sizes=sizes, cased=cased
            )
            _check_output(output)
        except (DataError, ConfigError) as error:
            message = " ".join(str(error).split()) if isinstance(error, DataError) else str(error)
            errors.print(f"error: {message}", markup=False, emoji=False, soft_wrap=True)
            raise typer.Exit(2) from error
        console.print(
            f"data: {data or dataset or 'generated sentences'}; rows: {_sizes(rows)}; labels: {describe_classes(rows)}",
            markup=False,
            emoji=False,
        )
        console.print(
            f"model: {model or 'randomly initialized BERT'}, {network.num_parameters() / 1e6:.1f} M parameters",
            markup=False,
            emoji=False,
        )
        task = Task(
            rows=rows,
            encoded=tokenize(rows, tokenizer, length),
            tokenizer=tokenizer,
            network=network,
            config=config,
            lr=lr if lr is not None else 2e-5 if model else 5e-4,
            epochs=epochs if epochs is not None else 3.0 if data or dataset else 8.0,
            batch=batch,
            accumulate=accumulate,
            max_steps=max_steps,
            logging_steps=logging_steps,
            seed=seed,
            output_dir=output,
            checkpoint=checkpoint,
        )
        outcome = train(task)
        if outcome is not None:
            report(outcome, time.time() - started)

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # hides the bars of loading and saving, not that of training
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=about)(main)
    app(prog_name=Path(sys.argv[0]).name if sys.argv[0].endswith(".py") else sys.argv[0])


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuses empty texts, as of an unset shell variable, and numbers that no training can have."""
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, str) and not value.strip():
            raise DataError(f"{option} must not be empty, got {value!r}; leave it out or give a value")
        if name in MOST and value is not None:
            is_float = isinstance(value, float)  # typer checks the least whole numbers
            if not value <= MOST[name] or (is_float and value < 0):  # also NaN
                rule = "0 or more, and " if is_float else ""
                got = reprlib.repr(value)
                raise DataError(f"{option} must be {rule}at most {MOST[name]:,}, got {got}; correct it")


def _checkpoint(folder: Path, find: Callable[[Path], Path | None]) -> Path:
    latest = find(folder) if folder.is_dir() else None
    if latest is None:
        raise DataError(
            f"--resume needs a checkpoint in --output-dir, but {str(folder)!r} has none; leave --resume out"
        )
    return latest


def _check_output(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise DataError(f"--output-dir must be a folder that can be written, got {str(folder)!r}: {error}") from error


def _source(output_dir: Path, checkpoint: Path) -> Path:
    return checkpoint if checkpoint.is_dir() else start_folder(output_dir)


def _rows(data: Path | None, dataset: str | None, text: str, label: str, seed: int) -> DatasetDict:
    if data is not None and dataset is not None:
        raise DataError("the data must come from one place, got --data and --dataset; leave one out")
    if data is not None:
        return load_folder(data, text, label)
    return load_hub(dataset, text, label) if dataset else made_up(seed=seed)


def _sizes(rows: DatasetDict) -> str:
    return ", ".join(f"{split} {len(part)}" for split, part in rows.items())
