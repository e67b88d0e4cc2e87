"""Defines what the commands print with `--json`: one model a command, from which `tbx-callbacks schema` follows."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION = 1
"""Rises when a field changes its meaning or goes; new fields may come without it."""

Number = float | Literal["nan", "inf", "-inf"]
Setting = bool | float | str | None
Status = Annotated[
    Literal["succeeded", "failed"] | None,
    Field(description="How the training has ended, `failed` if it was interrupted; null while it runs, or if unknown."),
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FindingPart(_Part):
    """A finding."""

    id: str
    severity: Literal["error", "warning", "note"]
    tags: list[str]
    steps: list[int] = Field(description="The first one is where the problem begins.")
    means: str
    advice: str
    source: str
    numbers: dict[str, float | str]
    code: str


class AcknowledgedPart(FindingPart):
    """A finding that the project knows of."""

    reason: str


class UnjudgedPart(_Part):
    """A rule that could not judge."""

    id: str
    missing: str = Field(description="The data that it lacks, or the runs that it is for.")
    metric: str = Field(description="The metric that writes the data; empty if the rule does not apply.")
    applies: bool = Field(description="Whether data would help; else the rule is for other runs.")


class VerdictPart(_Part):
    """What a diagnosis amounts to."""

    kind: Literal["problems", "nothing_found", "too_little"]
    judged: int
    rules: int
    text: str
    remedy: str


class DiagnosedPart(_Part):
    """A run and its diagnosis."""

    run: str
    folder: str
    verdict: VerdictPart
    last_step: int
    status: Status
    source: str | None
    lacks: list[str]
    findings: list[FindingPart]
    acknowledged: list[AcknowledgedPart]
    unjudged: list[UnjudgedPart]
    unread: dict[str, int]
    left_out: list[str]


class AcknowledgementPart(_Part):
    """An acknowledgement in a file of rules that no finding matched."""

    model_config = ConfigDict(extra="allow")

    reason: str


class _Output(_Part):
    schema_version: Literal[1]


class DoctorOutput(_Output):
    """`doctor --json` and `preflight --json`."""

    command: Literal["doctor", "preflight"]
    runs: list[DiagnosedPart]
    acknowledged_not_found: list[AcknowledgementPart]
    rules_file: str | None


class CurvePart(_Part):
    """A curve in a few numbers."""

    tag: str
    points: int
    first: Number
    last: Number
    last_step: int
    best: Number | None
    best_step: int | None
    nonfinite: int


class ShowOutput(_Output):
    """`show --json`."""

    command: Literal["show"]
    run: str
    folder: str
    verdict: VerdictPart
    findings: list[FindingPart]
    last_step: int
    status: Status
    seconds: float | None
    source: str | None
    curves: list[CurvePart]
    settings: dict[str, Any]
    families: dict[str, int]
    bad_steps: list[int]


class JumpPart(_Part):
    """A layer whose value changed."""

    tag: str
    usual: Number
    value: Number
    step: int


class AroundOutput(_Output):
    """`around --json`."""

    command: Literal["around"]
    run: str
    folder: str
    step: int
    steps: list[int]
    curves: dict[str, list[Number | None]]
    jumps: list[JumpPart]
    findings: list[FindingPart]
    has_batch: bool


class KindPart(_Part):
    """Runs that differ only in their seeds."""

    name: str
    runs: list[str]
    statuses: list[Status] = Field(description="Of each of the runs.")


class DifferencePart(_Part):
    """A value in each kind of run."""

    name: str
    values: list[str]


class EndPart(_Part):
    """The last values of the runs of a kind."""

    mean: Number
    std: Number | None


class PartingPart(_Part):
    """How a kind differs from the first one."""

    points: int
    equal_until: int | None
    since: int | None
    is_equal: bool


class ComparedCurvePart(_Part):
    """A curve in each kind of run."""

    tag: str
    last: list[EndPart | None]
    parts: list[PartingPart | None]


class CompareOutput(_Output):
    """`compare --json`."""

    command: Literal["compare"]
    kinds: list[KindPart]
    settings: list[DifferencePart]
    versions: list[DifferencePart]
    findings: list[DifferencePart]
    curves: list[ComparedCurvePart]
    notes: list[str]


class RowPart(_Part):
    """A row of a bad batch."""

    key: str
    loss: Number | None
    label: int | None
    predicted: int | None
    text: str | None


class MicroBatchPart(_Part):
    """A micro-batch of a bad step."""

    number: int
    loss: Number | None
    rows: list[RowPart]


class BatchPart(_Part):
    """The batch of a rank in a bad step."""

    step: int
    rank: int
    reasons: list[str]
    micro_batches: list[MicroBatchPart]


class BatchOutput(_Output):
    """`batch --json`."""

    command: Literal["batch"]
    batches: list[BatchPart]


class SetPart(_Part):
    """A bundled set."""

    name: str
    description: str
    metrics: list[str]


class SetsOutput(_Output):
    """`sets --json`."""

    command: Literal["sets"]
    sets: list[SetPart]


class MetricPart(_Part):
    """A metric."""

    name: str
    description: str
    tags: dict[str, str | None] = Field(description="The unit of each tag.")
    options: dict[str, str] = Field(description="The default of each option.")
    cost: str


class MetricsOutput(_Output):
    """`metrics --json`."""

    command: Literal["metrics"]
    metrics: list[MetricPart]


class ReportOutput(_Output):
    """`report --json`."""

    command: Literal["report"]
    report: str


class CheckedMetricPart(_Part):
    """A metric of a set."""

    name: str
    every: str
    parameters: str
    tags: list[str]


class CheckOutput(_Output):
    """`check --json`."""

    command: Literal["check"]
    metrics: list[CheckedMetricPart]
    summary: str
    not_checked: list[str]


class WatchOutput(_Output):
    """A line of `watch --json`: one event."""

    command: Literal["watch"]
    event: Literal["crash", "stall", "end", "error", "warning"]
    run: str
    step: int
    text: str
    severity: Literal["error", "warning", "info"]
    code: str = Field(description="The code of the rule; empty for other events.")
    time: float = Field(description="Seconds since 1970.")


OUTPUTS: dict[str, type[_Output]] = {
    "doctor": DoctorOutput,
    "preflight": DoctorOutput,
    "show": ShowOutput,
    "around": AroundOutput,
    "compare": CompareOutput,
    "batch": BatchOutput,
    "sets": SetsOutput,
    "metrics": MetricsOutput,
    "check": CheckOutput,
    "report": ReportOutput,
    "watch": WatchOutput,
}
"""The outputs by command."""


def output_schema(command: str) -> dict[str, Any]:
    """Returns the JSON Schema of a command's output."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **OUTPUTS[command].model_json_schema()}


def header(command: str) -> dict[str, Any]:
    """Returns the fields that every output begins with."""
    return {"command": command, "schema_version": VERSION}


def finite(value: Any) -> Any:
    """Returns a nested value with each number that is not finite as a text: `nan`, `inf` or `-inf`."""
    if isinstance(value, dict):
        return {str(name): finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
