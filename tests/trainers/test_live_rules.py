"""Tests rules in real trainings: each trainer stops and saves in its own way."""

from __future__ import annotations

import logging
import pickle
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tbx_callbacks.rules import RULES, Finding
from tbx_callbacks.runs.reader import read_run
from tests.helpers.data import collate, rows
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run
from tests.helpers.web_server import receiving

BAD = 5
called: list[Finding] = []


def note_down(finding: Finding) -> None:
    called.append(finding)


def config(**rules: Any) -> dict[str, Any]:
    metrics = ["loss", "learning_rate", {"nonfinite": {"every": 1}}, {"weight_norm": {"by": "layer"}}]
    return {"every": "log", "metrics": metrics, "rules": rules}


class NaNWeight(TrainerCallback):
    """Sets a weight to NaN after one step."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        if state.global_step == BAD:
            with torch.no_grad():
                model.classifier.weight[0, 0] = float("nan")


def alert(folder: str | Path | None) -> str:
    (text,) = Run(folder).texts["alerts/nonfinite"]
    return text


def test_huggingface_rule_stops_and_saves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    called.clear()
    rule = {"action": ["stop", "checkpoint"], "call": f"{__name__}.note_down"}
    callback = TbxTrainerCallback(config(nonfinite=rule))
    run = trainer(tmp_path, callbacks=[NaNWeight(), callback], max_steps=16, logging_steps=2)
    with caplog.at_level(logging.WARNING):
        run.train()
    assert run.state.global_step == 7  # NaN after step 5, logged at 6; the action follows at the end of the next step
    assert (tmp_path / "checkpoint-7" / "trainer_state.json").is_file()
    assert [(finding.id, finding.steps[0]) for finding in called] == [("nonfinite", 6)]
    assert caplog.text.count("error TBX-NUM-001 nonfinite since step 6") == 1
    assert "**error: nonfinite** (TBX-NUM-001), found at step 6" in alert(callback.log_dir)
    assert "checkpoint requested; stop requested" in alert(callback.log_dir)
    assert read_run(str(callback.log_dir)).texts["alerts/nonfinite"].steps.tolist() == [6]


def test_rules_own_cadence_respected(tmp_path: Path) -> None:
    callback = TbxTrainerCallback(config(every=1, nonfinite="stop"))
    run = trainer(tmp_path, callbacks=[NaNWeight(), callback], max_steps=16, logging_steps=8)
    run.train()
    assert run.state.global_step == 7  # nonfinite runs at each step, and finds it at 6


def test_finding_at_last_step_written_without_action(tmp_path: Path) -> None:
    callback = TbxTrainerCallback(config(nonfinite="stop"))
    run = trainer(tmp_path, callbacks=[NaNWeight(), callback], max_steps=6, logging_steps=50)
    run.train()
    assert run.state.global_step == 6
    assert "stop requested" not in alert(callback.log_dir)


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = bert()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        factor = float("nan") if batch_idx == BAD - 1 else 1.0
        return self.net(**batch).loss * factor

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-2)


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning_rule_stops_and_saves(tmp_path: Path, keeps: bool, accumulate: int) -> None:
    keeper = [pl.callbacks.ModelCheckpoint(tmp_path / "kept", save_top_k=0)] if keeps else []
    callback = TbxLightningCallback(config(nonfinite=["stop", "checkpoint"]), log_dir=tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = pl.Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            max_steps=16,
            log_every_n_steps=2,
            accumulate_grad_batches=accumulate,
            callbacks=[callback, *keeper],
            logger=False,
            enable_checkpointing=keeps,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        run.fit(Module(), DataLoader(rows(128), batch_size=4, collate_fn=collate))
    last = {1: 7, 2: 5}[accumulate]
    assert run.global_step == last
    saved = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.ckpt"))
    assert saved == [Path("kept" if keeps else "checkpoints") / f"alert-step={last}.ckpt"]
    assert torch.load(tmp_path / saved[0], weights_only=False)["global_step"] == last
    assert f"found at step {last - 1}" in alert(tmp_path / "run")


def loop_over(folder: Path, rules: Any, *, steps: int = 16, accumulate: int = 1) -> list[tuple[int, bool, bool]]:
    """Trains a loop; returns its stop and checkpoint flags after each pass."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    told = []
    with TbxLoop(model, optimizer, rules, log_dir=folder, log_every=2) as loop:
        for number in range(1, steps * accumulate + 1):
            loss = model(torch.randn(3, 4)).square().mean() * (float("nan") if number == BAD * accumulate else 1.0)
            loss.backward()
            if number % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
            loop.end_step(loss=loss, samples=3)
            told.append((loop.step, loop.should_stop, loop.should_checkpoint))
    return told


def test_loop_rule_sets_stop_and_checkpoint(tmp_path: Path) -> None:
    told = loop_over(tmp_path / "run", config(nonfinite=["stop", "checkpoint"]))
    # the user's loop may continue; the flag stays set
    assert [step for step, stop, _ in told if stop] == list(range(7, 17))
    assert [step for step, _, checkpoint in told if checkpoint] == [7]


def test_loop_with_accumulation_one_checkpoint(tmp_path: Path) -> None:
    told = loop_over(tmp_path / "run", config(nonfinite="checkpoint"), accumulate=3)
    assert [(step, checkpoint) for step, _, checkpoint in told if checkpoint] == [(7, True)]


def test_rules_without_action_decide_nothing(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, "default", log_dir=tmp_path / "run", log_every=1) as loop:
        assert loop._session._engine.publisher.live_rules is not None
        assert not loop._session._engine.publisher.decisions.size
        for _ in range(3):
            model(torch.randn(3, 4)).sum().backward()
            optimizer.step()
            loop.end_step()
            assert not loop._session._engine.publisher.decisions.pending
    plain = {**config(), "rules": False}
    with TbxLoop(model, optimizer, plain, log_dir=tmp_path / "none") as loop:
        assert loop._session._engine.publisher.live_rules is None


def test_strict_set_raises_error_of_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, run: Any) -> Any:
        raise KeyError("a fault of the rule")

    monkeypatch.setattr(RULES["divergence"], "__call__", broken)
    monkeypatch.setattr(RULES["divergence"], "min_points", 1)
    loop_over(tmp_path / "run", config(divergence={"min_points": 1, "action": "stop"}))
    with pytest.raises(RuntimeError, match="rule divergence failed at step 2"):
        loop_over(tmp_path / "strict", {**config(divergence={"min_points": 1, "action": "stop"}), "strict": True})


def test_huggingface_training_with_all_rules_unchanged(tmp_path: Path) -> None:
    def train(rules: Any) -> list[Tensor]:
        callback = TbxTrainerCallback({"extends": "full", "every": 1, "rules": rules}, log_dir=tmp_path / str(rules))
        run = trainer(tmp_path, callbacks=[callback] if rules is not None else [], max_steps=24, logging_steps=1)
        run.train()
        return [tensor.clone() for tensor in run.model.state_dict().values()]

    watched = train({"others": ["warn", "checkpoint"], "every": 1})
    assert all(torch.equal(a, b) for a, b in zip(watched, train(None), strict=True))


def fed_loop(folder: Path, losses: list[float], *, start: int = 0, rules: Any = None) -> set[str]:
    """Logs the given losses in a loop, one a step; returns the alerts of its folder."""
    optimizer = torch.optim.SGD([weight := nn.Parameter(torch.ones(2))], lr=0.0)
    model = nn.Module()
    model.weight = weight
    given = {"every": 1, "metrics": ["loss", "learning_rate"], "rules": rules or {"others": "warn"}}
    with TbxLoop(model, optimizer, given, log_dir=folder, log_every=1, start_step=start) as loop:
        for loss in losses:
            optimizer.step()
            loop.end_step(loss=loss)
    return {tag.removeprefix("alerts/") for tag in Run(folder).texts if tag.startswith("alerts/")}


@pytest.mark.slow
def test_resumed_run_judged_with_earlier_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    falls = [0.7 * 0.97**step for step in range(100)]
    noisy = [0.02 + 0.012 * (step % 40 > 20) for step in range(80)]  # no spike beside the earlier fall
    assert "divergence" in fed_loop(tmp_path / "fresh", noisy)  # alone it looks like a spike
    assert "divergence" not in fed_loop(tmp_path / "run", falls)
    assert "divergence" not in fed_loop(tmp_path / "run", noisy, start=100)
    assert "divergence" in fed_loop(tmp_path / "run", [0.9] * 60, start=180)
    monkeypatch.setattr("tbx_callbacks._engine.live_history._MAX_BYTES", 1)
    fed_loop(tmp_path / "large", falls)
    assert "divergence" not in fed_loop(tmp_path / "large", noisy, start=100)  # no finding rather than a wrong one


def test_resumed_run_finding_not_repeated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    risen = [0.7 * 0.97**step for step in range(100)] + [0.9] * 60
    assert "divergence" in fed_loop(tmp_path / "run", risen)
    assert caplog.text.count("error TBX-LOSS-001 divergence") == 1
    fed_loop(tmp_path / "run", [0.9] * 10, start=160)
    assert caplog.text.count("error TBX-LOSS-001 divergence") == 1
    # steps after it are trained again, and their finding is written again
    fed_loop(tmp_path / "run", [0.9] * 60, start=100)
    assert caplog.text.count("error TBX-LOSS-001 divergence") == 2


def test_huggingface_stop_without_step_metrics(tmp_path: Path) -> None:
    callback = TbxTrainerCallback({"metrics": ["loss"], "rules": {"nonfinite": "stop"}}, log_dir=tmp_path / "run")
    run = trainer(tmp_path, callbacks=[NaNWeight(), callback], max_steps=16, logging_steps=2)
    run.args.logging_nan_inf_filter = False
    run.train()
    assert run.state.global_step == 7


def test_loop_evaluation_before_end_step_keeps_stop(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stops = []
    with TbxLoop(model, optimizer, config(nonfinite="stop"), log_dir=tmp_path / "run", log_every=1) as loop:
        for step in range(1, 8):
            loss = model(torch.randn(3, 4)).square().mean() * (float("nan") if step == 2 else 1.0)
            loss.backward()
            optimizer.step()
            loop.evaluate(accuracy=0.5)
            loop.end_step(loss=loss)
            stops.append(loop.should_stop)
    assert stops[-1]


def test_resumed_unreadable_folder_rules_still_act(tmp_path: Path) -> None:
    loop_over(tmp_path / "run", config(nonfinite="stop"), steps=4)
    (tmp_path / "run" / "events.out.tfevents.9.gone").symlink_to(tmp_path / "nowhere")
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rules = config(nonfinite="stop")
    with TbxLoop(model, optimizer, rules, log_dir=tmp_path / "run", log_every=1, start_step=4) as loop:
        for _ in range(3):
            (model(torch.randn(3, 4)).square().mean() * float("nan")).backward()
            optimizer.step()
            loop.end_step(loss=torch.tensor(float("nan")))
        assert loop.should_stop


def test_callback_with_rules_pickles_after_training(tmp_path: Path) -> None:
    callback = TbxTrainerCallback(config(nonfinite="stop"), log_dir=tmp_path / "run")
    trainer(tmp_path, callbacks=[callback], max_steps=4, logging_steps=2).train()
    callback.close()
    pickle.loads(pickle.dumps(callback))


class Fails(TrainerCallback):
    """Raises at a step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == BAD + 3:
            raise ValueError("the data is gone")


def test_huggingface_finding_and_crash_sent(tmp_path: Path) -> None:
    with receiving() as receiver:
        notify = {**config(nonfinite="warn"), "notify": [receiver.url]}
        callback = TbxTrainerCallback(notify, log_dir=tmp_path / "run")
        run = trainer(tmp_path, callbacks=[NaNWeight(), callback, Fails()], max_steps=16, logging_steps=2)
        callback.attach(run)
        with pytest.raises(ValueError, match="the data is gone"):
            run.train()
        callback.close()
    assert [(body["event"], body["step"]) for body in receiver.bodies] == [("error", 6), ("crash", BAD + 3)]
    assert receiver.bodies[1]["text"] == "ValueError('the data is gone')"


class FailingModule(Module):
    """Raises in a batch."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if batch_idx == BAD + 3:
            raise ValueError("the data is gone")
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore")
def test_lightning_finding_and_crash_sent(tmp_path: Path) -> None:
    with receiving() as receiver:
        notify = {**config(nonfinite="warn"), "notify": [receiver.url]}
        callback = TbxLightningCallback(notify, log_dir=tmp_path / "run")
        run = pl.Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            max_steps=16,
            log_every_n_steps=2,
            callbacks=[callback],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with pytest.raises(ValueError, match="the data is gone"):
            run.fit(FailingModule(), DataLoader(rows(128), batch_size=4, collate_fn=collate))
        callback.close()
    assert sorted((body["event"], body["step"]) for body in receiver.bodies) == [("crash", BAD + 3), ("error", 6)]
