"""Computes activation metrics in forward hooks, and defers histograms until ranks agree on bin edges."""

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
from tbx_callbacks._engine.error_guard import Guard
from tbx_callbacks._engine.metric_plan import MetricRun
from tbx_callbacks._engine.metric_runner import MetricRunner
from tbx_callbacks._model.forward_hooks import Hook, is_compiled
from tbx_callbacks._model.layers import layers_of
from tbx_callbacks._model.names import clean_parameter_names, near, without_parametrizations
from tbx_callbacks._model.sharding.dtensor import tensor_parallel_layer
from tbx_callbacks.metrics.context import Context, RunInfo
from tbx_callbacks.metrics.values import Histogram

logger = logging.getLogger(__name__)


class DeferredOutputs:
    """Module outputs whose histograms are counted once ranks have agreed on the bin edges.

    The tensors are not copied. Those that autograd keeps anyway take no extra memory. Gradient checkpointing frees its
    outputs, so there they take extra memory until the optimizer's step. An output that is changed in place before it is
    counted (by a following `nn.ReLU(inplace=True)`) is skipped on all ranks, with one warning.
    """

    def __init__(self) -> None:
        self._versions: dict[str, list[int]] = {}
        self._warned: set[str] = set()

    def record_versions(self, step_values: StepValues) -> None:
        """Records the current version of each tensor."""
        for tag, histogram in step_values.uncounted.items():
            self._versions.setdefault(tag, _versions(histogram))

    def check(self, step_values: StepValues) -> None:
        """Flags the tags whose tensors have changed since."""
        for tag, versions in self._versions.items():
            changed = _versions(step_values.uncounted[tag]) != versions
            step_values.flag_failure(tag, failed=changed)
            if changed and tag not in self._warned:
                self._warned.add(tag)
                logger.warning(
                    "%s is skipped: the module's output was changed in place before its histogram was counted; use"
                    " inplace=False after this module",
                    tag,
                )

    def clear(self) -> None:
        """Forgets all versions; called when the step is over."""
        self._versions.clear()


def _versions(histogram: Histogram) -> list[int]:
    return [tensor._version for tensor in histogram.tensors]


class Activations:
    """Runs the metrics that need `activations` from forward hooks of the model's modules.

    Hooks are installed when a due step begins. They are removed when the first forward pass in training mode is over,
    also if it raised. Each hook runs at most once, so a pass that gradient checkpointing repeats is not counted again.

    Args:
        model: the model.
        runner: runs the metrics. In a compiled model they are disabled with one warning, because adding and removing
            hooks would recompile the model, or the hooks would not be called.
        compiled: whether the trainer compiles the model.
        reducer: reduces over ranks; None with one rank. Ranks have different batches or different modules, so histogram
            edges are agreed on during the optimizer's step. Until then the module outputs stay referenced.
        guard: catches errors and charges the time, which is spent in the forward pass.
        abandoned: returns whether an exception ended the training without notice. It also removes every hook then.

    Raises:
        ConfigError: a regex matches no module on any rank.
    """

    def __init__(
        self,
        model: nn.Module,
        runner: MetricRunner,
        *,
        compiled: bool,
        reducer: Reducer | None = None,
        guard: Guard,
        abandoned: Callable[[], bool],
    ) -> None:
        self._model, self._runner, self._guard, self._abandoned = model, runner, guard, abandoned
        metric_runs = [metric_run for metric_run in runner.metric_runs if "activations" in metric_run.spec.metric.needs]
        if metric_runs and (compiled or any(map(is_compiled, model.modules()))):
            logger.warning(
                "metric activations is disabled: in a compiled model forward hooks cause recompilation or never"
                " run; train without torch.compile"
            )
            metric_runs = []
        elif metric_runs and reducer is not None and (split := tensor_parallel_layer(model)) is not None:
            if reducer.rank == 0:
                logger.warning(
                    "metric activations is disabled: under tensor parallelism (of %s) an output is a part or a"
                    " copy on each rank, and hooks cannot tell which",
                    split,
                )
            metric_runs = []
        self.modules = _modules_of(metric_runs, model, reducer)
        self._defers, self._deferred = reducer is not None, DeferredOutputs()
        self._handles: dict[tuple[MetricRun, str] | None, Any] = {}
        self._step_values: StepValues | None = None
        self._warned = False

    def begin(self, step: int, due: Sequence[MetricRun], run: RunInfo) -> None:
        """Installs hooks for the given metric runs at the beginning of a step where they are due."""
        self.end()
        watched = [metric_run for metric_run in due if metric_run in self.modules]
        if not watched:
            return
        with self._guard("installing activation hooks", step, watched):
            for metric_run in watched:
                context = Context("step", step, run, state=metric_run.state)
                for name, module in self.modules[metric_run].items():
                    hook = Hook(partial(self._on_module_forward, metric_run, name, context))
                    self._handles[metric_run, name] = module.register_forward_hook(hook)
            if self._handles:
                self._handles[None] = self._model.register_forward_hook(Hook(self._on_model_forward), always_call=True)

    def watches(self, due: Sequence[MetricRun]) -> bool:
        """Whether any of these metric runs reads module outputs; the same on all ranks."""
        return any(metric_run in self.modules for metric_run in due)

    def take(self) -> StepValues | None:
        """Returns the values of the finished step and removes every hook; None if no hook ran."""
        step_values = self._step_values
        if step_values is not None:
            self._deferred.check(step_values)
        if self._handles and step_values is None and not self._warned:
            self._warned = True
            logger.warning(
                "activations are skipped: no forward hook ran in this step; hooks do not run in compiled models or"
                " in eval mode"
            )
        self.end()
        return step_values

    def end(self) -> None:
        """Removes every hook and drops the values of this step."""
        self._step_values = None
        self._deferred.clear()
        self._remove()

    def _remove(self) -> None:
        while self._handles:
            self._handles.popitem()[1].remove()

    def _on_module_forward(
        self, metric_run: MetricRun, name: str, context: Context, module: nn.Module, args: Any, outputs: Any
    ) -> None:
        # A graph compiled while hooks were installed keeps calling them: return, so that it contains no trace of them.
        if torch.compiler.is_compiling() or (metric_run, name) not in self._handles or self._abandoned():
            return
        if not self._model.training:
            return
        self._handles.pop((metric_run, name)).remove()
        tensor = _first_tensor(outputs)
        if tensor is None or tensor.is_meta:
            return
        with self._guard("measuring activations", context.step, [metric_run]):
            self._step_values = self._step_values or StepValues()
            with torch.autocast(tensor.device.type, enabled=False):
                self._runner.run(metric_run, replace(context, activations={name: tensor.detach()}), self._step_values)
                if self._defers:
                    self._deferred.record_versions(self._step_values)
                else:
                    self._step_values.count_histograms()  # count now: the next layer may change the tensor in place

    def _on_model_forward(self, module: nn.Module, args: Any, outputs: Any) -> None:
        if self._model.training and not torch.compiler.is_compiling():
            self._remove()


def _modules_of(
    metric_runs: Sequence[MetricRun], model: nn.Module, reducer: Reducer | None
) -> dict[MetricRun, dict[str, nn.Module]]:
    """The selected modules of each metric run.

    A regex may match on other ranks only, because pipeline stages have different modules.
    """
    regexes = [getattr(metric_run.spec.metric, "modules", None) for metric_run in metric_runs]
    modules_by_run = [_modules(model, regex) for regex in regexes]
    local_matches = {str(index) for index, modules in enumerate(modules_by_run) if modules}
    global_matches = reducer.union(local_matches) if reducer is not None and metric_runs else local_matches
    for index, regex in enumerate(regexes):
        if regex is not None and str(index) not in global_matches:
            raise ConfigError(
                f"activations.modules must match at least one module's name, got {regex!r};"
                f" near names: {', '.join(near(regex, [*_modules(model, '')]))}"
            )
    return dict(zip(metric_runs, modules_by_run, strict=True))


def _modules(model: nn.Module, regex: str | None) -> dict[str, nn.Module]:
    """The modules selected by the regex, by clean name. Without a regex: the model's layers."""
    paths = [(path, module) for path, module in without_parametrizations(model) if path]
    cleaned = clean_parameter_names([f"{path}._" for path, _ in paths], model)
    modules_by_name = {
        name.removesuffix("._"): module for name, (_, module) in zip(cleaned, paths, strict=True) if name.endswith("._")
    }
    if regex is not None:
        return {name: module for name, module in modules_by_name.items() if re.search(regex, name)}
    parameters = clean_parameter_names([name for name, _ in model.named_parameters()], model)
    layers = dict.fromkeys(layers_of(parameters))
    return {name: modules_by_name[name] for name in layers if name in modules_by_name}


def _first_tensor(outputs: Any) -> Tensor | None:
    """The first floating-point tensor in a module's output."""
    if isinstance(outputs, Tensor):
        return outputs if outputs.is_floating_point() else None
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, (tuple, list)) else ()
    return next((inner for part in parts if (inner := _first_tensor(part)) is not None), None)
