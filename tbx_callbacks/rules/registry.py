"""Defines RULES, the registry that maps the names used in YAML and on the command line to rule classes."""

from __future__ import annotations

from tbx_callbacks.rules.amp import AmpScaleCollapse, AmpSkippedSteps
from tbx_callbacks.rules.base import Rule
from tbx_callbacks.rules.clipping import ClippingSaturated
from tbx_callbacks.rules.dead_activations import DeadActivations
from tbx_callbacks.rules.divergence import Divergence, LossSpike
from tbx_callbacks.rules.frozen_layers import AllFrozen, FrozenLayers, HeadOnly, ZeroGradient
from tbx_callbacks.rules.gradient_flow import ExplodingGradients, VanishingGradients
from tbx_callbacks.rules.input_bound import InputBound
from tbx_callbacks.rules.learning_rate_schedule import DecayedEarly, NoWarmup
from tbx_callbacks.rules.learning_rate_too_high import LearningRateTooHigh
from tbx_callbacks.rules.lora import LoraNotTraining
from tbx_callbacks.rules.nonfinite import NonFinite
from tbx_callbacks.rules.overfitting import AccuracyGap, EvalDisagrees, Overfitting
from tbx_callbacks.rules.underfitting import Plateau, Underfitting
from tbx_callbacks.rules.update_ratio import UpdateTooLarge, UpdateTooSmall

RULES: dict[str, type[Rule]] = {
    "nonfinite": NonFinite,
    "divergence": Divergence,
    "loss_spike": LossSpike,
    "learning_rate_too_high": LearningRateTooHigh,
    "no_warmup": NoWarmup,
    "decayed_early": DecayedEarly,
    "underfitting": Underfitting,
    "plateau": Plateau,
    "overfitting": Overfitting,
    "eval_disagrees": EvalDisagrees,
    "accuracy_gap": AccuracyGap,
    "vanishing_gradients": VanishingGradients,
    "exploding_gradients": ExplodingGradients,
    "zero_gradient": ZeroGradient,
    "all_frozen": AllFrozen,
    "head_only": HeadOnly,
    "frozen_layers": FrozenLayers,
    "update_too_large": UpdateTooLarge,
    "update_too_small": UpdateTooSmall,
    "clipping_saturated": ClippingSaturated,
    "dead_activations": DeadActivations,
    "amp_scale_collapse": AmpScaleCollapse,
    "amp_skipped_steps": AmpSkippedSteps,
    "input_bound": InputBound,
    "lora_not_training": LoraNotTraining,
}
