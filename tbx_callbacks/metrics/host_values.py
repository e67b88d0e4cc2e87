"""Defines values that are not numbers: texts, hyper-parameters, layouts. They are not merged over ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tbx_callbacks._stats.histogram import HistogramCounts


@dataclass(frozen=True)
class Text:
    """Markdown for TensorBoard's Text tab."""

    markdown: str

    def __post_init__(self) -> None:
        if not isinstance(self.markdown, str):
            raise TypeError(f"a Text must be a string, got {type(self.markdown).__name__}; write Text(str(...))")
        object.__setattr__(self, "markdown", self.markdown.encode("utf-8", "replace").decode())  # lone surrogates


@dataclass(frozen=True)
class HParams:
    """Hyper-parameters of the run, for TensorBoard's HParams tab."""

    values: Mapping[str, bool | float | str]


@dataclass(frozen=True)
class HParamsMetrics:
    """Tags that the HParams tab shows next to the hyper-parameters."""

    values: Mapping[str, bool | float | str]
    tags: Sequence[str]


@dataclass(frozen=True)
class HParamsEnd:
    """Status of the run at its end."""

    succeeded: bool


@dataclass(frozen=True)
class Layout:
    """Charts for TensorBoard's Custom Scalars tab: category -> chart title -> tag regexes."""

    charts: Mapping[str, Mapping[str, Sequence[str]]]


HostValue = Text | HParams | HParamsMetrics | HParamsEnd | Layout
FinalValue = float | HistogramCounts | HostValue
