"""Records the outputs of modules, and compares them with the activations of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from tests.helpers.nets import LAYERS
from tests.helpers.runs import Run


class OutputRecorder:
    """Keeps the outputs of some modules in training mode, by step; the test sets the step."""

    def __init__(self, model: nn.Module, names: tuple[str, ...] = LAYERS) -> None:
        self.calls: dict[tuple[int, str], list[Tensor]] = {}
        self.step: Callable[[], int] = lambda: 0
        for name in names:
            model.get_submodule(name).register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, outputs: Any) -> None:
            if module.training:
                first = outputs if isinstance(outputs, Tensor) else outputs[0]
                self.calls.setdefault((self.step(), name), []).append(first.detach().double().clone())

        return hook


def check_activations(read: Run, recorder: OutputRecorder, steps: list[int], names: tuple[str, ...] = LAYERS) -> None:
    assert {tag.removeprefix("activations/").rpartition("/")[0] for tag in read.scalars if tag[0] == "a"} == {*names}
    for name in names:
        assert read.steps(f"activations/{name}/norm") == list(read.histograms[f"activations/{name}"]) == steps
        for step in steps:
            x = recorder.calls[step, name][0]
            assert read.at(f"activations/{name}/norm")[step] == pytest.approx(x.square().mean().sqrt().item(), rel=1e-5)
            mean = pytest.approx(x.mean().item(), rel=1e-5, abs=1e-7)
            assert read.at(f"activations/{name}/mean")[step] == mean
            zeros = (x == 0).double().mean().item()
            assert read.at(f"activations/{name}/zero_share")[step] == pytest.approx(zeros, rel=1e-5)
            proto = read.histograms[f"activations/{name}"][step]
            assert proto.num == x.numel()
            assert (proto.min, proto.max) == pytest.approx((x.min().item(), x.max().item()), rel=1e-5)
            assert proto.sum_squares == pytest.approx(x.square().sum().item(), rel=1e-5)
