"""Tests that the recipe on 2 ranks writes the run of one process on the same global batches."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.helpers.compare import compare
from tests.helpers.limits import limit
from tests.helpers.runs import SHARED, Run, files

SCRIPT = Path(__file__).parent / "scripts" / "train_recipe.py"
REAL = SHARED / "sst2"
ROWS = {"train": 96, "dev": 32}
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
LAUNCH = [
    "accelerate.commands.launch",
    "--num_processes=2",
    "--num_machines=1",
    "--mixed_precision=no",
    "--dynamo_backend=no",
]
LAUNCHERS = {
    "alone": [],
    "torchrun": ["-m", *TORCHRUN],
    "accelerate": ["-m", *LAUNCH, "--multi_gpu"],
    # With sharded checkpoints the Trainer looks for the best one before its folder is visible to all ranks.
    "fsdp": ["-m", *LAUNCH, "--use_fsdp", "--fsdp_version=2", "--fsdp_state_dict_type=FULL_STATE_DICT"],
    "zero2": ["-m", *LAUNCH, "--use_deepspeed", "--zero_stage=2"],
}
PROOFS = {
    "torchrun": "trained ['Parameter'] in DistributedDataParallel with NoneType",
    "accelerate": "trained ['Parameter'] in DistributedDataParallel with NoneType",
    "fsdp": "trained ['DTensor'] in FSDPBertForSequenceClassification with NoneType",
    "zero2": "trained ['Parameter'] in DeepSpeedEngine with DeepSpeedZeroOptimizer",
}
THOROUGH = (
    "accelerate",
    "fsdp",
    "torchrun",
)  # zero2 runs in make test-deepspeed; test_trainers.py covers DDP and FSDP2
PLAIN = ("loss", "learning_rate", "clip", "throughput", "train_accuracy", "hparams")
MEASURED = (
    "nonfinite",
    "grad_norm",
    "weight_norm",
    "update_norm",
    "update_ratio",
    "optimizer_state",
    "weight_histogram",
)
# Attention ignores a key's bias: its gradient is rounding error, and Adam turns that into full steps.
# Activations include padding, and each rank pads to its own longest sentence.
SET = {"every": 2, "strict": True, "metrics": [*PLAIN, *({name: {"exclude": "key.bias"}} for name in MEASURED)]}


def prepare(folder: Path) -> None:
    """Writes sentences, real ones if present, and a BERT without dropout, since ranks draw it differently."""
    from datasets import DatasetDict
    from sentiment_data import load_folder, made_up
    from sentiment_model import Sizes, build
    from transformers import BertForSequenceClassification, set_seed

    whole = load_folder(REAL) if REAL.is_dir() else made_up(train=400, dev=40, test=40)
    rows = DatasetDict({split: whole[split].select(range(number)) for split, number in ROWS.items()})
    (folder / "data").mkdir()
    for split, part in rows.items():
        part.to_json(folder / "data" / f"{split}.jsonl")
    set_seed(0)
    tokenizer, network = build(rows, model=None, vocab=None, sizes=Sizes(2, 16, 2, 600, 0.0, 32), cased=False)
    network.config.attention_probs_dropout_prob = 0.0
    BertForSequenceClassification(network.config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "set.yaml").write_text(yaml.safe_dump(SET))


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Run, str]]:
    """The run and the output of each launcher; each trains once."""
    base = tmp_path_factory.mktemp("recipe")
    prepare(base)

    @cache
    def launched(launcher: str) -> tuple[Run, str]:
        batch = 8 if launcher == "alone" else 4
        options = ["--data", base / "data", "--model", base / "model", "--config", base / "set.yaml"]
        options += ["--batch", batch, "--max-steps", 6, "--logging-steps", 2, "--lr", 0.01, "--output-dir", launcher]
        environment = {**os.environ, "HF_DATASETS_CACHE": str(base / "cache"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *LAUNCHERS[launcher], str(SCRIPT), *map(str, options)],
            env={**environment, "DS_ACCELERATOR": "cpu", "COLUMNS": "200", "NO_COLOR": "1"},
            cwd=base,
            capture_output=True,
            text=True,
            timeout=limit(180),
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
        (folder,) = (base / launcher / "runs").iterdir()
        assert len(files(folder)) == 1
        return Run(folder), done.stdout

    return launched


@pytest.mark.parametrize(
    "launcher", [pytest.param(name, marks=pytest.mark.thorough) if name in THOROUGH else name for name in PROOFS]
)
def test_recipe_on_ranks_equals_single_process_run(train: Callable[[str], tuple[Run, str]], launcher: str) -> None:
    if launcher == "zero2" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed: make test-deepspeed")
    read, printed = train(launcher)
    assert printed.count(PROOFS[launcher]) == 2, printed  # the strategy is on
    assert printed.count("results after 6 steps") == 1  # only rank 0 logs
    compare(read, train("alone")[0])
