"""Defines `put_back`, which leaves a model, data loaders and random generators as they were."""

from __future__ import annotations

import contextlib
import copy
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

Undo = Callable[[], None]
_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)


@contextlib.contextmanager
def put_back(model: nn.Module, *loaders: Any) -> Iterator[None]:
    """Restores a model, data loaders and random generators at the end, bit for bit.

    - Of the model: parameters, buffers, modes, gradients, and the attributes of each module, with the contents of
      lists, dicts and sets.
    - Of the loaders, their samplers and their datasets: attributes and random generators. Persistent workers that start
      meanwhile are ended.
    - The generators of Python, NumPy and torch.

    Gradients are None inside of the block.

    Raises:
        TypeError: a parameter has no values yet.
    """
    undo = [step for module in model.modules() for step in _steps_of_module(module)]
    undo += [_set_gradient(parameter, parameter.grad) for parameter in model.parameters()]
    undo += [step for loader in loaders for step in _steps_of_loader(loader)]
    undo.append(_generators())
    for parameter in model.parameters():
        parameter.grad = None
    try:
        yield
    except BaseException:
        _run(undo)
        raise
    if errors := _run(undo):
        raise errors[0]


def _run(undo: Iterable[Undo]) -> list[Exception]:
    """Runs every step, also after one that fails."""
    errors: list[Exception] = []
    for step in undo:
        try:
            step()
        except Exception as error:
            errors.append(error)
    return errors


def _steps_of_module(module: nn.Module) -> Iterator[Undo]:
    yield _set_attributes(module)
    yield from _steps_of_values(vars(module).values())
    for tensor in {id(tensor): tensor for tensor in _tensors(vars(module).values())}.values():
        if isinstance(tensor, (UninitializedBuffer, UninitializedParameter)):
            raise TypeError(f"the model must have no lazy parameters, got {type(module).__name__}; run one batch first")
        yield _set_values(tensor)


def _steps_of_values(values: Iterable[Any]) -> Iterator[Undo]:
    """Restores the containers, arrays and random generators among some values."""
    for value in values:
        if type(value) in _CONTAINERS:
            yield _set_contents(value)
        elif isinstance(value, np.ndarray) and value.flags.writeable:
            yield _set_elements(value)
        elif (undo := _set_state(value)) is not None:
            yield undo


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yields the tensors among some values, and in containers among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif type(value) in _CONTAINERS:
            inner = value.values() if isinstance(value, dict) else value
            yield from (each for each in inner if isinstance(each, Tensor))


def _steps_of_loader(loader: Any) -> list[Undo]:
    sampler, batch_sampler = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    owners = [loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None)]
    owners += _datasets(getattr(loader, "dataset", None))
    steps: list[Undo] = []
    for owner in {id(each): each for each in owners if hasattr(each, "__dict__")}.values():
        if not isinstance(owner, nn.Module):
            steps += _steps_of_values(vars(owner).values())
            steps.append(_set_attributes(owner))
    if getattr(loader, "persistent_workers", False):
        steps.insert(0, _end_workers(loader))
    return steps


def _datasets(dataset: Any, depth: int = 5) -> list[Any]:
    """Returns a dataset and those inside of it, as in a `Subset` or a `ConcatDataset`."""
    if dataset is None or not depth:
        return []
    several = getattr(dataset, "datasets", None)
    inner = [getattr(dataset, "dataset", None), *(several if isinstance(several, (list, tuple)) else ())]
    return [dataset, *(each for part in inner for each in _datasets(part, depth - 1))]


def _end_workers(loader: Any) -> Undo:
    """Hides the workers of a loader that has persistent ones; its next pass then begins as it would have."""
    before, vars(loader)["_iterator"] = loader._iterator, None

    def undo() -> None:
        started, vars(loader)["_iterator"] = loader._iterator, before
        if started is not None and hasattr(started, "_shutdown_workers"):
            started._shutdown_workers()

    return undo


def _set_attributes(owner: Any) -> Undo:
    attributes = dict(vars(owner))

    def undo() -> None:
        vars(owner).clear()
        vars(owner).update(attributes)

    return undo


def _set_contents(container: Any) -> Undo:
    contents = copy.copy(container)

    def undo() -> None:
        container.clear()
        (container.update if isinstance(container, (dict, set)) else container.extend)(contents)

    return undo


def _set_elements(array: Any) -> Undo:
    elements = array.copy()

    def undo() -> None:
        array[...] = elements

    return undo


def _set_values(tensor: Tensor) -> Undo:
    values = tensor.detach().clone()

    def undo() -> None:
        if tensor.shape != values.shape:  # resized in place, as observers of a quantisation are
            tensor.data = values
            return
        target, source = tensor.data, values
        for dimension, stride in enumerate(target.stride()):
            if not stride and target.shape[dimension] > 1:  # expanded: all elements share one place
                target, source = target.narrow(dimension, 0, 1), source.narrow(dimension, 0, 1)
        target.copy_(source)

    return undo


def _set_gradient(parameter: Tensor, gradient: Tensor | None) -> Undo:
    def undo() -> None:
        parameter.grad = gradient

    return undo


def _set_state(generator: Any) -> Undo | None:
    """Returns what restores the state of a random generator; None for other objects."""
    if isinstance(generator, random.Random):
        python = generator.getstate()
        return lambda: generator.setstate(python)
    if isinstance(generator, torch.Generator):
        of_torch = generator.get_state()
        return lambda: _none(generator.set_state(of_torch))
    if isinstance(generator, np.random.RandomState):
        legacy = generator.get_state()
        return lambda: generator.set_state(legacy)
    if isinstance(generator, np.random.Generator):
        state = copy.deepcopy(generator.bit_generator.state)

        def undo() -> None:
            generator.bit_generator.state = state

        return undo
    return None


def _none(_: object) -> None:
    """Drops a result."""


def _generators() -> Undo:
    python, numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []

    def undo() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(of_torch)
        if devices:
            torch.cuda.set_rng_state_all(devices)

    return undo
