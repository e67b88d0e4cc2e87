"""The trainer's own numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.context import Context
from tbx_callbacks.host_values import Text
from tbx_callbacks.metrics.protocol import NOTHING, Values
from tbx_callbacks.select import Select
from tbx_callbacks.values import Max


@dataclass(frozen=True)
class Loss:
    """Loss and every other number that the trainer logs, as it logs them.

    The trainer's loss is its mean over the steps since it last logged; evaluation metrics and the summary at the end
    come as they are. Cost: none.
    """

    tags: ClassVar[Mapping[str, str]] = {"train/loss": "", "train/<name>": "", "eval/<name>": ""}
    events: ClassVar[frozenset[str]] = frozenset({"log"})
    needs: ClassVar[frozenset[str]] = NOTHING
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "none"

    def __call__(self, context: Context) -> Values:
        return {tag: Text(value) if isinstance(value, str) else Max(value) for tag, value in context.logs.items()}
