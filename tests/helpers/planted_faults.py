"""Trains with one fault each, or healthily, and lists the findings that the doctor must report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tbx_callbacks import TbxLoop
from tests.helpers.trainings import LOG, Break, Plan

EachStep = Callable[[TbxLoop, int], None]
SMALL = Plan(hidden=16, lr=4e-3)
DEEP = Plan(layers=4, hidden=16, lr=4e-3, steps=60)


@dataclass(frozen=True)
class Fault:
    """A fault and its symptoms: rule -> a tag of the evidence, and the steps between which it begins.

    `also` are rules that may report findings too, since those are true.
    """

    plan: Plan
    symptoms: dict[str, tuple[str, tuple[int, int]]]
    before: Break | None = None
    also: frozenset[str] = frozenset()


def freeze(*prefixes: str) -> Break:
    def before(model: Any) -> None:
        for name, parameter in model.named_parameters():
            if name.startswith(prefixes) and "lora_" not in name:
                parameter.requires_grad_(False)

    return before


def nan_gradient(layer: int, at: int) -> Break:
    """Makes the gradient of a layer's output NaN in one step."""

    def before(model: Any) -> EachStep:
        now = [0]

        def spoil(gradient: Tensor) -> Tensor:
            return gradient * float("nan") if now[0] == at else gradient

        def watch(module: nn.Module, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if hidden.requires_grad:
                hidden.register_hook(spoil)

        model.bert.encoder.layer[layer].register_forward_hook(watch)
        return lambda loop, step: now.__setitem__(0, step)

    return before


def nan_loss(at: int) -> Break:
    """Makes a layer's output Inf in one step, so that the loss is NaN."""

    def before(model: Any) -> EachStep:
        now = [0]

        def spoil(module: nn.Module, args: Any, output: Any) -> Any:
            return output * float("inf") if now[0] == at else output

        model.bert.embeddings.register_forward_hook(spoil)
        return lambda loop, step: now.__setitem__(0, step)

    return before


def scaled_gradients(factor: float) -> Break:
    """Multiplies the gradient in each layer of the backward pass."""

    def before(model: Any) -> None:
        def scale(module: nn.Module, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if hidden.requires_grad:
                hidden.register_hook(lambda gradient: gradient * factor)

        for layer in model.bert.encoder.layer:
            layer.register_forward_hook(scale)

    return before


def saturated_pooler(model: Any) -> None:
    """Saturates the pooler: tanh is 1 near 100, and its gradient is 0."""
    with torch.no_grad():
        model.bert.pooler.dense.bias.fill_(100.0)


def dead_relu(layer: int) -> Break:
    """Silences the ReLUs of a layer, and logs their share of zeros as the metric `activations` does."""

    def before(model: Any) -> EachStep:
        shares: dict[int, Tensor] = {}
        for number, one in enumerate(model.bert.encoder.layer):
            one.intermediate.register_forward_hook(
                lambda module, args, output, n=number: shares.__setitem__(n, (output == 0).float().mean().detach())
            )
        with torch.no_grad():
            model.bert.encoder.layer[layer].intermediate.dense.bias.fill_(-100.0)

        def log(loop: TbxLoop, step: int) -> None:
            for number, share in shares.items():
                loop.log(f"activations/bert.encoder.layer.{number}.intermediate/zero_share", share)

        return log

    return before


class Lora(nn.Module):
    """A linear layer with low-rank LoRA weights, named as in peft."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def lora(*, train_b: bool) -> Break:
    def before(model: Any) -> None:
        if not train_b:
            model.bert.encoder.requires_grad_(False)
        for layer in model.bert.encoder.layer:
            layer.attention.self.query = Lora(layer.attention.self.query)
            layer.attention.self.value = Lora(layer.attention.self.value)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.requires_grad_(train_b)

    return before


EVERY_STEP = {**LOG, "metrics": [*(m for m in LOG["metrics"] if m != "nonfinite"), {"nonfinite": {"every": 1}}]}
BY_PARAMETER = {**LOG, "metrics": [*LOG["metrics"], {"weight_norm": {"by": "parameter"}}]}

RATE = "lr/AdamW/pg1"
FAULTS: dict[str, Fault] = {
    "learning rate 100 times too high": Fault(
        Plan(lr=0.2),
        {
            "learning_rate_too_high": (RATE, (1, 6)),
            "update_too_large": ("update_ratio/bert.encoder.layer.1", (1, 6)),
        },
        also=frozenset({"vanishing_gradients"}),
    ),
    "learning rate 100,000 times too low": Fault(
        Plan(lr=2e-8),
        {
            "underfitting": ("train/loss", (1, 6)),
            "update_too_small": ("update_ratio/bert.encoder.layer.0", (1, 6)),
        },
    ),
    "learning rate zero": Fault(Plan(lr=0.0, steps=60), {"all_frozen": ("weight_norm/classifier", (3, 3))}),
    "no warm-up": Fault(Plan(warmup=1), {"no_warmup": (RATE, (1, 3))}),
    "rate zero after 40 % of the steps": Fault(
        Plan(decay_until=0.4), {"decayed_early": (RATE, (45, 51))}, also=frozenset({"underfitting"})
    ),
    "the rate jumps 100 times at step 84": Fault(
        Plan(jump=(84, 100.0)), {"divergence": ("train/loss", (72, 93))}, also=frozenset({"update_too_large"})
    ),
    "batches 91 to 93 with swapped labels": Fault(
        Plan(bad_batches=(91, 92, 93)), {"loss_spike": ("train/loss", (93, 93))}
    ),
    "half of the labels are noise": Fault(
        Plan(label_noise=0.5, examples=2000, batch=32, steps=210, eval_every=60),
        {"plateau": ("train/loss", (40, 100))},
    ),
    "noisy labels, few examples, a large model": Fault(
        Plan(label_noise=0.5, examples=100, hidden=64, dropout=0.0, warmup=6, steps=140),
        {"overfitting": ("eval/loss", (15, 60)), "accuracy_gap": ("eval/accuracy", (135, 140))},
    ),
    "swapped labels in dev": Fault(
        Plan(swapped_dev=True),
        {"eval_disagrees": ("eval/accuracy", (15, 15)), "accuracy_gap": ("eval/accuracy", (120, 120))},
    ),
    "clipped at 1e-4": Fault(
        Plan(clip=1e-4), {"clipping_saturated": ("clip/factor", (3, 3))}, also=frozenset({"underfitting"})
    ),
    "NaN in the gradient of layer 1 at step 40": Fault(
        replace(DEEP, metrics=EVERY_STEP),
        {"nonfinite": ("nonfinite/gradients/bert.encoder.layer.1", (40, 40))},
        nan_gradient(1, 40),
    ),
    "Inf in the embeddings at step 41": Fault(DEEP, {"nonfinite": ("nonfinite/losses", (41, 42))}, nan_loss(41)),
    "fp16 that overflows for a while": Fault(
        replace(DEEP, layers=2, amp_scale=2.0**32), {"amp_skipped_steps": ("amp/skipped_steps", (3, 3))}
    ),
    "fp16 that overflows at every scale": Fault(
        replace(DEEP, layers=2, amp_scale=2.0**16, loss_factor=1e7),
        {"amp_scale_collapse": ("amp/scale", (12, 24))},
        also=frozenset({"amp_skipped_steps", "clipping_saturated"}),
    ),
    "gradients fade 100 times a layer": Fault(
        DEEP, {"vanishing_gradients": ("grad_norm/bert.encoder.layer.0", (3, 3))}, scaled_gradients(0.01)
    ),
    "gradients grow 10 times a layer": Fault(
        DEEP,
        {"exploding_gradients": ("grad_norm/bert.encoder.layer.0", (3, 3))},
        scaled_gradients(10.0),
        also=frozenset({"clipping_saturated"}),
    ),
    "layer 2 frozen": Fault(
        DEEP, {"frozen_layers": ("weight_norm/bert.encoder.layer.2", (3, 3))}, freeze("bert.encoder.layer.2.")
    ),
    "only the head is trained": Fault(
        DEEP, {"head_only": ("weight_norm/bert.encoder.layer.3", (3, 3))}, freeze("bert.")
    ),
    "a pooler that is saturated": Fault(
        DEEP,
        {"zero_gradient": ("grad_norm/bert.encoder.layer.3", (3, 3))},
        saturated_pooler,
        also=frozenset({"underfitting"}),
    ),
    "dead ReLUs in layer 2": Fault(
        replace(DEEP, model={"hidden_act": "relu"}),
        {"dead_activations": ("activations/bert.encoder.layer.2.intermediate/zero_share", (3, 6))},
        dead_relu(2),
    ),
    "LoRA whose B is frozen": Fault(
        Plan(hidden=16, steps=45, metrics=BY_PARAMETER),
        {
            "lora_not_training": (
                "weight_norm/bert.encoder.layer.0.attention.self.query.lora_B.default.weight",
                (3, 3),
            )
        },
        lora(train_b=False),
        also=frozenset({"zero_gradient"}),
    ),
}

HEALTHY: dict[str, tuple[Plan, Break | None]] = {
    "2 layers of 32": (Plan(), None),
    "another seed": (Plan(seed=1), None),
    "4 layers": (Plan(layers=4, seed=2, lr=1e-3), None),
    "hidden size 64": (Plan(hidden=64, heads=4, seed=3, lr=1e-3), None),
    "hidden size 16": (Plan(hidden=16, seed=4, lr=4e-3), None),
    "batches of 32": (Plan(batch=32, seed=5, steps=90), None),
    "a tenth of the labels is noise": (Plan(label_noise=0.1, seed=6, steps=150), None),
    "no dropout": (Plan(dropout=0.0, seed=7), None),
    "6 layers": (Plan(layers=6, hidden=16, seed=8, steps=150), None),
    "LoRA": (Plan(seed=9, metrics=BY_PARAMETER), lora(train_b=True)),
}
