"""Tests the values of `every`, at all places where a metric set has one."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tbx_callbacks import ConfigError, load_config
from tbx_callbacks._config.json_schema import json_schema
from tbx_callbacks._config.schedule import At, EveryEpochs, PerDecade
from tests.helpers.outside_package import install

PLACES: dict[str, tuple[Callable[[Any], dict[str, Any]], Callable[[Any], Any]]] = {
    "every": (lambda value: {"metrics": ["memory"], "every": value}, lambda config: config.every),
    "metrics[0].memory.every": (
        lambda value: {"metrics": [{"memory": {"every": value}}]},
        lambda config: config.items[0].every,
    ),
    "rules.every": (
        lambda value: {"metrics": ["memory"], "rules": {"every": value, "nonfinite": "stop"}},
        lambda config: config.live.every,
    ),
}
GOOD: list[tuple[Any, Any, str]] = [
    (7, 7, "7"),
    ("log", "log", "log"),
    ({"at": [10, 1, 10]}, At(frozenset({1, 10})), "at steps 1, 10"),
    ({"per_decade": 4}, PerDecade(4), "4 times per decade of steps"),
    ({"epochs": 1}, EveryEpochs(1), "every epoch"),
    ({"epochs": 0.5}, EveryEpochs(0.5), "every 0.5 epochs"),
]
STEPS = 'must be a positive number of optimizer steps or "log", got '
BAD: list[tuple[Any, str]] = [
    (0, f" {STEPS}0"),
    (True, f" {STEPS}True"),
    (2.0, f" {STEPS}2.0"),
    ("100", f" {STEPS}'100'"),
    (None, f" {STEPS}None"),
    ([1, 2], f" {STEPS}[1, 2]"),
    ({}, " must have one of at, per_decade, epochs or the path of a class, got {}"),
    ({"at": [1], "epochs": 1}, " must have one of at, per_decade, epochs or the path of a class, got {'at': [1], "),
    ({"epoch": 1}, ".epoch must be a known cadence or the path of a class, got 'epoch'; did you mean 'epochs'?"),
    ({3: 1}, ".3 must be a known cadence or the path of a class, got 3"),
    *(
        ({"at": steps}, f".at must be a list of steps, counted from 1, got {steps!r}")
        for steps in ([], [0], [True], [1.0])
    ),
    *(
        ({"at": steps}, f".at must be a list of steps, counted from 1, got {steps!r}")
        for steps in (["1"], 5, None, "1")
    ),
    *(({"per_decade": n}, f".per_decade must be a positive number of points, got {n!r}") for n in (0, -1, True, 1.5)),
    *(({"epochs": n}, f".epochs must be a positive number of epochs, got {n!r}") for n in (0, -0.5, True, "1", None)),
    ({"epochs": float("inf")}, ".epochs must be a positive number of epochs, got inf"),
    ({"epochs": float("nan")}, ".epochs must be a positive number of epochs, got nan"),
]


@pytest.fixture(scope="module")
def schema() -> Any:
    """A validator of sets; to make and check the schema takes a second."""
    return pytest.importorskip("jsonschema").Draft202012Validator(json_schema())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("value", "cadence", "text"), GOOD, ids=[text for _, _, text in GOOD])
def test_cadence_accepted_at_every_place(place: str, value: Any, cadence: Any, text: str, schema: Any) -> None:
    build, read = PLACES[place]
    config = load_config(build(value))
    assert read(config) == cadence
    assert str(read(config)) == text
    assert pickle.loads(pickle.dumps(config)) == config
    schema.validate(build(value))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("value", "message"), BAD, ids=[message for _, message in BAD])
def test_cadence_mistake_names_place_and_rule(place: str, value: Any, message: str) -> None:
    build, _ = PLACES[place]
    if place == "metrics[0].memory.every" and value is None:
        assert load_config(build(value)).items[0].every is None  # the set's
        return
    with pytest.raises(ConfigError) as raised:
        load_config(build(value))
    assert str(raised.value).startswith(f"a mapping: {place}{message}")


def test_cadence_schema_refuses_wrong_forms(schema: Any) -> None:
    unknown_to_json = (2.0, {3: 1}, {"at": [1.0]})
    values = [value for value, _ in BAD if value not in unknown_to_json and value != {"epochs": float("inf")}]
    values = [value for value in values if str(value) != "{'epochs': nan}"]
    assert [value for value in values if schema.is_valid(PLACES["every"][0](value))] == []
    assert schema.is_valid({"metrics": ["memory"], "every": {"my_pkg.cadences.Fibonacci": {"start": 3}}})


@pytest.mark.parametrize("place", PLACES)
def test_outside_cadence_created_with_options(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    build, read = PLACES[place]
    config = load_config(build({"my_pkg.cadences.Fibonacci": {"start": 3}}))
    cadence = read(config)
    assert [step for step in range(1, 12) if cadence(step)] == [3, 4, 7, 11]
    assert str(cadence) == "Fibonacci(start=3)"
    assert pickle.loads(pickle.dumps(config)) == config
    assert read(load_config(build({"my_pkg.cadences.Fibonacci": None}))) == type(cadence)()


OUTSIDE: list[tuple[str, Any, str]] = [
    (
        "Fibonacci",
        {"strt": 3},
        ".my_pkg.cadences.Fibonacci.strt must be a known option, got 'strt'; did you mean 'start'?",
    ),
    ("Fibonacci", {"start": "3"}, ".my_pkg.cadences.Fibonacci.start must be a valid integer, got '3'"),
    ("Fibonacci", 3, ".my_pkg.cadences.Fibonacci must be a mapping of options, got 3"),
    (
        "Fibonaci",
        {},
        " must name a cadence that can be used, got 'my_pkg.cadences.Fibonaci': module my_pkg.cadences has",
    ),
    ("Truthy", {}, ".my_pkg.cadences.Truthy must return True or False, got [1, 0, 1] at steps 1, 2 and 3"),
    (
        "Raises",
        {},
        ".my_pkg.cadences.Raises must be a function of the step that can be pickled and hashed: RuntimeError",
    ),
    ("even", {}, " must name a cadence that can be used, got 'my_pkg.cadences.even': it must be a class, got function"),
]


@pytest.mark.parametrize(("name", "options", "message"), OUTSIDE, ids=[message for _, _, message in OUTSIDE])
def test_outside_cadence_mistake_names_remedy(
    name: str, options: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    with pytest.raises(ConfigError) as raised:
        load_config({"metrics": ["memory"], "every": {f"my_pkg.cadences.{name}": options}})
    assert str(raised.value).startswith(f"a mapping: every{message}")
