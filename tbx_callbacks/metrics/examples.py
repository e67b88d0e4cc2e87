"""Defines the metric that records the rows of the training data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.values import Mean
from tbx_callbacks.tags import EXAMPLES_LOSS

LONGEST_TEXT = 2000


@dataclass(frozen=True)
class Examples(Metric):
    """Loss, confidence and variability of each training row over the epochs of a classifier, for a data map.

    The loss of a row is the cross entropy of its logits in training mode, without label smoothing and class weights,
    and not that of the trainer; labels such as -100 are left out. Its confidence is the mean of `exp(-loss)`, the
    probability of the true class, and its variability the standard deviation, over all times that it was seen
    (Swayamdipta et al. 2020, arXiv:2009.10795). The report draws the data map, and lists the hardest rows and those
    whose label may be wrong.

    A row is known by the first of the columns `idx`, `id`, `example_id`, `row_id`, `guid` and `uid` that its batch has,
    or else by a fingerprint of its inputs without padding. Inputs that change from epoch to epoch need such a column. A
    run has keys of one kind: rows with the other kind, as after a resume in another way, are left out with one warning.

    Each rank writes its own rows to `examples.rank<n>.jsonl` in the run's folder, and the reader merges them: one line
    for each micro-batch, about 30 bytes for each row. A training that resumes removes the lines of steps that it trains
    again. With `group_by` the mean loss since the last point is written for each value of a column, over all ranks.

    Logits and labels are found as for `train_accuracy`; a loop passes `batch=` to `end_step` too. Not for labels other
    than one class for each row. Cost: a softmax and a fingerprint for each micro-batch; a thread writes the file.
    """

    group_by: str | None = None
    """Name of a column of the batch: texts, or whole numbers from 0 to 63."""
    texts: int = 0
    """Characters of each row's text to keep in the run's folder, at most 2000; 0 keeps no text."""
    limit_mib: float = 64.0
    """Largest size of a rank's file in MiB; later rows are left out."""

    tags: ClassVar[Mapping[str, str]] = {f"{EXAMPLES_LOSS}/{{group}}": ""}
    needs: ClassVar[frozenset[str]] = frozenset({"examples"})
    cost: ClassVar[str] = "a softmax and a fingerprint of each row"

    def __post_init__(self) -> None:
        check_texts(self.texts)
        if not self.limit_mib > 0:
            raise ValueError(f"limit_mib must be above 0, got {self.limit_mib}; leave the metric out to write no file")
        if self.group_by is not None and not self.group_by:
            raise ValueError("group_by must name a column, got ''; leave it out for no groups")

    def __call__(self, context: Context) -> Values:
        if context.losses_by_group is None:
            return {}
        return {f"{EXAMPLES_LOSS}/{{group}}": Mean(*context.losses_by_group)}


def check_texts(texts: int) -> None:
    """Raises ValueError unless this can be a number of characters."""
    if not 0 <= texts <= LONGEST_TEXT:
        raise ValueError(f"texts must be a number of characters from 0 to {LONGEST_TEXT}, got {texts}; 0 keeps no text")
