"""Tests valid metric sets and error messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tbx_callbacks import ConfigError, load_config
from tbx_callbacks._config.bundled import bundled_sets
from tbx_callbacks._config.json_schema import json_schema
from tbx_callbacks._config.metric_set import MetricSet
from tbx_callbacks._config.rule_options import METRIC_SET_KEYS, LiveRule, Response
from tbx_callbacks.metrics.registry import METRICS
from tbx_callbacks.rules import RULES
from tbx_callbacks.rules.divergence import Divergence
from tbx_callbacks.rules.overfitting import Overfitting
from tbx_callbacks.rules.registry import GROUPS
from tbx_callbacks.rules.underfitting import Plateau

FINETUNE = {"drift", "examples", "gradient_noise", "lora", "padding", "spectral", "time"}
"""Metrics that only the set `finetune` has."""


def names(config: Any) -> list[str]:
    return [item.name for item in config.items]


def test_bundled_sets_include_each_other() -> None:
    assert list(bundled_sets()) == ["default", "finetune", "full", "minimal"]
    minimal, default, full, finetune = (load_config(name) for name in ("minimal", "default", "full", "finetune"))
    assert set(names(minimal)) < set(names(default)) <= set(names(full)) == set(METRICS) - FINETUNE - {"bad_batches"}
    assert set(names(finetune)) == set(names(default)) | FINETUNE
    assert {item.key() for item in default.items} < {item.key() for item in full.items}
    assert not any(item.select for item in minimal.items)


def test_load_config_example_extends_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        r"""
extends: default
every: 50
metrics:
  - loss
  - grad_norm: {by: layer}
  - weight_histogram: {every: 200, include: 'encoder\.layer\.(0|11)\.'}
  - weight_norm: {by: {attention: '\.attention\.', mlp: '\.(intermediate|output)\.'}}
"""
    )
    config = load_config(path)
    assert config.every == 50
    default = load_config("default")
    # loss and grad_norm by layer replace inherited items; the other two select other parameters, so they are added
    assert len(config.items) == len(default.items) + 2
    added = config.items[-2:]
    assert [item.name for item in added] == ["weight_histogram", "weight_norm"]
    assert (added[0].every, added[0].select.include) == (200, r"encoder\.layer\.(0|11)\.")
    assert load_config(yaml.safe_load(path.read_text())) == config
    assert load_config(config) is config
    assert load_config(str(path)) == config


def test_load_config_extended_metric_replaced_or_removed() -> None:
    config = load_config({"extends": "default", "metrics": [{"weight_histogram": {"every": 7}}, {"memory": False}]})
    assert [item.every for item in config.items if item.name == "weight_histogram"] == [7]
    assert "memory" not in names(config)
    off = yaml.safe_load("{extends: default, metrics: [grad_norm: off]}")
    assert "grad_norm" not in names(load_config(off))


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": [{"memory": "off"}]},
        {"rules": "off"},
        {"rules": {"others": "off", "nonfinite": "off"}},
        {"rules": {"wiring": "off"}},
    ],
    ids=["metric", "all rules", "a rule", "a group"],
)
def test_load_config_word_off_equals_false(changes: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    as_yaml = yaml.safe_load(yaml.safe_dump(changes).replace("'off'", "off"))
    assert as_yaml != changes
    with_word = {"extends": "default", **changes}
    assert load_config(with_word) == load_config({"extends": "default", **as_yaml})
    assert load_config(with_word) != load_config("default")
    jsonschema.validate(with_word, json_schema())


def test_load_config_extends_path_beside_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "base.yaml").write_text("every: 5\nstrict: true\nmetrics: [loss]\n")
    (tmp_path / "sets" / "more.yaml").write_text("extends: base.yaml\nmetrics: [memory]\n")
    config = load_config(tmp_path / "sets" / "more.yaml")
    assert (names(config), config.every, config.strict) == (["loss", "memory"], 5, True)
    monkeypatch.chdir(tmp_path)
    assert load_config("sets/more.yaml") == config


BAD: list[tuple[Any, str]] = [
    ({}, r"a mapping: metrics must name at least one metric, got none"),
    ({"metric": ["loss"]}, r"metric must be a known key, got 'metric'; did you mean 'metrics'\?"),
    ({"metrics": "loss"}, r"metrics must be a list of metrics, got 'loss'"),
    (
        {"metrics": {"grad_norm": {"by": "layer"}}},
        r"got \{'grad_norm'.*\}; start each .* dash: - grad_norm: \{\.\.\.\}$",
    ),
    ({"metrics": {"loss": None}}, r"metrics must be a list of metrics, .* dash: - loss$"),
    ({"metrics": ["los"]}, r"metrics\[0\] must name a known metric, got 'los'; did you mean 'loss'\?"),
    ({"metrics": [3]}, r"metrics\[0\] must name a known metric, got 3"),
    ({"metrics": [{"loss": {}, "clip": {}}]}, r"metrics\[0\] must be a name or one name .* got 2 keys \(loss, clip\)"),
    ({"metrics": [{"grad_norm": 5}]}, r"metrics\[0\]\.grad_norm must be a mapping of options, or off, got 5"),
    ({"metrics": [{"grad_norm": {"bye": "x"}}]}, r"grad_norm\.bye must be a known option, .* did you mean 'by'\?"),
    (
        {"metrics": [{"grad_norm": {"by": "layr"}}]},
        r"\.by must be one of total, layer, .*'layr'; did you mean 'layer'\?",
    ),
    ({"metrics": [{"grad_norm": {"by": {"a": 3}}}]}, r"\.by must be one of .* or a mapping of group name to regex"),
    ({"metrics": [{"grad_norm": {"by": {}}}]}, r"\.by must name at least one group"),
    ({"metrics": [{"grad_norm": {"by": {"a b": "x"}}}]}, r"\.by: a tag must be made of .* got 'a b'; use 'a_b'"),
    (
        {"metrics": ["clip", {"grad_norm": {"include": "("}}]},
        r"metrics\[1\]\.grad_norm\.include must be a valid regular",
    ),
    ({"metrics": [{"grad_norm": {"include": 3}}]}, r"\.include must be a regular expression \(a string\), got 3"),
    ({"metrics": [{"grad_norm": {"every": -1}}]}, r'\.every must be a positive number of .* or "log", got -1'),
    ({"metrics": [{"grad_norm": {"every": 0}}]}, r"\.every must be a positive number of optimizer steps"),
    ({"metrics": [{"grad_norm": {"every": True}}]}, r"\.every must be a positive number of optimizer steps"),
    ({"metrics": [{"grad_norm": {"every": "often"}}]}, r"\.every must be a positive number .* got 'often'"),
    ({"metrics": [{"loss": {"every": 5}}]}, r"loss\.every must be left out, got 5"),
    ({"metrics": [{"weight_histogram": {"bins": "many"}}]}, r"\.bins must be a valid integer, got 'many'"),
    ({"metrics": [{"weight_histogram": {"bins": 1000}}]}, r"bins must be between 1 and 255, got 1000"),
    ({"metrics": ["loss", "loss"]}, r"metrics\[1\]\.loss must differ from the items before it"),
    ({"metrics": [{"clip": False}]}, r"metrics\[0\]\.clip: off must name a metric of the extended set"),
    ({"metrics": ["loss"], "every": 1.5}, r'every must be a positive number of optimizer steps or "log", got 1\.5'),
    (
        {"metrics": ["loss"], "overhead_budget": 5},
        r"overhead_budget must be a share of the training time between 0 and 1, got 5; 0\.01 is 1 %",
    ),
    (
        {"metrics": ["loss"], "axis": ["samples"]},
        r"axis must be a list of step and perhaps samples, tokens, epochs, got \['samples'\]; \[step, samples\] adds",
    ),
    (
        {"metrics": ["loss"], "axis": ["step", "sample"]},
        r"axis must be a list of step and .*, got \['step', 'sample'\]",
    ),
    ({"metrics": ["loss"], "axis": "samples"}, r"axis must be a list of step and perhaps .*, got 'samples'"),
    ({"metrics": ["loss"], "best": ["f1"]}, r"best must be a mapping of metrics to max or min, got \['f1'\]; write"),
    ({"metrics": ["loss"], "best": {1: "max"}}, r"best must be a mapping of metrics to max or min, got "),
    ({"metrics": ["loss"], "best": {"f1": "larger"}}, r"best\.f1 must be max or min, got 'larger'; max if a larger"),
    ({"metrics": ["loss"], "best": {"f1": ["max"]}}, r"best\.f1 must be max or min, got \['max'\]"),
    ({"metrics": ["loss"], "strict": "yes"}, r"strict must be true or false, got 'yes'"),
    ({"metrics": ["loss"], "rules": ["nonfinite"]}, r"rules must be a mapping of a rule's name to an action"),
    (
        {"metrics": ["loss"], "rules": {"nonfinit": "stop"}},
        r"rules must name known rules, got 'nonfinit'; did you mean 'nonfinite'\? known rules: nonfinite, .*, \.\.\.",
    ),
    (
        {"metrics": ["loss"], "rules": {"TBX-NUM-001": "stop"}},
        r"rules must name rules, got the code 'TBX-NUM-001'; write the name: nonfinite",
    ),
    (
        {"metrics": ["loss"], "rules": {"nonfinite": "stopp"}},
        r"rules\.nonfinite must be a known action, got 'stopp'; did you mean 'stop'\? known actions: warn, stop, check",
    ),
    (
        {"metrics": ["loss"], "rules": {"nonfinite": {"action": ["warn", "off"]}}},
        r"rules\.nonfinite\.action must be a known action, got 'off'",
    ),
    ({"metrics": ["loss"], "rules": {"nonfinite": []}}, r"rules\.nonfinite must be an action or a list of actions"),
    ({"metrics": ["loss"], "rules": {"nonfinite": 3}}, r"must be an action, a mapping of thresholds, or off, got 3"),
    (
        {"metrics": ["loss"], "rules": {"divergence": {"ration": 2.0}}},
        r"rules\.divergence\.ration must be a known threshold, got 'ration'; did you mean 'ratio'\?",
    ),
    (
        {"metrics": ["loss"], "rules": {"divergence": {"ratio": -1.0}}},
        r"rules\.divergence\.ratio must be greater than 0, got -1",
    ),
    ({"metrics": ["loss"], "rules": {"divergence": {"call": 3}}}, r"divergence\.call must be the name of a function"),
    (
        {"metrics": ["loss"], "rules": {"divergence": {"call": "print"}}},
        r"rules\.divergence\.call must name a function, as package\.function, got 'print': it names no module",
    ),
    (
        {"metrics": ["loss"], "rules": {"divergence": {"call": "nowhere.at_all"}}},
        r"rules\.divergence\.call must name a function that can be imported, got 'nowhere\.at_all': No module named",
    ),
    (
        {"metrics": ["loss"], "rules": {"others": {"call": "os.sep"}}},
        r"rules\.others\.call must name a function, as package\.function, got 'os\.sep': it is a str",
    ),
    ({"metrics": ["loss"], "rules": {"others": {"ratio": 2.0}}}, r"rules\.others must be an action, or off"),
    ({"metrics": ["loss"], "rules": {"every": 0}}, r"rules\.every must be a positive number of optimizer steps"),
    ({"extends": 3}, r"extends must be the name of a set or a path, got 3"),
    (
        {"extends": "fulll"},
        r"extends: a metric set must be a bundled name or a path, got 'fulll'; did you mean 'full'\?",
    ),
    ("defualt", r"a metric set must be a bundled name or a path, got 'defualt'; did you mean 'default'\?"),
    ("missing.yaml", r"must be a YAML file, but 'missing\.yaml' does not exist"),
    (["loss"], r"a metric set must be a name, a path, a mapping or a Config, got list"),
]


@pytest.mark.parametrize(("source", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_load_config_mistake_names_place_and_remedy(source: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(source)


def test_load_config_rules_given_only_those_active() -> None:
    given = {"divergence": {"ratio": 2.0, "action": ["stop", "checkpoint"], "call": "os.getcwd"}, "plateau": None}
    live = load_config({"metrics": ["loss"], "rules": {**given, "every": 7}}).live
    assert live.every == 7
    assert live.may_act
    assert live.active_rules() == {
        "divergence": LiveRule(Divergence(ratio=2.0), Response(("stop", "checkpoint"), "os.getcwd")),
        "plateau": LiveRule(Plateau(), Response()),
    }
    assert not load_config({"metrics": ["loss"]}).live.active_rules()


def test_load_config_rules_inherited_replaced_and_off() -> None:
    assert set(load_config("full").live.active_rules()) == {
        "nonfinite",
        "divergence",
        "replicas_differ",
        *GROUPS["wiring"],
    }
    assert not load_config("full").live.may_act
    own = load_config({"extends": "full", "rules": {"nonfinite": "stop", "divergence": False, "others": "warn"}}).live
    assert set(own.active_rules()) == set(RULES) - {"divergence"}
    assert own.active_rules()["nonfinite"].response.actions == ("stop",)
    assert own.active_rules()["overfitting"] == LiveRule(Overfitting(), Response())
    assert not load_config({"extends": "full", "rules": False}).live.active_rules()
    assert load_config({"extends": "full", "rules": {"nonfinite": "stop"}}).digest != load_config("full").digest


FILES: list[tuple[str, str]] = [
    ("", r"bad\.yaml: a metric set must not be empty"),
    ("- loss\n", r"bad\.yaml: a metric set must be a mapping with the keys extends, .* got \['loss'\]"),
    ("metrics:\n  - loss\n  - grad_norm: {by: layer\n", r"bad\.yaml: line \d+, column \d+ must be valid YAML"),
    ("every: 5\nevery: 6\nmetrics: [loss]\n", r"bad\.yaml: line 2, column 1 .* key 'every' is given twice"),
    ("metrics: [los]\n", r"bad\.yaml: metrics\[0\] must name a known metric, got 'los'"),
    ("metrics: [!!python/object/apply:os.system ['touch pwned']]\n", r"could not determine a constructor for the tag"),
    ("extends: bad.yaml\nmetrics: [loss]\n", r"extends must not form a cycle, got bad\.yaml -> bad\.yaml"),
    ("extends: other.yaml\n", r"bad\.yaml: extends: .* 'other\.yaml' does not exist"),
]


@pytest.mark.parametrize(("text", "message"), FILES, ids=[message[:40] for _, message in FILES])
def test_load_config_bad_file_names_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config("bad.yaml")
    assert not Path("pwned").exists()


def test_load_config_unreadable_file_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("metrics: [loss] # caf\xe9".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: a metric set must be a readable UTF-8 file"):
        load_config(path)
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(str(tmp_path) + "/")


@pytest.mark.parametrize("name", ["runs/mine", "runs", "runs/new"])
def test_load_config_run_folder_names_log_dir(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    with pytest.raises(ConfigError, match=rf"; did you mean log_dir='{name}'\? bundled sets: default"):
        load_config(name)
    with pytest.raises(ConfigError) as raised:
        load_config("sets/gone.yaml")
    assert "log_dir" not in str(raised.value)


def test_load_config_cycle_of_two_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(ConfigError, match=r"a\.yaml -> b\.yaml -> a\.yaml"):
        load_config(tmp_path / "a.yaml")


def test_load_config_bundled_name_before_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("default").write_text("metrics: [loss]\n")
    assert len(load_config("default").items) > 1
    assert names(load_config("./default")) == ["loss"]


def test_metric_set_keys_known_to_rule_files() -> None:
    assert tuple(MetricSet.model_fields) == METRIC_SET_KEYS


def test_load_config_writers_inherited_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "base.yaml"
    path.write_text("metrics: [loss]\nwriters: [{tensorboard: {flush_secs: 5}}]\n")
    (inherited,) = load_config({"extends": str(path)}).writers
    assert (inherited.name, inherited.options) == ("tensorboard", {"flush_secs": 5})
    own = load_config({"extends": str(path), "writers": ["tensorboard"]})
    assert own.writers == load_config({"metrics": ["loss"]}).writers
    assert own.digest == load_config({"metrics": ["loss"]}).digest != load_config(path).digest


def test_schema_accepts_bundled_sets_refuses_mistakes() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for path in bundled_sets().values():
        validator.validate(yaml.safe_load(path.read_text()))
    refused = [source for source, _ in BAD if isinstance(source, dict) and not validator.is_valid(source)]
    # Mistakes that a schema cannot find: invalid regexes, repeated items, off without extends, empty mappings.
    assert len(refused) >= 26
    assert json.loads(json.dumps(schema)) == schema


def test_metric_set_best_extends_that_of_parent(tmp_path: Path) -> None:
    parent = tmp_path / "parent.yaml"
    parent.write_text("metrics: [loss]\nbest: {score: max, ber: min}\n")
    config = load_config({"extends": str(parent), "best": {"score": "min", "eval/x": "max"}})
    assert dict(config.best) == {"score": False, "ber": False, "eval/x": True}
    assert load_config("default").best == ()
