"""Compares the copies of replicated tensors at each due step, and leaves out the numbers of copies that differ."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tbx_callbacks._distributed.packing import StepValues
from tbx_callbacks._engine.metric_plan import MetricRun
from tbx_callbacks._model.model_access import ModelAccess
from tbx_callbacks._model.names import shown
from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks._stats.checksums import hash_of
from tbx_callbacks._stats.flat import moved
from tbx_callbacks.metrics.clipping import Clip
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.optimizer_state import OptimizerState
from tbx_callbacks.metrics.replicas import Replicas, ReplicaState
from tbx_callbacks.metrics.values import Partials, Vector

logger = logging.getLogger(__name__)

_TOLERANCE = 1e-4
"""Largest relative difference of squared norms between copies. Replicas have the same bits on equal devices, and differ
in the last bits on unequal ones. A number within this tolerance on every rank is right for all of them."""
_ABSENT, _NAN, _INFINITE = -1.0, -2.0, -3.0  # stand for squares that are no number; a square is never negative


@dataclass(frozen=True)
class Fingerprints(Vector):
    """Numbers that are the same on every rank that holds a copy of the same tensor.

    They are the squared norms of the gradients, then perhaps those of the weights, then perhaps whether the optimizer
    has a state; one of each for every parameter.
    """

    names: tuple[str, ...]
    """The parameters."""
    weights: bool
    """Whether squared norms of weights follow those of gradients."""
    states: bool
    """Whether flags of the optimizer's state follow them."""
    members: tuple[tuple[str, tuple[int, ...], bool], ...]
    """Tags or metrics, the parameters that each depends on, and whether it reads the optimizer's state."""

    def parts_of(self, numbers: Sequence[float]) -> tuple[list[float], list[float]]:
        present = [number != _ABSENT for number in numbers]
        lowest = [-number if found else -math.inf for number, found in zip(numbers, present, strict=True)]
        highest = [number if found else -math.inf for number, found in zip(numbers, present, strict=True)]
        return [], [*highest, *lowest]

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> None:
        """Nothing is written; see `differing`."""

    def differing(self, maxes: Sequence[float]) -> tuple[set[int], set[int]]:
        """Returns the parameters whose gradients or weights differ between ranks, and those whose state does."""
        half, count = len(maxes) // 2, len(self.names)
        apart = [
            index
            for index, (high, low) in enumerate(zip(maxes[:half], maxes[half:], strict=True))
            if high + low > _TOLERANCE * max(abs(high), abs(low)) and math.isfinite(high)
        ]
        start_of_states = count * (1 + self.weights)
        tensors = {index % count for index in apart if index < start_of_states}
        return tensors, {index % count for index in apart if index >= start_of_states}


class ReplicaCheck:
    """Compares plain tensors that every rank holds, and that are counted on one rank only.

    They may be equal when the training begins and differ later: a model that is not wrapped in DistributedDataParallel,
    or experts of each rank that begin as zeros. The numbers of the counting rank are then not those of the model. Ranks
    compare squared norms, in the same collective as the step's values. Cost: one pass over the gradients on ranks that
    do not count them.

    A number is right for all ranks within a tolerance. The metric `replicas` tells differences to the last bit.
    """

    def __init__(self) -> None:
        self._values: dict[tuple[str, tuple[str, ...]], tuple[list[int], Fingerprints] | None] = {}
        self._access: ModelAccess | None = None
        self._differing: set[str] = set()
        self._warned_state = False

    def add(
        self,
        access: ModelAccess,
        due: Sequence[MetricRun],
        key: Sequence[str],
        name: str,
        context: Context,
        entered: Sequence[Tensor | None] | None,
        step_values: StepValues,
    ) -> None:
        """Adds this rank's fingerprints in the step of an optimizer.

        Args:
            access: reads the model.
            due: the metrics that are due.
            key: the name of each of them, the same on every rank.
            name: name of the optimizer.
            context: the context of the step.
            entered: the gradients that entered the step; None if they are not known.
            step_values: receives the fingerprints.
        """
        step_values.judge = self.judge
        if access is not self._access:
            self._access = access
            self._values.clear()
        entry = name, tuple(key)
        if entry not in self._values:
            self._values[entry] = _describe(access, due, key, name)
        if (described := self._values[entry]) is None:
            return
        indices, value = described
        tensors = [access.parameters[index].tensor for index in indices]
        if entered is None:
            return
        rows = [_squares(context.gradients, indices, [entered[index] for index in indices])]
        if value.weights:
            rows.append(_squares(context.weights, indices, access.sharding.weights(tensors)))
        if value.states:
            rows.append(moved(_has_state(access, name, tensors).to(rows[0].dtype), rows[0].device))
        tag = f"copies:{name} {hash_of(value.names):.0f}"
        step_values.add({tag: replace(value, numbers=torch.cat(rows))})

    def judge(self, parts: Partials) -> Collection[str]:
        """Returns the tags and the metrics to leave out of a merged step. The first ones cause a warning."""
        left_out: set[str] = set()
        for part in parts.values():
            if isinstance(part.value, Fingerprints):
                value = part.value
                tensors, states = value.differing(part.maxes)
                self._warn([value.names[index] for index in sorted(tensors)])
                tensors = {index for index, name in enumerate(value.names) if name in self._differing}
                if states - tensors and not self._warned_state:
                    self._warned_state = True
                    logger.warning(
                        "optimizer_state of %s is left out: not every rank keeps this state; use an optimizer that"
                        " does, or ZeroRedundancyOptimizer",
                        shown([value.names[index] for index in sorted(states)]),
                    )
                for tag, members, reads_state in value.members:
                    if not tensors.isdisjoint(members) or (reads_state and not states.isdisjoint(members)):
                        left_out.add(tag)
        return left_out

    def _warn(self, names: Sequence[str]) -> None:
        if names and not self._differing:
            logger.warning(
                "numbers of %s are left out: ranks hold different copies; wrap the model in"
                " DistributedDataParallel, or name the parameters of each rank differently",
                shown(names),
            )
        self._differing.update(names)


def _describe(
    access: ModelAccess, due: Sequence[MetricRun], key: Sequence[str], name: str
) -> tuple[list[int], Fingerprints] | None:
    """Returns the indices of the replicated parameters that due metrics read, and their description."""
    selected = {
        (run, owner): _parameters_of(run, access, name)
        for run, owner in zip(due, key, strict=True)
        if run.optimizer in (name, "") and not access.sharding.frees_gradients
        if not isinstance(run.spec.metric, (Replicas, ReplicaState))  # they are written because copies differ
    }
    runs = [run for (run, _), chosen in selected.items() if chosen]
    indices = sorted({index for chosen in selected.values() for index in chosen if _is_replicated(access, index)})
    if not indices:
        return None
    position = {index: number for number, index in enumerate(indices)}
    members: list[tuple[str, tuple[int, ...], bool]] = []
    for (run, owner), chosen in selected.items():
        tags: Mapping[str, Sequence[int]] = {owner: chosen} if run.is_outside else run.tags
        for tag, of_tag in tags.items():
            known = tuple(position[index] for index in of_tag or chosen if index in position)
            if known:
                members.append((tag, known, _reads_state(run)))
    return indices, Fingerprints(
        numbers=torch.empty(0),
        names=tuple(access.parameters[index].name for index in indices),
        weights=any(run.is_outside or "gradients" not in run.spec.metric.needs for run in runs),
        states=any(map(_reads_state, runs)) and _may_lack_state(access.optimizers[name]),
        members=tuple(members),
    )


def _parameters_of(run: MetricRun, access: ModelAccess, name: str) -> tuple[int, ...]:
    """Returns the parameters that a metric reads in an optimizer's step; clipping depends on all of its optimizer."""
    if isinstance(run.spec.metric, Clip):
        return tuple(access.parameters_by_optimizer[name])
    return tuple(sorted({index for group in run.selection.groups for index in group.members}))


def _reads_state(run: MetricRun) -> bool:
    return run.is_outside or isinstance(run.spec.metric, OptimizerState)


def _may_lack_state(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a missing state is unexpected; `ZeroRedundancyOptimizer` is read on the rank that has it."""
    return type(optimizer).__name__ != "ZeroRedundancyOptimizer"


def _is_replicated(access: ModelAccess, index: int) -> bool:
    tensor = access.parameters[index].tensor
    return not isinstance(tensor, DTensor) and id(tensor) not in access.sharded_ids


def _has_state(access: ModelAccess, name: str, tensors: Sequence[Tensor]) -> Tensor:
    """Returns 1 for each parameter with a state and 0 for each other one, of those with a gradient."""
    state = access.optimizers[name].state
    flags = [_ABSENT if tensor.grad is None else float(bool(state.get(tensor))) for tensor in tensors]
    return torch.tensor(flags, dtype=torch.float64)


def _squares(known: Tensors | None, indices: Sequence[int], elements: Sequence[Tensor | None]) -> Tensor:
    """Returns the squared norm of each tensor, `[tensors]`; negative numbers stand for those that have none.

    Args:
        known: statistics that metrics use too, if this rank counts these tensors.
        indices: the tensors' indices in `known`.
        elements: the tensors.
    """
    present = [tensor is not None for tensor in elements]
    if known is not None and all(
        known.present[index] == found and (not found or _is_same(known[index], tensor))
        for index, found, tensor in zip(indices, present, elements, strict=True)
    ):
        squares = known.squares
        if len(indices) < len(squares):
            squares = squares[moved(torch.tensor(indices), squares.device)]
    else:
        squares = Tensors(elements).squares
    squares = torch.nan_to_num(squares, nan=_NAN, posinf=_INFINITE)
    if all(present):
        return squares
    return squares.masked_fill(moved(~torch.tensor(present), squares.device), _ABSENT)


def _is_same(known: Tensor | None, tensor: Tensor | None) -> bool:
    if known is None or tensor is None or tensor.is_sparse:
        return False
    return known is tensor or known.data_ptr() == tensor.data_ptr()
