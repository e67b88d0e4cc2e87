"""Leaves out the metrics that cannot be right in this training, with one warning."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tbx_callbacks._config.metric_spec import MetricSpec
from tbx_callbacks._distributed.merge import hash_of
from tbx_callbacks._distributed.packing import StepValues
from tbx_callbacks._distributed.rank import is_rank_zero, world_size
from tbx_callbacks._distributed.reducer import Reducer
from tbx_callbacks._engine.plan import MetricRun
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._model.access import ModelAccess
from tbx_callbacks._model.parameters import Parameter

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def describe_mismatch(
    parameters: Sequence[Parameter], reducer: Reducer | None, pieces: Collection[int] = ()
) -> str | None:
    """How plain tensors differ between ranks, in words; None when they are copies: then one rank's are counted.

    It is so where a trainer cuts plain tensors into shards, and where pipeline stages give theirs the same names. Cost:
    one pass over the weights when a training begins.

    Args:
        parameters: of the model.
        ranks: all ranks.
        pieces: ids of tensors that are known to be pieces, and are counted as such.
    """
    if reducer is None:
        return None
    marks: dict[str, float] = {}
    for parameter in parameters:
        if not isinstance(parameter.tensor, DTensor) and id(parameter.tensor) not in pieces:
            mark = _checksum(parameter.tensor)
            marks.update({f"+{parameter.name}": mark, f"-{parameter.name}": -mark})
    most = reducer.max_reduce(marks)
    names = [tag[1:] for tag in most if tag[0] == "+" and most[tag] != -most["-" + tag[1:]]]
    if not names:
        return None
    return f"plain tensors that are not the same on all ranks ({', '.join(names[:3])}{', ...' if names[3:] else ''})"


@torch.no_grad()
def _checksum(tensor: Tensor) -> float:
    """A number made of the shape and of every bit, the same wherever it is computed."""
    plain = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    total = int(plain.detach().view(_BITS[plain.dtype.itemsize]).sum(dtype=torch.int64))
    return hash_of([str(tuple(tensor.shape)), str(total)])


logger = logging.getLogger(__name__)

_OF_ALL_RANKS = ("activations", "axis", "input_share", "memory", "nonfinite", "outputs", "throughput", "train_accuracy")


def supported_metrics(
    items: Sequence[MetricSpec], info: TrainingInfo, access: ModelAccess, reducer: Reducer | None
) -> list[MetricSpec]:
    """The items that can be right with these ranks; None of them where there is one, or where the others do not log."""
    different = None if info.sharding else describe_mismatch(access.parameters, reducer, access.sharded_ids)
    items = _without_sharded(items, info.sharding or different, *(["activations"] if different else []))
    return _without_other_ranks(items, spread=access.is_sharded) if reducer is None and world_size() > 1 else items


def _without_sharded(items: Sequence[MetricSpec], sharding: str | None, *also: str) -> list[MetricSpec]:
    """The items that can be right: a shard's norm is not the parameter's, so none is written in its place.

    `also` are further metrics that cannot be.
    """
    if sharding is None:
        return list(items)
    left_out = sorted({item.name for item in items if item.select is not None or item.name in also})
    if left_out and is_rank_zero():
        logger.warning(
            "parameters are spread over ranks by %s, which these metrics cannot read yet: %s; they are left out",
            sharding,
            ", ".join(left_out),
        )
    return [item for item in items if item.name not in left_out]


def _without_other_ranks(items: Sequence[MetricSpec], *, spread: bool) -> list[MetricSpec]:
    """The items that are right on one of several ranks, where the others do not log: copies are, shares are not."""
    left_out = {item.name for item in items if item.name in _OF_ALL_RANKS or (spread and item.select is not None)}
    if left_out:
        logger.warning(
            "without the other ranks these would be one rank's share and are left out: %s", ", ".join(sorted(left_out))
        )
    return [item for item in items if item.name not in left_out]


class PartialGradients:
    """Leaves out, on all ranks, what is made of such gradients: no norm can be had of a sum's parts."""

    def __init__(self) -> None:
        self._said = False

    def flag(self, access: ModelAccess, due: Sequence[MetricRun], name: str, step_values: StepValues) -> None:
        """Flags what is due in the step of the optimizer called `name`."""
        places = access.partial_gradients(name)
        if not places:
            return
        for metric_run in due:
            if metric_run.optimizer == name and "gradients" in metric_run.spec.metric.needs:
                for tag, members in metric_run.tags.items():
                    if not members or not places.isdisjoint(members):
                        step_values.flag_failure(tag, failed=True)
        if not self._said:
            self._said = True
            names = [access.parameters[place].name for place in sorted(places)]
            logger.warning(
                "gradients of %s are DTensors of partial sums (sequence parallelism), so numbers made of them are left"
                " out (remedy: before the step, p.grad = p.grad.redistribute(placements=p.placements))",
                f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}",
            )
