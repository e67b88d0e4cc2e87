"""Builds the JSON Schema of a metric set."""

from __future__ import annotations

from typing import Any

from tbx_callbacks._config.keys import METRIC_SET_KEYS
from tbx_callbacks._config.metric_spec import options_model
from tbx_callbacks._config.rule_options import ACTIONS
from tbx_callbacks._config.rule_options import options_model as thresholds_model
from tbx_callbacks.metrics.registry import METRICS
from tbx_callbacks.rules import RULES
from tbx_callbacks.runs.folders import AXES

_EVERY = {
    "description": "Optimizer steps between points, or log: at the steps at which the trainer logs.",
    "anyOf": [{"type": "integer", "minimum": 1}, {"const": "log"}],
}


def json_schema() -> dict[str, Any]:
    """The structure that `load_config` accepts, as JSON Schema (draft 2020-12)."""
    definitions = {name: _metric(name) for name in METRICS}
    with_options = [
        {
            "type": "object",
            "properties": {name: {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"const": False}, {"type": "null"}]}},
            "required": [name],
            "additionalProperties": False,
        }
        for name in METRICS
    ]
    keys: dict[str, Any] = {
        "extends": {"type": "string", "description": "A bundled set or a path."},
        "every": _EVERY,
        "strict": {"type": "boolean", "description": "Raise errors of metrics instead of disabling them."},
        "overhead_budget": {
            "type": "number",
            "exclusiveMinimum": 0,
            "exclusiveMaximum": 1,
            "description": "Largest share of the training time for monitoring.",
        },
        "rules": {"anyOf": [{"const": False}, {"type": "null"}, _rules()]},
        "axis": {
            "type": "array",
            "prefixItems": [{"const": "step"}],
            "items": {"enum": list(AXES)},
            "minItems": 1,
            "uniqueItems": True,
            "description": "The x axes of the run: step, and further axes in subfolders.",
        },
        "metrics": {"type": "array", "items": {"anyOf": [{"enum": list(METRICS)}, *with_options]}},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tbx_callbacks metric set",
        "type": "object",
        "additionalProperties": False,
        "properties": {key: keys[key] for key in METRIC_SET_KEYS},
        "$defs": definitions,
    }


_ACTION = {
    "description": "Response to a finding, once: log it (warn), stop the training, save a checkpoint.",
    "anyOf": [{"enum": list(ACTIONS)}, {"type": "array", "items": {"enum": list(ACTIONS)}, "minItems": 1}],
}
_CALL = {"type": "string", "pattern": r"\.", "description": "A function called with the finding, as package.function."}


def _rules() -> dict[str, Any]:
    others = {"type": "object", "properties": {"action": _ACTION, "call": _CALL}, "additionalProperties": False}
    return {
        "type": "object",
        "description": "Rules that are evaluated during the training.",
        "additionalProperties": False,
        "properties": {
            "every": _EVERY,
            "others": {"anyOf": [{"const": False}, {"type": "null"}, _ACTION, others]},
            **{name: {"anyOf": [{"const": False}, {"type": "null"}, _ACTION, _rule(name)]} for name in RULES},
        },
    }


def _rule(name: str) -> dict[str, Any]:
    schema = thresholds_model(name).model_json_schema()
    schema["properties"] = {"action": _ACTION, "call": _CALL, **schema.get("properties", {})}
    schema["description"] = (RULES[name].__doc__ or "").partition("\n")[0]
    return schema


def _metric(name: str) -> dict[str, Any]:
    schema = options_model(name).model_json_schema()
    if "every" in schema["properties"]:
        schema["properties"]["every"] = _EVERY
    schema["description"] = (METRICS[name].__doc__ or "").partition("\n")[0]
    return schema
