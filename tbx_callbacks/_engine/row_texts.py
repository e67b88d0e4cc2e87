"""Defines `RowTexts`, which turns the token ids of rows into texts."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from tbx_callbacks._model.rows import Rows

_MAX_KNOWN = 1_000_000  # rows whose text is kept once


class RowTexts:
    """Decodes the token ids of rows on any thread, with a copy of the tokenizer: the training may use its own.

    Args:
        tokenizer: has a method `decode`.
        longest: the largest number of characters of a text.
    """

    def __init__(self, tokenizer: Any, longest: int) -> None:
        self._tokenizer, self._longest = copy.deepcopy(tokenizer), longest
        self._known: set[str] = set()

    def tensors(self, rows: Rows) -> list[Tensor]:
        """What `read` needs on the host: the token ids, and their mask."""
        return [] if rows.token_ids is None else [part for part in (rows.token_ids, rows.mask) if part is not None]

    def read(self, rows: Rows, keys: Sequence[str], columns: Iterator[Sequence[float]]) -> dict[str, str]:
        """Returns the texts of rows that are new, by key.

        Args:
            rows: the rows.
            keys: their keys.
            columns: the numbers of `tensors(rows)` come next.
        """
        texts = self.read_all(rows, columns, [key not in self._known for key in keys])
        new = {key: text for key, text in zip(keys, texts, strict=True) if text is not None} if texts else {}
        if len(self._known) < _MAX_KNOWN:
            self._known.update(new)
        return new

    def read_all(
        self, rows: Rows, columns: Iterator[Sequence[float]], wanted: Sequence[bool] | None = None
    ) -> list[str | None]:
        """Returns the text of each row that is wanted; empty if the rows have no token ids."""
        if rows.token_ids is None:
            return []
        ids = list(map(int, next(columns)))
        mask = None if rows.mask is None else next(columns)
        length = rows.token_ids.shape[1]
        texts: list[str | None] = []
        for index in range(len(rows)):
            own = range(index * length, (index + 1) * length)
            if wanted is not None and not wanted[index]:
                texts.append(None)
            else:
                texts.append(self._decode([ids[each] for each in own if mask is None or mask[each]]))
        return texts

    def _decode(self, ids: Sequence[int]) -> str:
        # A token has at least one character, except for special ones.
        some = [each for each in ids[: 4 * self._longest + 8] if each >= 0]
        try:
            text = self._tokenizer.decode(some, skip_special_tokens=True)
        except TypeError:
            text = self._tokenizer.decode(some)
        return str(text)[: self._longest]
