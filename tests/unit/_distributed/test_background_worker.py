"""Tests the CUDA device of the worker thread."""

from __future__ import annotations

import threading

import pytest
import torch

from tbx_callbacks._distributed.background_worker import Worker


def test_worker_thread_has_device_of_starter(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    def set_device(device: int) -> None:
        calls.append((threading.current_thread().name, device))

    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 5)
    for name, started in (("without", False), ("with", True)):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda started=started: started)
        jobs = Worker(name, print)
        jobs.submit(lambda: None)
        assert jobs.drain(10)
        jobs.close()
    assert calls == [("with", 5)]
