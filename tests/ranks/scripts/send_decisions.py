"""Sends decisions of rank 0 to ranks that run out of step; the tests start one process a rank."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from tbx_callbacks._config.metric_spec import MetricSpec
from tbx_callbacks._config.schedule import every
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks.metrics.performance import Memory
from tbx_callbacks.writers.base import MemoryWriter
from tests.helpers.fake_clock import Clock, SlowMetric
from tests.helpers.limits import limit

STEPS = 200


def train(rank: int, budget: float | None, *metrics: tuple[str, int, float], acts: Any = None) -> None:
    """Trains with one second of the clock a step. `acts` gets the engine; its result is called after each step."""
    clock, writer = Clock(), MemoryWriter()
    slow = [SlowMetric(name, seconds, clock) for name, _, seconds in metrics]
    items = [MetricSpec(each.name, each, every=period) for each, (_, period, _) in zip(slow, metrics, strict=True)]
    engine = Engine(items, every="log", strict=True, writer=writer, stopwatch=Stopwatch(clock), budget=budget)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine.start(TrainingInfo(model, {"SGD": optimizer}, log_schedule=every(10)))
    after = acts(engine) if acts else None
    for step in range(1, STEPS + 1):
        time.sleep(0.002 * (step % 7 == 3 * rank))  # one rank is some steps ahead, then the other
        engine.begin_step(step)
        clock.now += 1.0
        optimizer.step()
        engine.flush_step()
        if after:
            after(step)
        else:
            engine.poll_actions(step)
    engine.end(STEPS, succeeded=True)
    for each in slow:
        print(f"{each.name} here: {each.steps}")
        if rank == 0:
            print(f"{each.name} written: {[step for step, ranks in writer.series(f'{each.name}/ranks') if ranks == 2]}")
    print(f"texts: {[step for step, _ in writer.series('overhead_budget')]}")


def budget(rank: int) -> None:
    """Makes a metric costly on rank 0 only: the other ranks learn it from rank 0."""
    train(rank, 0.01, ("slow", 5, 0.5 if rank == 0 else 0.0), ("cheap", 5, 1e-5))


def within(rank: int) -> None:
    """Makes a metric costly on rank 1 only, which does not decide."""
    train(rank, 0.5, ("slow", 5, 0.5 if rank == 0 else 50.0))


def thread(rank: int) -> None:
    """Decides three times in a thread of rank 0, at random moments; the last decision ends the exchange."""
    acted: list[tuple[int, list[float]]] = []

    def acts(engine: Engine) -> Any:
        decisions = engine.publisher.decisions
        decisions.size = 2

        def decide() -> None:
            for number in (1, 2, 3):
                time.sleep(0.02)
                while len(acted) < number - 1:
                    time.sleep(0.001)
                decisions.decide((0, number), (1, 0.5))

        def after(step: int) -> None:
            for numbers in decisions.deliver(step):
                if any(numbers):
                    acted.append((step, list(numbers)))
                    decisions.size = 0 if numbers[0] == 3 else 2

        if rank == 0:
            threading.Thread(target=decide, daemon=True).start()
        return after

    train(rank, None, ("slow", 3, 0.0), acts=acts)
    print(f"acted: {acted}")


def memory(rank: int) -> None:
    """Uses more memory on rank 1 than on rank 0."""
    ballast = torch.ones(100_000_000 if rank == 1 else 1)
    writer, model = MemoryWriter(), nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = Engine([MetricSpec("memory", Memory(), every=1)], every=1, strict=True, writer=writer)
    engine.start(TrainingInfo(model, {"SGD": optimizer}, log_schedule=every(1)))
    engine.begin_step(1)
    optimizer.step()
    engine.end(1, succeeded=True)
    print(f"largest: {writer.series('memory/largest_rank') if rank == 0 and ballast.sum() else []}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=limit(60)))
    for scenario in (budget, within, thread, memory):
        print(f"<{scenario.__name__}>", flush=True)
        scenario(dist.get_rank())
        print(f"</{scenario.__name__}>", flush=True)
    dist.destroy_process_group()
