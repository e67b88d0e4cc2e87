"""What rank 0 decides while a training is on, and all ranks do from the same step on."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from tbx_callbacks.parts import Part, Parts

Numbers = Mapping[str, float]
_DECIDED = "decided:"  # no tag holds a colon


class Decisions:
    """Decisions on their way from rank 0 to what is to be done on each rank.

    Rank 0 may decide at any moment, from any thread. A decision travels in the reduction of the next due step, and is
    acted upon at the beginning of the due step after that one, in the training's thread, before it is settled what is
    due. All ranks have taken part in the same reductions by then, so they act at the same step. That step waits until
    the reductions before it are over, as long as a decision is expected; nothing waits otherwise.

    Args:
        rank: this rank; rank 0 decides.
        arrive: returns when the reductions that were submitted are over; None where there is one rank only.
    """

    def __init__(self, rank: int = 0, arrive: Callable[[], object] | None = None) -> None:
        self.decides = rank == 0
        """Whether this is the rank that decides."""
        self._arrive = arrive
        self._acts: dict[str, Callable[[Numbers], None]] = {}
        # Both are filled by one thread and emptied by another, which a deque stands without a lock, that no process
        # could be sent.
        self._made: deque[tuple[str, Numbers]] = deque()
        self._known: deque[tuple[str, Numbers]] = deque()

    def expect(self, name: str, act: Callable[[Numbers], None]) -> None:
        """From now on decisions of this name may come; called on all ranks at the same step, or before the training.

        Args:
            name: what is decided.
            act: takes what was decided, the same on each rank.
        """
        self._acts[name] = act

    def settle(self, name: str) -> None:
        """No further decision of this name comes, so no step waits for one; called by `act`, on all ranks alike."""
        self._acts.pop(name, None)

    def decide(self, name: str, numbers: Numbers) -> None:
        """Rank 0 has decided; on other ranks, which do not decide, nothing happens.

        Args:
            name: what is decided. Of two decisions that leave together the later one counts.
            numbers: the decision, finite; perhaps none, where the name says all.
        """
        if self.decides:
            self._made.append((name, dict(numbers)))

    def wait(self) -> bool:
        """A due step begins: waits for what was decided before; whether anything could have been."""
        if not self._acts:
            return False
        if self._arrive is None:
            self.heard(self.leaving())
        else:
            self._arrive()
        return True

    def take(self) -> bool:
        """Acts upon what was decided; whether there was something."""
        acted = False
        for name, numbers in _emptied(self._known):
            act = self._acts.get(name)
            if act is not None:
                act(numbers)
                acted = True
        return acted

    # -- the way ---------------------------------------------------------------------------------------------------

    def leaving(self) -> Parts:
        """What travels with a step."""
        return {_DECIDED + name: Part(None, {}, dict(numbers)) for name, numbers in _emptied(self._made)}

    def heard(self, merged: Parts) -> Parts:
        """Takes decisions out of what came together of a step."""
        for tag, part in merged.items():
            if tag.startswith(_DECIDED):
                # A name that only an earlier decision had is there as well, without a number.
                numbers = {name: number for name, number in part.maxes.items() if number > -math.inf}
                self._known.append((tag.removeprefix(_DECIDED), numbers))
        return {tag: part for tag, part in merged.items() if not tag.startswith(_DECIDED)}


def _emptied(queue: deque[tuple[str, Numbers]]) -> Iterator[tuple[str, Numbers]]:
    while queue:
        yield queue.popleft()
