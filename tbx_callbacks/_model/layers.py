"""Finds the layer of each parameter from its name."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence


def layers_of(names: Sequence[str]) -> list[str]:
    """Returns the layer of each of a model's parameters.

    Parameters that PEFT adds to a module belong to the module's layer: LoRA matrices, and the trained copy of
    `modules_to_save`. The frozen, unused original of such a copy is a separate group.
    """
    adapted = {name[: lora.start()] for name in names if (lora := _LORA.search(name))}
    plain = [_without_peft(name, adapted) for name in names]
    return [layer_of(name, shared) for name, shared in zip(plain, shared_parts(plain), strict=True)]


def layer_of(name: str, shared: int = 0) -> str:
    """Returns the layer that a parameter belongs to.

    The layer is the path up to its first number (`bert.encoder.layer.3`). Without a number it is the first two parts of
    the owning module's path (`bert.embeddings`, `classifier`). The first `shared` parts lead to the model and do not
    count.
    """
    parts = name.split(".")
    for index, part in enumerate(parts[:-1]):
        if part == "original_module" or (part.isdigit() and index >= shared):
            return ".".join(parts[: index + 1])
    return ".".join(parts[:-1][: shared + 2]) or name


def shared_parts(names: Sequence[str]) -> list[int]:
    """Returns, per name, how many leading parts of its module path only lead to the model.

    Such parts exist when the model is inside another module or in a pipeline. They are the parts that all names share
    (`net`). If numbers follow (`0.model.encoder...`, `2.linear...`, as in a SentenceTransformer), they include the
    parts that all names of one number share.
    """
    paths = [name.split(".")[:-1] for name in names]
    common = _count_common(paths)
    indices = [path[common] if len(path) > common and path[common].isdigit() else None for path in paths]
    parts_by_number = {
        index: _count_common([path for path, number in zip(paths, indices, strict=True) if number == index])
        for index in set(indices) - {None}
    }
    return [max(common, parts_by_number.get(index, 0)) for index in indices]


def _count_common(paths: Sequence[Sequence[str]]) -> int:
    """Returns the number of leading parts that all paths share, without trailing numbers, because those are layers."""
    n = next((n for n, parts in enumerate(zip(*paths, strict=False)) if len(set(parts)) > 1), 0)
    while n and paths[0][n - 1].isdigit():
        n -= 1
    return n


# A LoRA matrix inside the module that it adapts, and the copy of a module that PEFT trains in full.
_LORA = re.compile(r"\.(lora_\w+)\..*")


_SAVED = re.compile(r"\.modules_to_save\.[^.]+\.")


def _without_peft(name: str, adapted: Collection[str]) -> str:
    """Returns the parameter's name in the model without adapters; `adapted` are the modules that have LoRA."""
    name = _LORA.sub(r".\1", _SAVED.sub(".", name))
    owner, _, last = name.rpartition(".base_layer.")
    return f"{owner}.{last}" if owner in adapted else name
