"""Several ranks as one: what each measured is merged by a thread of its own, so that training never waits for it."""

from __future__ import annotations

import atexit
import hashlib
import logging
import pickle
import queue
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from tbx_callbacks.line import LeftError, Line
from tbx_callbacks.meeting import meet, patience
from tbx_callbacks.parts import Part, Parts, filled

logger = logging.getLogger(__name__)

_ROOM = 256  # numbers of the first collective; it grows, on all ranks alike
_WAITING = 1000  # steps that may wait for other ranks
_GOODBYE = 2.0  # seconds
_END = 2**40  # the step of ranks that have ended
Place = tuple[str, str]
Result = TypeVar("Result")


class ApartError(RuntimeError):
    """Ranks do not measure the same steps."""


class Together:
    """All ranks of the process group, over a gloo group of our own: no collective of the training is ever crossed.

    All collectives run on one thread, in the order in which this rank asks for them. A due step takes two (maxima,
    sums) and, where tensors are spread over ranks and histograms are due, one more, for which the step waits (ranges).
    Their size depends neither on the number of ranks nor, for the first, on what is due: it says which step this is,
    so ranks that do not measure the same steps find out before they add anything up. A step whose tags are new takes
    some more, once. When ranks are lost or apart, merging ends with one warning; the training goes on.
    """

    def __init__(self, line: Line, timeout: float) -> None:
        self.rank, self.size = line.rank, line.size
        self._line, self._timeout = line, timeout
        self._layouts: dict[str, Parts] = {}
        self._room = _ROOM
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._idle = threading.Condition()
        self._open, self._broken, self._closing, self._over = 0, False, False, threading.Event()
        threading.Thread(target=self._work, name="tbx_callbacks ranks", daemon=True).start()
        atexit.register(_let_go, weakref.ref(self))

    def lowest(self, numbers: Tensor, names: Sequence[str]) -> Tensor:
        """The smallest of each number over ranks; `names` say what the numbers belong to, and may differ by rank."""
        parts = {
            name: Part(None, {"ranks": 1.0}, {"number": -float(number)})
            for name, number in zip(names, numbers.tolist(), strict=True)
        }
        merged: Parts = self._ask(lambda: self._merge("lowest", 0, parts), {})
        some = [name for name, part in merged.items() if part.sums["ranks"] < self.size]
        if some and self.rank == 0:
            shown = f"{', '.join(some[:3])}{f' and {len(some) - 3} more' if len(some) > 3 else ''}"
            logger.warning("ranks hold different parameters; not on every rank: %s; each counts where it is", shown)
        found = [-merged[name].maxes["number"] if name in merged else numbers[n] for n, name in enumerate(names)]
        return torch.tensor(found, dtype=numbers.dtype)

    def largest(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The largest of each number over the ranks that have it; nothing when ranks are lost."""
        parts = {name: Part(None, {}, {"number": number}) for name, number in numbers.items()}
        most: dict[Place, float] = self._ask(lambda: self._maxima("largest", 0, parts)[1], {})
        return {tag: number for (tag, _), number in most.items()}

    def agree(self, step: int, key: Sequence[str], ranges: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The ranges of all ranks' tensors together.

        Args:
            step: the step.
            key: what is due, the same on every rank.
            ranges: by tag, `[2]`, of the histograms that this rank has.
        """
        here = {tag: bounds.tolist() for tag, bounds in ranges.items()}
        parts = {tag: Part(None, {}, {"low": -low, "high": high}) for tag, (low, high) in here.items()}
        what = "\n".join(("ranges", *key))
        most: dict[Place, float] = self._ask(lambda: self._maxima(what, step, parts)[1], {})
        if not most:
            return ranges
        found = {tag: torch.tensor([-most[tag, "low"], most[tag, "high"]], dtype=torch.float64) for tag in ranges}
        return {tag: found[tag].to(bounds) for tag, bounds in ranges.items()}

    def submit(self, step: int, key: Sequence[str], parts: Callable[[], Parts], then: Callable[[Parts], None]) -> None:
        """Merges the parts of a step, later; rank 0 hands the result on.

        Args:
            step: the step.
            key: what is due at this step; every rank submits the same keys in the same order.
            parts: gives this rank's; may wait for a device.
            then: takes the merged parts, on rank 0; none when ranks are lost.
        """

        def job() -> None:
            merged: Parts = {}
            try:
                merged = {} if self._broken else self._merge("\n".join(key), step, parts())
            except Exception as error:
                self._lost(error)
            if self.rank == 0:
                then(merged)

        if not self._closing:
            self._put(job)
        elif self.rank == 0:
            then({})

    def drain(self, seconds: float) -> bool:
        """Waits until everything that was submitted is merged; whether that came to be in time."""
        with self._idle:
            return self._idle.wait_for(lambda: self._open == 0, timeout=seconds)

    def leave(self, error: BaseException) -> None:
        """This rank cannot say what the others wait for: they are told after what was submitted before."""
        if not self._closing:
            self._put(lambda: self._lost(error))
            self.close()

    def close(self) -> None:
        """Says goodbye, without waiting for it; nothing may be asked or submitted after it."""
        if not self._closing:
            self._closing = True
            self._put(self._goodbye)
            self._jobs.put(None)

    def let_go(self, seconds: float) -> None:
        """Ends the thread, even where it waits for other ranks."""
        self.close()
        if not self._over.wait(seconds):
            self._line.leave()
            self._over.wait(_GOODBYE)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _put(self, job: Callable[[], None]) -> None:
        with self._idle:
            self._open += 1
        self._jobs.put(job)
        if self._open > _WAITING:
            self._line.leave()

    def _ask(self, question: Callable[[], Result], otherwise: Result) -> Result:
        """Asks in the thread and waits for the answer, half as long as the training would wait for other ranks."""
        answers: queue.SimpleQueue[Result] = queue.SimpleQueue()

        def job() -> None:
            answer = otherwise
            try:
                answer = otherwise if self._broken else question()
            except Exception as error:
                self._lost(error)
            answers.put(answer)

        if self._closing or self._broken:
            return otherwise
        self._put(job)
        try:
            return answers.get(timeout=self._timeout)
        except queue.Empty:
            self._line.leave()
            return otherwise

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:
                self._lost(error)
            with self._idle:
                self._open -= 1
                self._idle.notify_all()
        if not self._line.close():
            self._over.set()
            threading.Event().wait()  # for ever: the thread, a daemon, holds the group until the process ends
        self._over.set()

    def _lost(self, error: BaseException) -> None:
        if not self._broken:
            self._broken = True
            logger.warning("ranks are lost (%s): numbers that need all of them are no longer written", error)

    def _goodbye(self) -> None:
        """Ranks that measure on learn from it that this one has ended; those that have ended meet here."""
        try:
            if not self._broken:
                self._maxima("goodbye", _END, {})
        except (RuntimeError, LeftError):
            self._broken = True

    def _merge(self, what: str, step: int, parts: Parts) -> Parts:
        layout, most = self._maxima(what, step, parts)
        empty = Part(None, {})
        places = [(tag, name) for tag, part in layout.items() for name in part.sums]
        numbers = [float(tag in parts) for tag in layout]
        numbers += [parts.get(tag, empty).sums.get(name, 0.0) for tag, name in places]
        sums = torch.tensor(numbers, dtype=torch.float64)
        if layout:
            self._line.add(sums)
        there, added = sums[: len(layout)].tolist(), dict(zip(places, sums[len(layout) :].tolist(), strict=True))
        return {
            tag: filled(tag, parts.get(tag, part), part, added, most)
            for (tag, part), ranks in zip(layout.items(), there, strict=True)
            if ranks
        }

    def _maxima(self, what: str, step: int, parts: Parts) -> tuple[Parts, dict[Place, float]]:
        """All tags and parts, and the largest of each number over ranks; `what` and `step` are the same on all."""
        layout, digest = self._layouts.get(what, {}), hash_of([what])
        new = what not in self._layouts or not _covers(layout, parts)
        places = [(tag, name) for tag, part in layout.items() for name in part.maxes]
        numbers = torch.full((self._room,), -torch.inf, dtype=torch.float64)
        head = [float(step), -float(step), digest, -digest, float(new)]
        empty = Part(None, {})
        mine = [parts.get(tag, empty).maxes.get(name, -torch.inf) for tag, name in places]
        numbers[: len(head) + len(mine)] = torch.tensor(head + mine, dtype=torch.float64)
        self._line.largest(numbers)
        last, first, high, low, changed = numbers[: len(head)].tolist()
        if last != -first or high != -low:
            lowest, highest = ("the end" if at == _END else f"step {at:g}" for at in (-first, last))
            raise ApartError(f"all must measure the same at the same steps, but they are from {lowest} to {highest}")
        if changed:
            layout = self._layouts[what] = self._union(layout, parts)
            self._room = max(self._room, len(head) + sum(len(part.maxes) for part in layout.values()))
            return self._maxima(what, step, parts)
        return layout, dict(zip(places, numbers[len(head) : len(head) + len(places)].tolist(), strict=True))

    def _union(self, known: Parts, parts: Parts) -> Parts:
        """Every rank's tags and parts, the same on all, rank by rank; ranks that have the same are asked once."""
        layout = {tag: part.shape() for tag, part in known.items()}
        data = torch.frombuffer(
            bytearray(pickle.dumps({tag: part.shape() for tag, part in parts.items()})), dtype=torch.uint8
        )
        while True:
            asks = torch.tensor([-self.size if _covers(layout, parts) else -self.rank, 0], dtype=torch.float64)
            self._line.largest(asks)
            root = -int(asks[0])
            if root == self.size:
                return layout
            length = torch.tensor([len(data)])
            self._line.broadcast(length, root)
            theirs = data.clone() if root == self.rank else torch.empty(int(length), dtype=torch.uint8)
            self._line.broadcast(theirs, root)
            held: dict[str, Any] = pickle.loads(theirs.numpy().tobytes())
            for tag, part in held.items():
                known_part = layout.setdefault(tag, part)
                known_part.sums.update({name: 0.0 for name in part.sums if name not in known_part.sums})
                known_part.maxes.update({name: 0.0 for name in part.maxes if name not in known_part.maxes})


def join() -> Together | None:
    """All ranks that start at this moment; None when some do not, or there is only one."""
    line = meet()
    return None if line is None else Together(line, patience())


def hash_of(names: Sequence[str]) -> float:
    """A number that tells lists of names apart, the same in every process; a float64 holds it exactly."""
    return float(int.from_bytes(hashlib.sha256("\n".join(names).encode()).digest()[:6], "big"))


def _covers(layout: Parts, parts: Parts) -> bool:
    return all(
        tag in layout and part.sums.keys() <= layout[tag].sums.keys() and part.maxes.keys() <= layout[tag].maxes.keys()
        for tag, part in parts.items()
    )


def _let_go(reference: weakref.ref[Together]) -> None:
    together = reference()
    if together is not None:
        together.let_go(_GOODBYE)
