"""Defines `Acknowledgement`, by which a project tells that it knows of a finding and leaves it as it is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from tbx_callbacks.rules.base import Finding
from tbx_callbacks.runs.folders import is_remote


@dataclass(frozen=True)
class Acknowledgement:
    """An entry of `acknowledged:`.

    - `rule`: a rule's name or code.
    - `reason`: why the finding is left as it is.
    - `tag`: a glob. It has to match every tag of the finding that begins with the same family (up to the first `/`) as
      one that it matches: a further layer is not hidden. Empty: any tags.
    - `run`: a glob for the end of the run's folder, such as `seed_*` or `sweep/seed_*`. Empty: any run.
    """

    rule: str
    reason: str
    tag: str = ""
    run: str = ""

    def covers(self, finding: Finding, folder: str) -> bool:
        """Whether it acknowledges a finding of the run in a folder."""
        return (
            self.rule in (finding.id, finding.code)
            and (not self.tag or _match_tags(self.tag, finding.tags))
            and (not self.run or _matches_end(self.run, folder))
        )

    def __str__(self) -> str:
        """The entry without its reason, as in YAML."""
        options = [f"{key}: {value}" for key, value in (("tag", self.tag), ("run", self.run)) if value]
        return f"{self.rule} ({', '.join(options)})" if options else self.rule


@dataclass(frozen=True)
class AcknowledgedFinding:
    """A finding that counts neither for the verdict nor for the exit code, and the entries that acknowledge it."""

    finding: Finding
    entries: tuple[Acknowledgement, ...]

    @property
    def reason(self) -> str:
        """Why it is left as it is: the reason of the first entry."""
        return self.entries[0].reason


def split(
    findings: Iterable[Finding], entries: Sequence[Acknowledgement], folder: str
) -> tuple[list[Finding], list[AcknowledgedFinding]]:
    """Returns the open findings, and those that an entry acknowledges."""
    open_findings: list[Finding] = []
    acknowledged: list[AcknowledgedFinding] = []
    for finding in findings:
        covering = tuple(entry for entry in entries if entry.covers(finding, folder))
        if covering:
            acknowledged.append(AcknowledgedFinding(finding, covering))
        else:
            open_findings.append(finding)
    return open_findings, acknowledged


def unused(
    entries: Iterable[Acknowledgement], acknowledged: Iterable[Sequence[AcknowledgedFinding]]
) -> list[Acknowledgement]:
    """Returns the entries that acknowledge no finding of any run."""
    used = {entry for of_run in acknowledged for one in of_run for entry in one.entries}
    return [entry for entry in entries if entry not in used]


def _match_tags(glob: str, tags: Sequence[str]) -> bool:
    families = {_family(tag) for tag in tags if fnmatchcase(tag, glob)}
    return bool(families) and all(fnmatchcase(tag, glob) for tag in tags if _family(tag) in families)


def _family(tag: str) -> str:
    return tag.partition("/")[0]


def _matches_end(glob: str, folder: str) -> bool:
    path = folder if is_remote(folder) or not folder else os.path.abspath(folder)
    return PurePosixPath(path.replace(os.sep, "/")).match(glob)
