"""Calls a function when a backward pass is over."""

from __future__ import annotations

from collections.abc import Callable

import torch


def at_end_of_backward(function: Callable[[], None]) -> None:
    """Calls a function after the backward pass in progress; call it from a hook of that pass.

    Then all gradients exist, also those that DistributedDataParallel reduces: it waits for them in such a function of
    its own, which may be added later than this one.
    """
    queue = torch.autograd.Variable._execution_engine.queue_callback  # as DistributedDataParallel does
    queue(lambda: queue(function))
