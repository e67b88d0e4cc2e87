"""Trains small real BERTs on made-up reviews in a second or two, healthy or with one fault."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sentiment_sentences import sentences
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from tbx_callbacks import TbxLoop
from tbx_callbacks._model.parameters import Select, match, parameters_of
from tests.helpers.models import bert

LENGTH = 24
LOG = {
    "every": "log",
    "metrics": [
        "loss",
        "learning_rate",
        "clip",
        "nonfinite",
        {"grad_norm": {"by": "total"}},
        {"grad_norm": {"by": "layer"}},
        {"weight_norm": {"by": "layer"}},
    ],
    "rules": {"others": "warn"},
}


@dataclass(frozen=True)
class Plan:
    """The sizes, data and settings of a training."""

    layers: int = 2
    hidden: int = 32
    heads: int = 2
    dropout: float = 0.1
    lr: float = 2e-3
    warmup: int = 12
    decay_until: float = 1.0  # share of the steps after which the learning rate is zero
    steps: int = 120
    batch: int = 16
    examples: int = 1200
    label_noise: float = 0.0
    swapped_dev: bool = False
    clip: float = 1.0
    weight_decay: float = 0.01
    seed: int = 0
    log_every: int = 3
    eval_every: int = 15
    jump: tuple[int, float] = (0, 1.0)  # from this step on the learning rate is multiplied by this factor
    bad_batches: tuple[int, ...] = ()  # steps with swapped labels
    amp_scale: float = 0.0  # the first loss scale in fp16; 0 trains in fp32
    loss_factor: float = 1.0
    metrics: Any = None
    model: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    ids: Tensor  # [N, LENGTH]
    mask: Tensor
    labels: Tensor


Break = Callable[[Any], Callable[[TbxLoop, int], None] | None]


def data(plan: Plan) -> tuple[Data, Data]:
    """Training and dev rows; words are numbered in order of appearance."""
    rng = random.Random(plan.seed)
    rows = plain_sentences(rng, plan.examples + 200)
    vocabulary: dict[str, int] = {}
    ids = torch.zeros(len(rows), LENGTH, dtype=torch.long)
    for index, (text, _) in enumerate(rows):
        numbers = [1, *(vocabulary.setdefault(word, len(vocabulary) + 2) for word in text.split())][:LENGTH]
        ids[index, : len(numbers)] = torch.tensor(numbers)
    labels = torch.tensor([int(label == "positive") for _, label in rows])
    dev = Data(ids[:200], (ids[:200] > 0).long(), 1 - labels[:200] if plan.swapped_dev else labels[:200])
    noisy = torch.tensor([rng.random() < plan.label_noise for _ in rows])
    labels = torch.where(noisy, torch.tensor([rng.randint(0, 1) for _ in rows]), labels)
    return Data(ids[200:], (ids[200:] > 0).long(), labels[200:]), dev


def plain_sentences(rng: random.Random, number: int) -> list[tuple[str, str]]:
    """Sentences with one word of praise or blame, which is the label; a small BERT learns it in 100 steps."""
    turning = {"not", "never", "hardly", "anything", "fails", "far", "although", "though", "while", "but"}
    rows = [row for row in sentences(rng, 7 * number) if not turning & set(row[0].split())]
    assert len(rows) >= number
    return rows[:number]


def model_of(plan: Plan) -> Any:
    return bert(
        plan.seed,
        vocab_size=200,
        hidden_size=plan.hidden,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        intermediate_size=2 * plan.hidden,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=plan.dropout,
        attention_probs_dropout_prob=plan.dropout,
        **plan.model,
    )


def train(folder: Path, plan: Plan, *, before: Break | None = None) -> Path:
    """Trains and logs to `folder`.

    `before` may break the model; it may return `each_step(loop, step)`, called at the beginning of each step.
    """
    model = model_of(plan)
    each_step = before(model) if before is not None else None
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=plan.lr, weight_decay=plan.weight_decay)
    schedule = LambdaLR(optimizer, lambda done: rate(done + 1, plan))
    rows, dev = data(plan)
    config = plan.metrics or LOG
    scaler = torch.amp.GradScaler("cpu", init_scale=plan.amp_scale or 1.0, enabled=plan.amp_scale > 0)
    skipped = 0
    with TbxLoop(model, optimizer, config, log_dir=folder, log_every=plan.log_every, max_grad_norm=plan.clip) as loop:
        ratios = UpdateRatios(model)
        for step, batch in enumerate(batches(rows, plan), 1):
            model.train()
            if each_step is not None:
                each_step(loop, step)
            with torch.autocast("cpu", torch.float16, enabled=scaler.is_enabled()):
                out = model(input_ids=batch.ids, attention_mask=batch.mask, labels=batch.labels)
            scaler.scale(out.loss * plan.loss_factor).backward()
            scaler.unscale_(optimizer)
            loop.before_clip()
            nn.utils.clip_grad_norm_(trainable, plan.clip)
            due = step % plan.log_every == 0
            if due:
                ratios.copy()
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            if scaler.get_scale() < scale:
                skipped += 1
            else:
                schedule.step()
            optimizer.zero_grad()
            correct = (out.logits.detach().argmax(-1) == batch.labels).float().mean()
            loop.log("train/accuracy", correct)
            if due:
                for tag, ratio in ratios().items():
                    loop.log(tag, ratio)
            if scaler.is_enabled() and due:  # as the metric `amp` writes them
                loop.writer.add_scalar("amp/scale", scale, step)
                loop.writer.add_scalar("amp/skipped_steps", skipped, step)
                skipped = 0
            loop.end_step(loss=out.loss, samples=len(batch.labels))
            if step % plan.eval_every == 0:
                loop.evaluate(**evaluation(model, dev))
    return folder


def rate(step: int, plan: Plan) -> float:
    from_step, times = plan.jump
    return shape(step, plan) * (times if 0 < from_step <= step else 1.0)


def shape(step: int, plan: Plan) -> float:
    if step <= plan.warmup:
        return step / plan.warmup
    end = plan.decay_until * plan.steps
    return max(0.0, (end - step) / (end - plan.warmup))


def batches(rows: Data, plan: Plan) -> Iterator[Data]:
    generator = torch.Generator().manual_seed(plan.seed)
    left: Tensor = torch.tensor([], dtype=torch.long)
    for step in range(1, plan.steps + 1):
        if len(left) < plan.batch:
            left = torch.randperm(len(rows.labels), generator=generator)
        chosen, left = left[: plan.batch], left[plan.batch :]
        labels = rows.labels[chosen]
        yield Data(rows.ids[chosen], rows.mask[chosen], 1 - labels if step in plan.bad_batches else labels)


@torch.no_grad()
def evaluation(model: nn.Module, dev: Data) -> dict[str, float]:
    model.eval()
    out = model(input_ids=dev.ids, attention_mask=dev.mask, labels=dev.labels)
    return {"loss": out.loss.item(), "accuracy": (out.logits.argmax(-1) == dev.labels).float().mean().item()}


class UpdateRatios:
    """Logs `update_ratio/<layer>`: the norm of a step's update divided by the norm of the weights."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = parameters_of(model)
        self._groups = match(Select(by="layer"), self._parameters)[0].groups
        self.copy()

    def copy(self) -> None:
        self._old = [parameter.tensor.detach().clone() for parameter in self._parameters]

    def __call__(self) -> dict[str, Tensor]:
        ratios = {}
        for group in self._groups:
            now = [self._parameters[index].tensor.detach() for index in group.members]
            old = [self._old[index] for index in group.members]
            change = sum((a - b).square().sum() for a, b in zip(now, old, strict=True))
            ratios[f"update_ratio/{group.name}"] = (change / sum(a.square().sum() for a in now)).sqrt()
        return ratios
