"""Tests decisions of rank 0."""

from __future__ import annotations

import pytest

from tbx_callbacks._distributed.decisions import Decisions


def test_decisions_sent_together_united() -> None:
    decisions = Decisions(0)
    decisions.size = 3
    decisions.decide((0, 1.0), (2, 4.0))
    decisions.decide((1, 1.0), (2, 2.0))
    assert decisions.outgoing(3).tolist() == [1.0, 1.0, 4.0]
    assert decisions.outgoing(3).tolist() == [0.0, 0.0, 0.0]
    assert not decisions.pending


def test_decisions_other_rank_decides_nothing() -> None:
    decisions = Decisions(1)
    decisions.size = 1
    decisions.decide((0, 1.0))
    assert decisions.outgoing(1).tolist() == [0.0]


def test_decisions_of_single_process_delivered_at_next_step() -> None:
    decisions = Decisions()
    decisions.size = 2
    decisions.decide((1, 5.0))
    assert list(decisions.deliver(1)) == [[0.0, 5.0]]
    assert list(decisions.deliver(2)) == []


def test_decisions_delivered_after_a_later_step() -> None:
    decisions = Decisions(1)
    decisions.pending.extend([(4, lambda: [1.0]), (5, list), (6, lambda: [2.0])])
    assert list(decisions.deliver(4)) == []
    assert list(decisions.deliver(6)) == [[1.0]]
    assert list(decisions.deliver(7)) == [[2.0]]


def test_decisions_error_raised_at_next_delivery() -> None:
    decisions = Decisions()
    decisions.raise_later(RuntimeError("no"))
    with pytest.raises(RuntimeError, match="no"):
        list(decisions.deliver(1))
    assert list(decisions.deliver(1)) == []


def test_decisions_late_one_overtakes_entries_of_later_steps() -> None:
    decisions = Decisions()
    decisions.size = 1

    def await_rules() -> list[float]:
        decisions.decide((0, 1.0), step=3)  # the rules are slow: step 4 is queued already
        return []

    decisions.pending.extend([(3, await_rules), (4, list)])
    assert list(decisions.deliver(3)) == []
    assert list(decisions.deliver(4)) == [[1.0]]


def test_decisions_early_one_waits_for_the_next_step() -> None:
    decisions = Decisions()
    decisions.size = 1
    decisions.decide((0, 1.0), step=3)  # the rules are faster than the end of their step
    assert list(decisions.deliver(3)) == []
    assert list(decisions.deliver(4)) == [[1.0]]
