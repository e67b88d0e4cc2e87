"""Train a convolutional network on generated sounds with the Hugging Face Trainer and log the run to TensorBoard.

The sounds are tones, rising and falling chirps, chords and trills, in noise.
"""

from __future__ import annotations

import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from datasets import Dataset
from recipe_run import Batch, Config, Output, Rate, Rows, Seed, Steps, finish, new_folder, start
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments, set_seed

from tbx_callbacks import TbxTrainerCallback, load_config, log_predictions

KINDS = ("tone", "rising", "falling", "chord", "trill")
RATE, LENGTH = 4000, 2000  # samples per second, samples of a sound


def generate(rows: int) -> tuple[Tensor, Tensor]:
    """Generates sounds `[rows, LENGTH]` and their kinds `[rows]`; each has its own pitch, loudness, phase and noise."""
    kinds = torch.arange(rows) % len(KINDS)
    seconds = torch.arange(LENGTH) / RATE
    low = 250 * 2 ** (torch.rand(rows, 1) * 2)  # two octaves
    ratio = 1.25 + 0.35 * torch.rand(rows, 1)
    wave = (2 * math.pi * (4 + 4 * torch.rand(rows, 1)) * seconds).sin()
    share = seconds * RATE / LENGTH
    steady, glide, trill = low.expand(-1, LENGTH), low * ratio**share, low * ratio ** (0.5 + 0.5 * wave.sign())
    every_kind = torch.stack([steady, glide, glide.flip(1), steady, trill])  # in Hz, over the time
    pitch = every_kind[kinds, torch.arange(rows)]
    phase = 2 * math.pi * (pitch.cumsum(1) / RATE + torch.rand(rows, 1))
    sound = phase.sin() + (kinds[:, None] == KINDS.index("chord")) * (phase * ratio).sin()
    return (0.3 + 0.7 * torch.rand(rows, 1)) * sound + 0.7 * torch.randn(rows, LENGTH), kinds


def spectrogram(sounds: Tensor) -> Tensor:
    """The logarithm of the short-time Fourier transform's power: `[sounds, 129, frames]`."""
    window = torch.hann_window(256, device=sounds.device)
    power = torch.stft(sounds.float(), 256, 64, window=window, return_complex=True).abs().square()
    return (power + 1e-3).log()


class SoundClassifier(nn.Module):
    """Classifies spectrograms by convolutions; its outputs are the loss and the logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [1, width, 2 * width, 4 * width]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2))
            for before, after in pairwise(sizes)
        )
        self.classifier = nn.Linear(sizes[-1], len(KINDS))

    def forward(self, sounds: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Returns the mean loss and the logits `[sounds, kinds]`."""
        hidden = spectrogram(sounds)[:, None]
        hidden = (hidden - hidden.mean((2, 3), keepdim=True)) / hidden.std((2, 3), keepdim=True)
        for block in self.blocks:
            hidden = block(hidden)
        logits = self.classifier(hidden.mean((2, 3)))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def main(
    config: Config = "default",
    max_steps: Steps = 200,
    lr: Rate = 2e-2,
    batch: Batch = 32,
    rows: Rows = 2000,
    width: Annotated[int, typer.Option(min=1, max=10_000, help="Channels of the first convolution.")] = 8,
    bf16: Annotated[bool, typer.Option("--bf16", help="Train in mixed precision.")] = False,
    seed: Seed = 0,
    output_dir: Output = Path("outputs/audio_classification"),
) -> None:
    """Train, evaluate every 50 steps, and compare with chance and with a linear model of the mean spectrum."""
    started = time.time()
    load_config(config)  # report configuration errors before any work
    set_seed(seed)
    (train_x, train_y), (dev_x, dev_y) = generate(rows), generate(500)
    callback = TbxTrainerCallback(config, log_dir=new_folder(output_dir))

    def metrics(prediction: Any) -> dict[str, float]:
        log_predictions(callback, prediction.predictions, prediction.label_ids, names=KINDS)
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    has_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        str(output_dir), max_steps=max_steps, learning_rate=lr, per_device_train_batch_size=batch, bf16=bf16, seed=seed,
        per_device_eval_batch_size=100, warmup_steps=0.1, eval_strategy="steps", eval_steps=50, logging_steps=10,
        save_strategy="no", report_to="none", use_cpu=not has_gpu, dataloader_pin_memory=has_gpu,
    )  # fmt: skip
    train, dev = (
        Dataset.from_dict({"sounds": x.numpy(), "labels": y.numpy()}).with_format("torch")
        for x, y in ((train_x, train_y), (dev_x, dev_y))
    )
    trainer = Trainer(
        SoundClassifier(width), arguments, None, train, dev, compute_metrics=metrics, callbacks=[callback]
    )
    callback.attach(trainer)
    trainer.train()
    final = trainer.evaluate()
    spectra = [(spectrogram(x).mean(-1) / 4).numpy() for x in (train_x, dev_x)]
    linear = LogisticRegression(max_iter=2000).fit(spectra[0], train_y).score(spectra[1], dev_y)
    results = {"convolutions": (final["eval_loss"], final["eval_accuracy"]), "linear model": (math.nan, linear)}
    results["chance"] = (math.log(len(KINDS)), 1 / len(KINDS))
    columns = ("loss", "accuracy")
    finish(callback.log_dir, steps=trainer.state.global_step, started=started, columns=columns, rows=results)


if __name__ == "__main__":
    start(main, __doc__)
