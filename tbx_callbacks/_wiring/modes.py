"""Notices a model in evaluation mode while it trains, and in training mode while it is evaluated."""

from __future__ import annotations

from torch import nn

from tbx_callbacks._wiring.check import Check

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Returns the batch normalisations of a model that use the statistics of the batch."""
    return [module for module in model.modules() if isinstance(module, _BATCH_NORM) and module.training]


def depends_on_mode(model: nn.Module) -> bool:
    """Whether a model is another function in training mode: it has dropout or batch normalisation."""
    for module in model.modules():
        if isinstance(module, _BATCH_NORM):
            return True
        if isinstance(module, _DROPOUT) and module.p > 0:
            return True
        # Attention and recurrent layers keep the probability as a number.
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float) and 0 < value < 1:
                return True
    return False


class Modes:
    """Counts steps that an optimizer made while the model was in evaluation mode, and evaluations in training mode.

    - `eval_mode_in_training` is the share of the steps since the last point.
    - `train_mode_in_evaluation` counts evaluations since the last point whose forward passes all ran in training mode.

    A model without dropout and batch normalisation is the same in both modes: nothing is counted then.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._depends = model, depends_on_mode(model)
        self._steps = self._steps_in_eval = 0
        self._first = ""
        self.passes_in_training = self.passes_in_eval = 0
        """Forward passes without gradients since the last step or evaluation, by mode."""
        self._evaluations = self._wrong_evaluations = 0

    def add_pass(self, model: nn.Module) -> None:
        """A forward pass without gradients begins."""
        if model.training:
            self.passes_in_training += 1
        else:
            self.passes_in_eval += 1

    def add_step(self, step: int) -> None:
        """An optimizer has stepped."""
        self._steps += 1
        self.passes_in_training = self.passes_in_eval = 0
        if not self._model.training and self._depends:
            self._steps_in_eval += 1
            self._first = self._first or f"since step {step}"

    def add_evaluation(self) -> None:
        """The numbers of an evaluation were logged."""
        if self.passes_in_training or self.passes_in_eval:
            self._evaluations += 1
            self._wrong_evaluations += bool(self._depends and not self.passes_in_eval)
        self.passes_in_training = self.passes_in_eval = 0

    def take(self) -> dict[str, Check]:
        """Returns the checks for the steps since the last call."""
        checks = {}
        if self._steps:
            share = self._steps_in_eval / self._steps
            checks["eval_mode_in_training"] = Check(share, self._first)
        if self._evaluations:
            checks["train_mode_in_evaluation"] = Check(self._wrong_evaluations)
        self._steps = self._steps_in_eval = self._evaluations = self._wrong_evaluations = 0
        self._first = ""
        return checks
