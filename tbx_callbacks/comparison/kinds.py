"""Groups runs of a kind: runs that differ in nothing but their seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.report.tables import hyper_parameters

_SEED = re.compile(r"(?i)(^|[_./-])seeds?[_=.-]?\d+(?=$|[_./-])")
_NOT_SETTINGS = re.compile(
    r"(.*[_/.])?(seed|data_seed|random_state|output_dir|logging_dir|log_dir|run_name|trial_name)"
)


@dataclass(frozen=True)
class Kind:
    """Runs with the same settings; `name` is that of the only run, or what the names of the runs share."""

    name: str
    runs: tuple[LoadedRun, ...]

    @property
    def title(self) -> str:
        """The name, with the number of runs if there are several."""
        return self.name if len(self.runs) == 1 else f"{self.name} ({len(self.runs)} runs)"


def is_setting(name: str) -> bool:
    """Whether a hyper-parameter is a setting of the training: no seed, and no name of a folder or of a run."""
    return _NOT_SETTINGS.fullmatch(name) is None


def group_runs(runs: Sequence[LoadedRun]) -> list[Kind]:
    """Groups runs by their settings, in order of the first run of each kind.

    Runs whose logs hold no hyper-parameters are of a kind if their names differ only in a number after `seed`.
    """
    groups: dict[object, list[LoadedRun]] = {}
    for run in runs:
        groups.setdefault(_key(run), []).append(run)
    return [Kind(_name([run.name for run in members]), tuple(members)) for members in groups.values()]


def _key(run: LoadedRun) -> object:
    settings = {name: value for name, value in hyper_parameters(run.run).items() if is_setting(name)}
    without_seed = _SEED.sub(r"\1seed", run.name)
    if settings:
        return tuple(sorted((name, str(value)) for name, value in settings.items()))
    return without_seed if without_seed != run.name else ("a run of its own", run.name)


def _name(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    pairs = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    shared = "".join(letters[0] for letters in pairs).rstrip("0123456789").rstrip("_-./= ")
    return re.sub(r"(?i)[_./-]*seeds?$", "", shared) or names[0]
