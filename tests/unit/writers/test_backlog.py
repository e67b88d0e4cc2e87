"""Tests the backlog of events in bounded memory."""

from __future__ import annotations

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import HistogramProto, Summary

from tbx_callbacks.writers.backlog import Backlog, value_count
from tests.helpers.events import scalar_event


def test_backlog_full_counts_each_event_once() -> None:
    counted = 0

    class Counting(Backlog):
        def _measure(self, event: object) -> tuple[object, int, bool]:
            nonlocal counted
            counted += 1
            return super()._measure(event)

    backlog = Counting(1 << 20)
    for step in range(20_000):
        backlog.add(scalar_event(step))
        assert backlog.bytes <= 1 << 20
    assert counted == 20_000


def histogram_event(step: int, values: int) -> Event:
    proto = HistogramProto(bucket=[1.0] * 100, bucket_limit=[1.0] * 100)
    return Event(step=step, summary=Summary(value=[Summary.Value(tag=f"h{n}", histo=proto) for n in range(values)]))


@pytest.mark.parametrize("make", [scalar_event, histogram_event])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_backlog_keeps_newest_larger_than_limit(before: int, make: object) -> None:
    backlog = Backlog(1000)
    for step in range(before):
        backlog.add(scalar_event(step, 2))
    assert callable(make)
    large = make(before, 500)
    backlog.add(large)
    assert backlog.lost_values == 2 * before
    assert backlog.take(1 << 30) == [large]
    assert len(large.summary.value) == 500
    backlog.put_back([large])
    assert len(backlog) == 1
    backlog.add(scalar_event(before + 1, 2))
    assert [event.step for event in backlog.take(1 << 30)][-1] == before + 1
    assert backlog.lost_values == 2 * before + 500


def test_event_without_summary_counts_as_value() -> None:
    backlog = Backlog(1000)
    backlog.add(Event(session_log=SessionLog(status=SessionLog.START)))
    backlog.add(Event(graph_def=b"graph"))
    backlog.add(scalar_event(1, 7))
    backlog.give_up()
    assert backlog.lost_values == 9
    assert value_count(scalar_event(1, 3)) == 3
