"""Charts that belong together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.context import Context
from tbx_callbacks.host_values import Layout as Charts
from tbx_callbacks.metrics.protocol import NOTHING, Values
from tbx_callbacks.select import Select


@dataclass(frozen=True)
class Layout:
    """Charts for TensorBoard's Custom Scalars tab.

    Train and evaluation loss on one chart, and one chart for each family of layers or parameters. Cost: none.
    """

    tags: ClassVar[Mapping[str, str]] = {"custom_scalars__config__": "layout"}
    events: ClassVar[frozenset[str]] = frozenset({"start"})
    needs: ClassVar[frozenset[str]] = NOTHING
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "none"

    def __call__(self, context: Context) -> Values:
        charts: dict[str, dict[str, list[str]]] = {"loss": {"train and eval": ["^train/loss$", "^eval/.*loss$"]}}
        for family in context.run.families:
            if family.startswith("nonfinite/"):
                continue  # has lines only when something is wrong
            charts.setdefault("by layer", {})[family] = [f"^{re.escape(family)}/(?!total$).+"]
        charts["learning rate"] = {"by parameter group": ["^lr/.+"]}
        return {"custom_scalars__config__": Charts(charts)}
