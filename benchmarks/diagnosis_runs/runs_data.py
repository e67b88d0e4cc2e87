"""Runs whose data are wrong: labels, inputs, order, classes, or the rows of the evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.diagnosis_runs import data, models
from benchmarks.diagnosis_runs.cases import (
    LEARNS_NOTHING,
    MEMORISES,
    TOO_HIGH,
    Facts,
    Place,
    accuracy_above,
    accuracy_below,
    fault,
    loss_above,
)
from benchmarks.diagnosis_runs.contrastive import fine_tune_pairs
from benchmarks.diagnosis_runs.with_huggingface import fine_tune
from benchmarks.diagnosis_runs.with_lightning import Module, fit
from benchmarks.diagnosis_runs.with_loop import Loop

# -- labels ------------------------------------------------------------------------------------------------------------


@fault(
    kind="labels noisy or random",
    wants={"underfitting"},
    also_ok=LEARNS_NOTHING | MEMORISES,
    planned=accuracy_below(0.65),
)
def roberta_random_labels(place: Place) -> Facts:
    """RoBERTa on labels in random order."""
    ids, labels = data.sentences(3000, 1)
    train = data.text_rows(ids, labels[torch.randperm(len(labels), generator=data.dice(3))])
    return fine_tune(place, models.encoder("Roberta"), train, data.labelled_text(300, 2))


@fault(
    kind="labels noisy or random",
    wants={"underfitting", "plateau", "overfitting"},
    also_ok=LEARNS_NOTHING | MEMORISES,
    planned=loss_above(0.4),
)
def lstm_60_percent_of_labels_random(place: Place) -> Facts:
    """LSTM on labels of which 60 % are random, logged by a SummaryWriter."""
    ids, labels = data.sentences(1500, 1)
    net = models.Recurrent()
    train = (ids, data.flipped(labels, 0.6, 4))
    return Loop(place, net, models.adam(net, 5e-3), train, data.sentences(300, 2), logs="own", steps=240).run()


@fault(
    kind="labels noisy or random",
    wants={"underfitting", "eval_disagrees", "overfitting"},
    also_ok=LEARNS_NOTHING,
)
def contrastive_mismatched_pairs(place: Place) -> Facts:
    """Sentence embeddings trained on pairs that do not belong together."""
    return fine_tune_pairs(place, matched=False)


@fault(
    kind="labels shifted",
    wants={"underfitting"},
    also_ok=LEARNS_NOTHING | MEMORISES,
    pattern="labels shifted by one row",
    planned=accuracy_below(0.65),
)
def distilbert_labels_shifted(place: Place) -> Facts:
    """DistilBERT on labels that are shifted by one row."""
    ids, labels = data.sentences(3000, 1)
    train = data.text_rows(ids, labels.roll(1))
    return fine_tune(place, models.distilbert(), train, data.labelled_text(300, 2), logs="default")


@fault(
    kind="labels shifted",
    wants={"underfitting"},
    also_ok=LEARNS_NOTHING | MEMORISES,
    planned=accuracy_below(0.3),
)
def convnet_labels_shifted(place: Place) -> Facts:
    """CNN on labels that are shifted by one row."""
    (images, labels), dev = data.digits(place.seed)
    module = Module(models.ConvNet(), lambda net: models.adam(net, 1e-3))
    return fit(place, module, (images, labels.roll(1)), dev)


@fault(
    kind="labels all ignored",
    wants={"nonfinite", "labels_ignored", "first_loss_not_finite"},
    also_ok=LEARNS_NOTHING,
    pattern="every label -100",
)
def bert_all_labels_ignored(place: Place) -> Facts:
    """BERT for token classification whose labels are all -100."""
    return _without_labels(place, logs="full")


@fault(
    kind="labels all ignored",
    wants={"eval_loss_not_finite"},
    also_ok=LEARNS_NOTHING,
)
def bert_all_labels_ignored_own_logger(place: Place) -> Facts:
    """BERT for token classification whose labels are all -100, logged by the Trainer's own callback."""
    return _without_labels(place, logs="own")


def _without_labels(place: Place, *, logs: Any) -> Facts:
    def rows(number: int, seed: int) -> data.Rows:
        ids, _ = data.sentences(number, seed)
        return data.text_rows(ids, torch.full_like(ids, -100))

    model = models.encoder("Bert", task="TokenClassification")
    return fine_tune(place, model, rows(800, 1), rows(100, 2), logs=logs, steps=100, scores=None)


@fault(
    kind="labels out of range",
    wants={"labels_out_of_range"},
    also_ok=TOO_HIGH | {"eval_disagrees"},
)
def bert_multilabel_targets_of_2(place: Place) -> Facts:
    """BERT for several topics whose targets are 0 and 2 instead of 0 and 1."""

    def doubled(number: int, seed: int) -> data.Rows:
        return [{**row, "labels": 2 * row["labels"]} for row in data.topic_sets(number, seed)]

    model = models.encoder("Bert", labels=3, problem_type="multi_label_classification")
    return fine_tune(place, model, doubled(1500, 1), doubled(200, 2), scores=None)


class _Clamped(Loop):
    """Clamps the labels to the classes of the network, which hides that there are more."""

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, y.clamp(max=outputs.shape[-1] - 1))


@fault(
    kind="labels out of range",
    wants={"labels_out_of_range"},
    also_ok=LEARNS_NOTHING | {"eval_disagrees", "accuracy_gap"},
)
def mlp_head_with_too_few_classes(place: Place) -> Facts:
    """MLP with 7 outputs for 10 digits; the loss clamps the labels."""
    train, dev = data.digits(place.seed)
    net = models.mlp(64, 7)
    run = _Clamped(place, net, models.adam(net, 3e-3), train, dev)
    run.loss_function = run.loss
    return run.run()


# -- inputs ------------------------------------------------------------------------------------------------------------


@fault(
    kind="inputs without information",
    wants={"underfitting"},
    also_ok=LEARNS_NOTHING,
    planned=accuracy_below(0.65),
)
def electra_constant_inputs(place: Place) -> Facts:
    """Electra whose inputs are all the same."""
    (ids, labels), (dev_ids, dev_labels) = data.sentences(1500, 1), data.sentences(300, 2)
    train, dev = (data.text_rows(torch.full_like(x, 7), y) for x, y in ((ids, labels), (dev_ids, dev_labels)))
    return fine_tune(place, models.encoder("Electra"), train, dev, logs="default")


@fault(
    kind="unknown tokens",
    wants={"unknown_tokens"},
    also_ok=LEARNS_NOTHING | MEMORISES,
    planned=accuracy_below(0.75),
)
def bert_unknown_tokens(place: Place) -> Facts:
    """BERT whose tokenizer does not know the words: 95 % of the tokens are [UNK]."""
    from transformers import BertTokenizerFast

    def unknown(number: int, seed: int) -> data.Rows:
        ids, labels = data.sentences(number, seed)
        lost = torch.rand(ids.shape, generator=data.dice(seed + 7)) < 0.95
        lost[:, 0] = False
        return data.text_rows(torch.where(lost, 3, ids), labels)

    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{index}" for index in range(5, data.VOCABULARY))]
    tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(words)})
    options = {"processing_class": tokenizer}
    return fine_tune(place, models.encoder("Bert"), unknown(1500, 1), unknown(300, 2), options=options)


@fault(
    kind="padding attended",
    wants={"padding_attended"},
    also_ok=LEARNS_NOTHING,
    pattern="padding attended",
)
def bert_padding_attended(place: Place) -> Facts:
    """BERT whose attention mask counts the padding."""

    def unmasked(number: int, seed: int) -> data.Rows:
        ids, labels, _ = data.padded_sentences(number, seed)
        return data.text_rows(ids, labels)

    return fine_tune(place, models.encoder("Bert"), unmasked(1500, 1), unmasked(300, 2))


@fault(kind="padding attended", wants={"padding_attended"}, also_ok=LEARNS_NOTHING)
def distilbert_padding_attended(place: Place) -> Facts:
    """DistilBERT that gets no attention mask for padded rows."""

    def without_mask(number: int, seed: int) -> data.Rows:
        ids, labels, _ = data.padded_sentences(number, seed)
        return [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]

    return fine_tune(place, models.distilbert(), without_mask(1500, 1), without_mask(300, 2))


class _OneBadBatch(Loop):
    """Puts a NaN into the inputs of step 77."""

    def forward(self, x: Tensor) -> Tensor:
        if self.now == 77 and self.network.training:
            x = x.clone()
            x[0, 5] = float("nan")
        return super().forward(x)


@fault(kind="nan in the data", wants={"nonfinite"}, also_ok=LEARNS_NOTHING, steps=(76, 80))
def convnet_nan_in_one_batch(place: Place) -> Facts:
    """CNN that gets a NaN in step 77."""
    train, dev = data.digits(place.seed)
    net = models.ConvNet(batch_norm=False)
    return _OneBadBatch(place, net, models.adam(net, 3e-3), train, dev, clip=1.0).run()


@fault(
    kind="nan in the data",
    wants={"nonfinite", "first_loss_not_finite"},
    also_ok=LEARNS_NOTHING | {"all_frozen"},
)
def mlp_missing_value_in_a_table(place: Place) -> Facts:
    """MLP on a table with missing values, logged by Lightning."""
    (features, labels), dev = data.table("wine", place.seed)
    features[::9, 3] = float("nan")
    module = Module(models.mlp(13, 3), lambda net: models.adam(net, 3e-3))
    return fit(place, module, (features, labels), dev, logs="own", steps=100)


# -- leaks and rows that repeat ----------------------------------------------------------------------------------------


def _with_label(pair: data.Pair) -> data.Pair:
    features, labels = pair
    return torch.cat([features, 5 * labels[:, None].float()], 1), labels


@fault(kind="label leaks", wants={"perfect_at_once"}, planned=accuracy_above(0.99))
def mlp_label_among_features(place: Place) -> Facts:
    """MLP on a table that has the label among its features."""
    train, dev = map(_with_label, data.table("breast_cancer", place.seed))
    net = models.mlp(31, 2)
    return Loop(place, net, models.adam(net, 3e-3), train, dev, logs="default").run()


@fault(kind="label leaks", wants={"perfect_at_once"}, planned=accuracy_above(0.99))
def bert_label_in_the_prompt(place: Place) -> Facts:
    """BERT whose first token tells the label."""

    def leaking(number: int, seed: int) -> data.Rows:
        ids, labels = data.sentences(number, seed)
        ids[:, 0] = 2 + labels
        return data.text_rows(ids, labels)

    return fine_tune(place, models.encoder("Bert"), leaking(1500, 1), leaking(300, 2), rate=5e-3, warmup=0.02)


@fault(
    kind="evaluation rows in training",
    wants={"evaluation_rows_in_training"},
    also_ok=MEMORISES,
    pattern="dev inside train",
)
def distilbert_dev_inside_train(place: Place) -> Facts:
    """DistilBERT whose evaluation rows are part of its training rows."""
    train = data.labelled_text(1500, 1)
    return fine_tune(place, models.distilbert(), train, train[:200])


@fault(kind="evaluation rows in training", wants={"evaluation_rows_in_training"}, also_ok=MEMORISES)
def mlp_half_of_dev_inside_train(place: Place) -> Facts:
    """MLP on a table; half of its evaluation rows are training rows too."""
    (features, labels), (dev_features, dev_labels) = data.table("wine", place.seed)
    half = len(dev_labels) // 2
    train = (torch.cat([features, dev_features[:half]]), torch.cat([labels, dev_labels[:half]]))
    net = models.mlp(13, 3)
    return Loop(place, net, models.adam(net, 3e-3), train, (dev_features, dev_labels), steps=100).run()


@fault(
    kind="same rows",
    wants={"repeated_batches"},
    also_ok=MEMORISES | {"eval_disagrees", "perfect_at_once"},
    pattern="the same rows in every batch",
    planned=accuracy_below(0.9),
)
def bert_same_rows_in_every_batch(place: Place) -> Facts:
    """BERT that gets the same 16 rows in every batch."""
    train = data.labelled_text(16, 1)  # one batch
    return fine_tune(place, models.encoder("Bert"), train, data.labelled_text(300, 2))


class _FirstBatchOnly(Loop):
    """Takes the first batch of a new iterator in each step."""

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from repeat(next(iter(self.loader)))


@fault(
    kind="same rows",
    wants={"repeated_batches"},
    also_ok=MEMORISES | {"eval_disagrees", "perfect_at_once"},
    planned=accuracy_below(0.9),
)
def mlp_first_batch_only(place: Place) -> Facts:
    """MLP whose loop asks a new iterator for its first batch in each step."""
    train, dev = data.digits(place.seed)
    net = models.mlp()
    return _FirstBatchOnly(place, net, models.adam(net, 3e-3), train, dev).run()


# -- order and classes -------------------------------------------------------------------------------------------------


@fault(
    kind="order of the data",
    wants={"labels_sorted"},
    also_ok=LEARNS_NOTHING | {"loss_spike", "eval_disagrees", "divergence", "accuracy_gap"},
    pattern="data sorted by label",
    planned=accuracy_below(0.7),
)
def mlp_data_sorted_by_label(place: Place) -> Facts:
    """MLP on digits in the order of their labels."""
    (images, labels), dev = data.digits(place.seed)
    order = labels.argsort(stable=True).tolist()
    net = models.mlp()
    return Loop(place, net, models.sgd(net, 0.05), (images, labels), dev, logs="default", steps=240, order=order).run()


@fault(
    kind="order of the data",
    wants={"labels_sorted"},
    also_ok=LEARNS_NOTHING | {"loss_spike", "eval_disagrees", "divergence", "accuracy_gap"},
)
def lstm_data_in_blocks_of_a_class(place: Place) -> Facts:
    """LSTM on sentences in alternating blocks of 160 of one class."""
    ids, labels = data.sentences(1600, 1)
    by_class = [(labels == one).nonzero()[:, 0].tolist() for one in (0, 1)]
    order = [row for start in range(0, 640, 160) for rows in by_class for row in rows[start : start + 160]]
    net = models.Recurrent()
    return Loop(place, net, models.sgd(net, 0.3), (ids, labels), data.sentences(300, 2), order=order).run()


@fault(
    kind="class never predicted",
    wants={"class_never_predicted"},
    also_ok=LEARNS_NOTHING,
    pattern="95 % of one class",
    planned=accuracy_above(0.9),
)
def distilbert_rare_class_never_predicted(place: Place) -> Facts:
    """DistilBERT with 95 % of one class: it never predicts the other, and its recall stays zero."""

    def scores(prediction: Any) -> dict[str, float]:
        chosen, labels = prediction.predictions.argmax(-1), prediction.label_ids
        recall = float((chosen[labels == 1] == 1).mean())
        return {"accuracy": float((chosen == labels).mean()), "recall": recall}

    def rows(number: int, seed: int) -> data.Rows:
        return data.text_rows(data.sentences(number, seed)[0], data.rare(number, seed + 4, 0.05))

    return fine_tune(place, models.distilbert(), rows(1500, 1), rows(400, 2), scores=scores)


@fault(kind="class never predicted", wants={"class_never_predicted"}, also_ok=LEARNS_NOTHING)
def mlp_rare_class_never_predicted(place: Place) -> Facts:
    """MLP on a table with 95 % of one class and features that tell nothing."""
    (features, _), (dev_features, _) = data.table("breast_cancer", place.seed)
    net = models.mlp(30, 2, width=8)
    train = (features.roll(1, 0), data.rare(len(features), 5, 0.05))
    dev = (dev_features.roll(1, 0), data.rare(len(dev_features), 6, 0.05))
    return Loop(place, net, models.sgd(net, 0.01), train, dev).run()


# -- evaluation and generalisation -------------------------------------------------------------------------------------


@fault(
    kind="evaluation data differ",
    wants={"eval_disagrees", "accuracy_gap"},
    planned=accuracy_below(0.9),
)
def mlp_dev_not_normalised(place: Place) -> Facts:
    """MLP whose evaluation images are inverted and not scaled."""
    train, (images, labels) = data.digits(place.seed)
    module = Module(models.mlp(), lambda net: models.adam(net, 3e-3))
    return fit(place, module, train, ((1 - images) * 16, labels), logs="default", steps=200)


@fault(
    kind="evaluation data differ",
    wants={"eval_disagrees", "accuracy_gap"},
    planned=accuracy_below(0.3),
)
def bert_dev_labels_swapped(place: Place) -> Facts:
    """BERT whose evaluation labels are swapped, logged by the Trainer's own callback."""
    ids, labels = data.sentences(300, 2)
    dev = data.text_rows(ids, 1 - labels)
    return fine_tune(place, models.encoder("Bert"), data.labelled_text(1500, 1), dev, logs="own")


@fault(
    kind="overfitting",
    wants={"overfitting"},
    also_ok=MEMORISES,
    planned=lambda facts: facts.eval_loss > 1.3 * facts.best_eval,
)
def mlp_overfits_a_table(place: Place) -> Facts:
    """Wide MLP on 200 rows with a quarter of wrong labels, logged by Lightning."""
    (features, labels), dev = data.table("breast_cancer", place.seed)
    train = (features[:200], data.flipped(labels[:200], 0.5, 4))
    module = Module(models.mlp(30, 2, width=128), lambda net: models.adam(net, 3e-3))
    return fit(place, module, train, dev, logs="own", steps=300)


@fault(
    kind="overfitting",
    wants={"overfitting"},
    also_ok=MEMORISES,
    planned=lambda facts: facts.eval_loss > 1.3 * facts.best_eval,
)
def gpt2_overfits_a_short_text(place: Place) -> Facts:
    """GPT-2 on 48 sequences."""
    train = data.language_rows(data.markov_text(48, 1, sharpness=1.5))
    dev = data.language_rows(data.markov_text(200, 2, sharpness=1.5))
    model = models.gpt2(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    return fine_tune(place, model, train, dev, rate=1e-2, scores=None, logs="default")


@fault(
    kind="dropout too strong",
    wants={"underfitting", "plateau"},
    planned=accuracy_below(0.8),
)
def distilbert_dropout_of_90_percent(place: Place) -> Facts:
    """DistilBERT with 90 % dropout everywhere."""
    model = models.distilbert(dropout=0.9, attention_dropout=0.9, seq_classif_dropout=0.9)
    return fine_tune(place, model, data.labelled_text(1500, 1), data.labelled_text(300, 2))
