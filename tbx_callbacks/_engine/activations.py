"""Outputs of modules that are counted later: whether they are still what they were when they were seen."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._distributed.packing import StepValues
from tbx_callbacks._distributed.reducer import Reducer
from tbx_callbacks._engine.guard import ChargedGuard
from tbx_callbacks._engine.plan import MetricRun
from tbx_callbacks._engine.runner import MetricRunner
from tbx_callbacks._model.forward_hooks import is_compiled
from tbx_callbacks._model.names import clean_parameter_names, near
from tbx_callbacks._model.parameters import layers_of
from tbx_callbacks._model.sharding.dtensor import tensor_parallel_layer
from tbx_callbacks.metrics.context import Context, RunInfo
from tbx_callbacks.metrics.values import Histogram

logger = logging.getLogger(__name__)


class DeferredOutputs:
    """Tensors that a batch holds until ranks have agreed on the edges of its histograms.

    They are not copied: what autograd keeps as well takes no further memory so; under gradient checkpointing, which
    frees them, they take their own until the optimizer's step. One that is changed in place meanwhile
    (`nn.ReLU(inplace=True)` behind it) is left out on all ranks, with one warning.
    """

    def __init__(self) -> None:
        self._versions: dict[str, list[int]] = {}
        self._said: set[str] = set()

    def hold(self, step_values: StepValues) -> None:
        """Remembers how its tensors are now."""
        for tag, histogram in step_values.uncounted.items():
            self._versions.setdefault(tag, _versions(histogram))

    def check(self, step_values: StepValues) -> None:
        """Flags those that have changed."""
        for tag, versions in self._versions.items():
            changed = _versions(step_values.uncounted[tag]) != versions
            step_values.flag_failure(tag, failed=changed)
            if changed and tag not in self._said:
                self._said.add(tag)
                logger.warning(
                    "%s: what the module returned was changed in place before ranks could agree on a histogram's edges;"
                    " it is left out (remedy: no inplace=True behind the module)",
                    tag,
                )

    def clear(self) -> None:
        """The step is over."""
        self._versions.clear()


def _versions(histogram: Histogram) -> list[int]:
    return [tensor._version for tensor in histogram.tensors]


class Activations:
    """Runs the metrics that need `activations` while the model's forward pass is on.

    Hooks are there from the beginning of a due step until the first forward pass in training mode is over, by an
    exception too. Each is called once at most, so a forward pass that gradient checkpointing repeats is not seen again.

    Args:
        model: the model.
        program: the metrics; in compiled models they are left out with one warning, since hooks that come and go would
            either compile it again or not be called.
        compiled: whether the trainer compiles the model.
        ranks: all ranks, where there are several: they have other batches, or other modules. Edges of histograms are
            agreed upon in the optimizer's step then, so what modules return is held until it.
        spending: counts what this costs, which is spent in the forward pass.
        left: whether the training was left by an exception that nobody told of; it has removed every hook then.

    Raises:
        ConfigError: a regex matches no module, on any rank.
    """

    def __init__(
        self,
        model: nn.Module,
        runner: MetricRunner,
        *,
        compiled: bool,
        reducer: Reducer | None = None,
        guard: ChargedGuard,
        left: Callable[[], bool],
    ) -> None:
        self._model, self._runner, self._guard, self._left = model, runner, guard, left
        metric_runs = [metric_run for metric_run in runner.metric_runs if "activations" in metric_run.spec.metric.needs]
        if metric_runs and (compiled or any(map(is_compiled, model.modules()))):
            logger.warning("activations of a compiled model cannot be seen; metric activations is left out")
            metric_runs = []
        elif metric_runs and reducer is not None and (split := tensor_parallel_layer(model)) is not None:
            if reducer.rank == 0:
                logger.warning(
                    "under tensor parallelism (of %s) a module returns either a part or a copy on each rank, which"
                    " cannot be told apart; metric activations is left out",
                    split,
                )
            metric_runs = []
        self.modules = _modules_of(metric_runs, model, reducer)
        self._holds, self._held = reducer is not None, DeferredOutputs()
        self._handles: dict[tuple[MetricRun, str] | None, Any] = {}
        self._step_values: StepValues | None = None
        self._said = False

    def begin(self, step: int, due: Sequence[MetricRun], run: RunInfo) -> None:
        """A step begins at which these entries are due."""
        self.end()
        watching = [metric_run for metric_run in due if metric_run in self.modules]
        if not watching:
            return
        with self._guard("watching modules", step, watching):
            for metric_run in watching:
                context = Context("step", step, run)
                for name, module in self.modules[metric_run].items():
                    seen = partial(self._seen, metric_run, name, context)
                    self._handles[metric_run, name] = module.register_forward_hook(seen)
            if self._handles:
                self._handles[None] = self._model.register_forward_hook(self._over, always_call=True)

    def watches(self, due: Sequence[MetricRun]) -> bool:
        """Whether modules are watched for any of these entries; the same on all ranks."""
        return any(metric_run in self.modules for metric_run in due)

    def take(self) -> StepValues | None:
        """What was measured; the step is finished."""
        step_values = self._step_values
        if step_values is not None:
            self._held.check(step_values)
        if self._handles and step_values is None and not self._said:
            self._said = True
            logger.warning(
                "no module was seen at work in a step, so its activations are left out;"
                " hooks are not called in a compiled model, nor in one that does not run in training mode"
            )
        self.end()
        return step_values

    def end(self) -> None:
        """Removes every hook and forgets what was measured."""
        self._step_values = None
        self._held.clear()
        self._remove()

    def _remove(self) -> None:
        while self._handles:
            self._handles.popitem()[1].remove()

    def _seen(
        self, metric_run: MetricRun, name: str, context: Context, module: nn.Module, args: Any, outputs: Any
    ) -> None:
        # A graph that was compiled while hooks were there goes on to call them: make it forget them.
        if torch.compiler.is_compiling() or (metric_run, name) not in self._handles or self._left():
            return
        if not self._model.training:
            return
        self._handles.pop((metric_run, name)).remove()
        tensor = _first_tensor(outputs)
        if tensor is None or tensor.is_meta:
            return
        with self._guard("looking at activations", context.step, [metric_run]):
            self._step_values = self._step_values or StepValues()
            with torch.autocast(tensor.device.type, enabled=False):
                self._runner.run(metric_run, replace(context, activations={name: tensor.detach()}), self._step_values)
                if self._holds:
                    self._held.hold(self._step_values)
                else:
                    self._step_values.count_histograms()  # the tensor may be changed in place by what comes next

    def _over(self, module: nn.Module, args: Any, outputs: Any) -> None:
        if self._model.training and not torch.compiler.is_compiling():
            self._remove()


def _modules_of(
    metric_runs: Sequence[MetricRun], model: nn.Module, reducer: Reducer | None
) -> dict[MetricRun, dict[str, nn.Module]]:
    """The chosen modules of each entry; a regex may match on other ranks only, which have other modules."""
    regexes = [getattr(metric_run.spec.metric, "modules", None) for metric_run in metric_runs]
    chosen = [_modules(model, regex) for regex in regexes]
    here = {str(index) for index, modules in enumerate(chosen) if modules}
    anywhere = reducer.union(here) if reducer is not None and metric_runs else here
    for index, regex in enumerate(regexes):
        if regex is not None and str(index) not in anywhere:
            raise ConfigError(
                f"activations.modules must match at least one module's name, got {regex!r};"
                f" near names: {', '.join(near(regex, [*_modules(model, '')]))}"
            )
    return dict(zip(metric_runs, chosen, strict=True))


def _modules(model: nn.Module, regex: str | None) -> dict[str, nn.Module]:
    """The chosen modules by their clean names; those that are the model's layers when no regex chooses."""
    paths = [(path, module) for path, module in model.named_modules() if path]
    cleaned = clean_parameter_names([f"{path}._" for path, _ in paths])
    named = {
        name.removesuffix("._"): module for name, (_, module) in zip(cleaned, paths, strict=True) if name.endswith("._")
    }
    if regex is not None:
        return {name: module for name, module in named.items() if re.search(regex, name)}
    parameters = clean_parameter_names([name for name, _ in model.named_parameters()])
    layers = dict.fromkeys(layers_of(parameters))
    return {name: named[name] for name in layers if name in named}


def _first_tensor(outputs: Any) -> Tensor | None:
    """The first tensor of real numbers in what a module returned."""
    if isinstance(outputs, Tensor):
        return outputs if outputs.is_floating_point() else None
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, (tuple, list)) else ()
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)
