"""Outputs of modules that are counted later: whether they are still what they were when they were seen."""

from __future__ import annotations

import logging

from tbx_callbacks.reduce import Batch
from tbx_callbacks.values import Histogram

logger = logging.getLogger(__name__)


class Held:
    """Tensors that a batch holds until ranks have agreed on the edges of its histograms.

    They are not copied: what autograd keeps as well takes no further memory so; under gradient checkpointing, which
    frees them, they take their own until the optimizer's step. One that is changed in place meanwhile
    (`nn.ReLU(inplace=True)` behind it) is left out on all ranks, with one warning.
    """

    def __init__(self) -> None:
        self._versions: dict[str, list[int]] = {}
        self._said: set[str] = set()

    def hold(self, batch: Batch) -> None:
        """Remembers how its tensors are now."""
        for tag, histogram in batch.uncounted.items():
            self._versions.setdefault(tag, _versions(histogram))

    def check(self, batch: Batch) -> None:
        """Flags those that have changed."""
        for tag, versions in self._versions.items():
            changed = _versions(batch.uncounted[tag]) != versions
            batch.flag(tag, failed=changed)
            if changed and tag not in self._said:
                self._said.add(tag)
                logger.warning(
                    "%s: what the module returned was changed in place before ranks could agree on a histogram's edges;"
                    " it is left out (remedy: no inplace=True behind the module)",
                    tag,
                )

    def clear(self) -> None:
        """The step is over."""
        self._versions.clear()


def _versions(histogram: Histogram) -> list[int]:
    return [tensor._version for tensor in histogram.tensors]
