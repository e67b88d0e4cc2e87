"""Tests what a rank does in a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from tbx_callbacks.integrations.rank_role import Change, RankRole

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "GROUP_RANK")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_role_single_process_writes() -> None:
    role = RankRole(None)
    assert (role.is_writer, role.is_active, role.awaits_group) == (True, True, False)
    role.begin()
    assert (role.is_writer, role.awaits_group, role.look()) == (True, True, Change.NONE)


@pytest.mark.parametrize("assigned", [True, False])
def test_role_assigned_by_integration(assigned: bool) -> None:
    role = RankRole(None)
    role.assigned = assigned
    role.begin()
    assert (role.is_writer, role.is_active, role.awaits_group) == (assigned, assigned, False)


def test_role_disabled_until_next_start() -> None:
    role = RankRole(None)
    role.begin()
    role.disable("a copy")
    assert (role.is_writer, role.is_active) == (False, False)
    assert (role.take_reason(), role.take_reason()) == ("a copy", "")
    assert not role.is_active
    role.begin()
    assert (role.is_writer, role.is_active, role.take_reason()) == (True, True, "")


def test_role_variable_without_group_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    role = RankRole(None)
    role.begin()
    assert (role.is_writer, role.is_active) == (False, True)
    assert (role.look(), role.awaits_group, role.is_active) == (Change.ABSENT, False, False)


def test_role_variable_of_first_rank_covers_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    role = RankRole(None)
    role.begin()
    assert (role.look(), role.awaits_group, role.is_writer) == (Change.SHARE, False, True)


def test_role_group_of_one_changes_nothing(tmp_path: Path) -> None:
    role = RankRole(None)
    role.begin()
    assert (role.look(), role.awaits_group) == (Change.NONE, True)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert (role.look(), role.awaits_group) == (Change.NONE, False)
    finally:
        dist.destroy_process_group()
    assert role.is_writer


def test_role_group_from_start_not_awaited(group: None) -> None:
    role = RankRole(None)
    role.begin()
    assert (role.is_writer, role.is_active, role.awaits_group) == (True, True, False)
