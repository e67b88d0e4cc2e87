"""Defines `preflight`, which checks a training on its first batches, before it begins."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tbx_callbacks import tags
from tbx_callbacks._config.validation import short
from tbx_callbacks._model.optimizers import named_optimizers
from tbx_callbacks._model.rows import fingerprints
from tbx_callbacks._wiring.batches import IGNORED, STEPS, Batches, are_class_labels
from tbx_callbacks._wiring.check import Check
from tbx_callbacks._wiring.wiring import Wiring
from tbx_callbacks.integrations.batches import labels_in, samples_in
from tbx_callbacks.integrations.restoration import put_back
from tbx_callbacks.rules.diagnose import Diagnosis, diagnose
from tbx_callbacks.rules.registry import GROUPS, RULES, create_rule
from tbx_callbacks.rules.wiring import ACCEPTED
from tbx_callbacks.runs.series import Run, Series, Texts

Loss = Callable[[nn.Module, Any], Any]
PREFLIGHT_CHECKS = ("padding_attended", "evaluation_rows_in_training")
"""Checks that no training makes by itself."""
_OF_TRAININGS = (
    "eval_mode_in_training",
    "gradients_not_cleared",
    "gradients_summed",
    "no_optimizer_step",
    "train_mode_in_evaluation",
    "weights_changed_outside",
)
"""Checks that need steps."""
_DECISIVE = (("first_loss_not_finite",), ("no_gradient",))
_MAX_BATCHES = 2000  # whose rows are compared
_TARGET = re.compile(r"Target -?\d+ is out of bounds\.")
_NOISE = 4.0  # a change is larger than that of two equal passes by this factor


@dataclass(frozen=True)
class Preflight:
    """What the checks found.

    Attributes:
        checks: the number and the details of each check, by name.
        diagnosis: the findings of the rules of the group `wiring`, the rules that could not judge, and the verdict.
    """

    checks: Mapping[str, tuple[float, str]]
    diagnosis: Diagnosis

    @property
    def run(self) -> Run:
        """The checks as a run with one point, at step 0."""
        return _run_of(self.checks)


def preflight(
    model: nn.Module,
    batches: Any,
    *,
    optimizers: Any = None,
    loss: Loss | None = None,
    evaluation: Iterable[Any] | None = None,
    tokenizer: Any = None,
) -> Preflight:
    """Checks a training on its first batches: forward and backward passes, but no step.

    Everything is put back bit for bit: weights, buffers, gradients, modes and attributes of the model, and the states
    of random generators (of Python, NumPy, torch, the data loader, its samplers and its dataset). The optimizers are
    not touched. Needs memory for a copy of the model.

    Args:
        model: the model.
        batches: a data loader of the training, or one of its batches.
        optimizers: the optimizer or the optimizers, if they exist already.
        loss: computes the loss of a batch, as `loss(model, batch)`; it may return `(loss, outputs)`. Default: the loss
            that the model returns for `model(**batch)`.
        evaluation: a data loader of the evaluation, to find its rows among those of the training.
        tokenizer: the tokenizer, to count unknown tokens.

    Raises:
        TypeError: the model is not a module, a loss cannot be computed, or the batches cannot be read again.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; pass the model that trains")
    for name, given in (("batches", batches), ("evaluation", evaluation)):
        if isinstance(given, Iterator):
            raise TypeError(f"{name} must be iterable again, got {type(given).__name__}; pass the data loader")
    compute = loss or loss_of_model
    with put_back(model, batches, evaluation):
        model.train()
        first = list(itertools.islice(_batches(batches), STEPS))
        if not first:
            raise TypeError(f"batches must hold at least one batch, got {short(batches)}; pass the data loader")
        checks, num_classes = _check_passes(model, first, compute, optimizers, tokenizer)
        outside = checks.get("labels_out_of_range", Check(0))
        if not float(outside.number) or outside.details == ACCEPTED:
            checks.update(_check_padding(model, first, compute))
        if not _is_batch(batches):
            checks.update(_check_data(model, batches, evaluation, num_classes, compute))
    numbers = {name: (float(check.number), check.details) for name, check in checks.items()}
    known = {name: number for name, number in numbers.items() if number[0] >= 0}
    rules = {name: create_rule(name, RULES[name]) for name in GROUPS["wiring"] if name not in _OF_TRAININGS}
    return Preflight(known, diagnose(_run_of(known), rules, decisive=_DECISIVE))


def _run_of(checks: Mapping[str, tuple[float, str]]) -> Run:
    step, time = np.array([0], np.int64), np.array([0.0])
    return Run(
        {f"{tags.WIRING}/{name}": Series(step, np.array([number]), time) for name, (number, _) in checks.items()},
        texts={
            f"{tags.WIRING}/{name}/details": Texts(step, (details,), time)
            for name, (_, details) in checks.items()
            if details
        },
    )


def _check_passes(
    model: nn.Module, batches: Sequence[Any], compute: Loss, optimizers: Any, tokenizer: Any
) -> tuple[dict[str, Check], int | None]:
    """Runs a forward and a backward pass for each batch; returns what the checks of a training find in them.

    The second result is the number of classes, if it is known and the loss has no others.
    """
    errors: list[BaseException] = []
    gradients = _Gradients(model)
    known = {} if optimizers is None else named_optimizers(optimizers)
    is_whole = not any(isinstance(parameter, DTensor) for parameter in model.parameters())
    parameters = dict(model.named_parameters()) if is_whole else {}
    wiring = Wiring(model, known, parameters, unknown_token=_unknown_token(tokenizer), on_error=errors.append)
    wiring.watch_layers()
    labels: Any = None
    accepted = 0  # labels outside of the classes that are no error: the loss ignores them, or has other classes
    has_failed = False
    try:
        for batch in batches:
            labels = labels_in(batch)
            wiring.add_labels(labels)
            if compute is loss_of_model and _outside(labels, wiring.num_classes):
                break  # a forward pass would be an error, which on CUDA ends the process
            _run_batch(model, batch, compute, wiring, gradients)
            accepted += _outside(labels, wiring.num_classes)
    except (IndexError, RuntimeError) as error:
        # The number of classes may be known from the logits now; torch's cross entropy knows it in any case.
        number = _outside(labels, wiring.num_classes)
        if not number and not _TARGET.fullmatch(str(error)):
            raise
        wiring.add("labels_out_of_range", Check(number or 1))
        has_failed = True
    finally:
        gradients.put_back()
        checks = wiring.end()
    if errors:
        raise errors[0]
    if not accepted:
        return checks, wiring.num_classes
    if not has_failed:
        checks["labels_out_of_range"] = Check(accepted, ACCEPTED)
    return checks, None


def _run_batch(model: nn.Module, batch: Any, compute: Loss, wiring: Wiring, gradients: _Gradients) -> None:
    """Runs a forward and a backward pass, and shows them to the checks."""
    result = compute(model, batch)
    value, outputs = result if isinstance(result, tuple) else (result, None)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise TypeError(f"loss must return a tensor with one element, got {short(value)}; reduce it")
    if outputs is not None:
        wiring.add_predictions(outputs, labels_in(batch))
    wiring.add_loss(value)
    wiring.add_batch(value, samples_in(batch))
    if value.requires_grad:
        gradients.clear(value)
        value.backward()
    wiring.add_backward()
    gradients.clear(value)


def _check_padding(model: nn.Module, batches: Sequence[Any], compute: Loss) -> dict[str, Check]:
    """Changes the embeddings at padded positions: the loss must not change, in evaluation mode.

    Not by a bit: a masked position has the weight 0. Only what changes between two equal passes is noise. The token ids
    stay as they are, because some models look for padding among them. Not judged for a model that cannot be evaluated.
    """
    model.eval()
    for batch in batches:
        padded = _padded(model, batch)
        if padded is None:
            continue
        try:
            with torch.no_grad():
                before, again = (_loss_of(compute, model, batch) for _ in range(2))
                with _other_embeddings(model, batch["input_ids"], padded) as changes:
                    after = _loss_of(compute, model, batch)
        except Exception:  # a loss may exist in training mode only
            return {}
        changed = abs(float(after - before)) > _NOISE * abs(float(again - before))
        if not changes or (not changed and before.dtype.itemsize < 4):  # rounding may hide a change
            return {}
        details = f"{float(before):.9g} becomes {float(after):.9g}"
        return {"padding_attended": Check(int(padded.sum()) if changed else 0, details)}
    return {}


def _loss_of(compute: Loss, model: nn.Module, batch: Any) -> Tensor:
    """Returns the loss of a batch; each call sees the same random numbers."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        result = compute(model, batch)
    loss: Tensor = result[0] if isinstance(result, tuple) else result
    return loss


def _padded(model: nn.Module, batch: Any) -> Tensor | None:
    """Returns which positions of a batch's token ids are padding; None without padding."""
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.ndim != 2:
        return None
    padded = _ends_with(ids, _padding_token(model))
    mask = batch.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == ids.shape:
        padded = padded | (mask == 0)
    return padded if 0 < int(padded.sum()) < padded.numel() else None


@contextlib.contextmanager
def _other_embeddings(model: nn.Module, ids: Tensor, padded: Tensor) -> Iterator[list[nn.Module]]:
    """Gives padded positions the embedding of another token; yields the embeddings that did so."""
    row, column = (int(index) for index in (~padded).nonzero()[-1])
    changed: list[nn.Module] = []

    def change(module: nn.Module, args: Any, output: Any) -> Any:
        given = args[0] if args else None
        if not isinstance(given, Tensor) or given.shape != ids.shape or not torch.equal(given, ids.to(given.device)):
            return output
        changed.append(module)
        return torch.where(padded.to(output.device)[..., None], output[row, column], output)

    handles = [module.register_forward_hook(change) for module in model.modules() if isinstance(module, nn.Embedding)]
    try:
        yield changed
    finally:
        for handle in handles:
            handle.remove()


def _padding_token(model: nn.Module) -> int | None:
    """Returns the id of padding from the model's configuration, unless other tokens share it (GPT-2)."""
    config = getattr(model, "config", None)
    ids = [getattr(config, f"{name}_token_id", None) for name in ("pad", "eos", "bos")]
    return ids[0] if isinstance(ids[0], int) and ids[0] not in ids[1:] else None


def _ends_with(ids: Tensor, token: int | None) -> Tensor:
    """Returns for each position of `[rows, length]` whether it belongs to the row's run of a token at its end."""
    if token is None:
        return torch.zeros_like(ids, dtype=torch.bool)
    return (ids == token).flip(-1).cumprod(-1).flip(-1).bool()


def _check_data(
    model: nn.Module,
    batches: Iterable[Any],
    evaluation: Iterable[Any] | None,
    num_classes: int | None,
    compute: Loss,
) -> dict[str, Check]:
    """Looks at the labels and the rows of all batches."""
    rows: list[list[int] | None] = []
    every = Batches(model)
    outside: Any = None  # the first batch with a label that is no class
    for batch in itertools.islice(_batches(batches), _MAX_BATCHES):
        rows.append(_fingerprints(batch))
        every.add_labels(labels_in(batch), num_classes)
        every.add_samples(samples_in(batch))
        if outside is None and _outside(labels_in(batch), num_classes):
            outside = batch
    checks = {name: check for name, check in every.result().items() if name.startswith("labels_")}
    if outside is not None and _accepts(model, outside, compute):
        checks["labels_out_of_range"] = Check(checks["labels_out_of_range"].number, ACCEPTED)
    if any(each is None for each in rows):
        return checks
    known = [each for each in rows if each]
    if len(known) > 2:
        sets = [set(each) for each in known]
        same = len(known) if all(each == sets[0] for each in sets) else 0
        checks["repeated_batches"] = Check(same, f"{len(sets[0])} rows")
    if evaluation is not None:
        training = set().union(*known)
        others = [_fingerprints(batch) for batch in itertools.islice(_batches(evaluation), _MAX_BATCHES)]
        evaluated = [row for batch in others for row in batch or ()]
        if evaluated:
            shared = sum(row in training for row in evaluated)
            checks["evaluation_rows_in_training"] = Check(shared / len(evaluated), f"{shared} of {len(evaluated)} rows")
    return checks


def _accepts(model: nn.Module, batch: Any, compute: Loss) -> bool:
    """Whether the loss of a batch can be computed. Only tried on a CPU: elsewhere an error may end the process."""
    if any(parameter.device.type != "cpu" for parameter in model.parameters()):
        return False
    try:
        with torch.no_grad():
            compute(model, batch)
    except Exception:
        return False
    return True


class _Gradients:
    """Keeps the gradients of tensors outside of the model, such as the parameters of a loss function."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._known = set(map(id, model.parameters()))
        self._others: list[tuple[Tensor, Tensor | None]] = []

    def clear(self, loss: Tensor) -> None:
        """Removes the gradients of every tensor that a loss depends on."""
        for tensor in _leaves(loss):
            if id(tensor) not in self._known:
                self._known.add(id(tensor))
                self._others.append((tensor, tensor.grad))
        for tensor in (*self._model.parameters(), *(tensor for tensor, _ in self._others)):
            tensor.grad = None

    def put_back(self) -> None:
        """Restores the gradients of the tensors outside of the model."""
        for tensor, gradient in self._others:
            tensor.grad = gradient


def _leaves(loss: Tensor) -> Iterator[Tensor]:
    """Yields the tensors whose gradients the backward pass of a loss writes."""
    pending, seen = [loss.grad_fn], set[Any]()
    while pending:
        node: Any = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            yield leaf
        pending += [inner for inner, _ in node.next_functions]


def _outside(labels: Any, num_classes: int | None) -> int:
    """Returns the number of labels that are no classes; 0 if it is not known."""
    if num_classes is None or not are_class_labels(labels):
        return 0
    return int(((labels != IGNORED) & ((labels < 0) | (labels >= num_classes))).sum())


def _fingerprints(batch: Any) -> list[int] | None:
    """Returns one fingerprint for each row of a batch's inputs; None if the rows are not known."""
    size = samples_in(batch)
    found = None if size is None else fingerprints(batch, labels_in(batch), size)
    return None if found is None else found.tolist()


def _is_batch(batches: Any) -> bool:
    """Whether this is one batch: a mapping, a tensor, or a sequence of tensors."""
    if isinstance(batches, (Mapping, Tensor)):
        return True
    return isinstance(batches, (list, tuple)) and bool(batches) and all(isinstance(part, Tensor) for part in batches)


def _batches(batches: Any) -> Iterator[Any]:
    return iter([batches]) if _is_batch(batches) else iter(batches)


def loss_of_model(model: nn.Module, batch: Any) -> Any:
    """Returns the loss and the outputs of `model(**batch)`.

    Raises:
        TypeError: the batch is no mapping, or the model returns no loss.
    """
    if not isinstance(batch, Mapping):
        raise TypeError(
            f"loss must be given for batches of type {type(batch).__name__}; pass loss=..., a function of model and"
            " batch"
        )
    device = next(model.parameters()).device
    outputs = model(**{name: part.to(device) if isinstance(part, Tensor) else part for name, part in batch.items()})
    value = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if value is None:
        raise TypeError(
            "loss must be given for a model that returns none; pass loss=..., a function of model and batch"
        )
    return value, outputs


def _unknown_token(tokenizer: Any) -> int | None:
    token = getattr(tokenizer, "unk_token_id", None)
    return token if isinstance(token, int) else None
