"""Groups the series of a run by family and layer, for heat maps of layers over steps."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tbx_callbacks import tags
from tbx_callbacks.rules.series_stats import outermost
from tbx_callbacks.runs.series import Run, Series

Families = Mapping[str, Mapping[str, Series]]
LOG_RATIO = 30.0
"""Ratio of the largest to the smallest value above which a scale is logarithmic."""

_LAYER_FAMILIES = (
    tags.GRAD_NORM,
    tags.WEIGHT_NORM,
    "update_",
    tags.DRIFT,
    tags.MOVED_SHARE,
    "lora/",
    "spectral/",
    f"{tags.NONFINITE}/",
    f"{tags.OPTIMIZER_STATE}/",
    f"{tags.ACTIVATIONS}/",
)


def families(run: Run) -> dict[str, dict[str, Series]]:
    """Groups scalars by family and layer: `{"grad_norm": {"bert.encoder.layer.0": ...}}`. Nested layers are left out.

    The family is the part before the last `/`, or around the layer as in `activations/<module>/zero_share`.
    """
    by_family: dict[str, dict[str, Series]] = {}
    for tag, series in run.scalars.items():
        layer_match = re.fullmatch(rf"{tags.ACTIVATIONS}/(.+)/([^/]+)", tag)
        family, _, layer = (
            (f"{tags.ACTIVATIONS}/{layer_match[2]}", "", layer_match[1]) if layer_match else tag.rpartition("/")
        )
        if (
            family
            and layer != "total"
            and not family.startswith((tags.TRAIN, tags.EVAL, tags.LEARNING_RATE, tags.PERF, tags.MEMORY, tags.BEST))
        ):
            by_family.setdefault(family, {})[layer] = series
    by_layer = {
        family: outermost({f"x/{name}": row for name, row in rows.items()}) for family, rows in by_family.items()
    }
    return {family: rows for family, rows in by_layer.items() if _are_layers(family, rows)}


def _are_layers(family: str, rows: Mapping[str, Series]) -> bool:
    """Whether there are two or more rows of a known family, or three or more with names that look like layers."""
    if family.startswith(_LAYER_FAMILIES):
        return len(rows) >= 2
    return len(rows) >= 3 and sum("." in name for name in rows) * 2 >= len(rows)
