"""Tests other models under every trainer: checkpointed, with tied embeddings, or not from transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from transformers import BertForMaskedLM

from tests.ecosystem.harness import LIGHTNING, Bag, check, with_hf, with_hf_attached, with_lightning, with_loop
from tests.helpers.models import bert

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")


class Words(BertForMaskedLM):
    """Learns to repeat its input words; its head shares the weights of the embedding."""

    def forward(self, input_ids: Tensor, labels: Tensor, attention_mask: Tensor) -> Any:
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=input_ids)


def tied() -> nn.Module:
    config = bert().config  # sets the seed
    return Words(config)


def checkpointed() -> nn.Module:
    model = bert()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


KINDS = {"checkpointed": checkpointed, "tied": tied, "not of transformers": Bag}
VARIANTS = [with_hf, with_hf_attached, pytest.param(with_lightning, marks=LIGHTNING), with_loop]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_other_models_exact_metrics_and_unchanged_weights(
    tmp_path: Path, kind: str, variant: Callable[..., Any]
) -> None:
    read = check(variant, KINDS[kind], tmp_path)
    if kind == "tied":
        names = read.family("weight_norm")
        assert any(name.endswith("word_embeddings.weight") for name in names)
        assert not any(name.endswith("predictions.decoder.weight") for name in names)
