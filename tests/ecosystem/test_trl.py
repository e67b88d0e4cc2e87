"""Tests SFTTrainer of trl: its extra metrics, its inputs, and a PEFT model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tbx_callbacks import TbxTrainerCallback
from tests.helpers.data import sentences
from tests.helpers.models import tokenizer
from tests.helpers.oracles import Recorder, Recording, norm
from tests.helpers.runs import Run

trl = pytest.importorskip("trl")
peft = pytest.importorskip("peft")
# trl sets deprecated arguments of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

SET = {
    "metrics": [
        "loss",
        "nonfinite",
        "throughput",
        "hparams",
        {"grad_norm": {"by": "total"}},
        {"grad_norm": {"by": "layer"}},
        {"grad_norm_clipped": {"by": "total"}},
        {"weight_norm": {"by": "total"}},
    ]
}
EXTRA = ("entropy", "mean_token_accuracy", "num_tokens")


class RecordingSFT(Recording, trl.SFTTrainer):
    """Also records the trainer's logs."""

    def log(self, logs: dict[str, float], *args: Any) -> None:
        super().log(logs, *args)
        for name, value in logs.items():
            self.logged.setdefault(name, {})[self.state.global_step] = value


def llama(words: Any) -> LlamaForCausalLM:
    """A language model with 2 layers of width 16 and tied embeddings."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"pad_token_id": words.pad_token_id, "bos_token_id": words.cls_token_id, "eos_token_id": words.eos_token_id}
    config = LlamaConfig(vocab_size=len(words), max_position_embeddings=32, tie_word_embeddings=True, **sizes, **ids)
    return LlamaForCausalLM(config)


def sft(folder: Path, *callbacks: Any, lora: bool = False, **options: Any) -> RecordingSFT:
    from datasets import Dataset

    words = tokenizer()
    defaults: dict[str, Any] = {"max_steps": 4, "logging_steps": 2, "per_device_train_batch_size": 4, "max_length": 16}
    defaults |= {"learning_rate": 1e-2, "max_grad_norm": 0.5, "bf16": False, "use_cpu": True, "report_to": "none"}
    defaults |= {"save_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False}
    data = Dataset.from_dict({"text": sentences()})
    recorder = Recorder()
    run = RecordingSFT(
        model=llama(words),
        args=trl.SFTConfig(str(folder), **{**defaults, **options}),
        train_dataset=data,
        eval_dataset=data.select(range(8)),
        processing_class=words,
        peft_config=peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]) if lora else None,
        callbacks=[*callbacks, recorder],
    )
    run.recorder, run.logged = recorder, {}
    return run


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_trl_metrics_match_naive_computation(tmp_path: Path, lora: bool, attached: bool, checkpointing: bool) -> None:
    callback = TbxTrainerCallback(SET)
    options = {"gradient_checkpointing": checkpointing, "gradient_accumulation_steps": 2}
    run = sft(tmp_path, callback, lora=lora, eval_strategy="steps", eval_steps=2, **options)
    if attached:
        callback.attach(run)
    run.train()
    read = Run(callback.log_dir)
    for name in ("loss", "grad_norm", "learning_rate", *EXTRA):
        assert read.at(f"train/{name}") == pytest.approx(run.logged[name]), name
    for name in ("loss", *EXTRA):
        assert read.at(f"eval/{name}") == pytest.approx(run.logged[f"eval_{name}"]), name
    assert {"best/loss", "best/mean_token_accuracy"} <= set(read.scalars)
    assert "best/num_tokens" not in read.scalars
    tokens = 0.0
    for step in (2, 4):
        seen = run.recorder.steps[step]
        assert read.at("grad_norm/total")[step] == pytest.approx(norm(seen.before_clip), rel=1e-5)
        assert read.at("grad_norm_clipped/total")[step] == pytest.approx(norm(seen.after_clip), rel=1e-5)
        assert read.at("weight_norm/total")[step] == pytest.approx(norm(seen.weights), rel=1e-5)
        for layer in ("model.layers.0", "model.layers.1"):
            own = {name: g for name, g in seen.before_clip.items() if f"{layer}." in name}
            assert read.at(f"grad_norm/{layer}")[step] == pytest.approx(norm(own), rel=1e-5)
        rates = [read.at(f"perf/{unit}_per_s")[step] for unit in ("steps", "samples", "tokens")]
        assert rates[1] / rates[0] == pytest.approx(8)
        tokens += 2 * rates[2] / rates[0]
        assert tokens == pytest.approx(read.at("train/num_tokens")[step])
    layers = {"total", "model.layers.0", "model.layers.1"}
    assert read.family("grad_norm") == (layers if lora else {*layers, "model.embed_tokens", "model.norm"})
    assert read.steps("nonfinite/losses") == [2, 4]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_trl_training_with_callback_unchanged(tmp_path: Path, lora: bool) -> None:
    results = []
    for watched in (True, False):
        callback = TbxTrainerCallback({"extends": "full", "every": 1})
        run = sft(tmp_path, *([callback] if watched else []), lora=lora, logging_steps=1, max_steps=6)
        if watched:
            callback.attach(run)
        run.train()
        results.append((run.model.state_dict(), torch.get_rng_state()))
    (watched_state, watched_rng), (plain_state, plain_rng) = results
    assert all(torch.equal(watched_state[name], plain_state[name]) for name in plain_state)
    assert torch.equal(watched_rng, plain_rng)
