"""What rank 0 decides while a training is on, and all ranks do after the same step."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from tbx_callbacks._distributed.packing import Partial, Partials

Numbers = Mapping[str, float]
Message = tuple[str, Numbers]
_DECIDED = "decided:"  # no tag holds a colon
_MADE = ""  # what says that there is a decision, which may have no numbers


class Messages:
    """Decisions on their way from rank 0 to what is to be done on each rank.

    Rank 0 may decide at any moment, from any thread. What it has decided when a due step is merged is told to all
    ranks then, or, where that would be one collective too many, with the next due step. They act in the training's
    thread, when a later step has ended: the same decisions at the same step, however far ahead one of them is. A rank
    that gets there too early waits, as long as decisions are expected; nothing waits otherwise.

    A process without other ranks need not agree with anybody: it acts upon a decision when a step ends after it.

    Args:
        rank: this rank; rank 0 decides. None: there are no others.
    """

    def __init__(self, rank: int | None = None) -> None:
        self._alone = rank is None
        self.is_sender = not rank
        """Whether this is the rank that decides."""
        self.pending: deque[tuple[int, Callable[[], Sequence[Message]]]] = deque()
        """By the step that has to be over what gives its decisions; empty when `act` has nothing to do."""
        self._acts: dict[str, Callable[[Numbers], None]] = {}
        # Filled by one thread and emptied by another, which a deque stands without a lock, that no process could be
        # sent.
        self._made: deque[Message] = deque()

    def subscribe(self, name: str, act: Callable[[Numbers], None]) -> None:
        """From now on decisions of this name may come; called on all ranks at the same step, or before the training.

        Args:
            name: what is decided.
            act: takes what was decided, the same on each rank.
        """
        self._acts[name] = act

    def unsubscribe(self, name: str) -> None:
        """No further decision of this name comes, so nothing waits for one; called by `act`, on all ranks alike."""
        self._acts.pop(name, None)

    @property
    def has_subscribers(self) -> bool:
        """Whether decisions may come: then each due step awaits them."""
        return bool(self._acts)

    def send(self, name: str, numbers: Numbers) -> None:
        """Rank 0 has decided; on other ranks, which do not decide, nothing happens.

        Args:
            name: what is decided. Numbers of decisions that leave together are united.
            numbers: the decision, finite; perhaps none, where the name says all.
        """
        decision = name, dict(numbers)
        if self._alone:
            self.pending.append((-1, lambda: [decision]))
        elif self.is_sender:
            self._made.append(decision)

    def raise_later(self, error: Exception) -> None:
        """Raises an error where decisions are acted upon next."""

        def answer() -> Sequence[Message]:
            raise error

        self.pending.appendleft((-1, answer))

    def deliver(self, step: int) -> None:
        """Acts upon what was decided on steps before this one, which has ended. Raises what `fail` was given."""
        while self.pending and self.pending[0][0] < step:
            _, answer = self.pending.popleft()
            for name, numbers in answer():
                if name in self._acts:
                    self._acts[name](numbers)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "pending": deque()}  # of a training that has ended

    # -- the way ---------------------------------------------------------------------------------------------------

    def outgoing(self) -> Partials:
        """What was decided, to be told to all ranks."""
        united: dict[str, dict[str, float]] = {}
        for name, numbers in _emptied(self._made):
            united.setdefault(name, {_MADE: 1.0}).update(numbers)
        return {_DECIDED + name: Partial(None, {}, numbers) for name, numbers in united.items()}


def incoming(merged: Mapping[str, Mapping[str, float]]) -> Sequence[Message]:
    """The decisions in the maxima of a merged step, by tag and name."""
    found = []
    for tag, maxes in merged.items():
        # What only an earlier decision had is there as well, without a number.
        numbers = {name: number for name, number in maxes.items() if number > -math.inf}
        if tag.startswith(_DECIDED) and numbers.pop(_MADE, None) is not None:
            found.append((tag.removeprefix(_DECIDED), numbers))
    return found


def without_messages(merged: Partials) -> Partials:
    """What came together of a step, less what was decided."""
    return {tag: part for tag, part in merged.items() if not tag.startswith(_DECIDED)}


def _emptied(queue: deque[Message]) -> Iterator[Message]:
    while queue:
        yield queue.popleft()
