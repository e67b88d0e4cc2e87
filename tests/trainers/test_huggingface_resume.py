"""Tests that one run is one folder: resumes, kills, restarts, trials and parallel runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tbx_callbacks import TbxTrainerCallback
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run, files

SET = {"every": 1, "metrics": ["loss", "hparams", {"weight_norm": {"by": "total"}}, {"grad_norm": {"by": "total"}}]}
SAVING: dict[str, Any] = {
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 4,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "max_steps": 10,
}


class StopAt(TrainerCallback):
    """Fails in the middle of the run, like a killed process."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def interrupted(folder: Path, callback: TbxTrainerCallback, **args: Any) -> None:
    run = trainer(folder, callbacks=[callback, StopAt(7)], **{**SAVING, **args})
    with pytest.raises(KeyboardInterrupt):
        run.train()
    callback.close()


def uninterrupted(folder: Path) -> Run:
    callback = TbxTrainerCallback(SET)
    trainer(folder, callbacks=[callback], **SAVING).train()
    return Run(callback.log_dir)


def test_resume_continues_folder_as_one_curve(tmp_path: Path) -> None:
    first = TbxTrainerCallback(SET)
    interrupted(tmp_path / "out", first)
    assert Run(first.log_dir).steps("train/loss")[-1] == 6  # beyond the checkpoint of step 4
    second = TbxTrainerCallback(SET)
    trainer(tmp_path / "out", callbacks=[second], **SAVING).train(resume_from_checkpoint=True)
    assert second.log_dir == first.log_dir
    assert len(files(second.log_dir)) == 2
    read, expected = Run(second.log_dir), uninterrupted(tmp_path / "other")
    for tag in ("train/loss", "grad_norm/total", "weight_norm/total", "eval/accuracy", "best/accuracy"):
        assert read.steps(tag) == expected.steps(tag), tag
        assert [v for _, v in read.scalars[tag]] == pytest.approx([v for _, v in expected.scalars[tag]], rel=1e-5), tag
    assert read.steps("train/loss") == list(range(1, 11))


def test_resume_of_moved_run_finds_folder(tmp_path: Path) -> None:
    first = TbxTrainerCallback(SET)
    interrupted(tmp_path / "out", first)
    shutil.move(tmp_path / "out", tmp_path / "moved")
    second = TbxTrainerCallback(SET)
    trainer(tmp_path / "moved", callbacks=[second], **SAVING).train(resume_from_checkpoint=True)
    assert Path(second.log_dir or "") == tmp_path / "moved" / "runs" / Path(first.log_dir or "").name
    assert Run(second.log_dir).steps("train/loss") == list(range(1, 11))


def test_resume_with_log_dir_continues_folder(tmp_path: Path) -> None:
    for resume in (False, True):
        callback = TbxTrainerCallback(SET, log_dir=tmp_path / "logs")
        if resume:
            trainer(tmp_path / "out", callbacks=[callback], **SAVING).train(resume_from_checkpoint=True)
        else:
            interrupted(tmp_path / "out", callback)
    assert callback.log_dir == str(tmp_path / "logs")
    assert Run(tmp_path / "logs").steps("train/loss") == list(range(1, 11))


def test_resume_with_restored_callback_logs_once(tmp_path: Path) -> None:
    interrupted(tmp_path / "out", TbxTrainerCallback(SET), restore_callback_states_from_checkpoint=True)
    mine = TbxTrainerCallback(SET)
    run = trainer(
        tmp_path / "out", callbacks=[mine], max_grad_norm=0.05, restore_callback_states_from_checkpoint=True, **SAVING
    )
    mine.attach(run)
    run.train(resume_from_checkpoint=True)
    (in_use,) = [c for c in run.callback_handler.callbacks if isinstance(c, TbxTrainerCallback)]
    assert in_use is not mine  # the Trainer made a new folder
    assert mine.log_dir == in_use.log_dir
    mine.attach(run)
    assert sum(isinstance(c, TbxTrainerCallback) for c in run.callback_handler.callbacks) == 1
    mine.writer.add_scalar("mine/after", 1.0, 10)
    mine.writer.flush()
    read = Run(mine.log_dir)
    assert read.steps("train/loss") == list(range(1, 11))
    assert read.at("mine/after") == {10: 1.0}
    for step, value in read.scalars["grad_norm/total"]:
        assert value == pytest.approx(read.at("train/grad_norm")[step], rel=1e-5)


def test_resume_of_two_callbacks_own_folders(tmp_path: Path) -> None:
    def both() -> list[TbxTrainerCallback]:
        other = {"every": 2, "metrics": [{"weight_norm": {"by": "total"}}]}
        first = TbxTrainerCallback("minimal", log_dir=tmp_path / "a")
        return [first, TbxTrainerCallback(other, log_dir=tmp_path / "b")]

    callbacks = both()
    run = trainer(tmp_path / "out", callbacks=[*callbacks, StopAt(7)], **SAVING)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    for callback in callbacks:
        callback.close()
    trainer(tmp_path / "out", callbacks=both(), **SAVING).train(resume_from_checkpoint=True)
    assert Run(tmp_path / "a").steps("train/loss") == list(range(1, 11))
    assert Run(tmp_path / "b").steps("weight_norm/total") == [2, 4, 6, 8, 10]


def test_fresh_start_beside_old_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for expected in ("logs", "logs_2", "logs_3"):
        callback = TbxTrainerCallback("minimal", log_dir=tmp_path / "logs")
        trainer(tmp_path / "out", callbacks=[callback], max_steps=2).train()
        assert callback.log_dir == str(tmp_path / expected)
        assert Run(callback.log_dir).steps("train/loss") == [2]
    assert f"logs already contains a run; writing this run to {tmp_path / 'logs_2'}" in caplog.text


def test_second_train_call_resumes_or_starts_beside(tmp_path: Path) -> None:
    callback = TbxTrainerCallback(SET)
    run = trainer(tmp_path / "out", callbacks=[callback], **SAVING)
    run.train()
    first = callback.log_dir
    run.args.max_steps = 12
    run.train(resume_from_checkpoint=True)  # from step 10, the last checkpoint
    assert callback.log_dir == first
    assert Run(first).steps("train/loss") == list(range(1, 13))
    run.train()
    assert callback.log_dir != first


@pytest.mark.slow
def test_restart_with_smaller_batches_hides_first_try(tmp_path: Path) -> None:
    class TooLarge(TrainerCallback):
        tries = 0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3 and not self.tries:
                self.tries += 1
                raise RuntimeError("CUDA out of memory.")

    callback, too_large = TbxTrainerCallback(SET), TooLarge()
    run = trainer(
        tmp_path,
        callbacks=[callback, too_large],
        auto_find_batch_size=True,
        logging_steps=1,
        per_device_train_batch_size=8,
    )
    run.train()
    assert too_large.tries == 1
    assert len(files(callback.log_dir)) == 1
    read = Run(callback.log_dir)
    assert read.steps("train/loss") == list(range(1, 9))
    assert read.steps("weight_norm/total") == list(range(1, 9))


@pytest.mark.slow
def test_hyperparameter_search_trials_own_folders(tmp_path: Path) -> None:
    pytest.importorskip("optuna").logging.set_verbosity(40)
    callback = TbxTrainerCallback(
        {"extends": "minimal", "metrics": ["clip", {"grad_norm": {"by": "total", "every": 1}}]}
    )
    run = trainer(tmp_path, callbacks=[callback], max_steps=4, eval_strategy="steps", eval_steps=2)
    run.model_init = lambda trial=None: bert()
    callback.attach(run)
    best = run.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)},
        n_trials=3,
        backend="optuna",
        hp_name=lambda trial: f"trial-{trial.number}",
    )
    assert best is not None
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert folders == ["trial-0", "trial-1", "trial-2"]
    rates = set()
    for folder in folders:
        read = Run(tmp_path / "runs" / folder)
        assert read.steps("eval/accuracy") == read.steps("clip/share") == [2, 4]
        assert read.steps("grad_norm/total") == [1, 2, 3, 4]  # the accelerator of each trial is attached
        for step in (2, 4):
            assert read.at("grad_norm/total")[step] == pytest.approx(read.at("train/grad_norm")[step], rel=1e-5)
        rates.add(read.at("lr/AdamW/pg1")[2])
    assert len(rates) == 3


def test_resume_of_earlier_digest_same_folder(tmp_path: Path) -> None:
    first = TbxTrainerCallback(SET)
    interrupted(tmp_path / "out", first)
    state = tmp_path / "out" / "checkpoint-4" / "trainer_state.json"
    digest = first.config.digest
    assert digest in state.read_text()
    state.write_text(state.read_text().replace(digest, "eef3f623487fdddb"))  # the digest of SET from an earlier version
    second = TbxTrainerCallback(SET)
    trainer(tmp_path / "out", callbacks=[second], **SAVING).train(resume_from_checkpoint=True)
    assert second.log_dir == first.log_dir
    assert Run(second.log_dir).steps("train/loss") == list(range(1, 11))
