"""Tests the recipes for images, sounds, recommendations and text generation: they run, log and learn."""

from __future__ import annotations

import math
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from audio_classification import KINDS, generate, spectrogram
from recommendation import Recommender
from recommendation import generate as generate_clicks

from tests.helpers.commands import run_process
from tests.helpers.processes import python
from tests.helpers.runs import ROOT, Run
from tests.helpers.variations import variations

RECIPES = ROOT / "recipes"


def train(name: str, *options: object, cwd: Path) -> tuple[Run, str]:
    """Runs a recipe. Returns its run and its output."""
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cwd / "cache"), "COLUMNS": "200", "NO_COLOR": "1"}
    done = python(RECIPES / f"{name}.py", *options, "--output-dir", "out", seconds=280, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    (folder,) = (cwd / "out" / "runs").iterdir()
    assert re.search(rf"log directory: out/runs/{folder.name}\nview: \S*tbx-callbacks view out/runs\n", done.stdout)
    assert "dev after " in done.stdout
    return Run(folder), done.stdout


@pytest.mark.slow
def test_image_recipe_short_run_logs_layers(tmp_path: Path) -> None:
    run, _ = train(
        "image_classification", "--max-steps", 20, "--layers", 2, "--head-size", 4, "--config", "full", cwd=tmp_path
    )
    assert {"grad_norm/vit.layers.0", "grad_norm/vit.layers.1", "grad_norm/classifier"} <= set(run.scalars)
    assert run.steps("train/loss") == run.steps("train/accuracy") == [10, 20]
    assert run.steps("eval/accuracy") == run.steps("eval/f1/3") == [20]


@pytest.mark.slow
def test_audio_recipe_short_run_logs_kinds(tmp_path: Path) -> None:
    run, printed = train(
        "audio_classification", "--max-steps", 20, "--width", 2, "--rows", 100, "--config", "full", cwd=tmp_path
    )
    assert {"grad_norm/blocks.0", "grad_norm/blocks.2", "grad_norm/classifier"} <= set(run.scalars)
    assert run.steps("train/loss") == run.steps("train/accuracy") == [10, 20]
    assert {f"eval/f1/{kind}" for kind in KINDS} <= set(run.scalars)
    assert "1.6094" in printed  # the loss of equal probabilities


@pytest.mark.slow
def test_recommendation_recipe_learns_towards_true_odds(tmp_path: Path) -> None:
    options = ["--max-steps", 100, "--rows", 5000, "--users", 50, "--items", 40, "--batch", 128, "--config", "full"]
    run, printed = train("recommendation", *options, "--lr", 0.03, cwd=tmp_path)
    names = {"embeddings/users", "embeddings/items", "content/content"}
    assert {f"{family}/{name}" for family in ("grad_norm", "update_ratio") for name in names} <= set(run.scalars)
    assert run.steps("eval/auc") == [100]
    rows = {line.split("│")[1].strip(): line.split("│")[2:4] for line in printed.splitlines() if line.startswith("│")}
    auc = {name: float(numbers[1]) for name, numbers in rows.items()}
    assert 0.5 < auc["popularity"] < auc["recommender"] < auc["true odds (the best)"]
    assert run.at("eval/auc")[100] == pytest.approx(auc["recommender"], abs=1e-3)


@pytest.mark.slow
def test_lora_recipe_short_run_logs_adapters(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    config = tmp_path / "set.yaml"
    config.write_text("extends: finetune\nmetrics: [lora: {every: 5}]\n")
    options = ["--max-steps", 10, "--base-steps", 2, "--rank", 2, "--config", config]
    run, printed = train("text_generation_lora", *options, cwd=tmp_path)
    modules = {f"model.layers.{n}.self_attn.{part}_proj" for n in range(2) for part in "qkvo"}
    assert modules <= run.family("lora/update")
    assert run.steps("lora/update/model.layers.0.self_attn.q_proj") == [5, 10]
    assert run.steps("train/loss") == [10]
    assert "right: " in printed


def test_generated_sounds_have_their_pitch() -> None:
    torch.manual_seed(0)
    sounds, kinds = generate(400)
    assert torch.bincount(kinds).tolist() == [80] * len(KINDS)
    loudest = spectrogram(sounds)[:, 10:].argmax(1).float()  # [sounds, frames], without the lowest frequencies
    change = (loudest[:, -8:].median(1).values - loudest[:, :8].median(1).values).sign()
    for kind, expected in (("rising", 1), ("falling", -1)):
        assert (change[kinds == KINDS.index(kind)] == expected).float().mean() > 0.8


def test_generated_clicks_follow_their_odds() -> None:
    torch.manual_seed(0)
    clicks, features = generate_clicks(100, 50, 50_000)
    assert features.shape[0] == 50
    for low in (-2.0, 0.0, 1.0):
        chosen = (clicks.odds > low) & (clicks.odds < low + 0.5)
        share = float(clicks.clicked[chosen].mean())
        expected = 1 / (1 + math.exp(-low - 0.25))
        assert share == pytest.approx(expected, abs=0.03)


def test_recommender_embedding_gradients_are_sparse() -> None:
    model = Recommender(20, torch.randn(10, 3), 4)
    model(torch.tensor([1, 2]), torch.tensor([3, 3])).sum().backward()
    assert {name: parameter.grad.is_sparse for name, parameter in model.named_parameters()} == {
        "users.weight": True,
        "items.weight": True,
        "content.weight": False,
        "content.bias": False,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    variations(["audio-classification", "image-classification", "recommendation", "text-generation-lora"]),
)
def test_recipe_command_runs_every_recipe(name: str, tmp_path: Path) -> None:
    if name == "text-generation-lora":
        pytest.importorskip("trl")
    assert "--max-steps" in run_process("recipe", name, "--help", cwd=tmp_path).stdout
    done = run_process("recipe", name, "--config", "defalt", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "did you mean 'default'?" in done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_recipe_missing_package_names_install_command(tmp_path: Path) -> None:
    (tmp_path / "peft.py").write_text("raise ModuleNotFoundError(\"No module named 'peft'\", name='peft')\n")
    path = os.pathsep.join((str(tmp_path), os.environ["PYTHONPATH"]))
    command = ["-m", "tbx_callbacks", "recipe", "text-generation-lora"]
    done: subprocess.CompletedProcess[str] = python(*command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: the recipe text-generation-lora needs peft, which is not installed; run: pip install"
        ' "tbx-callbacks[recipes,ecosystem]"'
    )
