"""Defines METRICS, the bundled metric classes by name, and finds those of other packages.

Another package names its metrics in the entry point group `tbx_callbacks.metrics`.
Any metric can also be named by the dotted path of its class.
"""

from __future__ import annotations

from collections.abc import Mapping

from tbx_callbacks._extensions import ExtensionError, Registry, check_frozen_dataclass, suggest
from tbx_callbacks._model.parameters import Select
from tbx_callbacks._text import short
from tbx_callbacks.metrics.activations import Activations
from tbx_callbacks.metrics.bad_batches import BadBatches
from tbx_callbacks.metrics.base import EVENTS, NEEDS, Metric
from tbx_callbacks.metrics.clipping import Clip
from tbx_callbacks.metrics.drift import Drift
from tbx_callbacks.metrics.examples import Examples
from tbx_callbacks.metrics.gradient_noise import GradientNoise
from tbx_callbacks.metrics.histograms import GradHistogram, UpdateHistogram, WeightHistogram
from tbx_callbacks.metrics.lora import Lora
from tbx_callbacks.metrics.nonfinite import NonFinite
from tbx_callbacks.metrics.norms import GradNorm, GradNormClipped, UpdateNorm, UpdateRatio, WeightNorm
from tbx_callbacks.metrics.optimizer_state import OptimizerState
from tbx_callbacks.metrics.padding import PaddingShare
from tbx_callbacks.metrics.performance import InputShare, Memory, Throughput
from tbx_callbacks.metrics.replicas import Replicas, ReplicaState
from tbx_callbacks.metrics.spectral import Spectral
from tbx_callbacks.metrics.step_time import StepTime
from tbx_callbacks.metrics.tensorboard_tabs import Hparams, Layout
from tbx_callbacks.metrics.training import Amp, LearningRate, Loss, Outputs, TrainAccuracy
from tbx_callbacks.metrics.wiring import Wiring

METRICS: dict[str, type[Metric]] = {
    "loss": Loss,
    "outputs": Outputs,
    "train_accuracy": TrainAccuracy,
    "examples": Examples,
    "learning_rate": LearningRate,
    "grad_norm": GradNorm,
    "grad_norm_clipped": GradNormClipped,
    "clip": Clip,
    "weight_norm": WeightNorm,
    "weight_histogram": WeightHistogram,
    "grad_histogram": GradHistogram,
    "update_norm": UpdateNorm,
    "update_ratio": UpdateRatio,
    "update_histogram": UpdateHistogram,
    "drift": Drift,
    "lora": Lora,
    "spectral": Spectral,
    "activations": Activations,
    "optimizer_state": OptimizerState,
    "gradient_noise": GradientNoise,
    "nonfinite": NonFinite,
    "bad_batches": BadBatches,
    "replicas": Replicas,
    "replica_state": ReplicaState,
    "amp": Amp,
    "throughput": Throughput,
    "input_share": InputShare,
    "padding": PaddingShare,
    "time": StepTime,
    "memory": Memory,
    "hparams": Hparams,
    "layout": Layout,
    "wiring": Wiring,
}


def check_metric(loaded: object, _name: str | None = None) -> type[Metric]:
    """Returns the class of a metric.

    Raises:
        ExtensionError: it is not one; the message gives the rule, the value and the remedy.
    """
    cls = check_frozen_dataclass(loaded, Metric, ("every", "by", "include", "exclude"))
    tags = getattr(cls, "tags", None)
    if (
        not isinstance(tags, Mapping)
        or not tags
        or not all(isinstance(text, str) for item in tags.items() for text in item)
    ):
        raise ExtensionError(
            f"tags must be a mapping of tag to unit, got {short(tags)}; for example {{'kurtosis': ''}}"
        )
    for attribute, known in (("events", EVENTS), ("needs", NEEDS)):
        values = getattr(cls, attribute, None)
        if not isinstance(values, frozenset) or not values <= known:
            if not isinstance(values, (set, frozenset)):
                raise ExtensionError(
                    f"{attribute} must be a frozenset of names, got {short(values)}; derive it from Metric"
                )
            unknown = str(next(iter(values - known), ""))
            remedy = suggest(unknown, sorted(known), what=attribute) if unknown else "write frozenset({...})"
            raise ExtensionError(f"{attribute} must be a frozenset of known names, got {short(values)}; {remedy}")
    if not isinstance(getattr(cls, "select", 0), Select | None) or not isinstance(getattr(cls, "cost", 0), str):
        raise ExtensionError("select must be a Select or None, and cost a string; derive the class from Metric")
    return cls


METRIC_CLASSES = Registry("metric", METRICS, check_metric)
"""Finds a metric by the name of a bundled one, of an entry point, or by its dotted path."""
