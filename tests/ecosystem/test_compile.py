"""Tests compiled models under every trainer: names and values equal those of the plain model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.ecosystem.harness import LIGHTNING, Bag, check, with_hf, with_hf_attached, with_lightning, with_loop
from tests.helpers.models import bert


def compiled() -> nn.Module:
    torch._dynamo.reset()
    # the compiler behind dynamo changes neither hooks nor names
    return torch.compile(bert(num_hidden_layers=1), backend="eager")


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant", [with_hf, pytest.param(with_lightning, marks=[LIGHTNING, pytest.mark.thorough]), with_loop]
)
def test_compiled_model_of_user_exact_metrics(tmp_path: Path, variant: Callable[..., Any]) -> None:
    check(variant, compiled, tmp_path)


@pytest.mark.thorough
@pytest.mark.slow
def test_compiled_model_of_huggingface_trainer_exact_metrics(tmp_path: Path) -> None:
    def variant(folder: Path, model: nn.Module, watched: bool) -> Any:
        torch._dynamo.reset()
        return with_hf_attached(folder, model, watched, torch_compile=True, torch_compile_backend="eager")

    check(variant, lambda: bert(num_hidden_layers=1), tmp_path)


@LIGHTNING
def test_compiled_lightning_module_exact_metrics(tmp_path: Path) -> None:
    check(lambda *args: with_lightning(*args, whole=True), Bag, tmp_path)
