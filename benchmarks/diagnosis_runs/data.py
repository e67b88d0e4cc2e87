"""Builds the small data sets of the runs: pairs of inputs and labels, or lists of rows for the Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
Rows = list[dict[str, Tensor]]

PAD, FIRST_WORD, FILLER, VOCABULARY = 0, 10, 60, 120
WORDS_OF_CLASS = 8


def dice(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(7919 * (seed + 1))


# -- text --------------------------------------------------------------------------------------------------------------


def sentences(number: int, seed: int, *, classes: int = 2, length: int = 16) -> Pair:
    """Token ids in which three words, among fillers, tell the class. [number, length] and [number]"""
    generator = dice(seed)
    ids = torch.randint(FILLER, VOCABULARY, (number, length), generator=generator)
    labels = torch.randint(0, classes, (number,), generator=generator)
    ids[:, 0] = 1  # the start token
    rows = torch.arange(number)
    for _ in range(3):
        places = torch.randint(2, length, (number,), generator=generator)
        words = torch.randint(0, WORDS_OF_CLASS, (number,), generator=generator)
        ids[rows, places] = FIRST_WORD + WORDS_OF_CLASS * labels + words
    return ids, labels


def text_rows(ids: Tensor, labels: Tensor, mask: Tensor | None = None) -> Rows:
    """Rows for the Trainer; without a mask, every token counts."""
    mask = torch.ones_like(ids) if mask is None else mask
    return [
        {"input_ids": one, "attention_mask": seen, "labels": label}
        for one, seen, label in zip(ids, mask, labels, strict=True)
    ]


def labelled_text(number: int, seed: int, **options: Any) -> Rows:
    return text_rows(*sentences(number, seed, **options))


def padded_sentences(number: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, labels and attention mask of sentences that end early; the rest is padding."""
    ids, labels = sentences(number, seed, length=24)
    lengths = torch.randint(8, 25, (number, 1), generator=dice(seed + 50))
    mask = (torch.arange(24)[None] < lengths).long()
    return ids * mask, labels, mask  # padding is 0


def word_tags(number: int, seed: int) -> Rows:
    """Rows for token classification: whether a token is a word of a class; the start token is ignored."""
    ids, _ = sentences(number, seed)
    tags = ((ids >= FIRST_WORD) & (ids < FIRST_WORD + 2 * WORDS_OF_CLASS)).long()
    return text_rows(ids, torch.where(ids == 1, -100, tags))


def topic_sets(number: int, seed: int, topics: int = 3) -> Rows:
    """Rows for multi-label classification: which topics a sentence has words of, as 0.0 or 1.0."""
    ids, _ = sentences(number, seed, classes=topics)
    found = [
        ((ids >= FIRST_WORD + WORDS_OF_CLASS * topic) & (ids < FIRST_WORD + WORDS_OF_CLASS * (topic + 1))).any(1)
        for topic in range(topics)
    ]
    return text_rows(ids, torch.stack(found, 1).float())


def rated_sentences(number: int, seed: int) -> Rows:
    """Rows for regression: the share of words of the second class, and some noise."""
    ids, _ = sentences(number, seed, classes=2)
    second = ((ids >= FIRST_WORD + WORDS_OF_CLASS) & (ids < FIRST_WORD + 2 * WORDS_OF_CLASS)).float().sum(1)
    return text_rows(ids, second - 1.5 + 0.3 * torch.randn(number, generator=dice(seed + 9)))


def markov_text(number: int, seed: int, *, sharpness: float = 6.0, length: int = 24, vocabulary: int = 64) -> Tensor:
    """Token ids of a Markov chain; a small `sharpness` makes the next token hard to guess. [number, length]"""
    table = torch.softmax(sharpness * torch.randn(vocabulary, vocabulary, generator=dice(0)), -1)
    generator = dice(seed + 50)
    tokens = [torch.randint(0, vocabulary, (number,), generator=generator)]
    while len(tokens) < length:
        tokens.append(torch.multinomial(table[tokens[-1]], 1, generator=generator)[:, 0])
    return torch.stack(tokens, 1)


def language_rows(ids: Tensor) -> Rows:
    return [{"input_ids": one, "labels": one} for one in ids]


def masked_rows(number: int, seed: int) -> Rows:
    """Rows for a masked language model: 20 % of a Markov chain's tokens are hidden."""
    ids = markov_text(number, seed) + 5
    hidden = torch.rand(ids.shape, generator=dice(seed + 3)) < 0.2
    return text_rows(torch.where(hidden, 4, ids), torch.where(hidden, ids, -100))


def successor_rows(number: int, seed: int, *, vocabulary: int = 40, length: int = 6) -> Rows:
    """Rows for a sequence-to-sequence model: each token's successor."""
    ids = torch.randint(3, vocabulary - 1, (number, length), generator=dice(seed))
    return text_rows(ids, ids + 1)


# -- images and tables -------------------------------------------------------------------------------------------------


def digits(seed: int) -> tuple[Pair, Pair]:
    """The 8x8 digits of scikit-learn, flat, between 0 and 1: for training and for evaluation. [N, 64] and [N]"""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.RandomState(seed).permutation(len(bunch.target))
    images = torch.tensor(bunch.data[order] / 16, dtype=torch.float32)
    labels = torch.tensor(bunch.target[order])
    return (images[:1400], labels[:1400]), (images[1400:], labels[1400:])


def image_rows(pair: Pair) -> Rows:
    return [{"pixel_values": image.view(1, 8, 8) * 2 - 1, "labels": label} for image, label in zip(*pair, strict=True)]


def table(name: str, seed: int) -> tuple[Pair, Pair]:
    """A table of scikit-learn, standardised: for training and for evaluation. Targets of `diabetes` are, too."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    order = np.random.RandomState(seed).permutation(len(bunch.target))
    features, targets = bunch.data[order], bunch.target[order]
    features = torch.tensor((features - features.mean(0)) / features.std(0), dtype=torch.float32)
    if name == "diabetes":
        labels = torch.tensor((targets - targets.mean()) / targets.std(), dtype=torch.float32)
    else:
        labels = torch.tensor(targets, dtype=torch.long)
    cut = int(0.8 * len(labels))
    return (features[:cut], labels[:cut]), (features[cut:], labels[cut:])


def noisy_sine(number: int, seed: int) -> Pair:
    """y = sin(3x) with noise that grows with x, between 0.02 and 0.4. [number, 1] and [number]"""
    generator = dice(seed)
    x = torch.rand(number, 1, generator=generator) * 2 - 1
    spread = 0.02 + 0.19 * (x[:, 0] + 1)
    return x, torch.sin(3 * x[:, 0]) + spread * torch.randn(number, generator=generator)


def waves(number: int, seed: int, *, length: int = 24) -> Pair:
    """Sums of a sine wave and noise; the label is the wave's next value. [number, length, 1] and [number]"""
    generator = dice(seed)
    phase, pace = (
        torch.rand(number, 1, generator=generator) * 6.3,
        0.2 + 0.4 * torch.rand(number, 1, generator=generator),
    )
    wave = torch.sin(phase + pace * torch.arange(length + 1)) + 0.05 * torch.randn(
        number, length + 1, generator=generator
    )
    return wave[:, :length, None], wave[:, length]


def ratings(number: int, seed: int, *, users: int = 200, items: int = 100) -> Pair:
    """Pairs of user and item, and the product of their hidden factors. [number, 2] and [number]"""
    hidden = dice(0)
    of_users, of_items = torch.randn(users, 4, generator=hidden), torch.randn(items, 4, generator=hidden)
    generator = dice(seed)
    user, item = (torch.randint(0, most, (number,), generator=generator) for most in (users, items))
    return torch.stack([user, item], 1), (of_users[user] * of_items[item]).sum(1) / 2


def flipped(labels: Tensor, share: float, seed: int, *, classes: int = 2) -> Tensor:
    """Labels of which a share is drawn at random."""
    generator = dice(seed)
    at_random = torch.rand(len(labels), generator=generator) < share
    return torch.where(at_random, torch.randint(0, classes, labels.shape, generator=generator), labels)


def rare(number: int, seed: int, share: float) -> Tensor:
    """Labels of which only a share is 1, without relation to any input."""
    return (torch.rand(number, generator=dice(seed)) < share).long()


def sentence_pairs(number: int, seed: int, *, matched: bool) -> Mapping[str, list[str]]:
    """Pairs of sentences for contrastive training; those that are matched share words of a topic."""
    random = np.random.RandomState(seed)

    def sentence(topic: int) -> str:
        words = [*(topic * 5 + random.choice(5, 3, replace=False)), *random.randint(0, 100, 3)]
        return " ".join(f"w{word}" for word in random.permutation(words))

    topics = random.randint(0, 20, number)
    anchors = [sentence(topic) for topic in topics]
    positives = [sentence(topic) for topic in (topics if matched else random.permutation(topics))]
    return {"anchor": anchors, "positive": positives}
