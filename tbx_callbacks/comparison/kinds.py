"""Groups runs of a kind: runs that differ in nothing but their seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from tbx_callbacks._text import short, some
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.report.tables import hyper_parameters

_MOST_NAMED = 4  # runs in the title of a kind
_MOST_SETTINGS = 3  # settings in its name
_LONGEST_NAME = 80  # characters
_SEED = re.compile(r"(?i)(^|[_./-])seeds?[_=.-]?\d+(?=$|[_./-])")
_NOT_SETTINGS = re.compile(
    r"(.*[_/.])?(seed|data_seed|random_state|output_dir|logging_dir|log_dir|run_name|trial_name)"
)


@dataclass(frozen=True)
class Kind:
    """Runs with the same settings.

    Attributes:
        name: that of the only run; or what the names of the runs share, if no other kind has it; or the settings that
            differ between kinds; or else the names of the runs. No other kind of the comparison has this name.
        runs: the runs.
        title: the name, with the runs or their number if there are several.
    """

    name: str
    runs: tuple[LoadedRun, ...]
    title: str


def is_setting(name: str) -> bool:
    """Whether a hyper-parameter is a setting of the training: no seed, and no name of a folder or of a run."""
    return _NOT_SETTINGS.fullmatch(name) is None


def settings_of(run: LoadedRun) -> dict[str, Any]:
    """The hyper-parameters of a run that are settings of the training."""
    return {name: value for name, value in hyper_parameters(run.run).items() if is_setting(name)}


def group_runs(runs: Sequence[LoadedRun]) -> list[Kind]:
    """Groups runs by their settings, in order of the first run of each kind.

    Runs whose logs hold no hyper-parameters are of a kind if their names differ only in a number after `seed`.
    """
    groups: dict[object, list[LoadedRun]] = {}
    for run in runs:
        groups.setdefault(_key(run), []).append(run)
    members = list(groups.values())
    stems = [_stem([run.name for run in group]) for group in members]
    settings = _differing_settings(members)
    return [
        _kind(group, stem if stem and stems.count(stem) == 1 else "", label)
        for group, stem, label in zip(members, stems, settings, strict=True)
    ]


def kind_of_one(run: LoadedRun) -> Kind:
    """Returns a run as a kind of its own."""
    return Kind(run.name, (run,), run.name)


def _kind(group: Sequence[LoadedRun], stem: str, settings: str) -> Kind:
    if len(group) == 1:
        return kind_of_one(group[0])
    names = some([run.name for run in group], _MOST_NAMED)
    if stem:
        return Kind(stem, tuple(group), f"{stem} ({len(group)} runs)")
    if settings:
        return Kind(settings, tuple(group), f"{settings} ({names})")
    return Kind(names, tuple(group), names)


def _differing_settings(groups: Sequence[Sequence[LoadedRun]]) -> list[str]:
    """The settings of each group that differ between groups, as text; empty texts if there are too many to read."""
    known = [settings_of(group[0]) for group in groups]
    names = [name for name in sorted(set().union(*known)) if len({str(one.get(name)) for one in known}) > 1]
    labels = [", ".join(f"{name}={setting_text(one[name])}" for name in names if name in one) for one in known]
    is_short = len(names) <= _MOST_SETTINGS and max(map(len, labels)) <= _LONGEST_NAME
    is_clear = is_short and all(labels) and len(set(labels)) == len(labels)
    return labels if is_clear else [""] * len(labels)


def setting_text(value: object) -> str:
    """The value of a setting, as a table shows it."""
    return f"{value:.15g}" if type(value) is float else short(value, 200).strip("'")


def _key(run: LoadedRun) -> object:
    settings = settings_of(run)
    without_seed = _SEED.sub(r"\1seed", run.name)
    if settings:
        return tuple(sorted((name, str(value)) for name, value in settings.items()))
    return without_seed if without_seed != run.name else ("a run of its own", run.name)


def _stem(names: Sequence[str]) -> str:
    """The start that all names share, without a number or a seed at its end."""
    pairs = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    shared = "".join(letters[0] for letters in pairs).rstrip("0123456789").rstrip("_-./= ")
    return re.sub(r"(?i)[_./-]*seeds?$", "", shared)
