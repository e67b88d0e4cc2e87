"""Reads YAML files safely, and rejects duplicate keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tbx_callbacks._config.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """A SafeLoader that rejects duplicate keys, which YAML loaders otherwise drop silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int, float, bool)) and key in keys:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            keys.add(key if isinstance(key, (str, int, float, bool)) else id(key_node))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str) -> object:
    """Returns the contents of a YAML file; `what` names the kind of file in errors.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or contains a duplicate key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name}: {what} must be a readable UTF-8 file: {error}") from error
    try:
        # A SafeLoader: a YAML file never runs code.
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path.name}:{where} must be valid YAML: {problem}") from error
