"""Trains sentence embeddings on pairs with sentence-transformers."""

from __future__ import annotations

from benchmarks.diagnosis_runs.cases import Facts, Place
from benchmarks.diagnosis_runs.data import sentence_pairs
from benchmarks.diagnosis_runs.with_huggingface import fine_tune


def fine_tune_pairs(place: Place, *, matched: bool) -> Facts:
    """Trains on pairs that belong together or not; the evaluation always has matched pairs."""
    import sentence_transformers as st
    from datasets import Dataset
    from sentence_transformers.sentence_transformer import losses, modules
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{index}" for index in range(100))]
    place.work.mkdir(parents=True, exist_ok=True)
    BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}).save_pretrained(place.work)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)).save_pretrained(place.work)
    parts = [modules.Transformer(str(place.work)), modules.Pooling(32)]
    model = st.SentenceTransformer(modules=parts, device="cpu")
    train, dev = (
        Dataset.from_dict(dict(sentence_pairs(number, place.seed + seed, matched=belong)))
        for number, seed, belong in ((1200, 1, matched), (160, 2, True))
    )
    return fine_tune(
        place,
        model,
        train,
        dev,
        steps=120,
        rate=3e-3,
        scores=None,
        trainer=st.SentenceTransformerTrainer,
        arguments=st.SentenceTransformerTrainingArguments,
        options={"loss": losses.MultipleNegativesRankingLoss(model)},
    )
