"""Tests the checks of the wiring in real trainings: each planted fault is named, and nothing else is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader
from transformers import Trainer

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tbx_callbacks.rules import diagnose
from tbx_callbacks.rules.wiring import RULES
from tbx_callbacks.runs import read_run
from tests.helpers.models import bert, trainer


def found(folder: str | Path | None) -> set[str]:
    """The wiring rules that the doctor names, except notes."""
    assert folder is not None
    findings = diagnose(read_run(folder)).findings
    return {finding.id for finding in findings if finding.id in RULES and finding.severity != "note"}


def live(caplog: pytest.LogCaptureFixture) -> set[str]:
    """The wiring rules that the log named while it trained."""
    return {rule for rule in RULES if any(re.search(rf" {rule}[ :]", record.message) for record in caplog.records)}


class Net(nn.Module):
    """A classifier of eight numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(8, 16), nn.Dropout(0.1), nn.Linear(16, 3)
        self.softmax = self.cuts = False

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.drop(self.body(inputs).relu())
        logits: Tensor = self.head(hidden.detach() if self.cuts else hidden)
        return logits.softmax(-1) if self.softmax else logits


def batch(fault: str) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(16, 8)
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 1).long()
    if fault == "labels_ignored":
        labels[:] = -100
    if fault == "first_loss_not_finite":
        inputs[0, 0] = torch.nan
    return inputs, labels


def train_loop(folder: Path, fault: str, steps: int = 24, rate: float = 1e-3) -> None:
    torch.manual_seed(0)
    net = Net()
    net.softmax, net.cuts = fault == "double_softmax", fault == "no_gradient"
    trained = net.body if fault == "parameter_not_optimized" else net
    optimizers = [torch.optim.AdamW(trained.parameters(), rate)]
    if fault == "parameter_in_two_optimizers":
        optimizers.append(torch.optim.SGD(net.head.parameters(), 1e-3))
    if fault == "parameter_not_in_model":
        net.head = nn.Linear(16, 3)
    micro_batches = 4 if fault in ("gradients_summed", "divided") else 1
    with TbxLoop(net, optimizers, log_dir=str(folder), log_every=5) as loop:
        for step in range(1, steps + 1):
            if fault != "gradients_not_cleared":
                for optimizer in optimizers:
                    optimizer.zero_grad()
            for index in range(micro_batches):
                inputs, labels = batch(fault)
                outputs = net(inputs)
                loss = (F.nll_loss if fault == "nll_of_logits" else F.cross_entropy)(outputs, labels)
                loss = -loss if fault == "loss_maximised" else loss
                (loss / micro_batches if fault == "divided" else loss).backward()
                if index == micro_batches - 1:
                    finish(fault, optimizers, net, step)
                loop.end_step(loss=loss, samples=16, outputs=outputs, labels=labels)
            if step % 8 == 0:
                net.train(fault == "train_mode_in_evaluation")
                with torch.no_grad():
                    loop.evaluate(loss=F.cross_entropy(net(inputs), labels))
                net.train(fault != "eval_mode_in_training")


def finish(fault: str, optimizers: list[torch.optim.Optimizer], net: Net, step: int) -> None:
    if fault == "clipped":
        nn.utils.clip_grad_norm_(net.parameters(), 0.1)
    for optimizer in optimizers:
        if fault != "no_optimizer_step":
            optimizer.step()
    if fault == "weights_changed_outside" and step == 63:
        net.body.reset_parameters()
        net.head.reset_parameters()


LOOP_FAULTS = [
    "double_softmax",
    "eval_mode_in_training",
    "gradients_not_cleared",
    "gradients_summed",
    "loss_maximised",
    "nll_of_logits",
    "no_gradient",
    "no_optimizer_step",
    "parameter_in_two_optimizers",
    "parameter_not_optimized",
    "train_mode_in_evaluation",
]
ALSO = {"parameter_not_in_model": {"parameter_not_optimized"}, "labels_ignored": {"first_loss_not_finite"}}


@pytest.mark.parametrize("fault", [*LOOP_FAULTS, *ALSO, "first_loss_not_finite"])
def test_wiring_loop_names_fault(fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train_loop(tmp_path / "run", fault)
    assert found(tmp_path / "run") == {fault} | ALSO.get(fault, set())
    assert {fault} <= live(caplog)


def test_wiring_loop_reset_weights_raise_loss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train_loop(tmp_path / "run", "weights_changed_outside", steps=120, rate=1e-2)
    assert "weights_changed_outside" in found(tmp_path / "run")
    assert "weights_changed_outside" in live(caplog)


@pytest.mark.parametrize("plan", ["plain", "clipped", "divided"])
def test_wiring_loop_healthy_finds_nothing(plan: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train_loop(tmp_path / "run", plan)
    assert found(tmp_path / "run") == set()
    assert live(caplog) == set()


class Module(pl.LightningModule):
    """Trains `Net`."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.net, self.fault = Net(), fault
        self.net.softmax, self.net.cuts = fault == "double_softmax", fault == "no_gradient"

    def training_step(self, batch: Any, index: int) -> Tensor:
        inputs, labels = batch
        return F.cross_entropy(self.net(inputs), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = self.net.body if self.fault == "parameter_not_optimized" else self.net
        return torch.optim.AdamW(trained.parameters(), 1e-3)

    def optimizer_zero_grad(self, *args: Any) -> None:
        if self.fault != "gradients_not_cleared":
            super().optimizer_zero_grad(*args)


def train_lightning(folder: Path, fault: str) -> TbxLightningCallback:
    torch.manual_seed(0)
    inputs = torch.randn(64, 8)
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 1).long()
    if fault == "labels_ignored":
        labels[:] = -100
    loader = DataLoader(list(zip(inputs, labels, strict=True)), batch_size=8, shuffle=True)
    callback = TbxLightningCallback(log_dir=str(folder))
    pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=2 if fault == "accumulated" else 1,
        callbacks=[callback],
        log_every_n_steps=2,
    ).fit(Module(fault), loader)
    return callback


@pytest.mark.filterwarnings("ignore")  # few workers, and a warning of torch on Lightning
@pytest.mark.parametrize(
    "fault", ["double_softmax", "gradients_not_cleared", "labels_ignored", "no_gradient", "parameter_not_optimized"]
)
def test_wiring_lightning_names_fault(fault: str, tmp_path: Path) -> None:
    train_lightning(tmp_path / "run", fault)
    assert found(tmp_path / "run") == {fault} | ALSO.get(fault, set())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("plan", ["plain", "accumulated"])
def test_wiring_lightning_healthy_finds_nothing(plan: str, tmp_path: Path) -> None:
    train_lightning(tmp_path / "run", plan)
    assert found(tmp_path / "run") == set()


class Softmaxed(Trainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        loss = F.cross_entropy(outputs.logits.softmax(-1), inputs["labels"])
        return (loss, outputs) if return_outputs else loss


def detach_encoder(model: Any) -> None:
    model.bert.encoder.register_forward_hook(lambda module, args, outputs: outputs.__class__(outputs[0].detach()))


def freeze_nothing(model: Any) -> None:
    """Leaves the model as it is."""


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "callback"])
@pytest.mark.parametrize(
    ("expected", "change", "accumulate"),
    [(set(), freeze_nothing, 1), ({"no_gradient"}, detach_encoder, 1), ({"gradients_summed"}, freeze_nothing, 2)],
    ids=["healthy", "encoder cut off", "accumulated"],
)
def test_wiring_huggingface_names_fault(
    expected: set[str],
    change: Callable[[Any], None],
    accumulate: int,
    attached: bool,
    tmp_path: Path,
) -> None:
    if accumulate > 1 and int(transformers.__version__.partition(".")[0]) < 5:
        pytest.skip("this Trainer divides the mean loss of a classifier")
    model = bert()
    change(model)
    callback = TbxTrainerCallback(log_dir=str(tmp_path / "run"))
    hf = trainer(tmp_path, model=model, callbacks=[callback], max_steps=5, gradient_accumulation_steps=accumulate)
    if attached:
        callback.attach(hf)
    hf.train()
    assert found(callback.log_dir) == expected


def test_wiring_huggingface_preflight_keeps_training(tmp_path: Path) -> None:
    def train(name: str, *, checks: bool) -> list[Tensor]:
        callback = TbxTrainerCallback(log_dir=str(tmp_path / name))
        hf = trainer(tmp_path, callbacks=[callback], max_steps=4)
        callback.attach(hf)
        if checks:
            assert callback.preflight().checks.keys() >= {"padding_attended", "repeated_batches", "no_gradient"}
        hf.train()
        return list(hf.model.state_dict().values())

    assert all(map(torch.equal, train("with", checks=True), train("without", checks=False)))
    scalars = read_run(tmp_path / "with").scalars
    assert scalars["wiring/repeated_batches"].values[0] == 0  # the doctor knows it too


def test_wiring_huggingface_preflight_names_softmax(tmp_path: Path) -> None:
    callback = TbxTrainerCallback(log_dir=str(tmp_path / "run"))
    hf = trainer(tmp_path, cls=Softmaxed, callbacks=[callback])
    callback.attach(hf)
    assert [finding.id for finding in callback.preflight().diagnosis.findings if finding.severity != "note"] == [
        "double_softmax"
    ]


class Maximised(Trainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        outputs = model(**inputs)
        return (-outputs.loss, outputs) if return_outputs else -outputs.loss


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "callback"])
@pytest.mark.parametrize("cls", [Softmaxed, Maximised])
def test_wiring_huggingface_own_loss_read(cls: type[Trainer], attached: bool, tmp_path: Path) -> None:
    callback = TbxTrainerCallback(log_dir=str(tmp_path / "run"))
    hf = trainer(tmp_path, cls=cls, callbacks=[callback], max_steps=5)
    if attached:
        callback.attach(hf)
    hf.train()
    expected = {"loss_maximised"} if cls is Maximised else {"double_softmax"} if attached else set()
    assert found(callback.log_dir) == expected
    assert "compute_loss" not in vars(hf)


@pytest.mark.parametrize("reports", ["graph", "number"])
@pytest.mark.parametrize("sign", [1, -1])
def test_wiring_loop_sign_of_model_loss(sign: int, reports: str, tmp_path: Path) -> None:
    model = bert()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    with TbxLoop(model, optimizer, log_dir=str(tmp_path / "run")) as loop:
        for _ in range(5):
            batch = {"input_ids": torch.randint(0, 50, (4, 8)), "labels": torch.tensor([0, 1, 1, 0])}
            optimizer.zero_grad()
            loss = model(**batch).loss * sign
            loss.backward()
            optimizer.step()
            loop.end_step(loss=loss if reports == "graph" else loss.item(), samples=4)
    assert found(tmp_path / "run") == ({"loss_maximised"} if sign < 0 else set())


def test_wiring_switched_off_writes_nothing(tmp_path: Path) -> None:
    with TbxLoop(Net(), torch.optim.SGD(Net().parameters(), 0.1), "minimal", log_dir=str(tmp_path / "run")):
        pass
    assert not any(tag.startswith("wiring/") for tag in read_run(tmp_path / "run").scalars)
