"""Finds the LoRA adapters of a model by their structure, without importing PEFT."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tbx_callbacks._model.names import shown

logger = logging.getLogger(__name__)

_DEFAULT, _BASE = "default", "base_layer"
_TRAINED_BESIDE = re.compile(r"(?:^|\.)(?:[a-z]*lora|hada|lokr|ia3|b?oft|vera_lambda)_")
_PLAIN_VARIANTS = ("Dora", "ALora", "MiCA")  # of PEFT: their update is the product too, before anything else


@dataclass(frozen=True)
class Adapter:
    """One LoRA adapter of one module: it adds `scaling * b @ a` to the module's weight."""

    name: str
    """Name of the adapter, as PEFT knows it."""
    group: str
    """The module, followed by the adapter's name unless that is `default`."""
    a: Tensor
    """`[rank, inputs, ...]`"""
    b: Tensor
    """`[outputs, rank, ...]`"""
    weight: Tensor | None
    """The frozen weight that it adapts, of any layout; None if its elements are packed or of another number."""
    scalings: Mapping[str, Any]
    """The module's scaling of each adapter, which may change."""

    @property
    def scaling(self) -> Any:
        """`alpha / rank`, or `alpha / sqrt(rank)` with rsLoRA."""
        return self.scalings[self.name]


def find_adapters(model: nn.Module, names: Mapping[int, str]) -> list[Adapter]:
    """Returns the LoRA adapters of linear layers, embeddings and convolutions.

    A module with adapters has `scaling` by adapter, and `lora_A` and `lora_B` (or `lora_embedding_A` and
    `lora_embedding_B`) with the same keys, as in PEFT. Adapters with another product are left out: AdaLoRA, BD-LoRA.

    Args:
        model: the model.
        names: clean names of the parameters whose elements can be read, by id.
    """
    found = [adapter for module in model.modules() for adapter in _adapters_of(module, names)]
    return list({(id(adapter.a), id(adapter.b), adapter.group): adapter for adapter in found}.values())


def count_trained(model: nn.Module) -> int:
    """Returns the number of trainable parameters of adapters, by the names that PEFT gives them: LoRA, LoHa, IA3, OFT.

    What lies beside them is frozen on purpose.
    """
    return sum(
        parameter.requires_grad and _TRAINED_BESIDE.search(name) is not None
        for name, parameter in model.named_parameters()
    )


def _adapters_of(module: nn.Module, names: Mapping[int, str]) -> Iterator[Adapter]:
    for name, a, b in _pairs(module):
        if a is None or b is None or id(a) not in names or id(b) not in names or a.shape[0] != b.shape[1]:
            continue
        path, _, _ = f".{names[id(a)]}".rpartition(".lora_")
        group = ".".join(part for part in path.split(".") if part not in ("", _BASE)) or "lora"
        weight = _base_weight(module, b.shape[0] * (a.numel() // a.shape[0]), names)
        yield Adapter(name, group if name == _DEFAULT else f"{group}.{name}", a, b, weight, module.scaling)  # type: ignore[arg-type]


def _pairs(module: nn.Module) -> Iterator[tuple[str, Tensor | None, Tensor | None]]:
    """The name and both matrices of each adapter of a module; None for matrices whose product is not its update."""
    scalings = getattr(module, "scaling", None)
    if not isinstance(scalings, Mapping) or not (hasattr(module, "lora_A") or hasattr(module, "lora_embedding_A")):
        return
    variants = getattr(module, "lora_variant", None)
    for name in scalings:
        variant = variants.get(name) if isinstance(variants, Mapping) else None
        is_plain = variant is None or type(variant).__name__.startswith(_PLAIN_VARIANTS)
        if not is_plain or getattr(module, "num_experts", 1) != 1 or _matrix(module, "lora_E", name) is not None:
            yield name, None, None
        else:
            a = _matrix(module, "lora_A", name, "lora_embedding_A")
            yield name, a, _matrix(module, "lora_B", name, "lora_embedding_B")


def _matrix(module: nn.Module, attribute: str, name: str, other: str = "") -> Tensor | None:
    """Returns the tensor of an adapter: a parameter, or the weight of a module that multiplies by nothing else."""
    for each in (attribute, other):
        by_name = getattr(module, each, None)
        if isinstance(by_name, (nn.ModuleDict, nn.ParameterDict)) and name in by_name:
            part = by_name[name]
            if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                part = part.weight
            return part if isinstance(part, Tensor) and part.dim() >= 2 else None
    return None


def _base_weight(module: Any, numel: int, names: Mapping[int, str]) -> Tensor | None:
    while isinstance(base := getattr(module, _BASE, None), nn.Module):
        module = base
    for attribute in ("weight", "in_proj_weight"):
        weight = getattr(module, attribute, None)
        if isinstance(weight, Tensor) and weight.numel() == numel and (id(weight) in names or _is_plain(weight)):
            return weight
    return None


def _is_plain(weight: Tensor) -> bool:
    """Whether the elements can be read. PEFT makes a new parameter of an attention's weight at each pass."""
    return type(weight.data) is Tensor and weight.is_floating_point() and not weight.is_meta


def warn_about_others(model: nn.Module) -> None:
    """Names the modules with adapters whose update is another product, such as BD-LoRA's and AdaLoRA's."""
    others = [
        name.replace(f".{_BASE}", "")
        for name, module in model.named_modules()
        if any(a is None or b is None or a.shape[0] != b.shape[1] for _, a, b in _pairs(module))
    ]
    if others:
        logger.warning("lora is left out for %s: their update is not the plain product of two matrices", shown(others))


def warn_about_untrained(adapters: Collection[Adapter], trained: Collection[int]) -> None:
    """Names the adapters of which no matrix is trained, with the remedy.

    Args:
        adapters: all adapters.
        trained: ids of the tensors that an optimizer has.
    """
    by_name: dict[str, list[Adapter]] = {}
    for adapter in adapters:
        by_name.setdefault(adapter.name, []).append(adapter)
    frozen, forgotten = [], []
    for name, parts in by_name.items():
        matrices = [matrix for part in parts for matrix in (part.a, part.b)]
        if not any(matrix.requires_grad for matrix in matrices):
            frozen.append(name)
        elif not any(matrix.requires_grad and id(matrix) in trained for matrix in matrices):
            forgotten.append(name)
    for chosen, why, remedy in (
        (frozen, "none of their matrices requires gradients", "call model.set_adapter, or load with is_trainable=True"),
        (forgotten, "no optimizer has their matrices", "create the optimizer after the adapters"),
    ):
        if chosen:
            logger.warning("LoRA adapters that do not train: %s: %s; %s", shown(chosen), why, remedy)
