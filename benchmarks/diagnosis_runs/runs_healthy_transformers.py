"""Healthy runs of transformers with the Hugging Face Trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel
from transformers import Trainer, TrainerCallback
from transformers.optimization import Adafactor

from benchmarks.diagnosis_runs import data, models
from benchmarks.diagnosis_runs.cases import Facts, Place, accuracy_above, healthy, loss_below
from benchmarks.diagnosis_runs.contrastive import fine_tune_pairs
from benchmarks.diagnosis_runs.with_huggingface import fine_tune

WITHOUT_WARMUP = {"no_warmup"}


def _texts() -> tuple[data.Rows, data.Rows]:
    return data.labelled_text(1500, 1), data.labelled_text(300, 2)


def _languages(*, sharpness: float = 6.0) -> tuple[data.Rows, data.Rows]:
    train, dev = (data.markov_text(number, seed, sharpness=sharpness) for number, seed in ((1500, 1), (200, 2)))
    return data.language_rows(train), data.language_rows(dev)


# -- text classification -----------------------------------------------------------------------------------------------


@healthy(kind="text classification", planned=accuracy_above(0.9))
def distilbert_linear(place: Place) -> Facts:
    """DistilBERT with a linear schedule."""
    return fine_tune(place, models.distilbert(), *_texts(), steps=200)


@healthy(kind="text classification", planned=accuracy_above(0.9))
def roberta_cosine_own_logger(place: Place) -> Facts:
    """RoBERTa with a cosine schedule, logged by the Trainer's own callback."""
    return fine_tune(place, models.encoder("Roberta"), *_texts(), logs="own", schedule="cosine", steps=200)


@healthy(kind="text classification", planned=accuracy_above(0.9))
def bert_rates_by_layer(place: Place) -> Facts:
    """BERT with a small rate for the encoder and a large one for the head."""
    model = models.encoder("Bert")
    groups = [{"params": model.bert.parameters(), "lr": 1e-3}, {"params": model.classifier.parameters(), "lr": 1e-2}]
    optimizer = torch.optim.AdamW(groups)
    options = {"optimizers": (optimizer, models.linear(optimizer, 200, 20))}
    return fine_tune(place, model, *_texts(), steps=200, options=options)


@healthy(kind="text classification", planned=accuracy_above(0.9))
def bert_padded_rows_with_mask(place: Place) -> Facts:
    """BERT on padded rows with their attention mask."""
    train, dev = (
        data.text_rows(ids, labels, mask)
        for ids, labels, mask in (data.padded_sentences(1500, 1), data.padded_sentences(300, 2))
    )
    return fine_tune(place, models.encoder("Bert"), train, dev, steps=200)


@healthy(kind="trained before", planned=accuracy_above(0.9))
def bert_trained_before(place: Place) -> Facts:
    """BERT that is already good, and goes on at a small rate."""
    model = models.encoder("Bert")
    optimizer = models.adam(model, 2e-3)
    ids, labels = data.sentences(1500, 1)
    generator = data.dice(place.seed)
    for _ in range(200):
        rows = torch.randint(0, 1500, (32,), generator=generator)
        model(input_ids=ids[rows], labels=labels[rows]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return fine_tune(place, model, data.labelled_text(1500, 5), data.labelled_text(300, 2), logs="default", rate=1e-4)


@healthy(kind="token classification", planned=accuracy_above(0.95))
def bert_token_classification(place: Place) -> Facts:
    """BERT that labels tokens; the start token is ignored."""
    model = models.encoder("Bert", task="TokenClassification")
    return fine_tune(place, model, data.word_tags(1500, 1), data.word_tags(300, 2), logs="default")


@healthy(kind="multi-label classification", planned=lambda facts: facts.eval_loss < 0.5)
def bert_multilabel(place: Place) -> Facts:
    """BERT that finds which of three topics a sentence has."""
    model = models.encoder("Bert", labels=3, problem_type="multi_label_classification")
    return fine_tune(place, model, data.topic_sets(1500, 1), data.topic_sets(200, 2), scores=None, steps=240)


@healthy(kind="regression", planned=lambda facts: facts.eval_loss < 1.0)
def bert_regression(place: Place) -> Facts:
    """BERT that predicts a number."""
    model = models.encoder("Bert", labels=1, problem_type="regression")
    train, dev = data.rated_sentences(1500, 1), data.rated_sentences(300, 2)
    return fine_tune(place, model, train, dev, scores=None, steps=200)


@healthy(kind="frozen on purpose", ok={"head_only", "frozen_layers"}, planned=accuracy_above(0.85))
def bert_encoder_frozen_on_purpose(place: Place) -> Facts:
    """BERT trained before, of which only the head is trained."""
    model = models.encoder("Bert")
    optimizer = models.adam(model, 2e-3)
    ids, labels = data.sentences(1500, 1)
    generator = data.dice(place.seed)
    for _ in range(200):
        rows = torch.randint(0, 1500, (32,), generator=generator)
        model(input_ids=ids[rows], labels=labels[rows]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    nn.init.normal_(model.classifier.weight, std=0.02)
    models.freeze(model, "bert.")
    return fine_tune(place, model, *_texts(), logs="default", rate=5e-3)


@healthy(kind="imbalanced classes", planned=accuracy_above(0.93))
def distilbert_imbalanced_but_learned(place: Place) -> Facts:
    """DistilBERT with 85 % of one class, which it learns."""

    def imbalanced(number: int, seed: int) -> data.Rows:
        ids, labels = data.sentences(number, seed)
        kept = (labels == 0) | (torch.rand(number, generator=data.dice(seed + 8)) < 0.18)
        return data.text_rows(ids[kept], labels[kept])

    return fine_tune(place, models.distilbert(), imbalanced(2600, 1), imbalanced(500, 2), steps=240)


@healthy(kind="soft labels", planned=accuracy_above(0.9))
def roberta_label_smoothing(place: Place) -> Facts:
    """RoBERTa with label smoothing."""
    return fine_tune(place, models.encoder("Roberta"), *_texts(), steps=200, label_smoothing_factor=0.1)


@healthy(kind="accumulated batches", planned=loss_below(3.0))
def gpt2_accumulated_batches(place: Place) -> Facts:
    """GPT-2 with 4 micro-batches a step."""
    options = {"batch": 4, "gradient_accumulation_steps": 4, "steps": 100, "rate": 5e-3}
    return fine_tune(place, models.gpt2(), *_languages(), scores=None, **options)


@healthy(kind="several evaluation sets", planned=lambda facts: facts.eval_loss < 0.4)
def distilbert_two_evaluation_sets(place: Place) -> Facts:
    """DistilBERT with an easy and a noisy evaluation set."""
    train, dev = _texts()
    ids, labels = data.sentences(300, 3)
    noisy = data.text_rows(ids, data.flipped(labels, 0.3, 4))
    return fine_tune(place, models.distilbert(), train, {"easy": dev, "noisy": noisy}, steps=200)


@healthy(kind="mixed precision", planned=accuracy_above(0.9))
def bert_bf16_autocast(place: Place) -> Facts:
    """BERT with bf16 autocast."""
    return fine_tune(place, models.encoder("Bert"), *_texts(), steps=160, bf16=True)


@healthy(kind="other schedule", ok=WITHOUT_WARMUP, planned=accuracy_above(0.9))
def distilbert_constant_rate(place: Place) -> Facts:
    """DistilBERT at a constant rate, without warm-up."""
    return fine_tune(place, models.distilbert(), *_texts(), rate=1e-3, schedule="constant", warmup=0.0, steps=200)


@healthy(kind="other schedule", planned=accuracy_above(0.9))
def bert_inverse_square_root(place: Place) -> Facts:
    """BERT with a rate that falls with the square root of the step."""
    return fine_tune(place, models.encoder("Bert"), *_texts(), schedule="inverse_sqrt", logs="default", steps=200)


class _Distillation(Trainer):
    """Adds the divergence from a teacher to the loss."""

    teacher: Any = None

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        outputs = model(**inputs)
        with torch.no_grad():
            wanted = torch.softmax(self.teacher(**{**inputs, "labels": None}).logits / 2, -1)
        divergence = nn.functional.kl_div(torch.log_softmax(outputs.logits / 2, -1), wanted, reduction="batchmean")
        loss = 0.5 * outputs.loss + 2 * divergence
        return (loss, outputs) if return_outputs else loss


@healthy(kind="distillation", planned=accuracy_above(0.9))
def distilbert_distilled(place: Place) -> Facts:
    """DistilBERT that learns from a teacher and from labels."""
    teacher = models.encoder("Bert")
    optimizer = models.adam(teacher, 2e-3)
    ids, labels = data.sentences(1500, 4)
    for start in range(0, 1500, 16):
        part = slice(start, start + 16)
        teacher(input_ids=ids[part], labels=labels[part]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    class Distillation(_Distillation):
        pass

    Distillation.teacher = teacher.eval()
    return fine_tune(place, models.distilbert(), *_texts(), trainer=Distillation, steps=160)


class _AveragesWeights(TrainerCallback):
    """Keeps a moving average of the weights beside the model."""

    averaged: AveragedModel | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.averaged is None:
            self.averaged = AveragedModel(kwargs["model"])
        self.averaged.update_parameters(kwargs["model"])


@healthy(kind="moving average of weights", planned=accuracy_above(0.9))
def bert_moving_average(place: Place) -> Facts:
    """BERT with a moving average of its weights."""
    return fine_tune(place, models.encoder("Bert"), *_texts(), callbacks=[_AveragesWeights()], steps=140)


# -- language models ---------------------------------------------------------------------------------------------------


@healthy(kind="language model", planned=loss_below(2.8))
def gpt2_cosine(place: Place) -> Facts:
    """GPT-2 with a cosine schedule."""
    return fine_tune(place, models.gpt2(), *_languages(), rate=5e-3, schedule="cosine", scores=None, steps=200)


@healthy(kind="language model", planned=loss_below(3.7))
def gpt2_high_entropy(place: Place) -> Facts:
    """GPT-2 on a text that is hard to guess: its loss falls from 4.2 to a floor of 3.3."""
    languages = _languages(sharpness=1.5)
    return fine_tune(place, models.gpt2(), *languages, logs="default", rate=5e-3, scores=None, steps=200)


@healthy(kind="adapters", planned=lambda facts: facts.last < facts.first - 0.1)
def gpt2_lora(place: Place) -> Facts:
    """GPT-2, trained before on other text, with LoRA."""
    base = models.gpt2()
    optimizer = models.adam(base, 5e-3)
    text = data.markov_text(1500, 1)
    for start in range(0, 1500, 16):
        part = text[start : start + 16]
        base(input_ids=part, labels=part).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model = models.with_lora(base, ["c_attn", "c_fc"], task="CAUSAL_LM", fan_in_fan_out=True)
    train, dev = (data.language_rows(data.markov_text(number, seed).flip(1)) for number, seed in ((1500, 3), (200, 4)))
    return fine_tune(place, model, train, dev, rate=1e-2, scores=None, label_names=["labels"])


@healthy(kind="sequence to sequence", planned=loss_below(3.6))
def t5_adafactor(place: Place) -> Facts:
    """T5 with Adafactor."""
    model = models.t5()
    optimizer = Adafactor(model.parameters(), lr=1e-2, relative_step=False, scale_parameter=False)
    options = {"optimizers": (optimizer, models.linear(optimizer, 150, 15))}
    train, dev = data.successor_rows(1500, 1), data.successor_rows(200, 2)
    return fine_tune(place, model, train, dev, scores=None, steps=150, options=options)


@healthy(kind="masked language model", planned=loss_below(4.0))
def bert_masked_language_model(place: Place) -> Facts:
    """BERT that guesses hidden tokens; the labels of all others are ignored."""
    model = models.encoder("Bert", task="MaskedLM")
    return fine_tune(place, model, data.masked_rows(1500, 1), data.masked_rows(200, 2), rate=5e-3, scores=None)


# -- images and pairs --------------------------------------------------------------------------------------------------


@healthy(kind="image classification", planned=accuracy_above(0.5))
def vit_one_cycle(place: Place) -> Facts:
    """ViT with the one-cycle schedule."""
    train, dev = map(data.image_rows, data.digits(place.seed))
    model = models.vit()
    optimizer = models.adam(model, 1e-3)
    options = {"optimizers": (optimizer, OneCycleLR(optimizer, 5e-3, total_steps=201))}
    return fine_tune(place, model, train, dev, steps=200, options=options)


@healthy(kind="contrastive pairs", planned=loss_below(1.6))
def contrastive_pairs(place: Place) -> Facts:
    """Sentence embeddings on pairs that belong together."""
    return fine_tune_pairs(place, matched=True)
