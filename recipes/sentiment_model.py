"""Builds tokenizer and model of the sentiment recipes: pretrained, or a small randomly initialized BERT."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from sentiment_files import DataError, check_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

LONGEST_WORD = 100
"""Most characters of a word that WordPiece splits into tokens."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Sizes:
    """Sizes of a randomly initialized BERT."""

    layers: int = 2
    hidden: int = 128
    heads: int = 2
    vocab: int = 4000
    dropout: float = 0.3
    length: int = 48


def build(
    data: DatasetDict, *, model: str | None, vocab: Path | None, sizes: Sizes, cased: bool
) -> tuple[PreTrainedTokenizerFast, Any]:
    """Builds the tokenizer and the model.

    Raises:
        DataError: the pretrained model or the vocabulary cannot be read.
    """
    names = data["train"].features["label"].names
    labels = {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {n: i for i, n in enumerate(names)},
    }
    if model is not None:
        return load_pretrained(model, labels, sizes.length)
    tokenizer = read_vocabulary(vocab, cased) if vocab else train_vocabulary(data["train"], sizes.vocab, cased)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.hidden,
        max_position_embeddings=max(sizes.length, 64),
        hidden_dropout_prob=sizes.dropout,
        pad_token_id=tokenizer.pad_token_id,
        **labels,
    )
    return tokenizer, BertForSequenceClassification(config)


def load_pretrained(model: str, labels: dict[str, Any], length: int) -> tuple[PreTrainedTokenizerFast, Any]:
    """Loads tokenizer and model by hub name or from a folder; a model without a classifier gets a new one.

    Raises:
        DataError: they cannot be loaded, the classifier has other classes, or the model takes shorter inputs.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = AutoModelForSequenceClassification.from_pretrained(model, **labels)
    except RuntimeError as error:  # of weights with other shapes
        classes = labels["num_labels"]
        raise DataError(
            f"the model {model!r} must have a classifier of the data's {classes} classes or none; use its base model"
        ) from error
    except Exception as error:  # damaged files raise errors of many classes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"--model must be a hub name or a folder with a model, got {model!r}: {reason}") from error
    longest = min(tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", math.inf))
    if length > longest:
        raise DataError(f"--length must be at most {longest} for the model {model!r}, got {length}")
    return tokenizer, network


def train_vocabulary(rows: Dataset, size: int, cased: bool) -> PreTrainedTokenizerFast:
    """Trains a WordPiece vocabulary on the sentences, read in batches; the result is deterministic."""

    trainer_tokenizer = _wordpiece(models.WordPiece(unk_token="[UNK]"), cased)
    splitter = _wordpiece(models.WordPiece(unk_token="[UNK]"), cased)  # a tokenizer in training is locked

    def texts() -> Iterator[list[str]]:
        for batch in rows.iter(batch_size=1000):
            yield [_without_longest_words(text, splitter) for text in batch["sentence"]]

    characters = {
        character
        for batch in texts()
        for text in batch
        for character in trainer_tokenizer.normalizer.normalize_str(text)
    }
    # The trainer breaks ties between equally frequent pieces by their ids. It numbers continuing characters in an order
    # that differs between processes, so they get fixed ids here.
    fixed_tokens = [*SPECIAL, *(f"##{character}" for character in sorted(characters) if not character.isspace())]
    trainer_tokenizer.train_from_iterator(
        texts(), trainers.WordPieceTrainer(vocab_size=size, special_tokens=fixed_tokens, show_progress=False)
    )
    return _add_special_tokens(_wordpiece(models.WordPiece(trainer_tokenizer.get_vocab(), unk_token="[UNK]"), cased))


def read_vocabulary(path: Path, cased: bool) -> PreTrainedTokenizerFast:
    """Reads a BERT `vocab.txt`: one token per line; the line number is the token's id.

    Raises:
        DataError: it cannot be read, or lacks a special token.
    """
    check_file(path)
    try:
        # Not splitlines(), which treats some tokens as line ends.
        tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--vocab must be a readable UTF-8 file, got {str(path)!r}: {error}") from error
    vocabulary = {token.removesuffix("\r"): index for index, token in enumerate(tokens)}
    missing = [token for token in SPECIAL if token not in vocabulary]
    if missing:
        raise DataError(f"--vocab must hold the special tokens {' '.join(SPECIAL)}, but {path} lacks {missing[0]}")
    return _add_special_tokens(_wordpiece(models.WordPiece(vocabulary, unk_token="[UNK]"), cased))


def tokenize(data: DatasetDict, tokenizer: PreTrainedTokenizerFast, length: int) -> DatasetDict:
    """Token ids, attention masks and labels, truncated to `length` tokens; rows stay memory-mapped."""

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(batch["sentence"], truncation=True, max_length=length)
        return {
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            "labels": batch["label"],
        }

    return data.map(encode, batched=True, remove_columns=["sentence", "label"])


def _without_longest_words(text: str, tokenizer: Tokenizer) -> str:
    """Drops words that WordPiece never splits: each becomes [UNK]. Training takes hours on a word of a megabyte."""
    if not re.search(rf"\S{{{LONGEST_WORD + 1}}}", text):
        return text
    words = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
    return " ".join(word for word, _ in words if len(word) <= LONGEST_WORD)


def _wordpiece(model: models.WordPiece, cased: bool) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _add_special_tokens(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
