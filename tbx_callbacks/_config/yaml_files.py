"""Reads YAML files safely: within limits, without code, and without duplicate keys."""

from __future__ import annotations

import os
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._text import label, short, words

MAX_BYTES = 256 * 1024
MAX_VALUES = 20_000
"""Values in a file, keys included; an alias counts as all that it repeats."""
MAX_LEVELS = 40
"""Values inside one another; an alias counts as all that it repeats."""
MAX_DIGITS = 100
"""Characters of a number."""

_LONGEST = 300  # characters of a problem, which may name a tag or an anchor of any length
REGULAR, MISSING = "is a file", "does not exist"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_MERGE = "tag:yaml.org,2002:merge"
_KEYS = {_MERGE: _MERGE, "tag:yaml.org,2002:value": "="}
"""Tags of keys that PyYAML constructs only after the merge."""


class _Loader(yaml.SafeLoader):
    """A SafeLoader with limits. It rejects duplicate keys, which YAML loaders otherwise drop silently."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._sizes: dict[int, tuple[int, int]] = {}  # of complete nodes, by id: values, and levels
        self._checked: set[int] = set()  # mappings, by id

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        self._level += 1
        if self._level > MAX_LEVELS:
            raise _limit(f"at most {MAX_LEVELS} values inside one another", mark)
        node = super().compose_node(parent, index)
        self._level -= 1
        values, levels = self._sizes[id(node)] = self._sizes.get(id(node)) or self._size(node, mark)
        if values > MAX_VALUES:
            raise _limit(f"at most {MAX_VALUES:,} values, where an alias counts as all that it repeats", mark)
        if self._level + levels > MAX_LEVELS:
            raise _limit(f"at most {MAX_LEVELS} values inside one another, those of aliases included", mark)
        return node

    def _size(self, node: Any, mark: Any) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            return 1, 1
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        if node.end_mark is None:  # still open: an alias inside of the value that it repeats
            raise _limit("a tree: no value that contains itself", mark)
        sizes = [self._sizes[id(part)] for part in parts]
        return 1 + sum(values for values, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """The object of a node, complete, so that its errors have the node's place."""
        if node.tag in _NUMBERS and len(node.value) > MAX_DIGITS:
            raise _limit(f"numbers of at most {MAX_DIGITS} characters", node.start_mark)
        try:
            return super().construct_object(node, deep=True)
        except yaml.YAMLError:
            raise
        except Exception as error:  # PyYAML lets out whatever int, float and datetime raise
            kind = node.tag.rpartition(":")[2]
            given = short(node.value) if isinstance(node.value, str) else "this value"
            raise ConstructorError(
                None, None, f"{given} is no valid {kind}: {words(error)}", node.start_mark
            ) from error

    def flatten_mapping(self, node: Any) -> None:
        """Puts what a mapping merges among its own keys, which are checked before: later, one may be there twice."""
        if id(node) not in self._checked:
            self._checked.add(id(node))
            self._check_keys(node)
        super().flatten_mapping(node)

    def _check_keys(self, node: Any) -> None:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            key = _KEYS.get(key_node.tag) or self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise ConstructorError(None, None, f"a key must be a text, got {short(key)}", key_node.start_mark)
            if key in keys:
                shown = "<<" if key == _MERGE else short(key)
                raise ConstructorError(None, None, f"key {shown} is given twice", key_node.start_mark)
            keys.add(key)


def _limit(rule: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=f"it must hold {rule}", problem_mark=mark)


def locate(source: str | os.PathLike[str], base: Path = Path()) -> tuple[Path, str]:
    """The absolute path of a file, and what there is: REGULAR, MISSING, or a reason why it cannot be read."""
    try:
        path = Path(base, os.path.expanduser(source))
        path = Path(os.path.realpath(path))
        kind = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return path, MISSING
    except (OSError, ValueError) as error:
        return Path(os.fspath(source)), f"cannot be read: {words(error)}"
    if stat.S_ISREG(kind):
        return path, REGULAR
    return path, "is a folder" if stat.S_ISDIR(kind) else "is no regular file, but a device, a pipe or a socket"


def read_yaml(source: str | os.PathLike[str], what: str) -> object:
    """Returns the contents of a YAML file; `what` names the kind of file in errors.

    Raises:
        ConfigError: the file cannot be read, is not YAML, contains a duplicate key, or exceeds a limit: MAX_BYTES,
            MAX_VALUES, MAX_LEVELS, MAX_DIGITS.
    """
    path, found = locate(source)
    name = label(os.path.basename(os.fspath(source)))
    if found != REGULAR:
        raise ConfigError(f"{name}: {what} must be a readable UTF-8 file, but {short(os.fspath(source), 200)} {found}")
    text = _read_text(path, name, what)
    loader = None
    try:
        # A SafeLoader: a YAML file itself never runs code.
        loader = _Loader(text)
        return loader.get_single_data()
    except Exception as error:  # PyYAML also lets out errors of int() and chr() while it scans
        # Its own text quotes the line, which may hold the token of an address.
        raise ConfigError(f"{name}:{_place(error, text, loader)} must be valid YAML: {_problem(error)}") from None


def _read_text(path: Path, name: str, what: str) -> str:
    try:
        # Without waiting, should a pipe take the place of the file.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            content = file.read(MAX_BYTES + 1) or b""
    except OSError as error:
        raise ConfigError(f"{name}: {what} must be a readable UTF-8 file: {words(error)}") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(
            f"{name}: {what} must be a file of at most {MAX_BYTES // 1024} KiB; leave out what it repeats"
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise ConfigError(
            f"{name}: {what} must be a readable UTF-8 file: line {line}, column {column}: {error.reason}"
        ) from error


def _place(error: Exception, text: str, loader: _Loader | None) -> str:
    """The line and the column of a problem, as far as they are known."""
    if isinstance(error, yaml.reader.ReaderError) and isinstance(error.position, int):
        before = text[: error.position]
        return f" line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"
    mark = getattr(error, "problem_mark", None) or (loader.get_mark() if loader else None)
    return f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _problem(error: Exception) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f"{error.reason}: {short(error.character if isinstance(error.character, str) else chr(error.character))}"
    problem = getattr(error, "problem", None) or words(error)
    return problem if len(problem) <= _LONGEST else f"{problem[:_LONGEST]}..."
