"""Finds the tensors of which other ranks hold copies, and computes the numbers by which ranks compare them."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks._model.layers import layers_of
from tbx_callbacks._model.names import clean_parameter_names
from tbx_callbacks._model.parameters import Group, Parameter, PerGroup
from tbx_callbacks._model.sharding.base import ParameterState, Sharding
from tbx_callbacks._stats.checksums import checksums, hash_of, mix
from tbx_callbacks._stats.flat import moved

RANKS = 1 << 16
"""Ranks must be below this number: they travel beside a checksum in one float64."""
CHECKSUMS = 1 << 37
"""Checksums of whole tensors are below this number."""


class Place(NamedTuple):
    """The place of this rank's copy among the ranks that hold a copy of the same elements.

    Copies of shards cannot be compared by a maximum over all ranks, because other shards differ. So each rank adds its
    checksum times a factor, and the factors of all copies add up to zero: the sum is zero if all copies are the same.
    """

    factor: float = 0.0
    """Zero for a whole tensor. For a shard 1, or minus the number of other copies on the first rank that holds one."""
    rank_factor: float = 0.0
    """The same times the rank, so that the quotient of two sums is the rank of a single copy that differs."""
    shared: bool = True
    """Whether every rank holds the tensor."""


class Copies(NamedTuple):
    """The numbers of this rank's copies; the name of each group ends with a key of the tensors that it stands for."""

    whole: tuple[PerGroup, ...]
    """For whole tensors: parts to maximise over ranks: the checksum, minus the checksum, and that of the first rank."""
    shards: tuple[PerGroup, ...]
    """For copies of shards: parts to add over ranks."""


NO_COPIES = Copies((), ())


@dataclass(frozen=True)
class _Copy:
    group: str
    name: str
    tensors: tuple[Tensor, ...]
    place: Place


class Replicas:
    """Knows which tensors of a model other ranks hold too.

    A plain tensor is a copy if other ranks have a parameter of the same name, unless a model excludes it from
    DistributedDataParallel. A DTensor is one along the replicated dimensions of its mesh.

    Args:
        model: the model.
        parameters: its parameters.
        holders: for each of them, the number of ranks that have a parameter of this name.
        sharded_ids: ids of plain parameters that are shards.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[Parameter],
        holders: Sequence[int],
        sharded_ids: Iterable[int],
    ) -> None:
        self.parameters = tuple(parameters)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        skipped = {*sharded_ids, *_excluded(model)}
        everywhere = max(holders, default=0)
        self.places = tuple(
            None if id(parameter.tensor) in skipped else _place(parameter.tensor, number, everywhere)
            for parameter, number in zip(parameters, holders, strict=True)
        )
        """The place of each parameter's copy; None where no other rank has one."""
        self._wrapped = _wrapped(model)
        self._doubtful: frozenset[int] = frozenset()
        self.buffers = _buffers(model)
        self._layouts: dict[tuple[object, ...], _Layout] = {}
        self.devices = hash_of(sorted({_device_name(parameter.tensor.device) for parameter in parameters}))
        """Identifies the kind of this rank's devices: other devices may round in another way."""

    def doubt(self) -> None:
        """Records that plain parameters differed between ranks when the training began.

        All of them may be shards or stages under one name, except those within DistributedDataParallel.
        """
        self._doubtful = frozenset(
            index
            for index, parameter in enumerate(self.parameters)
            if not isinstance(parameter.tensor, DTensor) and id(parameter.tensor) not in self._wrapped
        )

    def weights(self, groups: Sequence[Group], elements: Sequence[Tensor | None], *, doubtful: bool = False) -> Copies:
        """Returns the numbers of the weights of each group.

        Args:
            groups: the groups.
            elements: this rank's elements of each parameter.
            doubtful: whether to return those of the parameters that may be no copies, instead of all others.
        """
        return self._numbers(
            [
                _Copy(group.name, self.parameters[index].name, (tensor,), place)
                for group in groups
                for index in group.members
                if (place := self.places[index]) is not None and (tensor := elements[index]) is not None
                if (index in self._doubtful) == doubtful
            ]
        )

    @property
    def has_doubts(self) -> bool:
        """Whether some parameters may be no copies."""
        return bool(self._doubtful)

    def states(self, groups: Sequence[Group], states: Sequence[ParameterState | None]) -> Copies:
        """Returns the numbers of the optimizer's state of each group, without counts of steps."""
        copies = []
        for group in groups:
            for index in group.members:
                place, state = self.places[index], states[index]
                tensors = {
                    key: value
                    for key, value in sorted((state or {}).items(), key=lambda item: str(item[0]))
                    if isinstance(value, Tensor) and value.dim() and not isinstance(value, DTensor)
                }
                if place is not None and tensors and index not in self._doubtful:
                    name = f"{self.parameters[index].name} {' '.join(map(str, tensors))}"
                    copies.append(_Copy(group.name, name, tuple(tensors.values()), place))
        return self._numbers(copies)

    def buffer_copies(self) -> Copies:
        """Returns the numbers of the buffers of the model's state that are known to be synchronized by nobody."""
        names = clean_parameter_names(list(self.buffers))
        return self._numbers(
            [
                _Copy(layer, name, (tensor,), Place())
                for layer, name, tensor in zip(layers_of(names), names, self.buffers.values(), strict=True)
            ]
        )

    def _numbers(self, copies: Sequence[_Copy]) -> Copies:
        if not copies:
            return NO_COPIES
        key = tuple([(c.group, c.name, c.place, *[(t.shape, t.dtype) for t in c.tensors]) for c in copies])
        if key not in self._layouts:
            self._layouts[key] = _Layout(copies, self.size)
        layout, tensors = self._layouts[key], [tensor for copy in copies for tensor in copy.tensors]
        return layout.numbers(checksums(tensors), self.rank)


class _Layout:
    """The groups of some copies, and the factors of their tensors."""

    def __init__(self, copies: Sequence[_Copy], size: int) -> None:
        slots: dict[tuple[str, Place], list[int]] = {}
        for number, copy in enumerate(copies):
            slots.setdefault((copy.group, copy.place), []).append(number)
        slot_of = {number: slot for slot, numbers in enumerate(slots.values()) for number in numbers}
        self._slots = torch.tensor([slot_of[number] for number, copy in enumerate(copies) for _ in copy.tensors])
        descriptions = [
            f"{copy.name} {position} {tuple(tensor.shape)} {tensor.dtype}"
            for copy in copies
            for position, tensor in enumerate(copy.tensors)
        ]
        self._factors = torch.tensor([int(hash_of([text])) * 2 + 1 for text in descriptions], dtype=torch.int64)
        self._count = len(slots)
        self._whole = [slot for slot, (_, place) in enumerate(slots) if not place.factor]
        self._shards = [slot for slot, (_, place) in enumerate(slots) if place.factor]
        self._places = torch.tensor([[place.factor, place.rank_factor] for _, place in slots], dtype=torch.float64)
        self._names = [
            f"{group}:{hash_of([copies[number].name for number in numbers]):.0f}"
            for (group, _), numbers in slots.items()
        ]
        by_group: dict[str, list[int]] = {}
        for slot in self._shards:
            by_group.setdefault(list(slots)[slot][0], []).append(slot)
        members = list(slots.values())
        self._shard_groups = {
            f"{group}:{hash_of([copies[number].name for slot in own for number in members[slot]]):.0f}": own
            for group, own in by_group.items()
        }
        # Sums of all ranks stay below 2**53, where float64 is exact.
        self._shard_bits = min(37, 50 - 2 * math.ceil(math.log2(max(2, size))))

    def numbers(self, numbers: Tensor, rank: int) -> Copies:
        device = numbers.device
        sums = numbers.new_zeros(self._count)
        sums.index_add_(0, moved(self._slots, device), mix(numbers * moved(self._factors, device)))
        mixed = mix(sums)
        whole = _of(mixed, self._whole, CHECKSUMS)
        shards = _of(mixed, self._shards, 1 << self._shard_bits)
        factors = moved(self._places[self._shards], device)
        names = [self._names[slot] for slot in self._whole]
        parts = (whole * RANKS + rank, rank - whole * RANKS, whole + (RANKS - 1 - rank) * CHECKSUMS)
        return Copies(
            tuple(PerGroup(names, part) for part in parts) if names else (),
            self._by_group([factors[:, 0] * shards, factors[:, 1] * shards, factors[:, 0]]) if self._shards else (),
        )

    def _by_group(self, parts: Sequence[Tensor]) -> tuple[PerGroup, ...]:
        position = {slot: index for index, slot in enumerate(self._shards)}
        names = list(self._shard_groups)
        owners = {slot: number for number, slots in enumerate(self._shard_groups.values()) for slot in slots}
        index = moved(torch.tensor([owners[slot] for slot in position]), parts[0].device)
        return tuple(PerGroup(names, part.new_zeros(len(names)).index_add_(0, index, part)) for part in parts)


def _of(mixed: Tensor, slots: Sequence[int], limit: int) -> Tensor:
    chosen = mixed.index_select(0, moved(torch.tensor(slots, dtype=torch.int64), mixed.device))
    return (chosen & (limit - 1)).double()


def _place(tensor: Tensor, holders: int, everywhere: int) -> Place | None:
    if not isinstance(tensor, DTensor):
        return Place(shared=holders == everywhere) if holders > 1 else None
    mesh, coordinate = tensor.device_mesh.mesh, tensor.device_mesh.get_coordinate()
    if coordinate is None:
        return None
    for dim, (placement, position) in reversed(list(enumerate(zip(tensor.placements, coordinate, strict=True)))):
        if not _is_replicated(placement):
            mesh = mesh.select(dim, position)
    first, *others = mesh.reshape(-1).tolist()
    rank = dist.get_rank()
    if not others:
        return None
    return Place(-float(len(others)), -float(sum(others))) if rank == first else Place(1.0, float(rank))


def _excluded(model: nn.Module) -> list[int]:
    """Returns the ids of parameters that a model excludes from DistributedDataParallel."""
    return [
        id(parameter)
        for module in model.modules()
        if (names := getattr(module, "_ddp_params_and_buffers_to_ignore", None))
        for name, parameter in module.named_parameters()
        if name in names
    ]


def _wrapped(model: nn.Module) -> frozenset[int]:
    """Returns the ids of all parameters within DistributedDataParallel."""
    wrappers = [module for module in model.modules() if isinstance(module, DistributedDataParallel)]
    return frozenset(id(parameter) for wrapper in wrappers for parameter in wrapper.parameters())


def _buffers(model: nn.Module) -> Mapping[str, Tensor]:
    """Returns the persistent buffers that DistributedDataParallel and FSDP2 leave to each rank.

    In another model they may be synchronized: trainers show the model without its wrapper.
    """
    wrappers = [module for module in model.modules() if isinstance(module, DistributedDataParallel)]
    sharded = any(isinstance(p, DTensor) and not all(map(_is_replicated, p.placements)) for p in model.parameters())
    left_alone = [*(wrapper for wrapper in wrappers if not wrapper.broadcast_buffers), *([model] if sharded else [])]
    chosen = {id(buffer) for module in left_alone for buffer in module.buffers()}
    return {
        f"{path}.{name}" if path else name: buffer
        for path, module in model.named_modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and name not in module._non_persistent_buffers_set and id(buffer) in chosen
        if not isinstance(buffer, DTensor) and not buffer.is_meta and not buffer.is_quantized
    }


def _is_replicated(placement: object) -> bool:
    return isinstance(placement, Replicate)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


class ReplicaView:
    """The copies that one optimizer has just updated. Each method reads them.

    Args:
        replicas: knows which tensors are copies.
        optimizer: the optimizer.
        sharding: reads this rank's elements.
        is_first: whether it is the first optimizer, whose view includes the model's buffers.
    """

    def __init__(
        self, replicas: Replicas, optimizer: torch.optim.Optimizer, sharding: Sharding, *, is_first: bool
    ) -> None:
        self._replicas, self._optimizer, self._sharding, self._is_first = replicas, optimizer, sharding, is_first
        self.devices = replicas.devices
        """Identifies the kind of this rank's devices."""

    def weights(self, groups: Sequence[Group]) -> Copies:
        """Returns the numbers of the weights of each group."""
        return self._replicas.weights(groups, self._sharding.weights(self._tensors))

    def doubtful(self, groups: Sequence[Group]) -> tuple[Copies, Copies]:
        """Returns the numbers of weights that differed from the start, and those of their gradients.

        Gradients that are the same tell that the weights were meant to be. A gradient without any bit says nothing.
        """
        if not self._replicas.has_doubts:
            return NO_COPIES, NO_COPIES
        weights, gradients = self._sharding.weights(self._tensors), self._sharding.gradients(self._tensors)
        return (
            self._replicas.weights(groups, weights, doubtful=True),
            self._replicas.weights(groups, gradients, doubtful=True),
        )

    def states(self, groups: Sequence[Group]) -> Copies:
        """Returns the numbers of the optimizer's state; none for an optimizer whose ranks share the state."""
        if type(self._optimizer).__name__ == "ZeroRedundancyOptimizer":
            return NO_COPIES
        states = self._sharding.optimizer_states(self._optimizer, self._tensors)
        return self._replicas.states(groups, [state for state, _ in states])

    def buffers(self) -> Copies:
        """Returns the numbers of the model's buffers; none for all optimizers but the first."""
        return self._replicas.buffer_copies() if self._is_first else NO_COPIES

    @property
    def _tensors(self) -> list[Tensor]:
        return [parameter.tensor for parameter in self._replicas.parameters]
