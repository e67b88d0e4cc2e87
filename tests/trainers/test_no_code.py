"""Trains with scripts that do not mention this package, and compares their runs with those of explicit callbacks."""

from __future__ import annotations

import copy
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from packaging.version import Version
from tensorboard.plugins.hparams import api_pb2, metadata
from transformers import Trainer, TrainerCallback, TrainingArguments

import tbx_callbacks
from tbx_callbacks import TbxLightningCallback, TbxTrainerCallback
from tbx_callbacks.integrations.huggingface.attach import is_attached
from tests.helpers.compare import CLOCKS
from tests.helpers.data import collate, rows
from tests.helpers.models import bert, trainer
from tests.helpers.no_code import classify, fit
from tests.helpers.runs import Run, files
from tests.helpers.scripts import install_entry_points, own_process, run_script

# Lightning warns about settings that suit tests (few workers, no logger), and uses deprecated functions of torch.
pytestmark = pytest.mark.filterwarnings("ignore")


def same(read: Run, expected: Run) -> None:
    """Asserts equal tags, steps and values; only times and memory may differ."""
    assert set(read.scalars) == set(expected.scalars)
    assert {tag for tag in read.scalars if read.steps(tag) != expected.steps(tag)} == set()
    different = {tag for tag in read.scalars if read.scalars[tag] != expected.scalars[tag]}
    assert {tag for tag in different if not tag.startswith((*CLOCKS, "time/"))} == set()
    assert str(read.histograms) == str(expected.histograms)
    without_time = [re.sub(r'"logging_dir": ".*"', "", str(run.texts)) for run in (read, expected)]
    assert without_time[0] == without_time[1]
    assert len(read.scalars) > 40
    assert read.histograms


def callbacks_of(made: Any, cls: type[Any] = TbxTrainerCallback) -> list[Any]:
    """The callbacks of this package that a Trainer has."""
    return [each for each in made.callback_handler.callbacks if isinstance(each, cls)]


@pytest.fixture
def autolog() -> Iterator[Callable[..., Any]]:
    """`init`; what it activates ends with the test."""
    made = []

    def init(*args: Any, **kwargs: Any) -> Any:
        made.append(tbx_callbacks.init(*args, **kwargs))
        return made[-1]

    yield init
    for each in made:
        each.close()


# -- transformers ------------------------------------------------------------------------------------------------------


def test_huggingface_script_equals_explicit_callback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = "--max_steps 6 --logging_steps 2 --eval_strategy steps --eval_steps 3 --per_device_train_batch_size 4"
    quiet = "--use_cpu true --report_to none --save_strategy no --disable_tqdm true --layers 1"
    arguments = [*options.split(), *quiet.split(), "--output_dir", str(tmp_path / "out")]
    os.environ.pop("TBX_CALLBACKS_QUIET")
    try:
        run_script(inspect.getfile(classify), *arguments, config="full", log_dir=tmp_path / "run")
    finally:
        os.environ["TBX_CALLBACKS_QUIET"] = "1"
    printed = capfd.readouterr()
    assert printed.err.count("tbx_callbacks writes this run to") == 1
    assert "tbx_callbacks" not in printed.out
    callback = TbxTrainerCallback("full", log_dir=tmp_path / "explicit")
    with own_process():
        sys.argv = ["classify.py", *arguments]
        classify.train([callback], callback.attach)
    assert callback.step == 6
    same(Run(tmp_path / "run"), Run(tmp_path / "explicit"))


def test_script_that_raises_is_marked_failed(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\nfrom tests.helpers.models import trainer\n"
        "made = trainer(sys.argv[1], max_steps=4)\n"
        "step = made.training_step\n"
        "def fails(*args, **kwargs):\n"
        "    if made.state.global_step == 3:\n        raise ValueError('out of luck')\n"
        "    return step(*args, **kwargs)\n"
        "made.training_step = fails\nmade.train()\n"
    )
    with pytest.raises(ValueError, match="out of luck"):
        run_script(script, tmp_path / "out", log_dir=tmp_path / "run")
    read = Run(tmp_path / "run")
    assert read.steps("grad_norm/total") == read.steps("train/loss") == [2]
    ended = metadata.parse_session_end_info_plugin_data(read.plugin("hparams")["_hparams_/session_end_info"])
    assert ended.status == api_pb2.Status.Value("STATUS_FAILURE")


def test_report_to_name_attaches_a_callback(tmp_path: Path) -> None:
    made = trainer(tmp_path, report_to="tbx_callbacks", max_steps=2)
    (callback,) = callbacks_of(made)
    assert is_attached(made, callback._session)
    made.train()
    assert Run(callback.log_dir).steps("grad_norm/total") == [2]
    assert callback.log_dir.startswith(str(tmp_path / "runs"))


def test_report_to_name_uses_environment_or_init(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autolog: Callable[..., Any]
) -> None:
    monkeypatch.setenv("TBX_CALLBACKS", "full")
    (callback,) = callbacks_of(trainer(tmp_path, report_to=["tbx_callbacks"]))
    assert callback.config == tbx_callbacks.load_config("full")
    autolog("minimal", log_dir=tmp_path / "run")
    (callback,) = callbacks_of(trainer(tmp_path, report_to=["tbx_callbacks"]))  # once, in spite of both
    assert callback.config == tbx_callbacks.load_config("minimal")
    assert callback._session.requested_dir == str(tmp_path / "run")


def test_init_leaves_explicit_callbacks_alone(tmp_path: Path, autolog: Callable[..., Any]) -> None:
    autolog("full")
    mine = TbxTrainerCallback("minimal")
    made = trainer(tmp_path, callbacks=[mine])
    assert callbacks_of(made) == [mine]
    assert not is_attached(made, mine._session)
    assert callbacks_of(trainer(tmp_path, callbacks=[mine], report_to="tbx_callbacks")) == [mine]
    (own,) = callbacks_of(trainer(tmp_path, callbacks=[TbxTrainerCallback]))
    assert own.config == tbx_callbacks.load_config("default")
    later = trainer(tmp_path)
    assert len(callbacks_of(later)) == 1
    later.add_callback(mine)
    assert callbacks_of(later) == [mine]
    attached = trainer(tmp_path)
    mine = TbxTrainerCallback("minimal").attach(attached)
    assert callbacks_of(attached) == [mine]


def test_init_logs_until_closed(tmp_path: Path, autolog: Callable[..., Any]) -> None:
    before = trainer(tmp_path)
    active = autolog("minimal")
    made = trainer(tmp_path)
    active.close()
    assert len(callbacks_of(made)) == 1
    assert callbacks_of(before) == callbacks_of(trainer(tmp_path)) == []


def test_init_passes_errors_of_trainer_on(autolog: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    autolog("minimal")
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        Trainer(nonsense=1)
    assert caplog.messages == []


def test_init_trainer_with_positional_callbacks_logged(tmp_path: Path, autolog: Callable[..., Any]) -> None:
    class Mine(TrainerCallback):
        pass

    autolog("minimal")
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    values = {"model": bert(), "args": args, "data_collator": collate, "train_dataset": rows(), "callbacks": [Mine()]}
    names = [*inspect.signature(Trainer.__init__).parameters][1:]
    made = Trainer(*[values.get(name) for name in names[: names.index("callbacks") + 1]])
    kinds = [type(callback).__name__ for callback in made.callback_handler.callbacks]
    assert kinds[1:3] == ["Mine", "TbxTrainerCallback"]


def test_init_two_trainers_two_runs(tmp_path: Path, autolog: Callable[..., Any]) -> None:
    class Changed(Trainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.more = 1

    autolog("minimal", log_dir=tmp_path / "run")
    made = [trainer(tmp_path / str(index), max_steps=2, cls=Changed) for index in range(2)]
    for each in made:
        each.train()
    made[0].train()  # a second training is a run of its own
    assert len(files(tmp_path / "run")) == len(files(tmp_path / "run_2")) == len(files(tmp_path / "run_3")) == 1


def test_init_evaluation_only_logged_prediction_not(tmp_path: Path, autolog: Callable[..., Any]) -> None:
    autolog("default")
    made = trainer(tmp_path)
    made.predict(rows(8))
    (callback,) = callbacks_of(made)
    assert callback.log_dir is None
    made.evaluate()
    assert Run(callback.log_dir).steps("eval/accuracy") == [0]


def test_init_copied_trainer_writes_own_run(tmp_path: Path, autolog: Callable[..., Any]) -> None:
    autolog("minimal")
    made = trainer(tmp_path, max_steps=2)
    other = copy.deepcopy(made)
    made.train()
    other.train()
    (one,), (two,) = callbacks_of(made), callbacks_of(other)
    assert one.log_dir != two.log_dir
    assert Run(one.log_dir).steps("train/loss") == Run(two.log_dir).steps("train/loss") == [2]


@pytest.mark.parametrize("restores", [False, True])
def test_init_resumed_training_continues_its_run(tmp_path: Path, autolog: Callable[..., Any], restores: bool) -> None:
    autolog("full")
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    options["restore_callback_states_from_checkpoint"] = restores
    made = trainer(tmp_path, max_steps=4, **options)
    made.train()
    resumed = trainer(tmp_path, max_steps=6, **options)
    resumed.train(resume_from_checkpoint=True)
    (first,), (second,) = callbacks_of(made), callbacks_of(resumed)
    assert first.log_dir == second.log_dir
    assert is_attached(resumed, second._session)
    assert Run(first.log_dir).steps("train/loss") == [2, 4, 6]


@pytest.mark.slow
def test_init_search_gives_each_trial_a_run(tmp_path: Path, autolog: Callable[..., Any]) -> None:
    pytest.importorskip("optuna")
    autolog("minimal")
    args = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "report_to": "none", "save_strategy": "no"}
    made = Trainer(
        model_init=lambda trial=None: bert(),
        args=TrainingArguments(str(tmp_path), use_cpu=True, logging_steps=1, **args),
        train_dataset=rows(),
        eval_dataset=rows(8),
        data_collator=collate,
    )
    made.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)},
        n_trials=2,
        direction="minimize",
        backend="optuna",
    )
    runs = sorted((tmp_path / "runs").iterdir())
    assert [Run(folder).steps("train/loss") for folder in runs] == [[1], [1]]


# -- Lightning ---------------------------------------------------------------------------------------------------------

CLI = """
seed_everything: 3
trainer:
  max_epochs: 2
  accelerator: cpu
  logger: false
  log_every_n_steps: 2
  gradient_clip_val: 0.5
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
  default_root_dir: {folder}
"""


@pytest.fixture
def entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metadata").mkdir()
    install_entry_points(tmp_path / "metadata", monkeypatch)


def lightning_trainer(folder: Path, package: Any = None, **options: Any) -> Any:
    defaults: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "log_every_n_steps": 2}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder}
    return (package or fit.pl).Trainer(**{**defaults, **quiet, "enable_checkpointing": False, **options})


def ours(made: Any) -> list[Any]:
    return [each for each in made.callbacks if isinstance(each, TbxLightningCallback)]


def test_lightning_file_equals_explicit_callback(tmp_path: Path, entry_points: None) -> None:
    pytest.importorskip("jsonargparse")
    file, explicit = tmp_path / "config.yaml", tmp_path / "explicit.yaml"
    file.write_text(CLI.format(folder=tmp_path / "out"))
    run_script(inspect.getfile(fit), "fit", "--config", file, config="full", log_dir=tmp_path / "run")
    content = yaml.safe_load(file.read_text())
    arguments = {"config": "full", "log_dir": str(tmp_path / "explicit")}
    content["trainer"]["callbacks"] = [{"class_path": "tbx_callbacks.TbxLightningCallback", "init_args": arguments}]
    explicit.write_text(yaml.safe_dump(content))
    with own_process():
        sys.argv = ["fit.py", "fit", "--config", str(explicit)]
        fit.main()
    same(Run(tmp_path / "run"), Run(tmp_path / "explicit"))


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning_environment_adds_callback(
    tmp_path: Path, entry_points: None, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    module = pytest.importorskip(package)
    if module is not fit.pl and Version(module.__version__) < Version("2.6"):
        pytest.skip("Lightning before 2.6 refuses callbacks of the package that was imported first")
    assert ours(lightning_trainer(tmp_path, module)) == []
    monkeypatch.setenv("TBX_CALLBACKS", "full")
    monkeypatch.setenv("TBX_CALLBACKS_LOGDIR", str(tmp_path / "run"))
    made = lightning_trainer(tmp_path, module)
    (callback,) = ours(made)
    assert callback.config == tbx_callbacks.load_config("full")
    assert callback._session.requested_dir == str(tmp_path / "run")
    monkeypatch.setenv("TBX_CALLBACKS", "ful")
    with pytest.raises(tbx_callbacks.ConfigError, match="did you mean 'full'"):
        lightning_trainer(tmp_path, module)


def test_lightning_explicit_callback_is_alone(tmp_path: Path, entry_points: None, autolog: Callable[..., Any]) -> None:
    autolog("full")
    given, returned = TbxLightningCallback("minimal"), TbxLightningCallback("minimal")
    made = lightning_trainer(tmp_path, callbacks=[given])
    made.fit(fit.Classifier(), fit.Points())
    assert ours(made) == [given]

    class Own(fit.Classifier):
        def configure_callbacks(self) -> Any:
            return [returned]

    made = lightning_trainer(tmp_path)
    made.fit(Own(), fit.Points())
    assert ours(made) == [returned]
    assert sorted(os.listdir(tmp_path / "runs")) == sorted(
        os.path.basename(each.log_dir or "") for each in (given, returned)
    )


def test_lightning_checkpoint_continues_run(tmp_path: Path, entry_points: None, autolog: Callable[..., Any]) -> None:
    autolog("minimal")
    made = lightning_trainer(tmp_path)
    made.fit(fit.Classifier(), fit.Points())
    made.save_checkpoint(tmp_path / "last.ckpt")
    resumed = lightning_trainer(tmp_path, max_epochs=2)
    resumed.fit(fit.Classifier(), fit.Points(), ckpt_path=tmp_path / "last.ckpt")
    assert ours(made)[0].log_dir == ours(resumed)[0].log_dir
    assert "TbxLightningCallback" in torch.load(tmp_path / "last.ckpt", weights_only=False)["callbacks"]
    explicit = TbxLightningCallback("minimal")
    third = lightning_trainer(tmp_path, max_epochs=3, callbacks=[explicit])
    third.fit(fit.Classifier(), fit.Points(), ckpt_path=tmp_path / "last.ckpt")
    assert explicit.log_dir == ours(made)[0].log_dir  # the explicit callback reads the same state


def test_lightning_two_trainers_and_test_run(tmp_path: Path, entry_points: None, autolog: Callable[..., Any]) -> None:
    autolog("minimal", log_dir=tmp_path / "run")
    for _ in range(2):
        lightning_trainer(tmp_path).fit(fit.Classifier(), fit.Points())
    assert len(files(tmp_path / "run")) == len(files(tmp_path / "run_2")) == 1
    validated = lightning_trainer(tmp_path)
    validated.validate(fit.Classifier(), fit.Points())
    assert Run(ours(validated)[0].log_dir).steps("val_loss") == [0]
    quick = lightning_trainer(tmp_path, fast_dev_run=True)
    quick.fit(fit.Classifier(), fit.Points())
    assert ours(quick)[0].log_dir is None


def test_huggingface_renamed_argument_keeps_callback(tmp_path: Path, autolog: Callable[..., Any]) -> None:
    autolog("minimal", log_dir=tmp_path / "run")
    renames = "tokenizer" in inspect.getsource(Trainer.__init__) and Version(transformers.__version__) < Version("5")
    name = "tokenizer" if renames else "processing_class"
    made = Trainer(bert(0), TrainingArguments(str(tmp_path), report_to="none", use_cpu=True), **{name: None})
    assert len(callbacks_of(made)) == 1
    by_position = Trainer(bert(0), made.args, None, None, None, None, None, None, None, [TrainerCallback()])
    assert len(callbacks_of(by_position)) == 1


def test_init_within_same_init_keeps_outer(autolog: Callable[..., Any]) -> None:
    autolog("minimal")
    with autolog("minimal"):
        pass
    assert len(callbacks_of(Trainer(bert(0), TrainingArguments("unused", report_to="none", use_cpu=True)))) == 1
