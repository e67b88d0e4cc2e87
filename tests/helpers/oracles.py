"""Records gradients and weights with mixins, for a naive second implementation of the metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback

Named = dict[str, Tensor]


@dataclass
class Step:
    before_clip: Named = field(default_factory=dict)
    after_clip: Named = field(default_factory=dict)
    weights_before: Named = field(default_factory=dict)
    weights: Named = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    moments: dict[str, Named] = field(default_factory=dict)


class Recorder(TrainerCallback):
    """Copies every gradient and weight at every step."""

    def __init__(self) -> None:
        self.steps: dict[int, Step] = {}

    def step(self, state: Any) -> Step:
        return self.steps.setdefault(state.global_step + 1, Step())

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self.step(state).weights_before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **kwargs: Any) -> None:
        step = self.step(state)
        step.after_clip = gradients(model)
        step.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        step.moments = {
            key: {
                name: optimizer.state[p][key].detach().double().clone()
                for name, p in model.named_parameters()
                if key in optimizer.state.get(p, {})
            }
            for key in ("exp_avg", "exp_avg_sq")
        }
        step.rates = [group["lr"] for group in optimizer.param_groups]


class Recording:
    """A mixin for a Trainer that also copies gradients before clipping."""

    recorder: Recorder

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)
        self.recorder.step(self.state).before_clip = gradients(self.model)  # the last micro-batch's gradients remain
        return loss


class RecordingTrainer(Recording, Trainer):
    pass


def gradients(model: Any) -> Named:
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def norm(tensors: Named) -> float:
    """The norm of all elements in float64."""
    return float(torch.cat([tensor.double().reshape(-1) for tensor in tensors.values()]).norm())


def total(tensors: Named) -> dict[str, Named]:
    return {"total": tensors}


def by_parameter(tensors: Named) -> dict[str, Named]:
    return {name: {name: tensor} for name, tensor in tensors.items()}


def by_layer(tensors: Named) -> dict[str, Named]:
    """The layers of the test BERT, listed by hand."""
    prefixes = ("bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler", "classifier")
    groups = {
        prefix: {name: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}
        for prefix in prefixes
    }
    assert sum(map(len, groups.values())) == len(tensors)
    return {prefix: group for prefix, group in groups.items() if group}


def by_module(tensors: Named) -> dict[str, Named]:
    groups: dict[str, Named] = {}
    for name, tensor in tensors.items():
        groups.setdefault(name[: name.rindex(".")], {})[name] = tensor
    return groups
