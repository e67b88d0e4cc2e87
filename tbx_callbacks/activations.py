"""Hooks that let metrics see what modules return, in the first forward pass of a step and in no other."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tbx_callbacks.context import Context, RunFacts
from tbx_callbacks.errors import ConfigError
from tbx_callbacks.forward import is_compiled
from tbx_callbacks.names import clean_parameter_names, near
from tbx_callbacks.plan import Entry
from tbx_callbacks.program import Program
from tbx_callbacks.ranks import world_size
from tbx_callbacks.reduce import Batch
from tbx_callbacks.select import layers_of

logger = logging.getLogger(__name__)


class Activations:
    """Runs the metrics that need `activations` while the model's forward pass is on.

    Hooks are there from the beginning of a due step until the first forward pass in training mode is over, by an
    exception too. Each is called once at most, so a forward pass that gradient checkpointing repeats is not seen again.

    Args:
        model: the model.
        program: the metrics; in compiled models they are left out with one warning, since hooks that come and go would
            either compile it again or not be called.
        compiled: whether the trainer compiles the model.

    Raises:
        ConfigError: a regex matches no module.
    """

    def __init__(self, model: nn.Module, program: Program, *, compiled: bool) -> None:
        self._model, self._program = model, program
        entries = [entry for entry in program.entries if "activations" in entry.item.metric.needs]
        if entries and (compiled or any(map(is_compiled, model.modules()))):
            logger.warning("activations of a compiled model cannot be seen; metric activations is left out")
            entries = []
        elif entries and world_size() > 1:
            logger.warning("activations are not written with several ranks yet: they are one rank's share")
            entries = []
        self.modules = {entry: _modules(model, getattr(entry.item.metric, "modules", None)) for entry in entries}
        self._handles: dict[tuple[Entry, str] | None, Any] = {}
        self._batch: Batch | None = None
        self._said = False

    def begin(self, step: int, due: Sequence[Entry], run: RunFacts) -> None:
        """A step begins at which these entries are due."""
        self.end()
        for entry in due:
            if entry not in self.modules:
                continue
            context = Context("step", step, run)
            for name, module in self.modules[entry].items():
                seen = partial(self._seen, entry, name, context)
                self._handles[entry, name] = module.register_forward_hook(seen)
        if self._handles:
            self._handles[None] = self._model.register_forward_hook(self._over, always_call=True)

    def take(self) -> Batch | None:
        """What was measured; the step is finished."""
        batch = self._batch
        if self._handles and batch is None and not self._said:
            self._said = True
            logger.warning(
                "no module was seen at work in a step, so its activations are left out;"
                " hooks are not called in a compiled model, nor in one that does not run in training mode"
            )
        self.end()
        return batch

    def end(self) -> None:
        """Removes every hook and forgets what was measured."""
        self._batch = None
        self._remove()

    def _remove(self) -> None:
        while self._handles:
            self._handles.popitem()[1].remove()

    def _seen(self, entry: Entry, name: str, context: Context, module: nn.Module, args: Any, outputs: Any) -> None:
        # A graph that was compiled while hooks were there goes on to call them: make it forget them.
        if torch.compiler.is_compiling() or not self._model.training or (entry, name) not in self._handles:
            return
        self._handles.pop((entry, name)).remove()
        tensor = _first_tensor(outputs)
        if tensor is not None and not tensor.is_meta:
            self._batch = self._batch or Batch()
            with torch.no_grad(), torch.autocast(tensor.device.type, enabled=False):
                self._program.run(entry, replace(context, activations={name: tensor.detach()}), self._batch)
                self._batch.count()  # the tensor may be changed in place by what comes next

    def _over(self, module: nn.Module, args: Any, outputs: Any) -> None:
        if self._model.training and not torch.compiler.is_compiling():
            self._remove()


def _modules(model: nn.Module, regex: str | None) -> dict[str, nn.Module]:
    """The chosen modules by their clean names; those that are the model's layers when no regex chooses."""
    paths = [(path, module) for path, module in model.named_modules() if path]
    cleaned = clean_parameter_names([f"{path}._" for path, _ in paths])
    named = {
        name.removesuffix("._"): module for name, (_, module) in zip(cleaned, paths, strict=True) if name.endswith("._")
    }
    if regex is not None:
        chosen = {name: module for name, module in named.items() if re.search(regex, name)}
        if not chosen:
            raise ConfigError(
                f"activations.modules must match at least one module's name, got {regex!r};"
                f" near names: {', '.join(near(regex, [*named]))}"
            )
        return chosen
    parameters = clean_parameter_names([name for name, _ in model.named_parameters()])
    layers = dict.fromkeys(layers_of(parameters))
    return {name: named[name] for name in layers if name in named}


def _first_tensor(outputs: Any) -> Tensor | None:
    """The first tensor of real numbers in what a module returned."""
    if isinstance(outputs, Tensor):
        return outputs if outputs.is_floating_point() else None
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, (tuple, list)) else ()
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)
