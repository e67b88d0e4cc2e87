"""Defines `Wiring`, which runs the checks of one training and collects their results."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tbx_callbacks._model.adapters import count_trained
from tbx_callbacks._model.forward_hooks import Hook, before_forward, on_forward
from tbx_callbacks._model.outputs import loss_in
from tbx_callbacks._stats.types import Number
from tbx_callbacks._wiring.batches import STEPS, Batches, classes_of
from tbx_callbacks._wiring.check import Check
from tbx_callbacks._wiring.gradient_scale import GradientScale
from tbx_callbacks._wiring.kept_gradients import KeptGradients
from tbx_callbacks._wiring.loss_graph import inputs_of_cross_entropy, is_mean_cross_entropy, maximised
from tbx_callbacks._wiring.missing_gradients import MissingGradients
from tbx_callbacks._wiring.modes import Modes
from tbx_callbacks._wiring.optimized_parameters import compare
from tbx_callbacks._wiring.outside_changes import OutsideChanges
from tbx_callbacks._wiring.shared_gradients import SharedGradients

_MAX_COPIED = 4096  # elements of a parameter
_MAX_RESTARTS = 3  # of the first steps, because parameters changed
T = TypeVar("T")


class Wiring:
    """Runs the checks: most of them in the first steps of a training, the others in every step.

    An error ends the checks, not the training.

    Args:
        model: the model.
        optimizers: its optimizers by name; they may change while the training runs.
        parameters: the model's parameters by name, whose gradients can be read; empty where they cannot.
        compiled: whether the model is compiled. Its graph and its modules are not looked at then.
        unknown_token: the id of unknown tokens; None if it is not known.
        on_error: called with an error, which ends the checks.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Mapping[str, torch.optim.Optimizer],
        parameters: Mapping[str, Tensor],
        *,
        compiled: bool = False,
        unknown_token: int | None = None,
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._optimizers, self._parameters, self._on_error = optimizers, dict(parameters), on_error
        self._num_classes, self._compiled = classes_of(model), compiled
        self._model = weakref.ref(model)
        self.is_open = True
        """Whether the first steps are not over. Batches are only needed then."""
        self.watches_steps = bool(parameters)
        """Whether `before_step` is needed in every step."""
        self._steps: set[int] = set()
        self._stepped: set[str] = set()
        self._ready: dict[str, Check] = {}
        self._labels: Any = None
        self._ran_eagerly = self._saw_labels = False
        self._reported = 0  # micro-batches since the last step
        self._is_cross_entropy = self._has_first_loss = False
        self._signs: list[Number] = []  # of losses; 0 if a part is minimised
        self._batches = Batches(model, unknown_token=unknown_token)
        self._gradients = MissingGradients(parameters)
        self._kept, self._scale, self._shared = KeptGradients(), GradientScale(), SharedGradients()
        self._restarts = 0
        self._owners_since: set[int] | None = None  # steps since parameters changed, whose owners are not judged yet
        self._maximizes: list[bool] = []  # whether an optimizer maximises, by step
        self._first_weights = _small_weights(self._parameters)
        self._modes, self._changes = Modes(model), OutsideChanges()
        self._hooks: list[Any] = [on_forward(model, _Pass(self._on_forward), compiled=compiled)]
        self._pass_hook: Any = None

    # -- what happens in the training --------------------------------------------------------------------------------

    def add_labels(self, labels: Any) -> None:
        """The labels of a batch are known, before its forward pass."""
        if self.is_open and labels is not None:
            self._labels, self._saw_labels = labels, True
            self._try(lambda: self._batches.add_labels(labels, self._num_classes))

    def add_predictions(self, outputs: Any, labels: Any) -> None:
        """The outputs and labels of a batch are known, after its step."""
        if self.is_open and not self._saw_labels:
            self._try(lambda: self._add_predictions(outputs, labels))

    def add_loss(self, loss: Any) -> None:
        """The loss of a micro-batch is known, with its graph, before its backward pass."""
        if self.is_open and not self._compiled:
            self._try(lambda: self._read_graph(loss))

    def add_batch(self, loss: Any, samples: int | None) -> None:
        """A micro-batch is over. `loss` may have its graph."""
        if self.is_open:
            self._try(lambda: self._add_batch(loss, samples))

    def add_evaluation(self) -> None:
        """The numbers of an evaluation were logged."""
        self._modes.add_evaluation()

    def watch_evaluations(self) -> None:
        """Counts forward passes without gradients until the end; only needed where the user evaluates in a loop."""
        model = self._model()
        if model is not None and self._pass_hook is None:
            self._pass_hook = before_forward(model, _Evaluations(self._modes), compiled=self._compiled)

    def before_step(self, name: str, step: int) -> None:
        """An optimizer's step begins."""
        try:
            self._changes.before_step(name, step)
        except Exception as error:
            self._fail(error)

    def after_step(self, name: str, optimizer: torch.optim.Optimizer, step: int) -> None:
        """An optimizer's step has ended."""
        try:
            if self.watches_steps:
                self._changes.after_step(name, optimizer)
                self._modes.add_step(step)
            if self.is_open:
                self._add_step(name, optimizer, step)
            elif self._owners_since is not None:
                self._add_step_of_changed(name, optimizer, step)
        except Exception as error:
            self._fail(error)

    def watch_layers(self) -> None:
        """Watches which layers run; only needed where no second step follows."""
        self._gradients.watch(self._model())

    def add_backward(self) -> None:
        """A backward pass is over, and no step follows: the gradients are looked at now."""
        self._gradients.add_backward()
        for optimizer in self._optimizers.values():
            self._gradients.add_step(optimizer)
        self._stepped.update(self._optimizers)
        self._steps.add(len(self._steps))

    @property
    def num_classes(self) -> int | None:
        """The number of classes of a classifier, if it is known."""
        return self._batches.num_classes or self._num_classes

    def add(self, name: str, check: Check) -> None:
        """Adds the result of a check that was made elsewhere."""
        self._ready[name] = check

    def changed(self, parameters: Mapping[str, Tensor]) -> None:
        """The model or an optimizer has other parameters now: the next steps judge them."""
        self._parameters = dict(parameters)
        self._changes.forget()
        self._gradients.end()
        self._gradients = MissingGradients(parameters)  # ids that it knows may be of other tensors now
        self._stepped.clear()
        if self.is_open and self._restarts < _MAX_RESTARTS:
            self._restarts += 1
            self._kept.end()
            self._kept, self._shared = KeptGradients(), SharedGradients()
            self._steps.clear()
            self._reported = 0
            return
        if self.is_open:
            self._close(judges=False)
        if self._parameters and self._optimizers:
            self._owners_since = set()

    # -- results -----------------------------------------------------------------------------------------------------

    def take(self) -> dict[str, Check]:
        """Returns the results since the last call, at the end of a step."""
        if self.is_open and len(self._steps) >= STEPS:
            self._try(lambda: self._close(judges=True))
        taken, self._ready = self._ready, {}
        for part in (self._modes, self._changes):
            taken.update(part.take())
        return taken

    def end(self) -> dict[str, Check]:
        """Ends the checks, and returns the results that are left."""
        if self.is_open:
            self._try(lambda: self._close(judges=bool(self._steps)))
        elif self._owners_since:
            self._try(self._judge_owners)
        self.detach()
        return self.take()

    def have_weights_changed(self) -> bool:
        """Whether some small weights are others than at the start, whoever has changed them."""
        try:
            # A model that was moved or converted has the same weights.
            return any(not torch.equal(now.detach(), before.to(now)) for now, before in self._first_weights)
        except Exception as error:
            self._fail(error)
            return False

    def detach(self) -> None:
        """Removes every hook."""
        for part in (self._kept, self._scale):
            part.end()
        self._remove_hooks()
        if self._pass_hook is not None:
            self._pass_hook.remove()
            self._pass_hook = None

    # -- private -----------------------------------------------------------------------------------------------------

    def _on_forward(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any], outputs: Any) -> None:
        self._ran_eagerly = True
        if self.is_open and module.training and torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1:
            self._try(lambda: self._add_outputs(args, kwargs, outputs))

    def _add_outputs(self, args: Any, kwargs: Mapping[str, Any], outputs: Any) -> None:
        labels, self._labels = self._labels, None
        loss = loss_in(outputs, keeps_graph=True)
        if labels is None and (labels := kwargs.get("labels")) is not None:
            self._saw_labels = True
            self._batches.add_labels(labels, self._num_classes)
        self._batches.add_outputs(outputs, labels)
        self._batches.add_tokens(kwargs.get("input_ids"))
        self._batches.add_inputs(*_inputs_of(args, kwargs))
        if not self._compiled:
            self._scale.add_outputs(outputs)
            self._read_inputs_of_loss(loss)
        self._add_loss(loss)

    def _add_predictions(self, outputs: Any, labels: Any) -> None:
        self._batches.add_labels(labels, None)
        self._batches.add_outputs(outputs, labels)

    def _read_graph(self, loss: Any) -> None:
        """Reads the graph of the loss that the training minimises.

        `first_loss` is that of the first batch, if it is a mean cross entropy and nothing else. A model's own loss may
        be another one than that of the training.
        """
        self._read_inputs_of_loss(loss)
        if isinstance(loss, Tensor) and not self._has_first_loss:
            self._has_first_loss = True
            if is_mean_cross_entropy(loss):
                first = loss.detach().reshape(()).float()
                self._ready["first_loss"] = Check(torch.where(torch.isfinite(first), first, -1.0))
        if isinstance(loss, Tensor) and loss.grad_fn is not None:
            self._signs += [check.number for check in maximised(loss).values()]

    def _read_inputs_of_loss(self, loss: Any) -> None:
        """Reads the graph of a loss, whatever becomes of it: a model's own may enter with any factor."""
        if isinstance(loss, Tensor) and loss.grad_fn is not None and not self._is_cross_entropy:
            checks = inputs_of_cross_entropy(loss)
            self._is_cross_entropy = "double_softmax" in checks
            self._ready.update(checks)

    def _add_batch(self, loss: Any, samples: int | None) -> None:
        self._labels, self._saw_labels = None, False
        if not self._compiled:
            self._read_graph(loss)
        self._reported += 1
        self._batches.add_samples(samples)
        self._add_loss(loss)

    def _add_loss(self, loss: Any) -> None:
        if isinstance(loss, Tensor):
            is_mean = not self._compiled and is_mean_cross_entropy(loss)
            checks = self._batches.add_loss(loss, is_cross_entropy=self._is_cross_entropy, is_mean=is_mean)
            self._ready.update(checks)

    def _add_step(self, name: str, optimizer: torch.optim.Optimizer, step: int) -> None:
        self._steps.add(step)
        self._stepped.add(name)
        self._maximizes.append(all(group.get("maximize") for group in optimizer.param_groups))
        self._batches.accept_labels()
        if self._parameters:
            self._shared.add_step(name, optimizer)
            # Where each pass is a micro-batch that was reported; tasks that are added on purpose are not.
            passes = self._kept.passes if self._reported == self._kept.passes else 0
            self._reported = 0
            kept = self._kept.share_kept()
            self._gradients.add_step(optimizer)
            if self._ran_eagerly:
                self._gradients.watch(self._model())
            self._kept.add_step(optimizer)
            self._scale.add_step(passes, kept=kept)

    def _add_step_of_changed(self, name: str, optimizer: torch.optim.Optimizer, step: int) -> None:
        assert self._owners_since is not None
        self._owners_since.add(step)
        self._stepped.add(name)
        self._gradients.add_step(optimizer)
        if len(self._owners_since) >= STEPS:
            self._judge_owners()

    def _judge_owners(self) -> None:
        """Compares the model with its optimizers after a change."""
        self._owners_since = None
        found = self._gradients.with_gradient
        self._ready.update(compare(self._parameters, self._optimizers, with_gradient=found, stepped=self._stepped))

    def _close(self, *, judges: bool) -> None:
        self.is_open = False
        if judges and self._parameters:
            self._ready.update(self._gradients.result())
            self._ready.update(self._kept.result())
            self._ready.update(self._scale.result())
        if judges and self._parameters and self._optimizers:
            found = self._gradients.with_gradient
            self._ready.update(compare(self._parameters, self._optimizers, with_gradient=found, stepped=self._stepped))
            self._ready.update(self._shared.result(self._parameters))
        self._add_sign()
        self._add_adapters()
        self._ready.update(self._batches.result())
        for part in (self._kept, self._scale):
            part.end()
        if self._ran_eagerly:  # else the model may be compiled: to remove a hook would compile it again
            self._remove_hooks()

    def _add_sign(self) -> None:
        """Adds the sign of the losses: from their graphs, else from the gradients of logits."""
        if self._signs:
            self._ready["loss_maximised"] = Check(0.0 if 0 in self._signs else 1.0)
        if len(self._stepped) > 1:  # adversaries maximise what others minimise
            self._ready.pop("loss_maximised", None)
        if "loss_maximised" in self._ready and any(self._maximizes):
            number = self._ready["loss_maximised"].number
            judged = torch.as_tensor(number)
            other = torch.where(judged < 0, judged, 1 - judged)
            self._ready["loss_maximised"] = Check(other if all(self._maximizes) else -1.0)

    def _add_adapters(self) -> None:
        """Adds the number of trainable parameters of adapters, if there are any: no problem, but rules must know it."""
        model = self._model()
        if model is not None and (number := count_trained(model)):
            self._ready["adapters"] = Check(number)

    def _remove_hooks(self) -> None:
        self._gradients.end()
        while self._hooks:
            self._hooks.pop().remove()

    def _try(self, work: Callable[[], T]) -> None:
        try:
            work()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self.is_open = self.watches_steps = False
        self.detach()
        self._on_error(error)


class _Pass(Hook):
    """A hook without effect in a graph that the user compiles or traces, and within transforms of `torch.func`."""

    def __call__(self, *args: Any) -> None:
        if torch.compiler.is_compiling():  # dynamo traces no more than this line
            return
        if not torch._C._is_tracing() and torch._C._functorch.peek_interpreter_stack() is None:
            self._function(*args)


class _Evaluations(Hook):
    """Counts forward passes without gradients, by the mode of the model; see `_Pass`."""

    def __init__(self, modes: Modes) -> None:
        self._modes = modes

    def __call__(self, module: nn.Module, *_: Any) -> None:
        # In this order: a pass of the training costs one call, and dynamo traces no more than this line.
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return
        if not torch._C._is_tracing() and torch._C._functorch.peek_interpreter_stack() is None:
            self._modes.add_pass(module)


def _small_weights(parameters: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Returns the smallest trainable parameters with a copy of each."""
    trained = [tensor for tensor in parameters.values() if tensor.requires_grad and 0 < tensor.numel() <= _MAX_COPIED]
    return [(tensor, tensor.detach().clone()) for tensor in sorted(trained, key=Tensor.numel)[:3]]


def _inputs_of(args: Any, kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Returns the tensors among the arguments of a forward pass, and in mappings among them; not the labels."""
    inputs: list[Tensor] = []
    for name, value in (*enumerate(args), *kwargs.items()):
        parts = value if isinstance(value, Mapping) else {name: value}
        inputs += [part for key, part in parts.items() if key != "labels" and isinstance(part, Tensor)]
    return inputs
