"""Builds small plain modules that tests share, without any trainer's package."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

LAYERS = ("bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler", "classifier")
"""The layers of `bert_like()`, as the selection `by: layer` names them."""


class _Embeddings(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(50, hidden)
        self.position_embeddings = nn.Embedding(16, hidden)
        self.LayerNorm = nn.LayerNorm(hidden)

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1])
        return self.LayerNorm(self.word_embeddings(input_ids) + self.position_embeddings(positions))


class _SelfAttention(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(hidden, hidden) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) / x.shape[-1] ** 0.5
        return scores.masked_fill(mask[:, None] == 0, -1e4).softmax(-1) @ self.value(x)


class _Output(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(width, hidden), nn.LayerNorm(hidden)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class _Layer(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": _SelfAttention(hidden), "output": _Output(hidden, hidden)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hidden, 2 * hidden)})
        self.output = _Output(2 * hidden, hidden)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, mask), x)
        return self.output(nn.functional.gelu(self.intermediate["dense"](x)), x)


class _BertLike(nn.Module):
    def __init__(self, layers: int, hidden: int) -> None:
        super().__init__()
        encoder = nn.ModuleDict({"layer": nn.ModuleList([_Layer(hidden) for _ in range(layers)])})
        pooler = nn.Sequential()
        pooler.add_module("dense", nn.Linear(hidden, hidden))
        pooler.add_module("activation", nn.Tanh())
        self.bert = nn.ModuleDict({"embeddings": _Embeddings(hidden), "encoder": encoder, "pooler": pooler})
        self.classifier = nn.Linear(hidden, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> SimpleNamespace:
        x = self.bert["embeddings"](input_ids)
        for layer in self.bert["encoder"]["layer"]:
            x = layer(x, attention_mask)
        logits = self.classifier(self.bert["pooler"](x[:, 0]))
        return SimpleNamespace(loss=nn.functional.cross_entropy(logits, labels), logits=logits)


def bert_like(layers: int = 2, hidden: int = 16) -> nn.Module:
    """A transformer with the parameter names of transformers' BERT classifier."""
    torch.manual_seed(0)
    return _BertLike(layers, hidden)
