"""Defines the rules that read the checks of the metric `wiring`: how a training is put together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks._text import plural
from tbx_callbacks.rules.base import Finding, Rule, Severity
from tbx_callbacks.rules.required_series import Need
from tbx_callbacks.rules.series_stats import median, noise
from tbx_callbacks.rules.training_loss import training_loss
from tbx_callbacks.runs.series import Run, Series

ACCEPTED = "the loss accepts them"
"""Details of labels that are no class and no error: a loss may ignore them, clamp them, or have other classes."""
_TORCH = "docs.pytorch.org/docs/stable"


def _need(check: str, metric: str = "wiring") -> tuple[Need, ...]:
    return (Need(f"the check {check}", metric, (f"{tags.WIRING}/{check}",)),)


class _Number(float):
    """What a check found, with the words that go with it."""

    def __format__(self, spec: str) -> str:
        of_one, bar, of_many = spec.partition("|")
        number = float(self)
        if bar:
            return of_one if number == 1 else of_many
        return f"{number:.4g} {plural(spec, is_one=number == 1)}" if spec else f"{number:.4g}"


class _CheckRule(Rule):
    """A rule that reads one check: a number above 0 is a finding.

    A subclass sets `severity`, and `means` and `advice`, in which `{number}` (or `{share}`), `{details}` and `{steps}`
    are replaced by what the check found. `{number:layer}` is `1 layer` or `2 layers`; `{number:is|are}` is `is` for 1.
    """

    severity: ClassVar[Severity] = "warning"
    means: ClassVar[str]
    advice: ClassVar[str]

    def __call__(self, run: Run) -> Iterator[Finding]:
        found = self.needs[0].first(run)
        if found is None:
            return
        tag, series = found
        steps = np.asarray(series.steps)[self.is_wrong(series)]
        if len(steps):
            yield self._finding(run, tag, series, [int(step) for step in steps])

    def is_wrong(self, series: Series) -> np.ndarray:
        """Returns for each point whether it is wrong."""
        return np.asarray(series.values) > 0

    def severity_of(self, series: Series, run: Run) -> Severity:
        """Returns how bad the finding is."""
        return self.severity

    def _finding(self, run: Run, tag: str, series: Series, steps: list[int]) -> Finding:
        number = float(series.values[list(series.steps).index(steps[-1])])
        texts = run.texts.get(f"{tag}/details")
        known = (
            [] if texts is None else [text for at, text in zip(texts.steps, texts.values, strict=True) if at in steps]
        )
        details = known[0] if known else "another rank names them"
        at = f"at step {steps[0]}" if steps[0] == steps[-1] else f"from step {steps[0]} to step {steps[-1]}"
        return Finding(
            id=self.id,
            severity=self.severity_of(series, run),
            tags=(tag,),
            steps=tuple(steps),
            numbers={tag: number},
            means=self.means.format(number=_Number(number), share=f"{number:.1%}", details=details, steps=at),
            advice=self.advice,
            source=self.source,
        )


@dataclass(frozen=True)
class ParameterNotOptimized(_CheckRule):
    """A trainable parameter gets gradients, and no optimizer trains it."""

    id: ClassVar[str] = "parameter_not_optimized"
    code: ClassVar[str] = "TBX-WIRE-001"
    needs: ClassVar[tuple[Need, ...]] = _need("parameter_not_optimized")
    source: ClassVar[str] = f"PyTorch, per-parameter options: {_TORCH}/optim.html"

    def is_wrong(self, series: Series) -> np.ndarray:
        values = np.asarray(series.values)
        return np.asarray((values > 0) & (values[-1] > 0))  # an optimizer may get them later

    means: ClassVar[str] = (
        "{number:parameter} {number:gets|get} gradients and {number:belongs|belong} to no optimizer:"
        " {details}. Nothing trains {number:it|them}."
    )
    advice: ClassVar[str] = (
        "Create the optimizer after the last change of the model. Freeze parameters that should not train: "
        "requires_grad_(False) saves their gradients."
    )


@dataclass(frozen=True)
class ParameterInTwoOptimizers(_CheckRule):
    """Two optimizers update the same parameter with the same gradient."""

    id: ClassVar[str] = "parameter_in_two_optimizers"
    code: ClassVar[str] = "TBX-WIRE-002"
    needs: ClassVar[tuple[Need, ...]] = _need("parameter_in_two_optimizers")
    source: ClassVar[str] = f"PyTorch, torch.optim: {_TORCH}/optim.html"
    means: ClassVar[str] = (
        "Two optimizers update {number:parameter} with the same gradient: {details}. Each of them is moved twice in a "
        "step."
    )
    advice: ClassVar[str] = "Pass each parameter to one optimizer. Options of its own belong into a parameter group."


@dataclass(frozen=True)
class ParameterNotInModel(_CheckRule):
    """An optimizer has parameters that the model does not have and that get no gradient."""

    id: ClassVar[str] = "parameter_not_in_model"
    code: ClassVar[str] = "TBX-WIRE-003"
    needs: ClassVar[tuple[Need, ...]] = _need("parameter_not_in_model")
    source: ClassVar[str] = f"PyTorch, constructing an optimizer: {_TORCH}/optim.html"
    means: ClassVar[str] = (
        "{number:parameter} of the optimizer {number:belongs|belong} to no module of the model and {number:gets|get} no"
        " gradient: "
        "{details}. The model was changed or copied after the optimizer was made."
    )
    advice: ClassVar[str] = "Create the optimizer after the last change of the model."


@dataclass(frozen=True)
class NoGradient(_CheckRule):
    """Parameters from the first layer on get no gradient: the graph is cut behind them."""

    id: ClassVar[str] = "no_gradient"
    code: ClassVar[str] = "TBX-WIRE-004"
    needs: ClassVar[tuple[Need, ...]] = _need("no_gradient")
    source: ClassVar[str] = f"PyTorch, autograd mechanics: {_TORCH}/notes/autograd.html"
    means: ClassVar[str] = (
        "{number:trainable parameter} had no gradient in the first steps: {details}. The optimizer leaves "
        "them as they are."
    )
    advice: ClassVar[str] = (
        "Look for torch.no_grad() and detach() behind these layers. If all parameters are named, call "
        "loss.backward() before optimizer.step()."
    )


@dataclass(frozen=True)
class UnusedParameters(_CheckRule):
    """The loss does not depend on some trainable parameters."""

    id: ClassVar[str] = "unused_parameters"
    code: ClassVar[str] = "TBX-WIRE-005"
    needs: ClassVar[tuple[Need, ...]] = _need("unused_parameters")
    source: ClassVar[str] = f"PyTorch, autograd mechanics: {_TORCH}/notes/autograd.html"
    only_notes: ClassVar[bool] = True
    severity: ClassVar[Severity] = "note"
    means: ClassVar[str] = (
        "{number:trainable parameter} had no gradient in the first steps: {details}. The loss does not "
        "depend on them, as on a pooler that a task does not use."
    )
    advice: ClassVar[str] = "Check that the model does not need these layers for this task."


@dataclass(frozen=True)
class GradientsNotCleared(_CheckRule):
    """Gradients of a step are added to those of the next one."""

    id: ClassVar[str] = "gradients_not_cleared"
    code: ClassVar[str] = "TBX-WIRE-006"
    needs: ClassVar[tuple[Need, ...]] = _need("gradients_not_cleared")
    severity: ClassVar[Severity] = "error"
    source: ClassVar[str] = f"PyTorch, Optimizer.zero_grad: {_TORCH}/generated/torch.optim.Optimizer.zero_grad.html"
    means: ClassVar[str] = (
        "The gradients of a step are still there {steps}: every update uses the sum of all gradients since the start."
    )
    advice: ClassVar[str] = "Add optimizer.zero_grad() to each step, before the first backward pass."


@dataclass(frozen=True)
class NoOptimizerStep(_CheckRule):
    """No optimizer of the model has stepped in the whole training."""

    id: ClassVar[str] = "no_optimizer_step"
    code: ClassVar[str] = "TBX-WIRE-007"
    needs: ClassVar[tuple[Need, ...]] = _need("no_optimizer_step")
    source: ClassVar[str] = f"PyTorch, taking an optimization step: {_TORCH}/optim.html"
    severity: ClassVar[Severity] = "error"
    means: ClassVar[str] = "No optimizer of this model stepped in {number:micro-batch}: the model is untrained."
    advice: ClassVar[str] = (
        "Add optimizer.step() after loss.backward(). The optimizer must have the parameters of this model."
    )


@dataclass(frozen=True)
class EvalModeInTraining(_CheckRule):
    """The model trains in evaluation mode; a warning if it was in training mode before."""

    id: ClassVar[str] = "eval_mode_in_training"
    code: ClassVar[str] = "TBX-WIRE-008"
    needs: ClassVar[tuple[Need, ...]] = _need("eval_mode_in_training")
    source: ClassVar[str] = f"PyTorch, evaluation mode: {_TORCH}/notes/autograd.html"
    means: ClassVar[str] = (
        "The model trains in evaluation mode {steps}: dropout is off, and batch normalisation keeps its statistics."
    )
    advice: ClassVar[str] = "Add model.train() after each evaluation, unless you want evaluation mode."

    def severity_of(self, series: Series, run: Run) -> Severity:
        values = np.asarray(series.values)
        was_left = (np.diff(values) > 0).any() or 0 < values[0] < 1  # training mode was left, after an evaluation
        return "warning" if was_left else "note"


@dataclass(frozen=True)
class TrainModeInEvaluation(_CheckRule):
    """The model is evaluated in training mode, with dropout and with statistics of the batch."""

    id: ClassVar[str] = "train_mode_in_evaluation"
    code: ClassVar[str] = "TBX-WIRE-009"
    needs: ClassVar[tuple[Need, ...]] = _need("train_mode_in_evaluation", "wiring, with evaluations")
    source: ClassVar[str] = f"PyTorch, evaluation mode: {_TORCH}/notes/autograd.html"
    means: ClassVar[str] = (
        "The model was in training mode in the evaluation {steps}: dropout was active, and batch "
        "normalisation changed its statistics."
    )
    advice: ClassVar[str] = "Add model.eval() before each evaluation, and model.train() after it."


@dataclass(frozen=True)
class LabelsIgnored(_CheckRule):
    """Every label is -100, which the loss leaves out."""

    id: ClassVar[str] = "labels_ignored"
    code: ClassVar[str] = "TBX-WIRE-010"
    needs: ClassVar[tuple[Need, ...]] = _need("labels_ignored", "wiring, with labels (loop.end_step(labels=...))")
    source: ClassVar[str] = f"PyTorch, CrossEntropyLoss: {_TORCH}/generated/torch.nn.CrossEntropyLoss.html"
    severity: ClassVar[Severity] = "error"
    means: ClassVar[str] = (
        "Every label of the first batches is -100. Cross entropy leaves them out, so nothing is learned."
    )
    advice: ClassVar[str] = "Look at the labels of one batch after the collator. Truncation may remove them all."

    def is_wrong(self, series: Series) -> np.ndarray:
        return np.asarray(series.values) >= 1


@dataclass(frozen=True)
class LabelsOutOfRange(_CheckRule):
    """Labels are no class of the model; a note if the loss accepts them."""

    id: ClassVar[str] = "labels_out_of_range"
    code: ClassVar[str] = "TBX-WIRE-011"
    needs: ClassVar[tuple[Need, ...]] = _need("labels_out_of_range", "wiring, with labels (loop.end_step(labels=...))")
    source: ClassVar[str] = f"PyTorch, CrossEntropyLoss: {_TORCH}/generated/torch.nn.CrossEntropyLoss.html"
    severity: ClassVar[Severity] = "error"
    means: ClassVar[str] = (
        "{number:label} {number:is|are} negative, or not below the number of classes. The"
        " loss has no meaning, or is an error."
    )
    advice: ClassVar[str] = "Check that classes are numbered from 0, and that num_labels is their number."

    def severity_of(self, series: Series, run: Run) -> Severity:
        texts = run.texts.get(f"{tags.WIRING}/{self.id}/details")
        return "note" if texts is not None and ACCEPTED in texts.values else "error"


@dataclass(frozen=True)
class DoubleSoftmax(_CheckRule):
    """Cross entropy gets probabilities instead of logits."""

    id: ClassVar[str] = "double_softmax"
    code: ClassVar[str] = "TBX-WIRE-012"
    needs: ClassVar[tuple[Need, ...]] = _need("double_softmax", "wiring, with a cross entropy")
    source: ClassVar[str] = f"PyTorch, CrossEntropyLoss: {_TORCH}/generated/torch.nn.CrossEntropyLoss.html"
    means: ClassVar[str] = (
        "The loss gets probabilities ({details}) where it expects logits: gradients are small, and "
        "the loss cannot come near 0."
    )
    advice: ClassVar[str] = "Pass logits to the loss. Apply softmax or sigmoid for predictions only."


@dataclass(frozen=True)
class WeightsChangedOutside(_CheckRule):
    """Weights change between two steps; a warning if that raises the loss, as new random weights do."""

    id: ClassVar[str] = "weights_changed_outside"
    code: ClassVar[str] = "TBX-WIRE-013"
    needs: ClassVar[tuple[Need, ...]] = _need("weights_changed_outside")
    source: ClassVar[str] = f"PyTorch, autograd mechanics (in-place operations): {_TORCH}/notes/autograd.html"
    means: ClassVar[str] = (
        "Weights changed outside of the optimizer, {details} ({share} of the steps at that point). The "
        "optimizer's state belongs to the old weights."
    )
    advice: ClassVar[str] = (
        "Look for code that writes weights during the training. It may initialise, load or average them."
    )

    rise: float = 1.3  # of the loss, medians of 3 points before and after

    def severity_of(self, series: Series, run: Run) -> Severity:
        entry = training_loss(run)
        is_changed = np.asarray(series.values) > 0
        if is_changed.mean() > 0.5:  # a habit, as a mask is
            return "note"
        steps = np.asarray(series.steps)[is_changed]
        return "warning" if entry is not None and any(self._rises(entry[1], step) for step in steps) else "note"

    def _rises(self, loss: Series, step: int) -> bool:
        """Whether the loss is higher after a step than before it."""
        index = int(np.searchsorted(loss.steps, step))
        before, after = loss.values[max(0, index - 3) : index], loss.values[index : index + 3]
        if len(before) < 2 or len(after) < 2 or median(before) <= 0:
            return False
        height = median(after) - median(before)
        return height > (self.rise - 1) * median(before) and height > 3 * noise(loss.values)


@dataclass(frozen=True)
class FirstLossNotFinite(_CheckRule):
    """The loss of the first batch is NaN or infinite."""

    id: ClassVar[str] = "first_loss_not_finite"
    code: ClassVar[str] = "TBX-WIRE-014"
    needs: ClassVar[tuple[Need, ...]] = _need("first_loss_not_finite")
    source: ClassVar[str] = f"PyTorch, detecting anomalies: {_TORCH}/autograd.html"
    severity: ClassVar[Severity] = "error"
    means: ClassVar[str] = (
        "The loss of batch 1 is NaN or infinite: the data or the first weights are the cause, not the training."
    )
    advice: ClassVar[str] = "Look at the first batch: its inputs may hold NaN, and its labels may all be ignored."


@dataclass(frozen=True)
class GradientsSummed(_CheckRule):
    """Gradients of several micro-batches are added without division."""

    id: ClassVar[str] = "gradients_summed"
    code: ClassVar[str] = "TBX-WIRE-015"
    needs: ClassVar[tuple[Need, ...]] = _need("gradients_summed", "wiring, with accumulated gradients")
    source: ClassVar[str] = "Hugging Face 2024, Fixing Gradient Accumulation: huggingface.co/blog/gradient_accumulation"
    means: ClassVar[str] = (
        "Each step uses the sum of the gradients of {number} micro-batches: it is {number} times their mean, "
        "so the gradient norm and clipping depend on the number of micro-batches."
    )
    advice: ClassVar[str] = (
        "Divide the loss by the number of micro-batches before loss.backward()."
        " With the Hugging Face Trainer, set model.accepts_loss_kwargs = False instead."
    )


@dataclass(frozen=True)
class BatchNormSingle(_CheckRule):
    """Batch normalisation gets one sample at a time."""

    id: ClassVar[str] = "batch_norm_single"
    code: ClassVar[str] = "TBX-WIRE-016"
    needs: ClassVar[tuple[Need, ...]] = _need("batch_norm_single", "wiring, in a model with batch normalisation")
    source: ClassVar[str] = "Wu and He 2018, Group Normalization, arXiv:1803.08494"
    only_notes: ClassVar[bool] = True
    severity: ClassVar[Severity] = "note"
    means: ClassVar[str] = (
        "{number:batch normalisation} {number:gets|get} batches of one sample: the"
        " statistics are not those of the data."
    )
    advice: ClassVar[str] = "Use larger batches. GroupNorm does not depend on the batch."


@dataclass(frozen=True)
class FirstLossUnusual(_CheckRule):
    """The first loss is far above or below that of equal probabilities."""

    id: ClassVar[str] = "first_loss_unusual"
    code: ClassVar[str] = "TBX-WIRE-017"
    needs: ClassVar[tuple[Need, ...]] = _need("first_loss_unusual", "wiring, with a cross entropy")
    source: ClassVar[str] = "Karpathy 2019, A Recipe for Training Neural Networks, karpathy.github.io/2019/04/25/recipe"
    only_notes: ClassVar[bool] = True
    severity: ClassVar[Severity] = "note"
    means: ClassVar[str] = (
        "The loss of the first batch is {number} times that of equal probabilities ({details}). A new head "
        "begins near 1 times."
    )
    advice: ClassVar[str] = (
        "Check the initialisation and the scale of the inputs if it is above. Below, the head was trained "
        "before, or the inputs hold the labels."
    )

    above: float = 2.5
    below: float = 0.3

    def is_wrong(self, series: Series) -> np.ndarray:
        values = np.asarray(series.values)
        return (values > self.above) | (values < self.below)


@dataclass(frozen=True)
class PerfectAtOnce(_CheckRule):
    """Every prediction of the first steps is right."""

    id: ClassVar[str] = "perfect_at_once"
    code: ClassVar[str] = "TBX-WIRE-018"
    needs: ClassVar[tuple[Need, ...]] = _need(
        "perfect_at_once", "wiring, with outputs and labels (loop.end_step(outputs=..., labels=...))"
    )
    source: ClassVar[str] = "Kapoor and Narayanan 2023, Leakage and the Reproducibility Crisis, arXiv:2207.07048"
    only_notes: ClassVar[bool] = True
    severity: ClassVar[Severity] = "note"
    means: ClassVar[str] = (
        "{share} of the predictions in the first batches are right: the model could not have learned that yet."
    )
    advice: ClassVar[str] = "Check that the inputs do not contain the label."

    def is_wrong(self, series: Series) -> np.ndarray:
        return np.asarray(series.values) >= 1


@dataclass(frozen=True)
class UnknownTokens(_CheckRule):
    """Many tokens are unknown to the tokenizer."""

    id: ClassVar[str] = "unknown_tokens"
    code: ClassVar[str] = "TBX-WIRE-019"
    needs: ClassVar[tuple[Need, ...]] = _need(
        "unknown_tokens", "wiring, with a tokenizer (the Trainer's processing_class)"
    )
    source: ClassVar[str] = "Devlin et al. 2019, BERT, section 3, arXiv:1810.04805"
    only_notes: ClassVar[bool] = True
    severity: ClassVar[Severity] = "note"
    means: ClassVar[str] = (
        "{share} of the tokens of the first batches are unknown to the tokenizer, padding included. The "
        "model cannot tell these words apart."
    )
    advice: ClassVar[str] = (
        "Use the tokenizer of the model's checkpoint. The language and the case of the texts must fit it."
    )

    share: float = 0.1

    def is_wrong(self, series: Series) -> np.ndarray:
        return np.asarray(series.values) > self.share


@dataclass(frozen=True)
class LabelsSorted(_CheckRule):
    """The labels within most of the first batches are equal."""

    id: ClassVar[str] = "labels_sorted"
    code: ClassVar[str] = "TBX-WIRE-020"
    needs: ClassVar[tuple[Need, ...]] = _need("labels_sorted", "wiring, with labels (loop.end_step(labels=...))")
    source: ClassVar[str] = f"PyTorch, DataLoader (shuffle): {_TORCH}/data.html"
    only_notes: ClassVar[bool] = True
    severity: ClassVar[Severity] = "note"
    means: ClassVar[str] = (
        "The labels within a batch are all equal, in {share} of the first batches ({details}): the data is "
        "sorted by label, or nearly all of one class."
    )
    advice: ClassVar[str] = "Pass shuffle=True to the DataLoader of the training."

    share: float = 0.7  # of the batches

    def is_wrong(self, series: Series) -> np.ndarray:
        return np.asarray(series.values) >= self.share


@dataclass(frozen=True)
class PaddingAttended(_CheckRule):
    """The loss depends on the tokens at padded positions."""

    id: ClassVar[str] = "padding_attended"
    code: ClassVar[str] = "TBX-WIRE-021"
    needs: ClassVar[tuple[Need, ...]] = _need("padding_attended", "preflight")
    source: ClassVar[str] = "Hugging Face, attention mask: huggingface.co/docs/transformers/glossary#attention-mask"
    means: ClassVar[str] = (
        "The loss changes when other tokens stand at {number:padded position} ({details}): the model "
        "attends to padding."
    )
    advice: ClassVar[str] = "Pass attention_mask to the model. Pooling and loss must leave padded positions out."


@dataclass(frozen=True)
class EvaluationRowsInTraining(_CheckRule):
    """Rows of the evaluation are among those of the training."""

    id: ClassVar[str] = "evaluation_rows_in_training"
    code: ClassVar[str] = "TBX-WIRE-022"
    needs: ClassVar[tuple[Need, ...]] = _need("evaluation_rows_in_training", "preflight")
    source: ClassVar[str] = "Kapoor and Narayanan 2023, Leakage and the Reproducibility Crisis, arXiv:2207.07048"
    means: ClassVar[str] = (
        "{details} of the evaluation have the inputs of a row of the training ({share}): the evaluation is "
        "too good by what the model remembers."
    )
    advice: ClassVar[str] = "Find and remove duplicates before the data is split."

    share: float = 0.05  # a lower one is a note: short texts repeat

    def severity_of(self, series: Series, run: Run) -> Severity:
        return "warning" if float(series.values[-1]) >= self.share else "note"


@dataclass(frozen=True)
class RepeatedBatches(_CheckRule):
    """Every batch of the training has the same rows."""

    id: ClassVar[str] = "repeated_batches"
    code: ClassVar[str] = "TBX-WIRE-023"
    needs: ClassVar[tuple[Need, ...]] = _need("repeated_batches")
    source: ClassVar[str] = f"PyTorch, DataLoader: {_TORCH}/data.html"
    means: ClassVar[str] = "All {number} batches have the same rows ({details}): the model sees no other data."
    advice: ClassVar[str] = (
        "Look at the sampler and the dataset: its __getitem__ may ignore the index. Nothing, if all data is one batch."
    )

    batches: int = 3  # as many may be one batch in three epochs

    def severity_of(self, series: Series, run: Run) -> Severity:
        return "warning" if float(np.max(series.values)) > self.batches else "note"


@dataclass(frozen=True)
class LossMaximised(_CheckRule):
    """The training maximises its loss."""

    id: ClassVar[str] = "loss_maximised"
    code: ClassVar[str] = "TBX-WIRE-024"
    needs: ClassVar[tuple[Need, ...]] = _need("loss_maximised", "wiring, with one of torch's losses")
    source: ClassVar[str] = f"PyTorch, loss functions: {_TORCH}/nn.html#loss-functions"
    means: ClassVar[str] = "The sign of the loss is negative in each of the first 3 steps: the training maximises it."
    advice: ClassVar[str] = "Check the sign of the loss. A policy or an adversary may maximise on purpose."


@dataclass(frozen=True)
class NllOfLogits(_CheckRule):
    """The negative log-likelihood gets logits instead of logarithms of probabilities."""

    id: ClassVar[str] = "nll_of_logits"
    code: ClassVar[str] = "TBX-WIRE-025"
    needs: ClassVar[tuple[Need, ...]] = _need("nll_of_logits", "wiring, with a cross entropy")
    source: ClassVar[str] = f"PyTorch, NLLLoss: {_TORCH}/generated/torch.nn.NLLLoss.html"
    means: ClassVar[str] = (
        "{number:call} of `nll_loss` {number:gets|get} the output of a linear layer where logarithms of probabilities "
        "are expected: the loss can fall below zero without end."
    )
    advice: ClassVar[str] = "Use cross_entropy. It applies log_softmax to logits itself."


RULES: dict[str, type[Rule]] = {
    rule.id: rule
    for rule in (
        ParameterNotOptimized,
        ParameterInTwoOptimizers,
        ParameterNotInModel,
        NoGradient,
        UnusedParameters,
        GradientsNotCleared,
        NoOptimizerStep,
        EvalModeInTraining,
        TrainModeInEvaluation,
        LabelsIgnored,
        LabelsOutOfRange,
        DoubleSoftmax,
        WeightsChangedOutside,
        FirstLossNotFinite,
        GradientsSummed,
        BatchNormSingle,
        FirstLossUnusual,
        PerfectAtOnce,
        UnknownTokens,
        LabelsSorted,
        PaddingAttended,
        EvaluationRowsInTraining,
        RepeatedBatches,
        LossMaximised,
        NllOfLogits,
    )
}
"""The rules of the group `wiring`, by name."""
