"""One file a metric; METRICS is the registry that YAML names and the command line read."""

from __future__ import annotations

from tbx_callbacks.metrics.activations import Activations
from tbx_callbacks.metrics.amp import Amp
from tbx_callbacks.metrics.clip import Clip
from tbx_callbacks.metrics.grad_histogram import GradHistogram
from tbx_callbacks.metrics.grad_norm import GradNorm
from tbx_callbacks.metrics.grad_norm_clipped import GradNormClipped
from tbx_callbacks.metrics.hparams import Hparams
from tbx_callbacks.metrics.input_share import InputShare
from tbx_callbacks.metrics.layout import Layout
from tbx_callbacks.metrics.learning_rate import LearningRate
from tbx_callbacks.metrics.loss import Loss
from tbx_callbacks.metrics.memory import Memory
from tbx_callbacks.metrics.nonfinite import NonFinite
from tbx_callbacks.metrics.optimizer_state import OptimizerState
from tbx_callbacks.metrics.outputs import Outputs
from tbx_callbacks.metrics.protocol import Metric
from tbx_callbacks.metrics.throughput import Throughput
from tbx_callbacks.metrics.train_accuracy import TrainAccuracy
from tbx_callbacks.metrics.update_histogram import UpdateHistogram
from tbx_callbacks.metrics.update_norm import UpdateNorm
from tbx_callbacks.metrics.update_ratio import UpdateRatio
from tbx_callbacks.metrics.weight_histogram import WeightHistogram
from tbx_callbacks.metrics.weight_norm import WeightNorm

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
