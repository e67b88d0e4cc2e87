"""Tests SentenceTransformerTrainer: several modules, several inputs a row, and a loss module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from tbx_callbacks import TbxTrainerCallback
from tests.helpers.data import sentences
from tests.helpers.models import tokenizer
from tests.helpers.oracles import Named, Recorder, Recording, norm
from tests.helpers.runs import Run

st = pytest.importorskip("sentence_transformers")
parts = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")

SET = {
    "metrics": [
        "loss",
        "throughput",
        "nonfinite",
        {"grad_norm": {"by": "total"}},
        {"grad_norm": {"by": "layer"}},
        {"grad_norm_clipped": {"by": "total"}},
        {"weight_norm": {"by": "layer"}},
    ]
}
EMBEDDINGS = {
    f"0.model.embeddings.{name}"
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
}
LAYERS = EMBEDDINGS | {"0.model.encoder.layer.0", "0.model.encoder.layer.1", "0.model.pooler.dense", "2"}


class RecordingTrainer(Recording, st.SentenceTransformerTrainer):
    """Also counts the tokens of the training batches."""

    tokens = 0

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.tokens += sum(int(inputs[name].sum()) for name in ("text_attention_mask", "same_attention_mask"))
        return super().training_step(model, inputs, *args, **kwargs)


def by_layer(tensors: Named) -> dict[str, Named]:
    return {
        layer: own
        for layer in LAYERS
        if (own := {name: tensor for name, tensor in tensors.items() if name.startswith(f"{layer}.")})
    }


def fine_tuning(folder: Path, *callbacks: Any, **options: Any) -> RecordingTrainer:
    from datasets import Dataset

    torch.manual_seed(0)
    words = tokenizer()
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes)).save_pretrained(folder / "bert")
    words.save_pretrained(folder / "bert")
    modules = [parts.Transformer(str(folder / "bert")), parts.Pooling(16), parts.Dense(16, 8)]
    model = st.SentenceTransformer(modules=modules, device="cpu")
    defaults: dict[str, Any] = {"max_steps": 4, "logging_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True}
    defaults |= {"learning_rate": 1e-2, "max_grad_norm": 0.5, "report_to": "none", "save_strategy": "no"}
    defaults |= {"disable_tqdm": True, "dataloader_pin_memory": False}
    recorder = Recorder()
    run = RecordingTrainer(
        model=model,
        args=st.SentenceTransformerTrainingArguments(str(folder), **{**defaults, **options}),
        train_dataset=Dataset.from_dict({"text": sentences(), "same": sentences()[::-1]}),
        loss=losses.MultipleNegativesRankingLoss(model),
        callbacks=[*callbacks, recorder],
    )
    run.recorder = recorder
    return run


@pytest.mark.parametrize("attached", [False, True])
def test_sentence_transformers_metrics_match_naive_computation(tmp_path: Path, attached: bool) -> None:
    callback = TbxTrainerCallback(SET)
    run = fine_tuning(tmp_path, callback, gradient_accumulation_steps=2)
    if attached:
        callback.attach(run)
    run.train()
    read = Run(callback.log_dir)
    for step in (2, 4):
        seen = run.recorder.steps[step]
        before, weights = by_layer(seen.before_clip), by_layer(seen.weights)
        assert read.family("weight_norm") == set(weights) == LAYERS
        assert read.family("grad_norm") == {"total", *before}
        assert read.at("grad_norm/total")[step] == pytest.approx(norm(seen.before_clip), rel=1e-5)
        assert read.at("train/grad_norm")[step] == pytest.approx(norm(seen.before_clip), rel=1e-5)
        assert read.at("grad_norm_clipped/total")[step] == pytest.approx(norm(seen.after_clip), rel=1e-5)
        for layer, own in before.items():
            assert read.at(f"grad_norm/{layer}")[step] == pytest.approx(norm(own), rel=1e-5)
        for layer, own in weights.items():
            assert read.at(f"weight_norm/{layer}")[step] == pytest.approx(norm(own), rel=1e-5)
    rates = [[read.at(f"perf/{unit}_per_s")[step] for unit in ("steps", "samples", "tokens")] for step in (2, 4)]
    assert [samples / steps for steps, samples, _ in rates] == pytest.approx([8, 8])
    assert sum(2 * tokens / steps for steps, _, tokens in rates) == pytest.approx(run.tokens)
    if attached:
        assert read.at("nonfinite/losses") == {2: 0.0, 4: 0.0}
    else:  # the loss is not the model's
        assert "nonfinite/losses" not in read.scalars


def test_sentence_transformers_training_with_callback_unchanged(tmp_path: Path) -> None:
    results = []
    for watched in (True, False):
        callback = TbxTrainerCallback({"extends": "full", "every": 1})
        run = fine_tuning(tmp_path, *([callback] if watched else []), logging_steps=1)
        if watched:
            callback.attach(run)
        run.train()
        results.append((run.model.state_dict(), torch.get_rng_state()))
    (watched_state, watched_rng), (plain_state, plain_rng) = results
    assert all(torch.equal(watched_state[name], plain_state[name]) for name in plain_state)
    assert torch.equal(watched_rng, plain_rng)
