"""Names the tags: their families, and the characters that a tag may hold."""

from __future__ import annotations

import re

_ILLEGAL = re.compile(r"[^A-Za-z0-9_./-]")


def check_tag(tag: str) -> str:
    """Returns `tag`; raises ValueError for one that TensorBoard writers would rewrite silently."""
    if not tag or tag.startswith("/") or _ILLEGAL.search(tag):
        raise ValueError(
            f"a tag must be made of letters, digits and _ . / - and not start with /, got {tag!r};"
            f" use {clean(tag).lstrip('/') or 'a name'!r} instead"
        )
    return tag


def clean(name: str) -> str:
    """`name` with every character that a tag may not hold replaced by `_`."""
    return _ILLEGAL.sub("_", name)


AXIS = "axis:"
"""Begins the names under which a step says how far it is from the last one; no tag holds a colon."""

EVALUATION = ("eval/", "val/", "val_", "valid/", "valid_", "validation/")
_SMALLER = ("loss", "perplexity", "error", "error_rate", "mae", "mse", "rmse", "wer", "cer", "ppl")


def larger_is_better(tag: str) -> bool:
    """Whether a larger value of a metric is better, by its name: not of losses and errors."""
    name = tag.rpartition("/")[2]
    return not any(name == word or name.endswith(f"_{word}") for word in _SMALLER)
