"""Tests tags and their legal characters."""

from __future__ import annotations

import pytest

from tbx_callbacks.tags import check_tag, clean, larger_is_better

SMALLER = (
    *("loss", "mlm_loss", "avgloss", "MSELoss", "LossTotal", "accuracy_loss", "hamming_loss"),
    *("error_rate", "mean_absolute_error", "auc_error", "MSE", "rmse", "nRMSE", "mse_total", "MAE", "smape", "wer"),
    *("WER", "cer_avg", "perplexity", "ppl", "nll", "negative_log_likelihood", "inaccuracy", "fid", "bpb", "ece"),
)
LARGER = (
    *("accuracy", "top5_acc", "acc1", "acc@5", "F1", "f1-macro", "f1_score", "f1score", "auc", "roc_auc", "AUROC"),
    *("recall@10", "precision_micro", "bleu", "sacrebleu", "rougeL", "rouge1", "matthews_correlation", "mcc", "mAP"),
    *("map50", "mAP@0.5", "ndcg@10", "NDCG", "mrr", "meanIoU", "R2", "spearman_cosine", "exact_match", "em"),
    *("neg_mean_squared_error", "neg_log_loss", "log_likelihood"),
)
UNKNOWN = (
    "score",
    "my_score",
    "runtime",
    "samples_per_second",
    "gloss",
    "sauce",
    "mapper",
    "maestro",
    "margin",
    "epoch",
)


@pytest.mark.parametrize("tag", ["a b", "", "/a", "a:b", "a\u0301"])
def test_check_tag_illegal_tag_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="a tag must be made of letters"):
        check_tag(tag)


@pytest.mark.parametrize("tag", ["a", "train/loss", "a-b_c.0/D9", "ü", "f1/好评"])
def test_check_tag_legal_tag_returned(tag: str) -> None:
    assert check_tag(tag) == tag == clean(tag)


def test_clean_replaces_illegal_characters() -> None:
    assert clean("F1 (macro) %/ü") == "F1__macro___/ü"
    assert clean("u\u0308/好评") == "ü/好评"


@pytest.mark.parametrize(
    ("tag", "larger"),
    [
        *((name, False) for name in SMALLER),
        *((name, True) for name in LARGER),
        *((name, None) for name in UNKNOWN),
    ],
)
@pytest.mark.parametrize("prefix", ["eval/", "eval/dev_", "val_", ""])
def test_larger_is_better_by_name(prefix: str, tag: str, larger: bool | None) -> None:
    assert larger_is_better(prefix + tag) is larger
