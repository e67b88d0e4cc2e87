"""Tests the metric of LoRA adapters on PEFT's classes, against the singular values of the whole update in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks import TbxLoop, TbxTrainerCallback
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run

peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # peft's own
]
SET: Any = {"every": 2, "strict": True, "metrics": ["lora"]}


class Net(nn.Module):
    """An embedding, a convolution and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(20, 12)
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.body = nn.ModuleList([nn.Linear(12, 12) for _ in range(2)])
        self.head = nn.Linear(12, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x + self.conv(x[:, None]).mean(1)
        for layer in self.body:
            x = torch.tanh(layer(x)) + x
        return self.head(x.mean(1))


def adapted(**changes: Any) -> Any:
    options: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": ["embed", "conv", "body.0", "body.1"]}
    return peft.get_peft_model(Net(), peft.LoraConfig(**(options | changes)))


def train(folder: Path, model: nn.Module, steps: int = 4, **options: Any) -> Run:
    optimizer = options.pop("optimizer", None) or torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-2
    )
    made = torch.Generator().manual_seed(0)
    with TbxLoop(model, optimizer, SET, log_dir=folder, log_every=2) as loop:
        for _ in range(steps):
            ids = torch.randint(0, 20, (4, 5), generator=made)
            loss = nn.functional.cross_entropy(model(ids), ids[:, 0] % 3)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=loss)
    return Run(folder)


def exact(layer: Any, adapter: str = "default") -> tuple[float, float]:
    """The relative norm of PEFT's own delta, and its stable rank."""
    delta = layer.get_delta_weight(adapter).detach()
    base = layer.get_base_layer().weight.detach()
    assert delta.shape == base.shape
    matrix = delta.double().reshape(len(delta), -1)
    singular = torch.linalg.svdvals(matrix)
    return float(matrix.norm() / base.double().norm()), float(matrix.norm() ** 2 / singular[0] ** 2)


def check(run: Run, model: Any, groups: dict[str, tuple[str, str]], *, step: int = 4, rel: float = 1e-5) -> None:
    """Compares groups -> (module, adapter) with PEFT's deltas."""
    assert run.family("lora/update") == run.family("lora/stable_rank") == set(groups)
    for group, (path, adapter) in groups.items():
        update, rank = exact(model.get_submodule(f"base_model.model.{path}"), adapter)
        assert update > 0
        assert run.at(f"lora/update/{group}")[step] == pytest.approx(update, rel=rel)
        assert run.at(f"lora/stable_rank/{group}")[step] == pytest.approx(rank, rel=rel)


ALL = {name: (name, "default") for name in ("embed", "conv", "body.0", "body.1")}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": True},
        {"lora_bias": True, "target_modules": ["body.0", "body.1", "conv"]},
        {"init_lora_weights": False},
        {"r": 1},
        {"r": 16},
        {"rank_pattern": {"body.0": 2}, "alpha_pattern": {"body.1": 32}},
        {"modules_to_save": ["head"]},
        {"lora_dropout": 0.3},
    ],
    ids=str,
)
def test_lora_matches_singular_values_of_update(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = adapted(**changes)
    run = train(tmp_path, model)
    check(run, model, {name: ALL[name] for name in changes.get("target_modules", ALL)})
    assert run.steps("lora/update/body.0") == [2, 4]


def test_lora_dora_measures_the_direction_update(tmp_path: Path) -> None:
    model = adapted(use_dora=True, target_modules=["body.0", "body.1"])
    check(train(tmp_path, model), model, {name: ALL[name] for name in ("body.0", "body.1")})


def test_lora_half_precision_matches(tmp_path: Path) -> None:
    model = adapted(target_modules=["body.0", "body.1"]).bfloat16()
    check(train(tmp_path, model), model, {name: ALL[name] for name in ("body.0", "body.1")}, rel=2e-2)


def test_lora_several_adapters_own_groups(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = adapted(target_modules=["body.0"])
    model.add_adapter("style", peft.LoraConfig(r=2, target_modules=["body.0", "body.1"], init_lora_weights=False))
    run = train(tmp_path, model)
    assert run.at("lora/update/body.0.style")[2] == run.at("lora/update/body.0.style")[4] > 0
    check(
        run, model, {"body.0": ALL["body.0"], "body.0.style": ("body.0", "style"), "body.1.style": ("body.1", "style")}
    )
    (message,) = [text for text in caplog.messages if "adapters that do not train" in text]
    assert message == (
        "LoRA adapters that do not train: style: none of their matrices requires gradients; call model.set_adapter, or"
        " load with is_trainable=True"
    )


def test_lora_scale_changed_in_training_counts(tmp_path: Path) -> None:
    model = adapted(target_modules=["body.0"])
    layer = model.get_submodule("base_model.model.body.0")
    train(tmp_path / "first", model)
    layer.scale_layer(2.0)
    check(train(tmp_path / "second", model), model, {"body.0": ALL["body.0"]})


def test_lora_zero_update_no_rank(tmp_path: Path) -> None:
    model = adapted(target_modules=["body.0"])
    model.get_submodule("base_model.model.body.0").lora_A.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    run = train(tmp_path, model, optimizer=optimizer)
    assert run.at("lora/update/body.0") == {2: 0.0, 4: 0.0}
    assert not run.family("lora/stable_rank")


def test_lora_adapters_added_after_optimizer_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    model = peft.get_peft_model(net, peft.LoraConfig(r=2, target_modules=["body.0"], modules_to_save=["head"]))
    train(tmp_path, model, optimizer=optimizer)
    assert [text for text in caplog.messages if "adapters that do not train" in text] == [
        "LoRA adapters that do not train: default: no optimizer has their matrices; create the optimizer after the"
        " adapters"
    ]


def test_lora_trained_adapters_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, adapted())
    assert "adapters" not in caplog.text


def test_lora_loaded_adapter_frozen_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapted().save_pretrained(tmp_path / "saved")
    model = peft.PeftModel.from_pretrained(Net(), str(tmp_path / "saved"))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path / "run", log_every=2):
        pass
    assert len([text for text in caplog.messages if "do not train: default: none of their matrices" in text]) == 1


def test_lora_adalora_and_plain_model_left_out(tmp_path: Path) -> None:
    config = peft.AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=["body.0"])
    assert not train(tmp_path / "adalora", peft.get_peft_model(Net(), config)).family("lora/update")
    assert not train(tmp_path / "plain", Net()).scalars.keys() & {"lora/update", "lora/stable_rank"}


def test_lora_under_trainer_with_bert(tmp_path: Path) -> None:
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value", "word_embeddings"])
    callback = TbxTrainerCallback({**SET, "metrics": ["loss", "lora"]})
    model = peft.get_peft_model(bert(), config)
    trainer(tmp_path, model=model, callbacks=[callback], max_steps=4, gradient_accumulation_steps=2).train()
    layers = [f"bert.encoder.layer.{n}.attention.self.{part}" for n in range(2) for part in ("query", "value")]
    groups = {path: (path, "default") for path in [*layers, "bert.embeddings.word_embeddings"]}
    check(Run(callback.log_dir), model, groups)


def test_lora_training_bit_identical(tmp_path: Path) -> None:
    ends = []
    for config in (SET, {"metrics": ["loss"]}):
        model = adapted(lora_dropout=0.2)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        torch.manual_seed(5)
        with TbxLoop(model, optimizer, config, log_dir=tmp_path / str(len(ends)), log_every=2) as loop:
            for _ in range(4):
                model(torch.randint(0, 20, (4, 5))).square().sum().backward()
                optimizer.step()
                loop.end_step()
        ends.append((model.state_dict(), torch.get_rng_state()))
    assert all(torch.equal(ends[0][0][name], ends[1][0][name]) for name in ends[0][0])
    assert torch.equal(ends[0][1], ends[1][1])
    assert math.isfinite(Run(tmp_path / "0").at("lora/update/body.0")[4])


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(20, 12), nn.Linear(12, 3)
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def test_lora_of_attention_matches(tmp_path: Path) -> None:
    model = peft.get_peft_model(Attends(), peft.LoraConfig(r=4, lora_alpha=6, target_modules=["attention"]))
    run = train(tmp_path, model)
    layer: Any = model.base_model.model.attention
    base = layer.get_base_layer()
    for group, part, weight in (
        ("attention", layer, base.in_proj_weight),
        ("attention.out_proj", base.out_proj, base.out_proj.get_base_layer().weight),
    ):
        delta = part.get_delta_weight("default").detach().double()
        update = float(delta.norm() / weight.detach().double().norm())
        assert run.at(f"lora/update/{group}")[4] == pytest.approx(update, rel=1e-4)
        rank = float(delta.norm() ** 2 / torch.linalg.svdvals(delta)[0] ** 2)
        assert run.at(f"lora/stable_rank/{group}")[4] == pytest.approx(rank, rel=1e-4)
    assert run.family("lora/update") == {"attention", "attention.out_proj"}


@pytest.mark.skipif(not hasattr(peft, "BdLoraConfig"), reason="this PEFT has no BD-LoRA")
@pytest.mark.parametrize("side", ["target_modules_bd_a", "target_modules_bd_b"])
def test_lora_block_diagonal_left_out(tmp_path: Path, side: str, caplog: pytest.LogCaptureFixture) -> None:
    blocks = peft.BdLoraConfig(**{side: ["body"]}, nblocks=2)
    run = train(tmp_path, adapted(target_modules=["body.0", "body.1"], use_bdlora=blocks))
    assert not run.family("lora/update") | run.family("lora/stable_rank")
    told = (
        "lora is left out for base_model.model.body.0, base_model.model.body.1: their update is not the plain product"
    )
    assert caplog.text.count(told) == 1


def test_lora_pissa_starts_with_part_of_weight(tmp_path: Path) -> None:
    model = adapted(target_modules=["body.0", "body.1"], init_lora_weights="pissa")
    run = train(tmp_path, model, lr=0.0)
    check(run, model, {f"body.{n}": (f"body.{n}", "default") for n in range(2)})
    assert run.at("lora/update/body.0")[2] > 0.5
