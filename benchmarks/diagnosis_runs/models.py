"""Builds the small models of the runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from benchmarks.diagnosis_runs.data import VOCABULARY

# -- transformers ------------------------------------------------------------------------------------------------------

_SIZES = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}


def encoder(
    name: str, *, task: str = "SequenceClassification", layers: int = 2, labels: int = 2, **options: Any
) -> Any:
    """A BERT, RoBERTa, Electra or other encoder of the BERT family by the name of its classes."""
    if name == "Electra":
        options = {"embedding_size": 32, **options}
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCABULARY, pad_token_id=0, num_labels=labels, num_hidden_layers=layers, **_SIZES, **options
    )
    return getattr(transformers, f"{name}For{task}")(config)


def distilbert(*, labels: int = 2, **options: Any) -> Any:
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY,
        pad_token_id=0,
        num_labels=labels,
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=64,
        **options,
    )
    return transformers.DistilBertForSequenceClassification(config)


def gpt2(**options: Any) -> Any:
    config = transformers.GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0, **options
    )
    return transformers.GPT2LMHeadModel(config)


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=40, d_model=32, d_ff=64, num_layers=2, num_heads=2, d_kv=16, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def vit() -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(image_size=8, patch_size=2, num_channels=1, num_labels=10, **sizes)
    return transformers.ViTForImageClassification(config)


def with_lora(model: Any, targets: list[str], *, task: str, **options: Any) -> Any:
    """The model with LoRA adapters of peft."""
    import peft

    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets, task_type=task, **options))


# -- networks ----------------------------------------------------------------------------------------------------------


def mlp(inputs: int = 64, outputs: int = 10, *, width: int = 48, dropout: float = 0.0) -> nn.Sequential:
    hidden: list[nn.Module] = [nn.Linear(inputs, width), nn.ReLU()]
    if dropout:
        hidden.append(nn.Dropout(dropout))
    return nn.Sequential(*hidden, nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))


class ConvNet(nn.Module):
    """Two convolutions, with batch norm or without, for the 8x8 digits."""

    def __init__(self, *, batch_norm: bool = True, momentum: float = 0.1) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12, 24, 3, padding=1)
        self.norm1, self.norm2 = (
            nn.BatchNorm2d(width, momentum=momentum) if batch_norm else nn.Identity() for width in (12, 24)
        )
        self.act1, self.act2 = nn.ReLU(), nn.ReLU()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(2), nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.norm1(self.conv1(x.view(-1, 1, 8, 8))))
        x = self.act2(self.norm2(self.conv2(x)))
        return self.fc(self.pool(x).flatten(1))


class DeepNet(nn.Module):
    """Many narrow layers with one activation."""

    def __init__(self, depth: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(32 if index else 64, 32) for index in range(depth)])
        self.head, self.activation = nn.Linear(32, 10), activation

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.activation(layer(x))
        return self.head(x)


class Recurrent(nn.Module):
    """Token embeddings, a recurrent layer, and a head on the mean of its outputs."""

    def __init__(self, cell: str = "LSTM", *, dropout: float = 0.0, outputs: int = 2, **options: Any) -> None:
        super().__init__()
        self.embed, self.dropout = nn.Embedding(VOCABULARY, 32), nn.Dropout(dropout)
        self.rnn, self.head = getattr(nn, cell)(32, 32, batch_first=True, **options), nn.Linear(32, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.dropout(self.rnn(self.embed(ids))[0].mean(1)))


class LastState(Recurrent):
    """A recurrent network with a head on its last output, as deep as the sequence is long."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(ids))[0][:, -1])


class Forecaster(nn.Module):
    """A GRU that predicts the next value of a wave."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])[:, 0]


class Towers(nn.Module):
    """Two networks for the halves of an image, and a head on both; the right one may be detached from the loss."""

    def __init__(self, *, detached: bool) -> None:
        super().__init__()
        self.left, self.right, self.head = mlp(32, 16), mlp(32, 16), nn.Linear(32, 10)
        self.detached = detached

    def forward(self, x: Tensor) -> Tensor:
        right = self.right(x[:, 32:])
        return self.head(torch.cat([self.left(x[:, :32]), right.detach() if self.detached else right], 1))


class PostNorm(nn.Module):
    """A transformer with the norm after each block, as it needs a warm-up."""

    def __init__(self, layers: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 32)
        self.layers = nn.ModuleList(
            [nn.TransformerEncoderLayer(32, 2, 64, dropout=0.1, batch_first=True) for _ in range(layers)]
        )
        self.head = nn.Linear(32, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, 0])


class Regressor(nn.Module):
    """An MLP with one output, as a vector. [N]"""

    def __init__(self, inputs: int, *, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = mlp(inputs, 1, width=width, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:, 0]


class GaussianNet(nn.Module):
    """An MLP that predicts the mean and the log variance of a Gaussian. [N, 2]"""

    def __init__(self, inputs: int = 1) -> None:
        super().__init__()
        self.net = mlp(inputs, 2, width=32)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def gaussian_loss(outputs: Tensor, y: Tensor) -> Tensor:
    mean, log_variance = outputs[:, 0], outputs[:, 1]
    return 0.5 * (log_variance + (y - mean) ** 2 / log_variance.exp() + math.log(2 * math.pi)).mean()


class Factors(nn.Module):
    """A matrix factorisation with sparse embeddings of users and items."""

    def __init__(self, users: int = 200, items: int = 100, width: int = 8) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, width, sparse=True), nn.Embedding(items, width, sparse=True)
        for embedding in (self.users, self.items):
            nn.init.normal_(embedding.weight, std=0.3)

    def forward(self, pairs: Tensor) -> Tensor:
        return (self.users(pairs[:, 0]) * self.items(pairs[:, 1])).sum(1)


class Autoencoder(nn.Module):
    """Images of 64 pixels through a code of 8 numbers; with `noise`, a variational one."""

    def __init__(self, *, variational: bool = False) -> None:
        super().__init__()
        self.encode, self.decode = mlp(64, 16 if variational else 8), mlp(8, 64)
        self.variational, self.divergence = variational, torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        code = self.encode(x)
        if self.variational:
            mean, log_variance = code[:, :8], code[:, 8:].clamp(-6, 6)
            self.divergence = 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).sum(1).mean()
            code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if self.training else mean
        return self.decode(code)


class Adversaries(nn.Module):
    """A generator of points in the plane, and a discriminator of them."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = mlp(4, 2, width=24), mlp(2, 1, width=24)


def freeze(model: nn.Module, *words: str) -> None:
    """Freezes the parameters whose name contains one of the words."""
    for name, parameter in model.named_parameters():
        if any(word in name for word in words):
            parameter.requires_grad_(False)


# -- optimizers and schedules ------------------------------------------------------------------------------------------


def sgd(model: nn.Module, rate: float, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), rate, **{"momentum": 0.9, **options})


def adam(model: nn.Module, rate: float, **options: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate, **options)


def scheduled(optimizer: torch.optim.Optimizer, factor: Callable[[int], float]) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def linear(optimizer: torch.optim.Optimizer, steps: int, warmup: int = 0) -> torch.optim.lr_scheduler.LambdaLR:
    """A linear warm-up, then a linear decay to zero."""
    return scheduled(optimizer, lambda step: min(1.0, (step + 1) / max(warmup, 1)) * max(0.0, 1 - step / steps))
