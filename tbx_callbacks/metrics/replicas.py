"""Defines the metrics that compare the copies of the model on several ranks, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks._model.parameters import Select
from tbx_callbacks._model.replicas import CHECKSUMS, RANKS, Copies
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.host_values import FinalValue
from tbx_callbacks.metrics.values import Derived, Part, Value
from tbx_callbacks.tags import (
    HIDDEN,
    REPLICAS_BUFFERS,
    REPLICAS_HIGHEST_RANK,
    REPLICAS_LOWEST_RANK,
    REPLICAS_STATE,
    REPLICAS_UNMATCHED,
    REPLICAS_WEIGHTS,
    TOTAL,
)

SAME, UNKNOWN_RANK = 0.0, -1.0
_DEVICES = f"{HIDDEN}replicas/devices"
_GRADIENTS = "replicas/gradients"
_KINDS = (REPLICAS_WEIGHTS, REPLICAS_STATE, REPLICAS_BUFFERS, REPLICAS_UNMATCHED)


@dataclass(frozen=True)
class SameBits(Value):
    """A rank whose copy differs from that of the first rank that holds one; 0 if all copies have the same checksum."""

    highest: Part
    """Checksum times `RANKS`, plus the rank."""
    lowest: Part
    """The rank minus the checksum times `RANKS`."""
    first: Part
    """The checksum, plus `CHECKSUMS` times the number of ranks above this one."""

    def maxes(self) -> tuple[Part, ...]:
        return (self.highest, self.lowest, self.first)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        highest, lowest, first = (int(number) for number in maxes)
        by_checksum = {highest // RANKS: highest % RANKS, -(lowest // RANKS): lowest % RANKS}
        others = [rank for checksum, rank in by_checksum.items() if checksum != first % CHECKSUMS]
        return float(min(others)) if others else SAME


@dataclass(frozen=True)
class SameGradients(SameBits):
    """The same for gradients, where zeros on every rank prove nothing: -1."""

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return super().result(sums, maxes) if maxes[0] >= RANKS else UNKNOWN_RANK


@dataclass(frozen=True)
class SameShards(Value):
    """A rank whose copy of a shard differs, if it is known, else -1; 0 if the copies of each shard are the same.

    The sums are zero if they are, because the factors of the copies of a shard add up to zero.
    """

    difference: Part
    """Checksum times factor."""
    by_rank: Part
    """Checksum times factor times rank."""
    factor: Part

    def sums(self) -> tuple[Part, ...]:
        return (self.difference, self.by_rank, self.factor)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        difference, by_rank, factor = (int(number) for number in sums)
        if factor:
            return None  # a rank of the mesh is missing
        if not difference:
            return UNKNOWN_RANK if by_rank else SAME
        rank, rest = divmod(by_rank, difference)
        return float(rank) if not rest and 0 < rank < RANKS else UNKNOWN_RANK


@dataclass(frozen=True)
class Replicas(Metric):
    """Number of layers whose weights do not have the same bits on all ranks that hold a copy of them; 0 is healthy.

    `replicas/weights/<layer>` is 1 where a layer differs, and is not written elsewhere. `replicas/lowest_rank` and
    `replicas/highest_rank` bound the ranks that are known to differ from the first rank with a copy. `replicas/buffers`
    counts layers whose buffers differ, where neither DistributedDataParallel nor FSDP2 synchronizes them.
    If some weights were different when the training began, they may be parts of one model under the same names. Such
    layers count as copies only within DistributedDataParallel, or while their gradients have the same bits. Otherwise
    `replicas/unmatched` counts those that differ.

    With FSDP2 and tensor parallelism, ranks compare the copies within a mesh. Nothing is written with one rank, for
    tensors without copies, or where ranks have different kinds of devices, which may round in different ways.

    Merged over ranks by checksums of all bits. Cost: one pass over the weights that other ranks hold too, two on a GPU.
    """

    tags: ClassVar[Mapping[str, str]] = {
        f"{REPLICAS_WEIGHTS}/{TOTAL}": "layers",
        f"{REPLICAS_WEIGHTS}/{{group}}": "1",
        f"{REPLICAS_BUFFERS}/{TOTAL}": "layers",
        f"{REPLICAS_BUFFERS}/{{group}}": "1",
        f"{REPLICAS_UNMATCHED}/{TOTAL}": "layers",
        f"{REPLICAS_UNMATCHED}/{{group}}": "1",
        REPLICAS_LOWEST_RANK: "rank",
        REPLICAS_HIGHEST_RANK: "rank",
    }
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "one or two passes over replicated weights"

    def __call__(self, context: Context) -> Values:
        view = context.replicas
        if view is None:
            return {}
        groups = context.selection.groups
        unmatched, gradients = view.doubtful(groups)
        copies = {
            REPLICAS_WEIGHTS: view.weights(groups),
            REPLICAS_BUFFERS: view.buffers(),
            REPLICAS_UNMATCHED: unmatched,
            _GRADIENTS: gradients,
        }
        return _values(view.devices, copies)


@dataclass(frozen=True)
class ReplicaState(Metric):
    """Number of layers whose optimizer state does not have the same bits on all ranks that keep a copy of it.

    See `replicas`; counts of steps are left out. State that each rank keeps for its own share of the parameters has no
    copies. Cost: one pass over the state, two on a GPU.
    """

    tags: ClassVar[Mapping[str, str]] = {
        f"{REPLICAS_STATE}/{TOTAL}": "layers",
        f"{REPLICAS_STATE}/{{group}}": "1",
    }
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "one or two passes over the optimizer's state"

    def __call__(self, context: Context) -> Values:
        view = context.replicas
        if view is None:
            return {}
        return _values(view.devices, {REPLICAS_STATE: view.states(context.selection.groups)})


def _values(devices: float, copies: Mapping[str, Copies]) -> Values:
    values: dict[str, Value | Derived] = {}
    for kind, (whole, shards) in copies.items():
        if whole:
            values[f"{HIDDEN}{kind}/{{group}}"] = (SameGradients if kind == _GRADIENTS else SameBits)(*whole)
        if shards:
            values[f"{HIDDEN}{kind}/shards/{{group}}"] = SameShards(*shards)
    if not values:
        return {}
    return {**values, _DEVICES: SameDevices(devices, -devices), "replicas": Derived(_summarize)}


@dataclass(frozen=True)
class SameDevices(Value):
    """Whether all ranks have the same kind of devices: 1 or 0."""

    devices: Part
    negative: Part

    def maxes(self) -> tuple[Part, ...]:
        return (self.devices, self.negative)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return float(maxes[0] == -maxes[1])


def _summarize(numbers: Mapping[str, FinalValue]) -> dict[str, FinalValue | None]:
    """Counts the layers that differ, and bounds the ranks."""
    values: dict[str, FinalValue | None] = {}
    if not numbers.get(_DEVICES):
        return values
    ranks: list[float] = []
    by_kind = {kind: _by_layer(numbers, f"{HIDDEN}{kind}/") for kind in (*_KINDS, _GRADIENTS)}
    for layer, rank in by_kind[_GRADIENTS].items():
        if rank == SAME and layer in by_kind[REPLICAS_UNMATCHED]:
            by_kind[REPLICAS_WEIGHTS][layer] = by_kind[REPLICAS_UNMATCHED].pop(layer)
    for kind in _KINDS:
        found = by_kind[kind]
        differing = {layer: rank for layer, rank in found.items() if rank != SAME}
        values.update({f"{kind}/{layer}": 1.0 for layer in differing})
        if found:
            values[f"{kind}/{TOTAL}"] = float(len(differing))
        if kind in (REPLICAS_WEIGHTS, REPLICAS_STATE):
            ranks += [rank for rank in differing.values() if rank != UNKNOWN_RANK]
    if ranks:
        values[REPLICAS_LOWEST_RANK], values[REPLICAS_HIGHEST_RANK] = min(ranks), max(ranks)
    return values


def _by_layer(numbers: Mapping[str, FinalValue], prefix: str) -> dict[str, float]:
    """Returns the numbers of a kind by layer; of several copies of a layer, the one that differs."""
    found: dict[str, float] = {}
    for tag, number in numbers.items():
        if tag.startswith(prefix) and isinstance(number, float):
            layer = tag.removeprefix(prefix).removeprefix("shards/").rpartition(":")[0]
            found[layer] = number if number != SAME else found.get(layer, SAME)
    return found
