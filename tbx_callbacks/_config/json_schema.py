"""Builds the JSON Schema of a metric set."""

from __future__ import annotations

from typing import Any

from tbx_callbacks._config.metric_set import MetricSet


def json_schema() -> dict[str, Any]:
    """The structure that `load_config` accepts, as JSON Schema (draft 2020-12), with a definition for each metric."""
    schema = MetricSet.model_json_schema()
    definitions: dict[str, Any] = {}
    for entry in schema["properties"]["metrics"]["items"]["anyOf"]:
        for name, choices in entry.get("properties", {}).items():
            definitions[name] = choices["anyOf"][0]
            choices["anyOf"][0] = {"$ref": f"#/$defs/{name}"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": definitions}
