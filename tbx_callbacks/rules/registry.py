"""Defines RULES, the bundled rule classes by name, and finds those of other packages.

Another package names its rules in the entry point group `tbx_callbacks.rules`.
Any rule can also be named by the dotted path of its class.
"""

from __future__ import annotations

import dataclasses
import re

from tbx_callbacks._extensions import ExtensionError, Registry, check_frozen_dataclass
from tbx_callbacks._text import short
from tbx_callbacks.rules.amp import AmpScaleCollapse, AmpSkippedSteps
from tbx_callbacks.rules.base import Rule
from tbx_callbacks.rules.classes import ClassNeverPredicted
from tbx_callbacks.rules.clipping import ClippingSaturated
from tbx_callbacks.rules.dead_activations import DeadActivations
from tbx_callbacks.rules.divergence import Divergence, LossSpike
from tbx_callbacks.rules.drift import UnevenDrift
from tbx_callbacks.rules.frozen_layers import AllFrozen, FrozenLayers, HeadOnly, ZeroGradient
from tbx_callbacks.rules.gradient_flow import ExplodingGradients, VanishingGradients
from tbx_callbacks.rules.input_bound import InputBound
from tbx_callbacks.rules.learning_rate_schedule import DecayedEarly, NoWarmup
from tbx_callbacks.rules.learning_rate_too_high import LearningRateTooHigh
from tbx_callbacks.rules.lora import LoraNotTraining
from tbx_callbacks.rules.nonfinite import EvalLossNotFinite, NonFinite
from tbx_callbacks.rules.overfitting import AccuracyGap, EvalDisagrees, Overfitting
from tbx_callbacks.rules.preference_tuning import (
    CompletionsTruncated,
    EntropyCollapse,
    KlRunaway,
    LikelihoodFalls,
    NoRewardVariance,
)
from tbx_callbacks.rules.replicas import ReplicasDiffer
from tbx_callbacks.rules.required_series import Need
from tbx_callbacks.rules.restarts import RestartSpike
from tbx_callbacks.rules.slow_rank import SlowRank
from tbx_callbacks.rules.underfitting import Plateau, Underfitting
from tbx_callbacks.rules.update_ratio import UpdateTooLarge, UpdateTooSmall
from tbx_callbacks.rules.weight_decay import WeightsShrink
from tbx_callbacks.rules.wiring import RULES as WIRING_RULES

RULES: dict[str, type[Rule]] = {
    "nonfinite": NonFinite,
    "eval_loss_not_finite": EvalLossNotFinite,
    "divergence": Divergence,
    "loss_spike": LossSpike,
    "learning_rate_too_high": LearningRateTooHigh,
    "no_warmup": NoWarmup,
    "decayed_early": DecayedEarly,
    "restart_spike": RestartSpike,
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
    "weights_shrink": WeightsShrink,
    "uneven_drift": UnevenDrift,
    "clipping_saturated": ClippingSaturated,
    "dead_activations": DeadActivations,
    "amp_scale_collapse": AmpScaleCollapse,
    "amp_skipped_steps": AmpSkippedSteps,
    "replicas_differ": ReplicasDiffer,
    "slow_rank": SlowRank,
    "input_bound": InputBound,
    "class_never_predicted": ClassNeverPredicted,
    "lora_not_training": LoraNotTraining,
    "entropy_collapse": EntropyCollapse,
    "kl_runaway": KlRunaway,
    "no_reward_variance": NoRewardVariance,
    "likelihood_falls": LikelihoodFalls,
    "completions_truncated": CompletionsTruncated,
    **WIRING_RULES,
}

GROUPS: dict[str, tuple[str, ...]] = {"wiring": tuple(WIRING_RULES)}
"""Names that stand for several rules in YAML."""


CODE = re.compile(r"[A-Z][A-Z0-9]{1,9}-[A-Z]{2,8}-\d{3}")
"""The form of codes; those of the bundled rules begin with `TBX-`."""


def _check(loaded: object, name: str | None) -> type[Rule]:
    cls = check_frozen_dataclass(loaded, Rule, ("action", "call"))
    needs, source, id_ = (getattr(cls, attribute, None) for attribute in ("needs", "source", "id"))
    if not isinstance(needs, tuple) or not needs or not all(isinstance(need, Need) for need in needs):
        raise ExtensionError(
            f"needs must be a tuple of at least one Need, got {short(needs)}; name the series it reads"
        )
    if not isinstance(source, str):
        raise ExtensionError(f"source must be a string, got {short(source)}; cite a paper or documentation")
    if not all(isinstance(getattr(cls, name, None), bool) for name in ("compares_with_start", "only_notes")):
        raise ExtensionError("compares_with_start and only_notes must be true or false; derive the class from Rule")
    for option in dataclasses.fields(cls):
        if isinstance(option.default, bool) or not isinstance(option.default, (int, float)):
            raise ExtensionError(f"every threshold must be a number, but {option.name} is {short(option.default)}")
    if id_ is not None and (not isinstance(id_, str) or id_ in RULES or id_ != (name or id_)):
        rule = f"be {name!r}, as its entry point" if name else "differ from those of the bundled rules"
        raise ExtensionError(f"id must {rule}, got {short(id_)}; leave it out to use the rule's name")
    code = getattr(cls, "code", "")
    if not isinstance(code, str) or (code and not CODE.fullmatch(code)):
        raise ExtensionError(f"code must have the form ACME-LR-001, got {short(code)}; leave it out to have none")
    if code.startswith("TBX-"):
        raise ExtensionError(
            f"code must not begin with TBX-, as bundled rules do, got {short(code)}; use another prefix"
        )
    return cls


RULE_CLASSES = Registry("rule", RULES, _check)
"""Finds a rule by the name of a bundled one, of an entry point, or by its dotted path."""


def code_of(rule: Rule | type[Rule]) -> str:
    """Returns a rule's code; "" if it has none, as a rule that does not derive from `Rule` may."""
    return getattr(rule, "code", "")


def create_rule(name: str, cls: type[Rule], **thresholds: float) -> Rule:
    """Creates a rule. One whose class has no `id` gets its name as `id`."""
    rule = cls(**thresholds)
    if not hasattr(rule, "id"):
        object.__setattr__(rule, "id", name)  # not on the class: two names may have one class
    return rule
