"""Decides what this rank does in a run: write it, share its values with the rank that writes, or neither."""

from __future__ import annotations

from enum import Enum
from typing import Any

from tbx_callbacks._distributed.rank import check_group, has_group, in_group, is_rank_zero, size_variable


class Change(Enum):
    """What has become known about a process group that a training lacked when it started."""

    NONE = "nothing new"
    JOINED = "there is a group, and this rank shares its values from now on"
    ABSENT = "a launcher's variable says that this rank is not the first one, but there is no group"
    SHARE = "a launcher's variable announced other ranks, but there is no group"


class RankRole:
    """The role of this rank.

    Args:
        process_group: the ranks that train; all ranks if None.

    Attributes:
        assigned: whether this rank writes, if the integration knows.
        awaits_group: whether a process group may still come, and change the role; see `look`.

    Raises:
        TypeError: it is not a process group.
    """

    def __init__(self, process_group: Any) -> None:
        check_group(process_group)
        self.process_group = process_group
        self.assigned: bool | None = None
        self.awaits_group = self._has_looked = False
        self._was_rank_zero: bool | None = None  # when the training started
        self._passive_reason: str | None = None

    @property
    def is_writer(self) -> bool:
        """Whether this rank writes the run: rank 0, unless the integration assigned it."""
        return self._passive_reason is None and self._would_write

    @property
    def _would_write(self) -> bool:
        if self.assigned is not None and self.process_group is None:
            return self.assigned
        return is_rank_zero(self.process_group) if self._was_rank_zero is None else self._was_rank_zero

    @property
    def is_active(self) -> bool:
        """Whether this rank takes part: it writes, or shares its values with the rank that writes."""
        return self._passive_reason is None and self.is_member

    @property
    def is_member(self) -> bool:
        """Whether this rank takes part once it begins, if it is disabled now."""
        return self._would_write or self.awaits_group or in_group(self.process_group)

    def begin(self) -> None:
        """Fixes the role for the training that starts: its process group may end before the session."""
        self._passive_reason = None
        self._was_rank_zero = is_rank_zero(self.process_group)
        self.awaits_group, self._has_looked = self.assigned is None and not has_group(), False

    def disable(self, reason: str) -> None:
        """Makes this rank neither write nor share, until the next `begin`."""
        self._passive_reason = reason

    def take_reason(self) -> str:
        """Returns why `disable` was called, once; empty otherwise."""
        reason = self._passive_reason or ""
        if reason:
            self._passive_reason = ""
        return reason

    def may_have_changed(self) -> bool:
        """Whether `look` may find something new."""
        return not self._has_looked or has_group()

    def look(self) -> Change:
        """Looks for a process group that came after the start; call it while `awaits_group`."""
        looked, self._has_looked = self._has_looked, True
        if has_group():
            self.awaits_group = False
            alone = is_rank_zero(self.process_group) and not in_group(self.process_group)
            if alone and self.is_writer and size_variable() is None:
                return Change.NONE
            return Change.JOINED
        if looked:
            return Change.NONE  # as on most steps
        if not self.is_writer:
            self.awaits_group = False
            return Change.ABSENT
        if size_variable() is not None:
            self.awaits_group = False
            return Change.SHARE
        return Change.NONE
