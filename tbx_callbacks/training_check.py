"""Defines `assert_healthy` and `TrainingCheck`, which let a test fail because of a training that is not healthy."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tbx_callbacks._text import short
from tbx_callbacks.rules import Diagnosis, Finding, diagnose
from tbx_callbacks.rules.diagnose import diagnose_folder
from tbx_callbacks.rules.finding_text import evidence, named, since
from tbx_callbacks.runs.series import Run

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

UNJUDGED = "unjudged"
"""The entry of `allow` for a run that has too little to judge."""
_SEVERITIES = {"error": ("error",), "warning": ("error", "warning"), "note": ("error", "warning", "note")}
_SET: Mapping[str, Any] = {"extends": "default", "every": 1, "metrics": ["train_accuracy"], "rules": {}}


def assert_healthy(
    run: Run | str | os.PathLike[str],
    *,
    allow: Collection[str] = (),
    fail_on: Literal["error", "warning", "note"] = "warning",
) -> list[Diagnosis]:
    """Raises AssertionError, with the findings, unless a run is healthy. Returns the diagnoses.

    A run that has too little to judge is not healthy; the entry `unjudged` of `allow` lets it pass.

    Args:
        run: a run, the folder of one or several runs, or a log file.
        allow: names or codes of rules whose findings are expected: `["overfitting", "TBX-LR-001"]`.
        fail_on: the least severity that fails.

    Raises:
        AssertionError: there is a finding that is not allowed, or too little to judge.
        UnreadableError: there is no run.
        ValueError: `fail_on` is unknown.
        TypeError: `allow` is a text.
    """
    if isinstance(allow, str):
        raise TypeError(f"allow must be a list of rules, got the text {allow!r}; write [{allow!r}]")
    if fail_on not in _SEVERITIES:
        raise ValueError(f"fail_on must be error, warning or note, got {short(fail_on)}; warning is the default")
    if isinstance(run, Run):
        diagnoses = {"the run": diagnose(run)}
    else:
        diagnoses = {str(found.folder): found.diagnosis for found in diagnose_folder(run)}
    problems = [words for name, found in diagnoses.items() for words in _problems(name, found, set(allow), fail_on)]
    if problems:
        raise AssertionError("\n".join(problems))
    return list(diagnoses.values())


def _problems(name: str, diagnosis: Diagnosis, allowed: Collection[str], fail_on: str) -> Iterator[str]:
    for finding in diagnosis.findings:
        if finding.severity in _SEVERITIES[fail_on] and not {finding.id, finding.code} & set(allowed):
            yield _words(name, finding)
    verdict = diagnosis.verdict
    if verdict.kind == "too_little" and UNJUDGED not in allowed:
        yield f"{name}: {verdict.text} {verdict.remedy}".rstrip() + f" Or add {UNJUDGED!r} to allow."


def _words(name: str, finding: Finding) -> str:
    return (
        f"{name}: {finding.severity} {named(finding)}{since(finding)}: {finding.means}\n"
        f"  try: {finding.advice}\n  seen in: {evidence(finding)}"
    )


class TrainingCheck:
    """Trains a few steps, judges them, and raises AssertionError if something is wrong; the fixture `check_training`.

    ```python
    def test_trainer(check_training):                     # a Hugging Face Trainer
        check_training(build_trainer(), steps=40)


    def test_lightning(check_training):                   # a Lightning Trainer, and the arguments of its fit
        check_training(pl.Trainer(accelerator="cpu"), module, loader, steps=40)


    def test_parts(check_training):                       # a model, its batches, its optimizer
        check_training(model, batches, optimizer, loss=lambda model, batch: ..., steps=40)
    ```

    Args:
        folder: where the runs are logged; `check.folder` is the folder of the last one.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._top, self._number = Path(folder), 0

    @property
    def folder(self) -> Path:
        """The folder of the last training."""
        return self._top / f"run_{self._number}"

    def __call__(
        self,
        training: Any,
        *arguments: Any,
        steps: int = 40,
        allow: Collection[str] = (),
        fail_on: Literal["error", "warning", "note"] = "warning",
        config: Any = None,
        **options: Any,
    ) -> Diagnosis:
        """Trains and judges.

        A Trainer trains as it would by itself, except that it ends after `steps` steps, logs each of them and saves no
        checkpoint. Model, batches and optimizer are trained by a loop that clips and schedules nothing by itself.

        Args:
            training: a Hugging Face Trainer, a Lightning Trainer, or a `torch.nn.Module`.
            *arguments: for a Lightning Trainer those of its `fit`; for a module the batches and the optimizer. Batches
                are repeated if there are fewer than steps.
            steps: the number of optimizer steps. Rules about the training loss need 30.
            allow: see `assert_healthy`.
            fail_on: see `assert_healthy`.
            config: a metric set, in place of `default` with every step logged.
            **options: for a module `loss`, a function of model and batch that returns the loss or `(loss, outputs)`;
                default: the loss that the model returns for `model(**batch)`. `after_backward` and `after_step` are
                called without arguments in each step: for clipping, and for a scheduler. For a Lightning Trainer the
                options of `fit`.

        Raises:
            AssertionError: something is wrong with the training.
            TypeError: `training` is nothing that can be trained, or an argument is missing.
            ValueError: `steps` is below 1.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}; rules about the loss need 30")
        train = _trainer_for(training)
        self._number += 1
        train(training, steps, str(self.folder), config or dict(_SET), *arguments, **options)
        (diagnosis,) = assert_healthy(self.folder, allow=allow, fail_on=fail_on)
        return diagnosis


def _trainer_for(training: Any) -> Callable[..., None]:
    from torch import nn

    if isinstance(training, nn.Module) and not hasattr(training, "fit"):
        return _train_parts
    if all(hasattr(training, name) for name in ("callback_handler", "training_step", "accelerator")):
        return _train_huggingface
    if hasattr(training, "fit") and hasattr(training, "callbacks"):
        return _train_lightning
    raise TypeError(
        "check_training must get a Hugging Face Trainer, a Lightning Trainer or a torch.nn.Module, got"
        f" {short(training)}"
    )


def _train_huggingface(trainer: Any, steps: int, folder: str, config: Any) -> None:
    from transformers.trainer_utils import IntervalStrategy, SaveStrategy

    from tbx_callbacks.integrations.huggingface.callback import TbxTrainerCallback

    arguments = trainer.args
    arguments.max_steps, arguments.logging_steps = steps, 1
    arguments.logging_strategy, arguments.save_strategy = IntervalStrategy.STEPS, SaveStrategy.NO
    TbxTrainerCallback(config, log_dir=folder).attach(trainer)
    trainer.train()


def _train_lightning(trainer: Any, steps: int, folder: str, config: Any, *arguments: Any, **options: Any) -> None:
    from tbx_callbacks.integrations.lightning.callback import TbxLightningCallback

    callback = TbxLightningCallback(config, log_dir=folder)
    is_checkpoint = [any(cls.__name__ == "Checkpoint" for cls in type(known).__mro__) for known in trainer.callbacks]
    kept = [known for known, saves in zip(trainer.callbacks, is_checkpoint, strict=True) if not saves]
    trainer.callbacks = [*kept, callback]
    trainer.fit_loop.epoch_loop.max_steps, trainer.fit_loop.max_epochs = steps, -1
    trainer.fit(*arguments, **options)


def _train_parts(
    model: nn.Module,
    steps: int,
    folder: str,
    config: Any,
    batches: Iterable[Any] | None = None,
    optimizer: Optimizer | None = None,
    *,
    loss: Callable[[nn.Module, Any], Any] | None = None,
    after_backward: Callable[[], Any] | None = None,
    after_step: Callable[[], Any] | None = None,
) -> None:
    from tbx_callbacks.integrations.batches import labels_in, samples_in
    from tbx_callbacks.integrations.loop import TbxLoop
    from tbx_callbacks.integrations.preflight import loss_of_model

    if batches is None or optimizer is None:
        raise TypeError("check_training must get batches and an optimizer after a model, got none of one of them")
    compute = loss or loss_of_model
    model.train()
    with TbxLoop(model, optimizer, config, log_dir=folder, log_every=1) as loop:
        for batch in itertools.islice(_repeated(batches), steps):
            optimizer.zero_grad()
            computed = compute(model, batch)
            value, outputs = computed if isinstance(computed, tuple) else (computed, None)
            value.backward()
            if after_backward is not None:
                loop.before_clip()
                after_backward()
            optimizer.step()
            if after_step is not None:
                after_step()
            loop.end_step(loss=value, samples=samples_in(batch), outputs=outputs, labels=labels_in(batch))


def _repeated(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        number = 0
        for batch in batches:
            number += 1
            yield batch
        if not number:
            raise TypeError(
                f"batches must hold a batch each time that they are read, got {short(batches)}; pass the data loader"
            )
