"""Drops the metrics that this training's sharding does not support, with one warning."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tbx_callbacks._config.metric_spec import MetricSpec
from tbx_callbacks._distributed.packing import StepValues
from tbx_callbacks._distributed.reducer import Reducer
from tbx_callbacks._engine.metric_plan import MetricRun
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._model.model_access import ModelAccess
from tbx_callbacks._model.names import shown
from tbx_callbacks._model.parameters import Parameter
from tbx_callbacks._stats.checksums import hash_of
from tbx_callbacks.metrics.clipping import Clip
from tbx_callbacks.metrics.performance import InputShare, Memory
from tbx_callbacks.metrics.replicas import Replicas, ReplicaState
from tbx_callbacks.metrics.step_time import StepTime

logger = logging.getLogger(__name__)

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


_CROSS_RANK = (InputShare, Memory, StepTime)
"""Metrics of the process, which differ between ranks."""
_DATA_NEEDS = frozenset({"activations", "batches", "examples", "losses", "nonfinite", "predictions"})
"""Needs that a rank fulfils from its share of the data."""


def mismatched(parameters: Sequence[Parameter], reducer: Reducer | None, sharded: Collection[int] = ()) -> list[str]:
    """Returns the plain tensors that differ between ranks; none if all are replicas. Replicas are counted on one rank.

    Tensors differ where a trainer shards plain tensors, and where pipeline stages use the same names. Cost: one pass
    over the weights when a training begins.

    Args:
        parameters: the model's parameters.
        reducer: reduces over ranks; None with one rank.
        sharded: ids of tensors that are known shards, and are counted as such.
    """
    if reducer is None:
        return []
    checksums: dict[str, float] = {}
    for parameter in parameters:
        if not isinstance(parameter.tensor, DTensor) and id(parameter.tensor) not in sharded:
            checksum = _checksum(parameter.tensor)
            checksums.update({f"+{parameter.name}": checksum, f"-{parameter.name}": -checksum})
    maxima = reducer.max_reduce(checksums)
    return [tag[1:] for tag in maxima if tag[0] == "+" and maxima[tag] != -maxima["-" + tag[1:]]]


@torch.no_grad()
def _checksum(tensor: Tensor) -> float:
    """A number computed from the shape and every bit, the same on every machine."""
    plain = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    total = int(plain.detach().view(_BITS[plain.dtype.itemsize]).sum(dtype=torch.int64))
    return hash_of([str(tuple(tensor.shape)), str(total)])


def supported_metrics(
    items: Sequence[MetricSpec],
    info: TrainingInfo,
    access: ModelAccess,
    reducer: Reducer | None,
    *,
    is_alone: bool,
    warns: bool,
) -> list[MetricSpec]:
    """The items that are correct with these ranks.

    Args:
        items: the metrics.
        info: describes the training.
        access: reads the model.
        reducer: reduces over ranks; None with one rank, or if other ranks do not log.
        is_alone: whether this process trains alone.
        warns: whether this rank logs warnings.
    """
    unsupported = info.unsupported_sharding or access.sharding.unsupported_reason
    names = [] if unsupported else mismatched(access.parameters, reducer, access.sharded_ids)
    mismatch = None
    if names:
        shown_names = f"{', '.join(names[:3])}{', ...' if names[3:] else ''}"
        mismatch = (
            f"plain tensors that differ between ranks ({shown_names}); wrap the model before the loop or callback is"
            " created, or pass process_group="
        )
        if access.replicas is not None:
            access.replicas.doubt()
    items = _drop_sharded(items, unsupported or mismatch, differ=mismatch is not None, warns=warns)
    items = _drop_without_whole(items, unsupported or mismatch, access, reducer, warns=warns)
    if unsupported or mismatch or access.is_sharded or access.sharding.frees_gradients:
        items = _drop_microbatches(items, warns=warns)
    if reducer is not None or is_alone:
        return items
    return _drop_cross_rank(items, has_shards=access.is_sharded, warns=warns)


def _drop_sharded(items: Sequence[MetricSpec], sharding: str | None, *, differ: bool, warns: bool) -> list[MetricSpec]:
    """Drops items that read sharded parameters: a shard's norm is not the parameter's norm.

    Where tensors `differ` between ranks, activations and clipping are those of one rank too.
    """
    if sharding is None:
        return list(items)
    dropped = sorted(
        {
            item.name
            for item in items
            if (item.select is not None and not (differ and isinstance(item.metric, (Replicas, ReplicaState))))
            or (differ and ("activations" in item.metric.needs or isinstance(item.metric, Clip)))
        }
    )
    if dropped and warns:
        logger.warning(
            "parameter sharding is not supported: %s; disabled metrics: %s",
            sharding,
            ", ".join(dropped),
        )
    return [item for item in items if item.name not in dropped]


def _drop_without_whole(
    items: Sequence[MetricSpec], sharding: str | None, access: ModelAccess, reducer: Reducer | None, *, warns: bool
) -> list[MetricSpec]:
    """Drops items that need whole parameters where any rank holds parts of some."""
    dropped = {item.name for item in items if "whole_weights" in item.metric.needs}
    if not dropped:
        return list(items)
    has_parts = sharding is not None or access.is_sharded or access.sharding.frees_gradients
    if reducer is not None:
        has_parts = bool(reducer.max_reduce({"parts": float(has_parts)}).get("parts", has_parts))
    if not has_parts:
        return list(items)
    if warns:
        logger.warning(
            "%s: left out, because ranks hold parts of weight matrices; use DistributedDataParallel to have them",
            ", ".join(sorted(dropped)),
        )
    return [item for item in items if item.name not in dropped]


def _drop_microbatches(items: Sequence[MetricSpec], *, warns: bool) -> list[MetricSpec]:
    """Drops items that read the gradients of micro-batches: of sharded gradients, no rank sees those of its batch."""
    dropped = sorted({item.name for item in items if "microbatches" in item.metric.needs})
    if dropped and warns:
        logger.warning(
            "%s: left out, because ranks hold parts of the gradients and of other ranks' batches; train with"
            " DistributedDataParallel to measure it",
            ", ".join(dropped),
        )
    return [item for item in items if item.name not in dropped]


def _drop_cross_rank(items: Sequence[MetricSpec], *, has_shards: bool, warns: bool = True) -> list[MetricSpec]:
    """Drops items that need the other ranks, which do not log: replicas suffice, shares of the data do not."""
    dropped = {
        item.name
        for item in items
        if isinstance(item.metric, _CROSS_RANK)
        or item.metric.needs & _DATA_NEEDS
        or (has_shards and item.select is not None)
    }
    if dropped and warns:
        logger.warning(
            "only this rank is logging, so these metrics would cover its share of the data only; disabled: %s",
            ", ".join(sorted(dropped)),
        )
    return [item for item in items if item.name not in dropped]


class PartialGradients:
    """Flags metrics of gradients that are partial sums, on all ranks: a partial sum has no norm."""

    def __init__(self) -> None:
        self._warned = False

    def flag(self, access: ModelAccess, due: Sequence[MetricRun], name: str, step_values: StepValues) -> None:
        """Flags the metrics due in the step of the optimizer called `name`."""
        indices = access.partial_gradients(name)
        if not indices:
            return
        for metric_run in due:
            if metric_run.optimizer == name and "gradients" in metric_run.spec.metric.needs:
                for tag, members in metric_run.tags.items():
                    if not members or not indices.isdisjoint(members):
                        step_values.flag_failure(tag, failed=True)
        if not self._warned:
            self._warned = True
            names = [access.parameters[index].name for index in sorted(indices)]
            logger.warning(
                "gradient metrics of %s are skipped: the gradients are DTensors of partial sums (sequence"
                " parallelism); before the step, set p.grad = p.grad.redistribute(placements=p.placements)",
                shown(names),
            )
