"""Computes how well a classifier's probabilities agree with its accuracy: calibration error and best temperature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BINS = 15
"""Equal-width bins of the confidence, as in Guo et al. 2017, arXiv:1706.04599."""
TEMPERATURES = 0.01, 100.0
"""The range in which a temperature is looked for."""
_MAX_ITERATIONS = 100
_PRECISION = 1e-9


@dataclass(frozen=True)
class Reliability:
    """The rows of each bin of the confidence; arrays of shape `[bins]`, NaN in the means of an empty bin."""

    counts: NDArray[np.int64]
    confidence: Array
    """Mean confidence, the probability of the predicted class."""
    accuracy: Array
    """Share of rows whose class was predicted."""

    @property
    def error(self) -> float:
        """The expected calibration error: mean of `|accuracy - confidence|` over the bins, weighted by their rows."""
        full = self.counts > 0
        gaps = np.abs(self.accuracy[full] - self.confidence[full])
        return float((gaps * self.counts[full]).sum() / self.counts.sum())


def reliability(scores: Array, targets: NDArray[np.int64], *, bins: int = BINS) -> Reliability:
    """Sorts rows into bins by their confidence. Bin `m` of `M` holds the confidences in `((m - 1) / M, m / M]`.

    Args:
        scores: logits, `[rows, classes]`; each row's largest one is finite.
        targets: class numbers, `[rows]`.
        bins: the number of bins.
    """
    probabilities = np.exp(_log_probabilities(scores))
    confidence, is_right = probabilities.max(-1), scores.argmax(-1) == targets
    index = np.clip(np.digitize(confidence, np.linspace(0, 1, bins + 1), right=True) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(index, weights, minlength=bins) / counts for weights in (confidence, is_right)]
    return Reliability(counts, *means)


def log_loss(scores: Array, targets: NDArray[np.int64]) -> float:
    """Returns the mean negative log-likelihood of the targets; infinite if a target's logit is."""
    return float(-_log_probabilities(scores)[np.arange(len(targets)), targets].mean())


def best_temperature(scores: Array, targets: NDArray[np.int64]) -> float | None:
    """Returns the temperature `T` with the smallest `log_loss(scores / T, targets)`.

    The loss is convex in `1 / T`, so that Newton's method between two bounds finds the only minimum. There is none in
    `TEMPERATURES` if all rows are right (`T` goes to 0), or if the logits say nothing about the classes (`T` goes to
    infinity): None.
    """
    log_likelihood = scores[np.arange(len(targets)), targets]
    if not np.isfinite(log_likelihood).all():
        return None
    shifted = scores - scores.max(-1, keepdims=True)
    target = shifted[np.arange(len(targets)), targets]

    def derivatives(inverse: float) -> tuple[float, float]:
        """The first and second derivative of the loss by `1 / T`: mean of `E[z] - z_target`, and of `Var[z]`."""
        weights = np.exp(inverse * shifted)
        weights /= weights.sum(-1, keepdims=True)
        finite = np.where(weights > 0, shifted, 0.0)
        mean = (weights * finite).sum(-1)
        variance = (weights * (finite - mean[:, None]) ** 2).sum(-1)
        return float((mean - target).mean()), float(variance.mean())

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if derivatives(low)[0] >= 0 or derivatives(high)[0] <= 0:
        return None
    inverse = 1.0
    for _ in range(_MAX_ITERATIONS):
        slope, curvature = derivatives(inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / curvature if curvature > 0 else high
        new = step if low < step < high else float(np.sqrt(low * high))
        if abs(new - inverse) <= _PRECISION * inverse:
            return 1 / new
        inverse = new
    return 1 / inverse


def _log_probabilities(scores: Array) -> Array:
    shifted = scores - scores.max(-1, keepdims=True)
    logs: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logs
