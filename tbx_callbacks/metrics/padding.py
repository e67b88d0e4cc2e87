"""Defines the metric that tells how much of the batches is padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.values import Mean, Unless, Value
from tbx_callbacks.tags import PADDING_AT_LIMIT, PADDING_SAVABLE, PADDING_SHARE


@dataclass(frozen=True)
class PaddingShare(Metric):
    """Share of padding among the tokens since the last point, and the share that grouping rows by length would save.

    Rows are those of the attention masks of the training batches. With `n` the tokens that the masks keep, `p` the
    tokens with padding, and `s` the tokens with padding of the same rows, sorted by length and cut into batches of the
    same sizes, each padded to its longest row: `padding/share = 1 - n / p` and `padding/savable = 1 - s / p`. The
    second is what a perfect grouping saves; a sampler that groups by length and still shuffles saves a little less.

    `padding/at_limit` is the share of rows that are as long as the tokenizer's limit. Texts that were cut are among
    them, and texts that fit exactly: a batch does not tell them apart. It needs the Hugging Face Trainer with a fast
    tokenizer (`processing_class=`) that cuts texts when the training begins. Elsewhere, the limit is not known: with
    data that another process has tokenized, with Lightning and in a loop, only the padding is written.

    A loop passes its mask: `end_step(tokens=batch["attention_mask"])`. Left out at a point where a batch of token ids
    has no mask of the form `[rows, length]`, as packed rows have none. `padding/savable` is left out above 65,536
    rows a point. Each rank sorts its own rows; tokens are added over ranks. Cost: a sum over each mask, and a sort of
    the lengths at each point.
    """

    tags: ClassVar[Mapping[str, str]] = {
        PADDING_SHARE: "share of tokens",
        PADDING_SAVABLE: "share of tokens",
        PADDING_AT_LIMIT: "share of rows",
    }
    needs: ClassVar[frozenset[str]] = frozenset({"padding", "batches"})
    cost: ClassVar[str] = "a sum over each mask"

    def __call__(self, context: Context) -> Values:
        found = context.padding
        if found is None:
            if context.run.rank is None:
                return {}
            # Other ranks may know theirs: what lacks a rank is left out on all of them.
            return {tag: Unless(Mean(0.0, 0.0), 1.0) for tag in self.tags}
        values: dict[str, Value] = {PADDING_SHARE: Unless(Mean(found.padded - found.kept, found.padded), 0.0)}
        for tag, total, count in (
            (PADDING_SAVABLE, None if found.sorted is None else found.padded - found.sorted, found.padded),
            (PADDING_AT_LIMIT, found.at_limit, found.rows),
        ):
            if total is not None:
                values[tag] = Unless(Mean(total, count), 0.0)
            elif context.run.rank is not None:
                values[tag] = Unless(Mean(0.0, 0.0), 1.0)
        return values
