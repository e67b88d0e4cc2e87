"""Builds YAML documents that no user writes on purpose, and changes documents at random."""

from __future__ import annotations

import random
from typing import Any

import yaml

from tbx_callbacks._config.bundled import bundled_sets


def bomb(levels: int, width: int, *, merge: bool = False) -> str:
    """A short document that stands for `width ** levels` values."""
    lines = ["a0: &a0 {x: 1}" if merge else "a0: &a0 [x]"]
    for level in range(levels):
        aliases = ", ".join([f"*a{level}"] * width)
        made = f"{{<<: [{aliases}], k{level}: 1}}" if merge else f"[{aliases}]"
        lines.append(f"a{level + 1}: &a{level + 1} {made}")
    return "\n".join([*lines, f"metrics: *a{levels}"])


def chain(length: int) -> str:
    """Values inside one another, by aliases only."""
    lines = ["k:", "  - &a0 {x: 1}", *(f"  - &a{n + 1} {{<<: *a{n}}}" for n in range(length))]
    return "\n".join([*lines, f"<<: *a{length}"])


NASTY = {
    "alias bomb": bomb(9, 10),
    "merge bomb": bomb(9, 10, merge=True),
    "alias chain": chain(3000),
    "deep list": "[" * 100_000,
    "deep blocks": "- " * 50_000,
    "deep keys": "? " * 50_000,
    "deep maps": "{a: " * 50_000,
    "own alias": "&a [*a]",
    "own alias in a map": "metrics: &a {x: *a}",
    "too many values": f"[{', '.join(['1'] * 30_000)}]",
    "too large": "x" * 300_000,
    "python object": "metrics: !!python/object/apply:os.system [touch pwned]",
    "python name": "metrics: [!!python/name:os.system]",
    "unknown tag": "metrics: !foo x",
    "set": "metrics: !!set {loss}",
    "set of a list": "metrics: !!set [loss]",
    "map of a text": "metrics: !!map loss",
    "binary": "metrics: [!!binary aGk=]",
    "bad binary": "metrics: [!!binary a]",
    "omap": "metrics: !!omap [loss: {}]",
    "omap of a text": "!!omap a",
    "pairs": "metrics: !!pairs [loss: 1]",
    "date": "metrics: [2001-01-01]",
    "impossible date": "every: 2001-99-99",
    "date as key": "2001-01-01: 3",
    "no int": "every: !!int foo",
    "empty int": "every: !!int ''",
    "no bool": "strict: !!bool foo",
    "no timestamp": "every: !!timestamp x",
    "huge int": f"every: {10**400}",
    "huger int": f"every: {'9' * 5000}",
    "huge hex": f"every: 0x{'f' * 5000}",
    "long sexagesimal": f"every: 1{':59' * 80_000}",
    "long sexagesimal float": f"every: 1{':59' * 80_000}.5",
    "infinity": "every: .inf",
    "nan": "overhead_budget: .nan",
    "number as key": "1: 2",
    "null as key": "~: 2",
    "nan as keys": "{.nan: 1, .nan: 2}",
    "list as key": "? [a]\n: 1",
    "map as key": "? {a: 1}\n: 1",
    "set as key": "? !!set {a}\n: 1",
    "key twice": "every: 1\nevery: 2",
    "key twice by alias": "&a x: *a\n*a : 3",
    "merge twice": "<<: {every: 3}\n<<: {strict: true}",
    "merge of a number": "<<: 3",
    "value tag": "=: 3",
    "two documents": "metrics: [loss]\n---\nmetrics: [loss]",
    "NUL": "metrics: [lo\0ss]",
    "C1 controls": "metrics: [\x84]",
    "impossible escape": 'metrics: ["\\U00110000"]',
    "surrogate": 'metrics: ["\\ud800"]',
    "surrogate as path": 'extends: "\\ud800.yaml"',
    "version of 5000 digits": f"%YAML 9.{'9' * 5000}\n---\na",
    "version 2": "%YAML 2.0\n---\na",
    "own tag": "%TAG ! !!\n--- !x y",
    "empty": "",
    "comment": "# x" * 20_000,
    "blanks": " " * 200_000,
    "open quote": "'" + "x" * 200_000,
    "tab": "\t- a",
    "long anchor": f"&{'a' * 100_000} x",
    "unknown alias": "*nope",
    "long tag": f"a: !!{'b' * 100_000} c",
    "long unknown alias": f"*{'a' * 100_000}",
    "deep regex": f"metrics:\n  - grad_norm: {{include: '{'(' * 5000}'}}",
    "huge repetition": "metrics:\n  - grad_norm: {include: 'a{99999999999}'}",
    "list in axis": "axis: [step, [a]]\nmetrics: [loss]",
    "long name": f"metrics: [{'a' * 100_000}]",
    "long key": f"{'a' * 1000}: 1",
    "many keys": f"metrics:\n  - {{{', '.join(f'k{n}: 1' for n in range(3000))}}}",
    "list as action": "rules: {divergence: [[a]]}\nmetrics: [loss]",
    "number as rule": "rules: {1: 2}\nmetrics: [loss]",
    "list as direction": "best: {a: [b]}\nmetrics: [loss]",
    "NUL in path": 'extends: "a\\0b.yaml"',
    "long path": f"extends: {'a' * 5000}.yaml",
    "unknown home": "extends: ~nosuchuser/x.yaml",
    "home of nobody": "extends: ~nobody/x.yaml",
    "empty path": "extends: ''",
    "folder": "extends: /",
}
"""Documents that must end in an error, each with one line."""

ODD_VALID = {
    "byte order mark": "\ufeffmetrics: [loss]",
    "hex": "every: 0xff\nmetrics: [loss]",
    "sexagesimal": "every: 1:30\nmetrics: [loss]",
    "98 digits": f"every: {10**97}\nmetrics: [loss]",
    "merge": "<<: {every: 3}\nmetrics: [loss]",
    "merged list": "<<: [{every: 2}, {strict: true}]\nmetrics: [loss]",
    "alias": "every: &n 3\nmetrics: [loss, {grad_norm: {every: *n}}]",
}

TOKENS = [
    *(
        "&a ",
        "*a",
        "<<: *a",
        "!!set ",
        "!!binary ",
        "!!python/object:a.b ",
        "!!int ",
        "!x ",
        "- ",
        "? ",
        ": ",
        "{",
        "}",
    ),
    *("[", "]", "~", ".nan", "-.inf", "0x1f", "1:20", "1e5", "1.0e+400", "9" * 150, "2001-01-01", "---\n", "...\n"),
    *(
        "'",
        '"',
        "\\",
        "\t",
        "\0",
        "\ufeff",
        "\u2028",
        "\r",
        "|\n",
        ">-\n",
        "#",
        "%YAML 1.1\n",
        "@",
        "`",
        "\n",
        "  ",
        "off",
    ),
    *(
        "metrics",
        "rules",
        "extends",
        "full",
        "every",
        "by",
        "include",
        "loss",
        "stop",
        "others",
        "a.b.C",
        "tensorboard",
    ),
]


KEYS: list[Any] = ["every", "by", "call", "action", "x", 3, None, True, "bins", "others", "at"]


def mutated(seed: int) -> bytes:
    """A bundled set or a nasty document, changed by bytes, by tokens or by structure."""
    dice = random.Random(seed)
    texts = [path.read_text(encoding="utf-8") for path in bundled_sets().values()]
    nasty = [text for text in (*NASTY.values(), *ODD_VALID.values()) if len(text) < 3000]
    text = dice.choice(texts if dice.random() < 0.7 else nasty)
    how = dice.randrange(3)
    if how == 0:
        return _by_bytes(text.encode("utf-8"), dice)
    if how == 1:
        return _by_tokens(text, dice).encode("utf-8", "surrogatepass")
    return _by_structure(dice.choice(texts), dice).encode("utf-8", "surrogatepass")


def _by_bytes(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice([1, 1, 1, 2, 5, 20])):
        at = dice.randrange(len(changed) + 1)
        size = dice.choice([0, 1, 1, 7])
        changed[at : at + size] = dice.randbytes(dice.choice([0, 1, 1, 3]))
    return bytes(changed)


def _by_tokens(text: str, dice: random.Random) -> str:
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        at = dice.randrange(len(text) + 1)
        text = text[:at] + dice.choice(TOKENS) * dice.choice([1, 1, 1, 50]) + text[at + dice.choice([0, 0, 1, 5]) :]
    return text


def _by_structure(text: str, dice: random.Random) -> str:
    data: Any = yaml.safe_load(text)
    odd = [None, True, -1, 0, 10**60, 1.5, "", "x" * 300, [], {}, [[]], {"a": {"b": []}}, "off", b"x", "a.b", {1: 2}]
    for _ in range(dice.choice([1, 2, 3])):
        node = data
        while isinstance(node, (dict, list)) and node:
            key = dice.choice(list(node)) if isinstance(node, dict) else dice.randrange(len(node))
            if dice.random() < 0.4 or not isinstance(node[key], (dict, list)):
                node[key] = dice.choice([*odd, data if dice.random() < 0.1 else {"loss": node[key]}])
                break
            node = node[key]
        if isinstance(node, dict) and dice.random() < 0.5:
            node[dice.choice(KEYS)] = dice.choice(odd)
    return yaml.dump(data, sort_keys=False)
