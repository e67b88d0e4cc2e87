"""Defines METRICS, the registry that maps the names used in YAML and on the command line to metric classes."""

from __future__ import annotations

from tbx_callbacks.metrics.activations import Activations
from tbx_callbacks.metrics.base import Metric
from tbx_callbacks.metrics.clipping import Clip
from tbx_callbacks.metrics.histograms import GradHistogram, UpdateHistogram, WeightHistogram
from tbx_callbacks.metrics.nonfinite import NonFinite
from tbx_callbacks.metrics.norms import GradNorm, GradNormClipped, UpdateNorm, UpdateRatio, WeightNorm
from tbx_callbacks.metrics.optimizer_state import OptimizerState
from tbx_callbacks.metrics.performance import InputShare, Memory, Throughput
from tbx_callbacks.metrics.tensorboard_tabs import Hparams, Layout
from tbx_callbacks.metrics.training import Amp, LearningRate, Loss, Outputs, TrainAccuracy

METRICS: dict[str, type[Metric]] = {
    "loss": Loss,
    "outputs": Outputs,
    "train_accuracy": TrainAccuracy,
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
    "activations": Activations,
    "optimizer_state": OptimizerState,
    "nonfinite": NonFinite,
    "amp": Amp,
    "throughput": Throughput,
    "input_share": InputShare,
    "memory": Memory,
    "hparams": Hparams,
    "layout": Layout,
}
