"""Holds the handwritten parts of docs/metrics.md: the formula of each metric, its symbols, and when to worry."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """The words about a metric.

    Args:
        formula: the formula; empty if the metric measures nothing.
        symbols: what the symbols stand for.
        worry: when to worry.
        picture: file of a chart, below docs/, and its words.
    """

    formula: str
    symbols: str
    worry: str
    picture: tuple[str, str] | None = None


_MINUS = "`new` and `old` are the weights of the group after and before the step."
_COUNTS = "`counts[k]` are the elements between two edges; there are `bins` equal bins from `min` to `max`"

TEXTS: dict[str, Text] = {
    "loss": Text(
        "train/loss = mean(loss[i])",
        "`loss[i]` is the loss of step `i`, for all steps since the last point.",
        "It does not fall, it rises again, it jumps, or the evaluation loss rises while it falls.",
        ("metrics/loss.svg", "training and evaluation loss of a small BERT that learns after 50 steps"),
    ),
    "outputs": Text(
        "train/<name> = mean(value[i])",
        "`value[i]` is the scalar `<name>` of micro-batch `i`, for all micro-batches since the last point.",
        "One of several losses does not fall, or is so large that the others do not count.",
    ),
    "train_accuracy": Text(
        "train/accuracy = correct / labels\ntrain/predicted_share/<c> = predicted[c] / labels",
        "`correct` are the right predictions, `labels` all labels, `predicted[c]` the predictions of class "
        "`c`, each since "
        "the last point.",
        "The share of a class among the predictions stays at 0, or the accuracy is far above that of the evaluation.",
    ),
    "examples": Text(
        "confidence = mean(exp(-loss[e]))\nvariability = std(exp(-loss[e]))",
        "`loss[e]` is the cross entropy of one row in epoch `e`.",
        "Rows whose confidence stays low in every epoch may have a wrong label. See [rows](rows.md).",
    ),
    "learning_rate": Text(
        "lr/<Optimizer>/<group> = lr",
        "`lr` is the rate of a parameter group at the step.",
        "It starts at its peak, it reaches zero long before the end, or a group is missing.",
    ),
    "grad_norm": Text(
        "grad_norm/<group> = sqrt(sum(g**2))",
        "`g` are the elements of the gradients of the group, before clipping.",
        "A norm of 0, or of NaN; or layers that differ by factors of 100 or more. A norm that grows from "
        "step to step comes "
        "before a divergence.",
        ("metrics/grad_norm.svg", "gradient norm before and after clipping at 1, and the clip factor"),
    ),
    "grad_norm_clipped": Text(
        "grad_norm_clipped/<group> = sqrt(sum(g**2))",
        "`g` are the elements of the gradients of the group, after clipping: those that the optimizer uses.",
        "It equals the limit in every step: then the limit sets the size of the updates.",
        ("metrics/grad_norm.svg", "gradient norm before and after clipping at 1, and the clip factor"),
    ),
    "clip": Text(
        "clip/factor = min(1, max_norm / (norm + 1e-6))\nclip/share = clipped / steps",
        "`norm` is the gradient norm of the step, `max_norm` the limit, `clipped` the steps with a factor "
        "below 1 among the "
        "`steps` since the last point.",
        "The factor stays far below 0.1, or the share stays at 1.",
        ("metrics/grad_norm.svg", "gradient norm before and after clipping at 1, and the clip factor"),
    ),
    "weight_norm": Text(
        "weight_norm/<group> = sqrt(sum(w**2))",
        "`w` are the weights of the group.",
        "A norm that does not change bit by bit is a frozen layer. One that doubles in the first steps tells "
        "of a rate that "
        "is too high, one that halves of a weight decay that is too high.",
        ("metrics/weight_norm.svg", "weight norms of the layers, divided by their first value"),
    ),
    "weight_histogram": Text(
        "counts[k] = number of w with edges[k] <= w < edges[k + 1]",
        f"`w` are the weights of the group. {_COUNTS} of `w`.",
        "All weights come together at 0, or a few lie far outside of the others.",
        ("metrics/weight_histogram.svg", "weights of a layer at the start and at the end of the training"),
    ),
    "grad_histogram": Text(
        "counts[k] = number of g with edges[k] <= g < edges[k + 1]",
        f"`g` are the gradients of the group, after clipping. {_COUNTS} of `g`.",
        "Nearly all gradients are 0, or a few are far larger than the others.",
    ),
    "update_norm": Text(
        "update_norm/<group> = sqrt(sum((new - old)**2))",
        _MINUS,
        "It is 0, or it does not follow the learning rate.",
    ),
    "update_ratio": Text(
        "update_ratio/<group> = sqrt(sum((new - old)**2)) / sqrt(sum(new**2))",
        _MINUS,
        "About 1e-3 is usual from random weights, less in a fine-tuning. Above 0.1 a step overwrites the "
        "layer; below 1e-6 "
        "it changes nothing.",
        ("metrics/update_ratio.svg", "update ratios of the layers, with warm-up and linear decay"),
    ),
    "update_histogram": Text(
        "counts[k] = number of u with edges[k] <= u < edges[k + 1]",
        f"`u = new - old` are the updates of the group. {_COUNTS} of `u`.",
        "Nearly all updates are 0: the rate is too low for the precision of the weights.",
    ),
    "drift": Text(
        "drift/<group> = sqrt(sum((w - w0)**2)) / sqrt(sum(w0**2))\n"
        "moved_share/<group> = number of (w != w0) / number of w",
        "`w` are the weights now, `w0` those before the first step.",
        "A layer of a pretrained model moves much farther than the others, or 16-bit weights do not move at all. See "
        "[weights](weights.md).",
        ("metrics/drift.svg", "distance of each layer from its initial weights"),
    ),
    "lora": Text(
        "lora/update/<module> = norm(scaling * B A) / norm(W)\n"
        "lora/stable_rank/<module> = norm(B A)**2 / spectral_norm(B A)**2",
        "`A` and `B` are the matrices of an adapter, `scaling` is `alpha / r`, `W` is the frozen weight, and `norm` is "
        "`sqrt(sum(x**2))`.",
        "The update stays at 0 (B is not trained), or the stable rank is far below `r` (a smaller rank suffices).",
        ("metrics/lora.svg", "size of each adapter's update, and its stable rank of at most 4"),
    ),
    "spectral": Text(
        "spectral/norm/<group> = s[1]\nspectral/stable_rank/<group> = sum(s**2) / s[1]**2",
        "`s` are the singular values of a weight matrix, `s[1]` is the largest.",
        "The norm grows without end, or the stable rank falls towards 1: the layer keeps one direction only.",
    ),
    "activations": Text(
        "activations/<module>/norm = sqrt(mean(x**2))\n"
        "activations/<module>/mean = mean(x)\n"
        "activations/<module>/zero_share = number of (x == 0) / number of x",
        "`x` are the elements of the module's output.",
        "A share of zeros near 1, or a norm that grows from layer to layer by large factors.",
        ("metrics/activations.svg", "root mean square of the layers' outputs"),
    ),
    "optimizer_state": Text(
        "optimizer_state/exp_avg/<group> = sqrt(sum(m**2))\n"
        "optimizer_state/exp_avg_sq/<group> = sqrt(sum(v**2))\n"
        "optimizer_state/effective_lr/<group> = sqrt(mean(step**2))",
        "`m` and `v` are Adam's first and second moment, `step` is what the optimizer subtracts from the "
        "weights, without "
        "weight decay.",
        "After a restart the moments begin at 0 again: the checkpoint lacks the optimizer's state.",
    ),
    "gradient_noise": Text(
        "gradient_noise/scale = tr(Sigma) / |G|**2",
        "`G` is the gradient over all data, `Sigma` the covariance of the gradient of one example.",
        "Batches far above the scale waste computation; batches far below it waste steps.",
    ),
    "nonfinite": Text(
        "nonfinite/gradients/<group> = number of g that are NaN or Inf\n"
        "nonfinite/weights/<group> = number of w that are NaN or Inf",
        "`g` are the gradients of the group before clipping, `w` its weights after the step.",
        "At any number above 0. Only fp16 overflows now and then without harm.",
        ("findings/nonfinite.svg", "a gradient that is NaN in step 40, and all gradients after it"),
    ),
    "bad_batches": Text(
        "bad if not finite(loss) or not finite(g) or loss > median + spike * noise",
        "`g` are the gradients, `median` and `noise` (1.4826 times the median absolute deviation) those of "
        "the losses of "
        "the 50 steps before.",
        "Look at the rows of each bad step: [rows](rows.md).",
    ),
    "replicas": Text(
        "replicas/weights/total = number of layers with checksum[r] != checksum[first] for any rank r",
        "`checksum[r]` is a checksum of all bits of the layer's weights on rank `r`.",
        "At any number above 0, unless the algorithm averages weights now and then.",
    ),
    "replica_state": Text(
        "replicas/optimizer_state/total = number of layers with checksum[r] != checksum[first] for any rank r",
        "`checksum[r]` is a checksum of all bits of the layer's optimizer state on rank `r`.",
        "At any number above 0.",
    ),
    "amp": Text(
        "amp/scale = scale\namp/skipped_steps = number of skipped steps",
        "`scale` is the factor by which the loss is multiplied before the backward pass. Steps count since "
        "the last point.",
        "The scale falls below 1, or steps are skipped all the time.",
    ),
    "throughput": Text(
        "perf/step_s = seconds / steps\nperf/samples_per_s = samples / seconds\nperf/tokens_per_s = tokens / seconds",
        "`seconds` of training, and `steps`, `samples` and `tokens` in them, since the last point.",
        "The speed falls during the training, or `perf/monitor_share` is more than you want to pay.",
        ("metrics/time.svg", "seconds per step, and its parts"),
    ),
    "input_share": Text(
        "perf/input_share = waiting / seconds",
        "`waiting` are the seconds in which the training waited for its next batch, of all `seconds` since "
        "the last point.",
        "Above 0.3: a faster input makes the training faster.",
    ),
    "padding": Text(
        "padding/share = 1 - n / p\npadding/savable = 1 - s / p",
        "`n` are the tokens without padding, `p` those with padding, `s` those with padding if the rows were "
        "grouped by "
        "length.",
        "`padding/savable` is the share of the computation that a grouping by length would save.",
    ),
    "time": Text(
        "time/<part>_s = seconds[part] / steps\ntime/left_s = (last - step) * seconds per step",
        "`seconds[part]` is the time in one part of the step and `steps` the number of steps, since the last "
        "point; `last` "
        "is the last step of the training.",
        "`data_s` is large (input), `other_s` is large (your own code), or one rank is always the slowest.",
        ("metrics/time.svg", "seconds per step, and its parts"),
    ),
    "memory": Text(
        "memory/rss_gib = bytes / 2**30",
        "`bytes` is the resident set of the process; the two CUDA values are torch's peaks.",
        "It grows from epoch to epoch: something keeps tensors, often a list of losses with their graphs.",
    ),
    "hparams": Text("", "", "Nothing to worry about: it describes the run."),
    "layout": Text("", "", "Nothing to worry about: it arranges TensorBoard's charts."),
    "wiring": Text(
        "wiring/<check> = number that the check found",
        "A count, a share or a multiple, for each check; 0 is healthy for most.",
        "A rule for each check tells which numbers are wrong. It says so in the first three steps.",
    ),
}
"""Metric -> the words about it."""
