"""Keeps the weights with which a training began, for metrics that compare with them, also after it was resumed."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tbx_callbacks._distributed.reducer import Reducer
from tbx_callbacks._engine.metric_plan import MetricRun
from tbx_callbacks._model.model_access import ModelAccess
from tbx_callbacks._model.names import shown
from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks._model.weight_store import Entry, FileStore, MemoryStore, WeightStore
from tbx_callbacks._stats.types import Number
from tbx_callbacks._text import reason
from tbx_callbacks.runs.folders import is_remote

logger = logging.getLogger(__name__)

NEED = "initial_weights"
_FOUND, _MISSING, _UNREADABLE, _OTHER_SHARDS = 0.0, 1.0, 2.0, 3.0
_PROBLEMS = {
    _MISSING: "the run's folder has no file of them",
    _UNREADABLE: "their file cannot be read",
    _OTHER_SHARDS: "the ranks have other shards now",
}


class InitialWeights:
    """Keeps this rank's elements of the trained parameters as the first step of the training finds them.

    They are in a file of the run's folder for each rank, or in memory if there is no such folder. Each rank keeps the
    elements that it counts. A training that is resumed reads the files of its start.

    Args:
        folder: the run's folder on every rank; None without one.
        rank: this rank.
        metrics: names of the metrics that need the weights.
        warns: whether this rank logs warnings.
    """

    def __init__(self, folder: str | None, rank: int, metrics: Collection[str], *, warns: bool) -> None:
        self.is_awaited = True
        """Whether the weights will be kept before the next step."""
        self._path = None if folder is None or is_remote(folder) else _path(folder, rank)
        self._metrics, self._warns = ", ".join(dict.fromkeys(metrics)), warns
        self._store: WeightStore | None = None
        self._names: dict[int, tuple[weakref.ref[Tensor], str]] = {}  # of the kept parameters, by id
        self._left_out: set[str] = set()

    def keep(self, access: ModelAccess, metric_runs: Sequence[MetricRun]) -> None:
        """Keeps the weights as they are now."""
        self.is_awaited = False
        local = local_parameters(access, metric_runs)
        wanted = [index for index in local if access.parameters[index].tensor.requires_grad]

        def tensors() -> Iterator[tuple[str, str, Tensor]]:
            for index in wanted:
                (elements,) = access.weights_at([index])
                if elements is not None:
                    yield access.parameters[index].name, layout(access, index), elements

        if self._path is not None and local:  # also a file without weights: a resumed training misses none then
            try:
                self._store = FileStore.write(self._path, tensors())
            except OSError as error:
                if self._warns:
                    logger.warning(
                        "initial weights are kept in memory, so %s ends if the run is resumed: their file cannot be"
                        " written: %s",
                        self._metrics,
                        reason(error),
                    )
        self._store = self._store or MemoryStore(tensors())
        self._bind(access, wanted)

    def resume(self, access: ModelAccess, metric_runs: Sequence[MetricRun], reducer: Reducer | None) -> None:
        """Finds the weights of the training that is resumed. If a rank has none, none of them measures from there.

        What was trained in its first part counts, also if it is frozen now.
        """
        self.is_awaited = False
        local = local_parameters(access, metric_runs)
        layouts = {index: layout(access, index) for index in local}
        problem = self._open(access, layouts)
        if reducer is not None:
            problem = reducer.max_reduce({"problem": problem}).get("problem", problem)
        if problem == _FOUND:
            entries = {} if self._store is None else self._store.entries
            kept = {index: entries.get(access.parameters[index].name) for index in local}
            self._bind(access, [i for i, entry in kept.items() if entry is not None and entry.layout == layouts[i]])
            return
        self._store = None
        if self._warns:
            logger.warning(
                "%s: left out, because the weights at the start of the resumed run are unknown: %s; keep its folder and"
                " its ranks",
                self._metrics,
                _PROBLEMS[problem],
            )

    def of(self, access: ModelAccess, weights: Tensors, metric_runs: Sequence[MetricRun]) -> Tensors | None:
        """Returns the kept weights of the parameters that `weights` holds; None if there are none to compare with.

        A parameter that has been replaced, resized or unfrozen since is left out, with one warning.
        """
        store = self._store
        if store is None:
            return None
        names: dict[int, str] = {}
        lost: list[str] = []
        for index in _selected(metric_runs):
            parameter, elements = access.parameters[index], weights[index]
            kept = self._names.get(id(parameter.tensor))
            if elements is None:
                continue
            if kept is not None and kept[0]() is parameter.tensor and _numel(elements) == store.entries[kept[1]].numel:
                names[index] = kept[1]
            elif parameter.name not in self._left_out and (
                kept is not None or parameter.tensor.requires_grad or parameter.name in store.entries
            ):
                lost.append(parameter.name)
        self._left_out.update(lost)
        if lost and self._warns:
            logger.warning(
                "%s of %s: left out, because they were frozen, absent or of another size when the training began; train"
                " them from the start",
                self._metrics,
                shown(lost),
            )
        return StoredTensors(store, names, weights)

    def _open(self, access: ModelAccess, layouts: Mapping[int, str]) -> float:
        """Opens the file of this rank for parameters with their layouts; returns the problem with it."""
        if not layouts:
            return _FOUND
        try:
            store = FileStore(self._path or "")
        except FileNotFoundError:
            return _MISSING
        except (OSError, ValueError, TypeError, AttributeError):  # incomplete or foreign files too
            return _UNREADABLE
        for index, now in layouts.items():
            entry = store.entries.get(access.parameters[index].name)
            if entry is not None and entry.layout != now and not _is_resized(entry.layout, now):
                return _OTHER_SHARDS
        self._store = store
        return _FOUND

    def _bind(self, access: ModelAccess, wanted: Sequence[int]) -> None:
        entries = {} if self._store is None else self._store.entries
        for index in wanted:
            name, tensor = access.parameters[index].name, access.parameters[index].tensor
            if name in entries:
                self._names[id(tensor)] = weakref.ref(tensor), name


class StoredTensors(Tensors):
    """Stored tensors, of which only those in use are on the device.

    Args:
        store: holds their elements.
        names: their names, by the index of the parameter.
        weights: the weights now, whose devices and shapes they get.
    """

    def __init__(self, store: WeightStore, names: dict[int, str], weights: Tensors) -> None:
        super().__init__(())
        self._store, self._stored_names, self._like = store, names, weights
        self._tensors = _OnDemand(self._load, len(weights.present))
        self.present = tuple([index in names for index in range(len(weights.present))])
        self._applied: dict[Any, tuple[list[Tensor], tuple[bool, ...]]] = {}

    @property
    def squares(self) -> Tensor:
        """Sum of squares of each tensor, from the time when it was stored; on the CPU."""
        return self._numbers(lambda entry: entry.square)

    @property
    def numels(self) -> Tensor:
        """Number of real elements of each tensor, on the CPU."""
        return self._numbers(lambda entry: entry.numel)

    def _numbers(self, number: Callable[[Entry], float]) -> Tensor:
        names = self._stored_names
        entries = [self._store.entries[names[n]] if n in names else None for n in range(len(self.present))]
        return torch.tensor([0.0 if entry is None else number(entry) for entry in entries], dtype=torch.float64)

    @property
    def has_elements(self) -> tuple[bool, ...]:
        """Whether each tensor is present and not empty."""
        names = self._stored_names
        return tuple([n in names and self._store.entries[names[n]].numel > 0 for n in range(len(self.present))])

    def apply_all(
        self, functions: Sequence[Callable[..., Number]], others: Sequence[Tensors] = (), *, empty: float
    ) -> tuple[list[Tensor], tuple[bool, ...]]:
        """Remembers the numbers: metrics that differ only in their groups read the store once."""
        key = (tuple(functions), tuple(others), empty)
        try:
            hash(key)
        except TypeError:  # a method of an object without a hash
            return super().apply_all(functions, others, empty=empty)
        if key not in self._applied:
            self._applied[key] = super().apply_all(functions, others, empty=empty)
        return self._applied[key]

    @property
    def _elements(self) -> Sequence[Tensor | None]:
        return self._tensors

    def _load(self, index: int) -> Tensor | None:
        name, like = self._stored_names.get(index), self._like[index]
        if name is None or like is None:
            return None
        real = self._store.read(name, like.device)
        return (torch.view_as_complex(real.view(-1, 2)) if like.is_complex() else real).view(like.shape)


class _OnDemand(Sequence[Any]):
    """A sequence whose members are computed each time."""

    def __init__(self, get: Callable[[int], Any], length: int) -> None:
        self._get, self._length = get, length

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return self._get(index)

    def __len__(self) -> int:
        return self._length


def prepare(
    access: ModelAccess,
    metric_runs: Sequence[MetricRun],
    reducer: Reducer | None,
    *,
    folder: str | None,
    is_resumed: bool,
    warns: bool,
) -> InitialWeights | None:
    """Returns what keeps the initial weights of a training; None if no metric needs them.

    Args:
        access: reads the model.
        metric_runs: all metrics of the training.
        reducer: reduces over ranks; None with one rank.
        folder: the run's folder, known on the rank that writes.
        is_resumed: whether the training has finished steps before.
        warns: whether this rank logs warnings.
    """
    chosen = needing(metric_runs)
    if not chosen:
        return None
    if reducer is not None:
        folders = reducer.union([] if folder is None else [f"folder {folder}"])
        folder = next((name.removeprefix("folder ") for name in sorted(folders)), None)
    names = [metric_run.spec.name for metric_run in chosen]
    initial = InitialWeights(folder, 0 if reducer is None else reducer.rank, names, warns=warns)
    if is_resumed:
        initial.resume(access, chosen, reducer)
    return initial


def needing(metric_runs: Sequence[MetricRun]) -> list[MetricRun]:
    """Returns the metrics that need the initial weights."""
    return [metric_run for metric_run in metric_runs if NEED in metric_run.spec.metric.needs]


def local_parameters(access: ModelAccess, metric_runs: Sequence[MetricRun]) -> list[int]:
    """Returns the indices of the parameters that the metrics select and this rank counts, frozen or not."""
    return [index for index in _selected(metric_runs) if access.is_local(index)]


def _selected(metric_runs: Sequence[MetricRun]) -> list[int]:
    groups = [group for metric_run in metric_runs for group in metric_run.selection.groups]
    return sorted({index for group in groups for index in group.members})


def layout(access: ModelAccess, index: int) -> str:
    """Describes the shape of a parameter and the elements that this rank has, as text for another process.

    The shape is empty for a plain tensor of which each rank holds a part, because that part is all that is known.
    """
    tensor = access.parameters[index].tensor
    shape: object = tuple(tensor.shape)
    parts: list[object] = [type(access.sharding).__name__]
    if isinstance(tensor, DTensor):
        mesh = tensor.device_mesh
        parts += [tuple(tensor.to_local().shape), tensor.placements, tuple(mesh.shape), mesh.get_coordinate()]
    else:
        ranks = access.sharding.shard_ranks([tensor]).get(id(tensor), ())
        (elements,) = access.weights_at([index])
        parts += [None if elements is None else tuple(elements.shape), len(ranks)]
        shape = shape if len(ranks) < 2 else ""
    return f"{shape};{' '.join(map(str, parts))}"


def _is_resized(before: str, now: str) -> bool:
    """Whether two layouts are those of parameters with different shapes, and not only of different shards."""
    shapes = [each.partition(";")[0] for each in (before, now)]
    return all(shapes) and shapes[0] != shapes[1]


def _numel(elements: Tensor) -> int:
    return elements.numel() * (2 if elements.is_complex() else 1)


def _path(folder: str, rank: int) -> str:
    return os.path.join(folder, "initial_weights", f"rank_{rank}.bin")
