"""Which parameters are measured, under which names, and how they are grouped."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from tbx_callbacks._model.names import clean_parameter_names, near, unique
from tbx_callbacks._stats.flat import moved

BY = ("total", "layer", "module", "parameter")


@dataclass(frozen=True)
class Select:
    """A choice of parameters and a grouping.

    `by` is `total` (one group), `layer` (`bert.encoder.layer.3`, `bert.embeddings`, `classifier`), `module` (the module
    that owns the parameter), `parameter`, or a mapping of group name to regex. `include` and `exclude` are regexes that
    are searched in the parameter's clean name.
    """

    by: str | Mapping[str, str] = "layer"
    include: str | None = None
    exclude: str | None = None

    def key(self) -> tuple[object, ...]:
        """What makes two selections the same one."""
        by = self.by if isinstance(self.by, str) else tuple(sorted(self.by.items()))
        return by, self.include, self.exclude


class NoMatchError(ValueError):
    """A regex matched no parameter of the model."""


@dataclass(frozen=True)
class Parameter:
    """One tensor of the model under its clean name."""

    name: str
    tensor: nn.Parameter


@dataclass(frozen=True)
class Group:
    """Some parameters under one name; `members` are places in the list of the model's parameters."""

    name: str
    members: tuple[int, ...]


class Selection:
    """The groups that a `Select` makes of a model's parameters."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = tuple(groups)

    def sums(self, numbers: Tensor, present: Sequence[bool]) -> dict[str, Tensor]:
        """Adds up one number a parameter, `[parameters]`, to one 0-d tensor a group.

        Groups that have no present parameter (no gradient, for example) are left out.
        """
        if not self.groups:
            return {}
        indices, parameters_by_optimizer = (moved(index, numbers.device) for index in self._index)
        sums = numbers.new_zeros(len(self.groups)).index_add_(
            0, parameters_by_optimizer, numbers.index_select(0, indices)
        )
        return {
            group.name: total
            for group, total in zip(self.groups, sums.unbind(), strict=True)
            if any(present[index] for index in group.members)
        }

    @cached_property
    def _index(self) -> tuple[Tensor, Tensor]:
        indices = [index for group in self.groups for index in group.members]
        parameters_by_optimizer = [owner for owner, group in enumerate(self.groups) for _ in group.members]
        return torch.tensor(indices, dtype=torch.int64), torch.tensor(parameters_by_optimizer, dtype=torch.int64)


def parameters_of(model: nn.Module) -> tuple[Parameter, ...]:
    """All parameters of a model, each once (tied ones too), under clean names."""
    named = list(model.named_parameters())
    names = clean_parameter_names([name for name, _ in named])
    return tuple(Parameter(name, tensor) for name, (_, tensor) in zip(names, named, strict=True))


def match(
    select: Select, parameters: Sequence[Parameter], among: Sequence[int] | None = None, prefix: str = ""
) -> tuple[Selection, dict[str, NoMatchError | None]]:
    """Groups the parameters that a selection chooses.

    Args:
        select: the choice.
        parameters: all parameters of the model.
        among: indices of those to choose from (one optimizer's); all of them when left out.
        prefix: put in front of the groups' names.

    Returns:
        The groups, and for each regex of the selection an error if it matches nothing here; the caller raises it unless
        another rank has a match. The message lists near names.
    """
    names = [parameter.name for parameter in parameters]
    among = range(len(names)) if among is None else among
    regexes: dict[str, NoMatchError | None] = {}

    def matching(what: str, regex: str, indices: Sequence[int]) -> list[int]:
        found, regexes[what] = _matching(what, regex, indices, names)
        return found

    chosen = list(among) if select.include is None else matching("include", select.include, among)
    if select.exclude is not None:
        dropped = set(matching("exclude", select.exclude, among))
        chosen = [index for index in chosen if index not in dropped]
        none_left = f"exclude {select.exclude!r} leaves no parameter of those that include chose; narrow it"
        regexes["left"] = None if chosen else NoMatchError(none_left)
    if not isinstance(select.by, str):
        named = [(prefix + name, matching(f"by.{name}", regex, chosen)) for name, regex in select.by.items()]
        return Selection([Group(name, tuple(indices)) for name, indices in named if indices]), regexes
    members: dict[str, list[int]] = {}
    parameters_by_optimizer = layers_of(names) if select.by == "layer" else [_GROUP[select.by](name) for name in names]
    for index in chosen:
        members.setdefault(parameters_by_optimizer[index], []).append(index)
    apart = members if select.by == "total" else unique(["total", *members])[1:]  # a layer may be named total
    groups = [(prefix + name, indices) for name, indices in zip(apart, members.values(), strict=True)]
    return Selection([Group(name, tuple(indices)) for name, indices in groups]), regexes


def layers_of(names: Sequence[str]) -> list[str]:
    """The layer of each of a model's parameters.

    What PEFT puts into a module belongs to the module's layer: LoRA matrices, and the copy of `modules_to_save` that is
    trained. The frozen original of such a copy, which nothing reads, is a group apart.
    """
    adapted = {name[: found.start()] for name in names if (found := _LORA.search(name))}
    plain = [_without_peft(name, adapted) for name in names]
    return [layer_of(name, shared) for name, shared in zip(plain, shared_parts(plain), strict=True)]


def layer_of(name: str, shared: int = 0) -> str:
    """The layer that a parameter belongs to.

    The path up to its first number (`bert.encoder.layer.3`); without one the first two parts of the owning module's
    path (`bert.embeddings`, `classifier`). The first `shared` parts, which lead to the model, do not count.
    """
    parts = name.split(".")
    for index, part in enumerate(parts[:-1]):
        if part == "original_module" or (part.isdigit() and index >= shared):
            return ".".join(parts[: index + 1])
    return ".".join(parts[:-1][: shared + 2]) or name


def shared_parts(names: Sequence[str]) -> list[int]:
    """How many leading parts of each module path lead to the model: a model inside another module, or in a pipeline.

    Those that all names have in common (`net`), and where numbers follow (`0.model.encoder...`, `2.linear...`, as in a
    SentenceTransformer) those that the names of one number have in common.
    """
    paths = [name.split(".")[:-1] for name in names]
    common = _in_common(paths)
    indices = [path[common] if len(path) > common and path[common].isdigit() else None for path in paths]
    inner = {
        index: _in_common([path for path, its_place in zip(paths, indices, strict=True) if its_place == index])
        for index in set(indices) - {None}
    }
    return [max(common, inner.get(index, 0)) for index in indices]


def _in_common(paths: Sequence[Sequence[str]]) -> int:
    """Leading parts that all paths have in common, without numbers at their end: those are layers."""
    n = next((n for n, parts in enumerate(zip(*paths, strict=False)) if len(set(parts)) > 1), 0)
    while n and paths[0][n - 1].isdigit():
        n -= 1
    return n


# A matrix of LoRA inside the module that it adapts, and the copy of a module that PEFT trains in full.
_LORA = re.compile(r"\.(lora_\w+)\..*")
_SAVED = re.compile(r"\.modules_to_save\.[^.]+\.")


def _without_peft(name: str, adapted: Collection[str]) -> str:
    """The name that a parameter would have in the model without adapters; `adapted` are the modules that have LoRA."""
    name = _LORA.sub(r".\1", _SAVED.sub(".", name))
    owner, _, last = name.rpartition(".base_layer.")
    return f"{owner}.{last}" if owner in adapted else name


def module_of(name: str) -> str:
    """The path of the module that owns a parameter; the parameter's own name for one at the model's root."""
    return name.rpartition(".")[0] or name


_GROUP = {
    "total": lambda name: "total",  # noqa: ARG005
    "module": module_of,
    "parameter": lambda name: name,
}


def _matching(
    what: str, regex: str, indices: Sequence[int], names: Sequence[str]
) -> tuple[list[int], NoMatchError | None]:
    pattern = re.compile(regex)
    found = [index for index in indices if pattern.search(names[index])]
    if found:
        return found, None
    shown = ", ".join(near(regex, [names[index] for index in indices]))
    return [], NoMatchError(f"{what} must match at least one parameter's name, got {regex!r}; near names: {shown}")


def parameters_by_optimizer(
    parameters: Sequence[Parameter], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, tuple[int, ...]]:
    """Places of each optimizer's parameters; those that no optimizer has (frozen ones) go with the first."""
    owner: dict[int, str] = {}
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                owner.setdefault(id(tensor), name)
    first = next(iter(optimizers))
    return {
        name: tuple(index for index, p in enumerate(parameters) if owner.get(id(p.tensor), first) == name)
        for name in optimizers
    }
