"""Tests the notifications of real trainings: events, secrets, copies, and servers that must not touch the training."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tbx_callbacks import TbxLoop
from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._notify import alerts
from tbx_callbacks._notify.address import Address
from tbx_callbacks._notify.alerts import Target
from tbx_callbacks._notify.outbox import Outbox
from tbx_callbacks.integrations import RunLocation, Session, TrainingInfo, alerting
from tbx_callbacks.runs import read_run
from tests.helpers.web_server import SECRET, receiving

RULES = {"every": 1, "metrics": ["loss", "hparams", "nonfinite"], "rules": {"nonfinite": "warn"}}


@pytest.fixture(autouse=True)
def no_thread_outlives_its_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its warning would come in the middle of another test."""
    monkeypatch.setattr(alerts, "Outbox", partial(Outbox, pauses=(0.01, 0.01)))
    yield
    for thread in threading.enumerate():
        if thread.name == "tbx_callbacks notify":
            thread.join(60.0)
            assert not thread.is_alive()


def trained(
    folder: Path,
    notify: list[Any] | None,
    *,
    steps: int = 4,
    fail_at: int = 0,
    nan_at: int = 0,  # from here on
    error: BaseException | None = None,
) -> dict[str, torch.Tensor]:
    """Trains with a loop; returns the weights."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    config = {**RULES, **({} if notify is None else {"notify": notify})}
    with TbxLoop(model, optimizer, config, log_dir=folder, log_every=1) as loop:
        for step in range(1, steps + 1):
            loss = model(torch.randn(8, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loop.end_step(loss=loss.detach() * (torch.nan if 0 < nan_at <= step else 1.0))
            if step == fail_at:
                raise error or ValueError("the data is gone")
    return model.state_dict()


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_training_sends_findings_and_end(tmp_path: Path) -> None:
    with receiving() as receiver:
        trained(tmp_path / "run", [receiver.url], nan_at=2)
    assert receiver.events == ["error", "end"]
    finding, end = receiver.bodies
    assert (finding["code"], finding["severity"]) == ("TBX-NUM-001", "error")
    assert (end["run"], end["step"], end["severity"]) == (str(tmp_path / "run"), 4, "info")


def test_training_that_raises_sends_crash(tmp_path: Path) -> None:
    with receiving() as receiver:
        with pytest.raises(ValueError, match="the data is gone"):
            trained(tmp_path / "run", [{"url": receiver.url, "on": ["crash", "end"]}], fail_at=3, nan_at=2)
        assert [(body["event"], body["step"]) for body in receiver.bodies] == [("crash", 3)]
        assert receiver.bodies[0]["text"] == "ValueError('the data is gone')"


@pytest.mark.parametrize(
    ("error", "event", "text", "status"),
    [
        (SystemExit(0), "end", "the training has ended after 2 steps", "succeeded"),
        (SystemExit(), "end", "the training has ended after 2 steps", "succeeded"),
        (SystemExit(3), "crash", "SystemExit(3)", "failed"),
        (SystemExit("no data"), "crash", "SystemExit('no data')", "failed"),
        (KeyboardInterrupt(), "end", "the training was interrupted after 2 steps", "failed"),
    ],
)
def test_training_that_is_left_tells_how(
    tmp_path: Path, error: BaseException, event: str, text: str, status: str
) -> None:
    with receiving() as receiver, pytest.raises(type(error)):
        trained(tmp_path / "run", [{"url": receiver.url, "on": ["crash", "end"]}], fail_at=2, error=error)
    assert [(body["event"], body["text"]) for body in receiver.bodies] == [(event, text)]
    assert read_run(tmp_path / "run").status == status


def test_training_left_without_end_sends_crash(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    info = TrainingInfo(model, torch.optim.SGD(model.parameters(), 0.1), log_schedule=1)
    with receiving() as receiver:
        session = Session({**RULES, "notify": [receiver.url]}, log_dir=tmp_path / "run")
        session.start(info)
        session.close()
    assert [body["text"] for body in receiver.bodies] == ["the training was left without its end"]


@pytest.mark.parametrize("answer", [500, 302, "garbage", "hang", "refuse"])
def test_bad_server_leaves_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answer: int | str
) -> None:
    monkeypatch.setattr(alerting, "_END_SECONDS", 0.05)
    expected = trained(tmp_path / "alone", None, nan_at=2)
    with receiving(500 if answer == "refuse" else answer) as receiver:
        url = f"http://127.0.0.1:1/{SECRET}" if answer == "refuse" else receiver.url
        weights = trained(tmp_path / "run", [url], nan_at=2)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert sum("notifications to" in message for message in caplog.messages) <= 1
    assert SECRET not in caplog.text


def test_secret_appears_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with receiving(404) as receiver:
        login = receiver.url.replace("http://", f"http://user:{SECRET}@")
        monkeypatch.setenv("TBX_TEST_HOOK", login)
        trained(tmp_path / "run", ["${TBX_TEST_HOOK}", login])
        assert len(receiver.bodies) == 2
    printed = "".join(capfd.readouterr())
    assert "notifications to ${TBX_TEST_HOOK} are lost: HTTP 404" in caplog.text
    assert SECRET not in caplog.text + printed
    assert SECRET.encode() not in contents(tmp_path)


def test_missing_variable_stops_before_training(tmp_path: Path) -> None:
    notify = [f"https://example.com/{SECRET}", f"https://${{TBX_TEST_GONE}}@example.com/{SECRET}"]
    with pytest.raises(ConfigError, match=r"notify\[1\] must .*, got TBX_TEST_GONE, which is not set") as caught:
        trained(tmp_path / "run", notify)
    assert SECRET not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_rank_that_writes_nothing_sends_nothing(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    info = TrainingInfo(model, torch.optim.SGD(model.parameters(), 0.1), log_schedule=1)
    with receiving() as receiver:
        session = Session({**RULES, "notify": [receiver.url, "${TBX_TEST_GONE}"]}, log_dir=tmp_path / "run")
        session.is_writer = False
        session.start(info)
        session.end(succeeded=False)
        session.close()
    assert receiver.bodies == []


def test_training_without_notify_starts_no_thread(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    info = TrainingInfo(model, torch.optim.SGD(model.parameters(), 0.1), log_schedule=1)
    for notify, number in (([], 0), (["https://example.com"], 2), ([{"url": "https://example.com", "on": ["end"]}], 1)):
        before = set(threading.enumerate())
        session = Session({**RULES, "notify": notify}, log_dir=tmp_path / "run")
        session.start(info)
        names = [thread.name for thread in set(threading.enumerate()) - before]
        assert sum(name in ("tbx_callbacks notify", "tbx_callbacks watchdog") for name in names) == number
        session._alerting.stop()  # nothing is sent to example.com
        session.end()
        session.close()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))])
def test_copy_of_session_sends_own_notifications(tmp_path: Path, clone: Callable[[Any], Any]) -> None:
    with receiving() as receiver:
        session = Session({**RULES, "notify": [receiver.url]}, log_dir=tmp_path / "run")
        model = nn.Linear(1, 1)
        info = TrainingInfo(model, torch.optim.SGD(model.parameters(), 0.1), log_schedule=1)
        session.start(info)
        other = clone(session)
        session.end()
        assert receiver.events == ["end"]
        other.start(info, RunLocation(str(tmp_path / "other")))
        other.end()
        assert [body["run"] for body in receiver.bodies] == [str(tmp_path / "run"), str(tmp_path / "other")]
        session.close()
        other.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_sends_nothing(tmp_path: Path) -> None:
    with receiving() as receiver:
        session = Session({**RULES, "notify": [receiver.url]}, log_dir=tmp_path / "run")
        model = nn.Linear(1, 1)
        session.start(TrainingInfo(model, torch.optim.SGD(model.parameters(), 0.1), log_schedule=1))
        child = os.fork()
        if child == 0:
            session.end(succeeded=False)
            session.close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        session.end()
        session.close()
    assert receiver.events == ["end"]


class Scripted:
    """A training whose steps and seconds are written down before."""

    def __init__(self, *points: tuple[int, float]) -> None:
        self.points, self.is_over = list(points), threading.Event()

    def progress(self) -> tuple[int, float]:
        if len(self.points) == 1:
            self.is_over.set()
            return self.points[0]
        return self.points.pop(0)


def test_watchdog_stall_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerting, "_PERIOD", 0.001)
    training = Scripted((0, 0), (1, 10), (2, 40), (3, 70), (3, 159), (3, 161), (3, 500), (3, 501))
    with receiving() as receiver:
        sender = alerting.Alerting([Target(Address(receiver.url))])
        sender.begin("runs/a", training, Scripted.progress)
        assert training.is_over.wait(60.0)
        sender.stop(60.0)
    assert [(body["event"], body["step"]) for body in receiver.bodies] == [("stall", 3)]
    assert receiver.bodies[0]["text"] == "no step has ended for 91 s"


def test_watchdog_ends_with_its_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerting, "_PERIOD", 0.001)
    sender = alerting.Alerting([Target(Address("https://example.com"))])
    training = Scripted((0, 0))
    sender.begin("runs/a", training, Scripted.progress)
    (thread,) = (each for each in threading.enumerate() if each.name == "tbx_callbacks watchdog")
    assert training.is_over.wait(60.0)
    del training
    thread.join(60.0)
    assert not thread.is_alive()
    sender.stop()


def test_findings_of_set_without_rules_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(1, 1)
    info = TrainingInfo(model, torch.optim.SGD(model.parameters(), 0.1), log_schedule=1)
    for events, number in ((["error"], 1), (["error", "end"], 0)):
        caplog.clear()
        config = {"metrics": ["loss"], "notify": [{"url": "https://example.com", "on": events}]}
        session = Session(config, log_dir=tmp_path / "run")
        session.start(info)
        session._alerting.stop()  # nothing is sent to example.com
        session.close()
        expected = (
            "notifications to https://example.com are left out: the set has no rules; add rules, or extend default"
        )
        assert caplog.messages.count(expected) == number


def test_check_without_apprise_is_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "apprise", None)
    with pytest.raises(ConfigError, match=r"notify\[0\] must be an address that can be used, but it needs apprise"):
        alerting.Alerting([Target(Address(f"slack://{SECRET}"))]).check()
