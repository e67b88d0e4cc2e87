"""Selects the parameters of a model and groups them by layer, module, parameter or regex."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from tbx_callbacks._model.layers import layers_of
from tbx_callbacks._model.names import clean_parameter_names, near, unique
from tbx_callbacks._model.optimizers import ids_of
from tbx_callbacks._stats.flat import moved

BY = ("total", "layer", "module", "parameter")


@dataclass(frozen=True)
class Select:
    """A choice of parameters and a grouping.

    `by` is `total` (one group), `layer` (`bert.encoder.layer.3`, `bert.embeddings`, `classifier`), `module` (the module
    that owns the parameter), `parameter`, or a mapping of group name to regex. `include` and `exclude` are regexes
    searched in the parameter's clean name.
    """

    by: str | Mapping[str, str] = "layer"
    include: str | None = None
    exclude: str | None = None

    def key(self) -> tuple[object, ...]:
        """Returns a hashable key; equal keys mean equal selections."""
        by = self.by if isinstance(self.by, str) else tuple(sorted(self.by.items()))
        return by, self.include, self.exclude


class NoMatchError(ValueError):
    """A regex matched no parameter of the model."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model with its clean name."""

    name: str
    tensor: nn.Parameter


@dataclass(frozen=True)
class Group:
    """Some parameters under one name; `members` are indices in the list of the model's parameters."""

    name: str
    members: tuple[int, ...]


class PerGroup(Mapping[str, Tensor]):
    """One number for each group, on its device: a mapping of group names to 0-d tensors.

    Args:
        names: the groups.
        numbers: their numbers, `[groups]`.
    """

    def __init__(self, names: Sequence[str], numbers: Tensor) -> None:
        self.names, self.numbers = tuple(names), numbers

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.numbers[self.names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Selection:
    """The groups of a model's parameters that a `Select` chooses."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = tuple(groups)

    def sums(self, numbers: Tensor, present: Sequence[bool]) -> PerGroup:
        """Adds one number per parameter, `[parameters]`, to one number per group.

        Groups that have no present parameter (no gradient, for example) are left out.
        """
        indices, group_ids = [moved(index, numbers.device) for index in self._index]
        sums = numbers.new_zeros(len(self.groups)).index_add_(0, group_ids, numbers.index_select(0, indices))
        return self._present(sums, present)

    def maxima(self, numbers: Tensor, present: Sequence[bool]) -> PerGroup:
        """Returns the largest number of each group's present parameters; see `sums`."""
        members = [[index for index in group.members if present[index]] for group in self.groups]
        chosen = [(group.name, indices) for group, indices in zip(self.groups, members, strict=True) if indices]
        largest = [numbers[indices].max() for _, indices in chosen]
        return PerGroup([name for name, _ in chosen], torch.stack(largest) if largest else numbers.new_zeros(0))

    def _present(self, numbers: Tensor, present: Sequence[bool]) -> PerGroup:
        """Leaves out the groups without a present parameter."""
        if all(present):
            return PerGroup(self._names, numbers)
        found = {index for index, is_present in enumerate(present) if is_present}
        kept = [number for number, group in enumerate(self.groups) if not found.isdisjoint(group.members)]
        if len(kept) < len(self.groups):
            numbers = numbers.index_select(0, moved(torch.tensor(kept, dtype=torch.int64), numbers.device))
        return PerGroup([self._names[number] for number in kept], numbers)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(group.name for group in self.groups)

    @cached_property
    def _index(self) -> tuple[Tensor, Tensor]:
        indices = [index for group in self.groups for index in group.members]
        group_ids = [group_number for group_number, group in enumerate(self.groups) for _ in group.members]
        return torch.tensor(indices, dtype=torch.int64), torch.tensor(group_ids, dtype=torch.int64)


NO_SELECTION = Selection(())
"""The selection of a metric that reads no parameters."""


def parameters_of(model: nn.Module) -> tuple[Parameter, ...]:
    """Returns all parameters of a model under clean names, each once, also when tied."""
    named = list(model.named_parameters())
    names = clean_parameter_names([name for name, _ in named], model)
    return tuple(Parameter(name, tensor) for name, (_, tensor) in zip(names, named, strict=True))


def match(
    select: Select, parameters: Sequence[Parameter], among: Sequence[int] | None = None, prefix: str = ""
) -> tuple[Selection, dict[str, NoMatchError | None]]:
    """Groups the parameters that a selection chooses.

    Args:
        select: the choice.
        parameters: all parameters of the model.
        among: indices of the candidates (one optimizer's parameters); all parameters by default.
        prefix: prefix of the groups' names.

    Returns:
        The groups, and for each regex of the selection an error if it matches nothing on this rank. The caller raises
        the error unless another rank has a match. The message lists similar names.
    """
    names = [parameter.name for parameter in parameters]
    among = range(len(names)) if among is None else among
    regexes: dict[str, NoMatchError | None] = {}

    def matching(field: str, regex: str, indices: Sequence[int]) -> list[int]:
        matches, regexes[field] = _matching(field, regex, indices, names)
        return matches

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
    group_names = layers_of(names) if select.by == "layer" else [_GROUP[select.by](name) for name in names]
    for index in chosen:
        members.setdefault(group_names[index], []).append(index)
    keys = members if select.by == "total" else unique(["total", *members])[1:]  # a layer may be named total
    groups = [(prefix + name, indices) for name, indices in zip(keys, members.values(), strict=True)]
    return Selection([Group(name, tuple(indices)) for name, indices in groups]), regexes


def module_of(name: str) -> str:
    """Returns the path of the module that owns a parameter; the parameter's own name at the model's root."""
    return name.rpartition(".")[0] or name


_GROUP = {
    "total": lambda name: "total",  # noqa: ARG005
    "module": module_of,
    "parameter": lambda name: name,
}


def _matching(
    field: str, regex: str, indices: Sequence[int], names: Sequence[str]
) -> tuple[list[int], NoMatchError | None]:
    pattern = re.compile(regex)
    matches = [index for index in indices if pattern.search(names[index])]
    if matches:
        return matches, None
    shown = ", ".join(near(regex, [names[index] for index in indices]))
    return [], NoMatchError(f"{field} must match at least one parameter's name, got {regex!r}; near names: {shown}")


def parameters_by_optimizer(
    parameters: Sequence[Parameter], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, tuple[int, ...]]:
    """Returns the indices of each optimizer's parameters; parameters without an optimizer go to the first one.

    A parameter of several optimizers belongs to each of them.
    """
    ids = {name: ids_of(optimizer) for name, optimizer in optimizers.items()}
    trained = set().union(*ids.values())
    first = next(iter(optimizers), None)
    return {
        name: tuple(
            index
            for index, p in enumerate(parameters)
            if id(p.tensor) in own or (name == first and id(p.tensor) not in trained)
        )
        for name, own in ids.items()
    }
