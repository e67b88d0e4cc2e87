"""Defines the tags that this package writes, and checks the characters of a tag.

Metrics write these tags; rules and the report read them. A tag is `family/quantity` or `family/group`. A group is a
layer, a module or a parameter, spelled as in the model. The README's table explains each one.
"""

from __future__ import annotations

import re
import unicodedata

# -- training scalars --------------------------------------------------------------------------------------------------

TRAIN = "train"
EVAL = "eval"
TEST = "test"
BEST = "best"
TRAIN_LOSS = "train/loss"
TRAIN_LOSS_MAX = "train/loss_max"
TRAIN_SUMMARY_LOSS = "train/train_loss"
"""Mean loss of the whole training, which the HF Trainer logs at the end."""
TRAIN_ACCURACY = "train/accuracy"
TRAIN_LABELS = "train/labels"
PREDICTED_SHARE = "train/predicted_share"
LABEL_SHARE = "train/label_share"
"""Shares of the classes among predictions and among labels; the group is the number of the class."""
TRAIN_LEARNING_RATE = "train/learning_rate"
TRAIN_GRAD_NORM = "train/grad_norm"
TRAIN_EPOCH = "train/epoch"
EVAL_LOSS = "eval/loss"
EVAL_ACCURACY = "eval/accuracy"
LEARNING_RATE = "lr"
CALIBRATION = "calibration"
"""Second part of the tags of an evaluation's calibration, `eval/calibration/ece`."""

# -- one scalar per group ----------------------------------------------------------------------------------------------

GRAD_NORM = "grad_norm"
GRAD_NORM_CLIPPED = "grad_norm_clipped"
WEIGHT_NORM = "weight_norm"
UPDATE_NORM = "update_norm"
UPDATE_RATIO = "update_ratio"
DRIFT = "drift"
MOVED_SHARE = "moved_share"
LORA_UPDATE = "lora/update"
LORA_STABLE_RANK = "lora/stable_rank"
SPECTRAL_NORM = "spectral/norm"
SPECTRAL_STABLE_RANK = "spectral/stable_rank"
OPTIMIZER_STATE = "optimizer_state"
NONFINITE_GRADIENTS = "nonfinite/gradients"
NONFINITE_WEIGHTS = "nonfinite/weights"
TOTAL = "total"
"""The group of all selected parameters."""

# -- one histogram per group -------------------------------------------------------------------------------------------

WEIGHTS = "weights"
GRADS = "grads"
UPDATES = "updates"
ACTIVATIONS = "activations"

# -- other scalars -----------------------------------------------------------------------------------------------------

CLIP_FACTOR = "clip/factor"
CLIP_SHARE = "clip/share"
NONFINITE = "nonfinite"
NONFINITE_FOUND = "nonfinite/found"
NONFINITE_LOSSES = "nonfinite/losses"
NONFINITE_FIRST_BAD = "nonfinite/first_bad"
AMP_SCALE = "amp/scale"
AMP_SKIPPED_STEPS = "amp/skipped_steps"
PERF = "perf"
STEP_SECONDS = "perf/step_s"
STEPS_PER_SECOND = "perf/steps_per_s"
SAMPLES_PER_SECOND = "perf/samples_per_s"
TOKENS_PER_SECOND = "perf/tokens_per_s"
MONITOR_SHARE = "perf/monitor_share"
INPUT_SHARE = "perf/input_share"
TIME_DATA = "time/data_s"
TIME_FORWARD = "time/forward_s"
TIME_BACKWARD = "time/backward_s"
TIME_CLIP = "time/clip_s"
TIME_OPTIMIZER = "time/optimizer_s"
TIME_CALLBACKS = "time/callbacks_s"
TIME_EVALUATION = "time/evaluation_s"
TIME_SAVING = "time/saving_s"
TIME_MONITORING = "time/monitoring_s"
TIME_OTHER = "time/other_s"
TIME_LEFT = "time/left_s"
TIME_SLOWEST_RANK = "time/slowest_rank"
TIME_SLOWEST_LEAD = "time/slowest_lead"
NOISE_SCALE = "gradient_noise/scale"
NOISE_BATCH_SIZE = "gradient_noise/batch_size"
PADDING_SHARE = "padding/share"
PADDING_SAVABLE = "padding/savable"
PADDING_AT_LIMIT = "padding/at_limit"
MEMORY = "memory"
MEMORY_RSS = "memory/rss_gib"
MEMORY_PEAK = "memory/peak_gib"
MEMORY_RESERVED = "memory/reserved_gib"
MEMORY_LARGEST_RANK = "memory/largest_rank"
AXIS_STEP = "axis/step"
WIRING = "wiring"
BAD_BATCHES = "bad_batches/steps"
EXAMPLES_LOSS = "examples/loss"
"""Mean loss of the rows of a group; the group is a value of the column `group_by`."""
REPLICAS = "replicas"
REPLICAS_WEIGHTS = "replicas/weights"
REPLICAS_STATE = "replicas/optimizer_state"
REPLICAS_BUFFERS = "replicas/buffers"
REPLICAS_UNMATCHED = "replicas/unmatched"
REPLICAS_LOWEST_RANK = "replicas/lowest_rank"
REPLICAS_HIGHEST_RANK = "replicas/highest_rank"

# -- texts and plugin data ---------------------------------------------------------------------------------------------

ALERTS = "alerts"
OVERHEAD_BUDGET = "overhead_budget"
ARGS = "args"
MODEL_CONFIG = "model_config"
ENVIRONMENT = "environment"
HPARAMS_START = "_hparams_/session_start_info"
HPARAMS_END = "_hparams_/session_end_info"
HPARAMS_METRICS = "_hparams_/experiment"
CUSTOM_SCALARS = "custom_scalars__config__"

# -- names that no writer stores ---------------------------------------------------------------------------------------

AXIS = "axis:"
"""Prefix of the values that tell the axes writer how far a step advances along an axis; no tag contains a colon."""

EARLIER = "earlier:"
"""Prefix of values that belong to an earlier step, `earlier:<steps ago>:<tag>`; they are written at that step."""

HIDDEN = "hidden:"
"""Prefix of numbers that other values of the step are derived from; they are not written."""
TRAINER_CLIP_FACTOR = "hidden:trainer_clip_factor"
"""Factor by which the trainer clipped the gradients, from the norm that it logs."""

EVALUATION = ("eval/", "val/", "val_", "valid/", "valid_", "validation/")
"""Prefixes of the tags that trainers use for evaluation metrics."""

# Words in the names of metrics. A short word must be a whole word, or a longer one could contain it by chance.
_SMALLER_WORDS = (
    r"(?<![a-z0-9])neg(?:ative)?_log_likelihood|(?<![a-z0-9])inaccura|losses|loss|error|perplexity|cross_?entropy|deviance"
    r"|misclassif|divergence|(?<![a-z0-9])(?:[a-z]*(?:mse|mae|msle)|s?mape|nll|ppl|bpc|bpb|wer|cer|ter|eer|der|fid|kid"
    r"|fpr|fnr|kld?|lpips|brier|ece|false)(?![a-z0-9])"
)
_LARGER_WORDS = (
    r"accura|precision|recall|bleu|rouge|meteor|matthews|pearson|spearman|kendall|correlation|sensitivity|specificity"
    r"|jaccard|exact_?match|likelihood|reward|auroc|auprc|(?<![a-z0-9])(?:acc|f\d|fbeta|f1_?score|aucs?|map|mar)\d*"
    r"(?![a-z0-9])|(?<![a-z0-9])(?:(?:m|mean)?iou|em|exact|mcc|ndcg|mrr|dice|psnr|m?s?ssim|chrf|kappa|r2|hits?|top\d+)(?![a-z0-9])"
)
_DIRECTIONS = re.compile(f"(?P<smaller>{_SMALLER_WORDS})|(?P<larger>{_LARGER_WORDS})")
_NEGATED = re.compile(r"(?<![a-z0-9])neg(?:ative)?_")
_GLOSS = re.compile(r"(?<![a-z0-9])gloss")
_ILLEGAL = re.compile(r"[^\w./-]")  # as tensorboardX, which also replaces combining marks


def check_tag(tag: str) -> str:
    """Returns the tag unchanged.

    Raises:
        ValueError: the tag has characters that TensorBoard writers would replace silently.
    """
    if not tag or tag.startswith("/") or _ILLEGAL.search(tag):
        raise ValueError(
            f"a tag must be made of letters, digits and _ . / - and not start with /, got {tag!r};"
            f" use {clean(tag).lstrip('/') or 'a name'!r} instead"
        )
    return tag


def clean(name: str) -> str:
    """Replaces every character that a tag must not contain with `_`."""
    return _ILLEGAL.sub("_", unicodedata.normalize("NFC", name))


def larger_is_better(tag: str) -> bool | None:
    """Whether a larger value of an evaluation metric is better, judged by the words in its name; None if unknown.

    The last known word decides: `accuracy_loss` is a loss. scikit-learn's `neg_mean_squared_error` is better if larger.
    """
    name = tag.rpartition("/")[2]
    separated = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    for spelled in (separated, name.lower()):  # `meanIoU` and `mAP` need one each
        found = [match.lastgroup == "larger" for match in _DIRECTIONS.finditer(_GLOSS.sub("", spelled))]
        if found:
            return found[-1] != bool(_NEGATED.search(spelled) and not found[-1] and "log_likelihood" not in spelled)
    return None
