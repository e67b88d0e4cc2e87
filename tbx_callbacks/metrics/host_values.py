"""Values that are no numbers: one rank knows them, and nothing is merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tbx_callbacks._stats.histogram import HistogramCounts


@dataclass(frozen=True)
class Text:
    """Markdown for TensorBoard's Text tab."""

    markdown: str


@dataclass(frozen=True)
class HParams:
    """Hyper-parameters of the run, for TensorBoard's HParams tab."""

    values: Mapping[str, bool | float | str]


@dataclass(frozen=True)
class HParamsMetrics:
    """Which tags the HParams tab shows beside the hyper-parameters."""

    values: Mapping[str, bool | float | str]
    tags: Sequence[str]


@dataclass(frozen=True)
class HParamsEnd:
    """How the run ended."""

    succeeded: bool


@dataclass(frozen=True)
class Layout:
    """Charts for TensorBoard's Custom Scalars tab: category -> chart title -> regexes of tags."""

    charts: Mapping[str, Mapping[str, Sequence[str]]]


HostValue = Text | HParams | HParamsMetrics | HParamsEnd | Layout
FinalValue = float | HistogramCounts | HostValue
