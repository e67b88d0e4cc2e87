"""Trains the runs whose findings docs/findings.md shows, one for each rule.

Most are planted faults of the tests and faulty runs of the benchmark of the diagnosis. The runs of this file are for
the rules that none of them triggers. docs/generate_findings.py calls `train`.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.diagnosis_runs import data, models
from benchmarks.diagnosis_runs.cases import Place, all_cases
from benchmarks.diagnosis_runs.training import train_one
from benchmarks.diagnosis_runs.with_loop import Loop
from tbx_callbacks import TbxLoop
from tbx_callbacks.integrations.preflight import preflight
from tbx_callbacks.runs import Run, read_run

ROOT = Path(__file__).parents[1]

PLANTED = {
    "nonfinite": "NaN in the gradient of layer 1 at step 40",
    "divergence": "the rate jumps 100 times at step 84",
    "loss_spike": "batches 91 to 93 with swapped labels",
    "learning_rate_too_high": "learning rate 100 times too high",
    "no_warmup": "no warm-up",
    "decayed_early": "rate zero after 40 % of the steps",
    "underfitting": "learning rate 100,000 times too low",
    "plateau": "half of the labels are noise",
    "overfitting": "noisy labels, few examples, a large model",
    "eval_disagrees": "swapped labels in dev",
    "accuracy_gap": "noisy labels, few examples, a large model",
    "vanishing_gradients": "gradients fade 100 times a layer",
    "exploding_gradients": "gradients grow 10 times a layer",
    "zero_gradient": "a pooler that is saturated",
    "all_frozen": "learning rate zero",
    "head_only": "only the head is trained",
    "frozen_layers": "layer 2 frozen",
    "update_too_large": "learning rate 100 times too high",
    "update_too_small": "learning rate 100,000 times too low",
    "clipping_saturated": "clipped at 1e-4",
    "dead_activations": "dead ReLUs in layer 2",
    "amp_scale_collapse": "fp16 that overflows at every scale",
    "amp_skipped_steps": "fp16 that overflows for a while",
    "lora_not_training": "LoRA whose B is frozen",
}
"""Rule -> a planted fault of tests/helpers/planted_faults.py, in which the rule fires."""

BENCHMARK = {
    "input_bound": "mlp_slow_input",
    "class_never_predicted": "distilbert_rare_class_never_predicted",
    "parameter_not_optimized": "convnet_head_replaced",
    "parameter_in_two_optimizers": "mlp_layer_in_two_optimizers",
    "parameter_not_in_model": "mlp_optimizer_of_a_copy",
    "no_gradient": "mlp_encoder_without_gradient",
    "gradients_not_cleared": "mlp_gradients_not_cleared",
    "no_optimizer_step": "mlp_optimizer_never_steps",
    "eval_mode_in_training": "convnet_stays_in_evaluation_mode",
    "train_mode_in_evaluation": "mlp_dropout_in_evaluation",
    "labels_ignored": "bert_all_labels_ignored",
    "double_softmax": "mlp_softmax_before_cross_entropy",
    "weights_changed_outside": "lstm_loads_old_weights",
    "first_loss_not_finite": "gaussian_with_a_variance_of_zero",
    "gradients_summed": "mlp_loss_summed_over_microbatches",
    "batch_norm_single": "convnet_batch_norm_of_one_row",
    "first_loss_unusual": "convnet_head_initialised_100_times_too_large",
    "unknown_tokens": "bert_unknown_tokens",
    "labels_sorted": "mlp_data_sorted_by_label",
    "padding_attended": "bert_padding_attended",
    "evaluation_rows_in_training": "mlp_half_of_dev_inside_train",
    "repeated_batches": "bert_same_rows_in_every_batch",
    "loss_maximised": "mlp_loss_with_the_wrong_sign",
}
"""Rule -> a run of benchmarks/diagnosis_runs, in which the rule fires."""


# -- runs of this file -------------------------------------------------------------------------------------------------


def weights_shrink(folder: Path) -> Run:
    """Small BERT with a weight decay 1,000 times the usual one."""
    from tests.helpers.trainings import Plan, train  # needs the recipes

    return read_run(train(folder, Plan(weight_decay=10.0, lr=4e-3)))


class _MeasuresDrift(Loop):
    """Measures the distance from the initial weights."""

    def _tbx(self) -> TbxLoop:
        config = {"every": 5, "metrics": ["loss", {"drift": {"by": "layer"}}]}
        return TbxLoop(self.network, self.optimizer, config, log_dir=str(self.place.folder), log_every=5)


def uneven_drift(folder: Path) -> Run:
    """MLP of four layers whose last layer has 10 times the learning rate of the others."""
    train, dev = data.digits(0)
    net = _mlp()
    *body, head = [layer for layer in net if isinstance(layer, nn.Linear)]
    groups = [{"params": [p for layer in body for p in layer.parameters()], "lr": 3e-4}]
    optimizer = torch.optim.Adam([*groups, {"params": [*head.parameters()], "lr": 3e-3}])
    _MeasuresDrift(Place(folder, folder, 0), net, optimizer, train, dev, logs="default").run()
    return read_run(folder)


def _mlp(width: int = 64) -> nn.Sequential:
    layers = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def restart_spike(folder: Path) -> Run:
    """MLP whose schedule restarts three times at 20 times the usual rate."""
    train, dev = data.digits(0)
    net = _mlp()
    optimizer = models.adam(net, 0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 160, eta_min=1e-5)
    loop = Loop(Place(folder, folder, 0), net, optimizer, train, dev, logs="default", steps=640, schedule=schedule)
    loop.run()
    return read_run(folder)


class _LosesLabels(Loop):
    """Evaluates rows whose labels are all ignored, after half of the evaluations."""

    def _evaluate(self) -> dict[str, float]:
        if len(self.evaluations) == 4:
            self.dev = self.dev[0], torch.full_like(self.dev[1], -100)
        return super()._evaluate()


def eval_loss_not_finite(folder: Path) -> Run:
    """MLP whose later evaluations have only labels that are ignored."""
    train, dev = data.digits(0)
    net = _mlp()
    _LosesLabels(Place(folder, folder, 0), net, models.adam(net, 1e-3), train, dev, logs="default").run()
    return read_run(folder)


def nll_of_logits(folder: Path) -> Run:
    """MLP whose logits go to `nll_loss`."""
    train, dev = data.digits(0)
    net = _mlp()
    Loop(
        Place(folder, folder, 0),
        net,
        models.adam(net, 1e-3),
        train,
        dev,
        loss_function=functional.nll_loss,
        steps=100,
        logs="default",
    ).run()
    return read_run(folder)


class _WithSpareHead(nn.Module):
    """A classifier with a layer that its task does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.spare_head = _mlp(), nn.Linear(10, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def unused_parameters(folder: Path) -> Run:
    """MLP with a second head that the loss does not use."""
    train, dev = data.digits(0)
    net = _WithSpareHead()
    Loop(Place(folder, folder, 0), net, models.adam(net, 3e-3), train, dev, logs="default").run()
    return read_run(folder)


def labels_out_of_range(_: Path) -> Run:
    """MLP with 8 outputs on data of 10 classes, checked by `preflight` before the training."""
    (x, y), _ = data.digits(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
    rows = [(x[start : start + 16], y[start : start + 16]) for start in range(0, 160, 16)]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        outputs = model(batch[0])
        return functional.cross_entropy(outputs, batch[1]), outputs

    return preflight(net, rows, loss=loss).run


def perfect_at_once(folder: Path) -> Run:
    """MLP that goes on training on rows it has already learned, in a new run."""
    train, dev = data.digits(0)
    net = _mlp()
    optimizer = models.adam(net, 3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        functional.cross_entropy(net(train[0]), train[1]).backward()
        optimizer.step()
    Loop(Place(folder, folder, 0), net, models.adam(net, 1e-4), train, dev, logs="default").run()
    return read_run(folder)


# -- several processes -------------------------------------------------------------------------------------------------


def replicas_differ(folder: Path) -> Run:
    """Two processes whose gradients are never averaged."""
    from tests.helpers.launch import launch

    launch(ROOT / "tests" / "ranks" / "scripts" / "train_replicas.py", folder, "never_reduced", ranks=2)
    return read_run(folder / "never_reduced")


def slow_rank(folder: Path) -> Run:
    """Two processes, of which rank 1 waits 20 ms for each batch."""
    from tests.helpers.launch import launch

    launch(Path(__file__), folder, ranks=2)
    return read_run(folder)


def _train_on_slow_rank(folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def batches() -> Iterator[Tensor]:
        for _ in range(80):
            time.sleep(0.02 * dist.get_rank())
            yield torch.randn(4, 8)

    with TbxLoop(model, optimizer, {"every": 4, "metrics": ["time"]}, log_dir=folder) as loop:
        for batch in loop.track(batches()):
            model(batch).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step()
    dist.destroy_process_group()


# -- reinforcement learning and preferences ----------------------------------------------------------------------------

WORDS, LONGEST, GROUP, PROMPTS, END = 12, 12, 8, 8, 0


class _Policy(nn.Module):
    """Writes words, each from a table of the word before it; word 0 ends the text."""

    def __init__(self, end_bias: float = 0.0) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, WORDS)
        nn.init.normal_(self.table.weight, std=0.1)
        with torch.no_grad():
            self.table.weight[:, END] += end_bias

    def log_probabilities(self, words: Tensor) -> Tensor:
        return self.table(words).log_softmax(-1)

    @torch.no_grad()
    def sample(self, number: int) -> tuple[Tensor, Tensor]:
        """Texts and a mask of the words up to the end. [number, LONGEST + 1] and [number, LONGEST]"""
        texts = [torch.ones(number, dtype=torch.long)]
        for _ in range(LONGEST):
            texts.append(torch.multinomial(self.table(texts[-1]).softmax(-1), 1)[:, 0])
        words = torch.stack(texts, 1)
        ended = (words[:, 1:] == END).long()
        return words, (ended.cumsum(1) - ended == 0).float()


def _tune_policy(
    folder: Path, reward: Callable[[Tensor], Tensor], *, rate: float, steps: int = 120, end_bias: float = 0.0
) -> Run:
    """Group-relative policy gradients, with the numbers that trl's GRPOTrainer logs."""
    torch.manual_seed(0)
    policy, reference = _Policy(end_bias), _Policy(end_bias)
    reference.load_state_dict(policy.state_dict())
    optimizer = torch.optim.Adam(policy.parameters(), lr=rate)
    with TbxLoop(policy, optimizer, {"every": 3, "metrics": ["loss"]}, log_dir=folder, log_every=3) as loop:
        for _ in range(steps):
            words, mask = policy.sample(PROMPTS * GROUP)
            scores = reward(words[:, 1:] * mask.long()).view(PROMPTS, GROUP)
            spread = scores.std(1, keepdim=True)
            advantage = ((scores - scores.mean(1, keepdim=True)) / (spread + 1e-4)).view(-1, 1)
            full = policy.log_probabilities(words[:, :-1])
            chosen = full.gather(-1, words[:, 1:, None])[..., 0]
            loss = -(advantage * chosen * mask).sum() / mask.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                before = reference.log_probabilities(words[:, :-1]).gather(-1, words[:, 1:, None])[..., 0]
                entropy = -(full.exp() * full).sum(-1)
                loop.log("train/entropy", (entropy * mask).sum() / mask.sum())
                loop.log("train/reward", scores.mean())
                loop.log("train/kl", ((chosen - before) * mask).sum(1).mean())
                loop.log("train/frac_reward_zero_std", (spread == 0).float().mean())
                loop.log("train/completions/clipped_ratio", 1 - ((words[:, 1:] == END).any(1)).float().mean())
            loop.end_step(loss=loss)
    return read_run(folder)


def entropy_collapse(folder: Path) -> Run:
    """Toy policy whose reward counts one word, trained with a high rate and no entropy bonus."""
    return _tune_policy(folder, lambda words: (words == 3).sum(1).float(), rate=0.1)


def kl_runaway(folder: Path) -> Run:
    """Toy policy without a penalty for leaving the reference, whose reward counts one word."""
    return _tune_policy(folder, lambda words: (words == 3).sum(1).float(), rate=0.02, steps=90)


def no_reward_variance(folder: Path) -> Run:
    """Toy policy whose reward asks for a text that it never writes."""
    return _tune_policy(folder, lambda words: (words == 7).all(1).float(), rate=0.03)


def completions_truncated(folder: Path) -> Run:
    """Toy policy that hardly ever ends its text, with a reward for long texts."""
    return _tune_policy(folder, lambda words: (words > 0).sum(1).float(), rate=0.03, end_bias=-2.0)


def likelihood_falls(folder: Path) -> Run:
    """Toy policy under DPO, whose chosen and rejected answers are nearly alike."""
    torch.manual_seed(0)
    number, width = 16, 8
    answers = functional.normalize(torch.randn(64, width), dim=1) * torch.linspace(0.5, 2, 64)[:, None]
    gains = answers @ answers.T
    falls = gains.diagonal()[:, None] - gains  # of the chosen answer, when it is preferred to another one
    falls.fill_diagonal_(torch.inf)
    chosen = falls.min(1).values.argsort()[:number]
    rejected = falls[chosen].argmin(1)
    prompts, pairs = nn.Embedding(number, width), torch.arange(number)
    nn.init.normal_(prompts.weight, std=0.1)
    start = (prompts(pairs) @ answers.T).log_softmax(-1).detach()
    optimizer = torch.optim.Adam(prompts.parameters(), lr=0.02)
    with TbxLoop(prompts, optimizer, {"every": 3, "metrics": ["loss"]}, log_dir=folder, log_every=3) as loop:
        for _ in range(120):
            now = (prompts(pairs) @ answers.T).log_softmax(-1)
            good, bad = (now[pairs, chosen], now[pairs, rejected])
            margin = (good - start[pairs, chosen]) - (bad - start[pairs, rejected])
            loss = -functional.logsigmoid(0.5 * margin).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loop.log("train/logps/chosen", good.detach().mean())
            loop.log("train/logps/rejected", bad.detach().mean())
            loop.end_step(loss=loss)
    return read_run(folder)


OWN: dict[str, Callable[[Path], Run]] = {
    run.__name__: run
    for run in (
        restart_spike,
        weights_shrink,
        uneven_drift,
        replicas_differ,
        slow_rank,
        entropy_collapse,
        kl_runaway,
        no_reward_variance,
        likelihood_falls,
        completions_truncated,
        nll_of_logits,
        eval_loss_not_finite,
        unused_parameters,
        labels_out_of_range,
        perfect_at_once,
    )
}
"""Rule -> a run of this file, in which the rule fires."""


def title(rule: str) -> str:
    """Returns one sentence about the run of a rule, and where its code is."""
    if rule in PLANTED:
        return f"small BERT, {PLANTED[rule]} (a planted fault: `tests/helpers/planted_faults.py`)"
    if rule in BENCHMARK:
        case = all_cases()[BENCHMARK[rule]]
        return f"{case.title} (`{case.name}` in `benchmarks/diagnosis_runs/`)"
    return f"{(OWN[rule].__doc__ or '').strip().rstrip('.')} (`{rule}` in `docs/finding_runs.py`)"


def train(rule: str, out: Path) -> Run:
    """Trains the run of a rule in a new folder below `out`, and reads it.

    Raises:
        RuntimeError: the training failed.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = out / rule
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")  # of the trainers
        if rule in OWN:
            return OWN[rule](folder)
        if rule in PLANTED:
            from tests.helpers import planted_faults, trainings  # need the recipes

            fault = planted_faults.FAULTS[PLANTED[rule]]
            return read_run(trainings.train(folder, replace(fault.plan), before=fault.before))
        case = all_cases()[BENCHMARK[rule]]
        record = train_one(case, out, seed=0)
    if record.failed or record.skipped:
        raise RuntimeError(f"{case.name} must train, but it failed: {record.failed or record.skipped}")
    return read_run(out / "runs" / case.name)


if __name__ == "__main__":
    _train_on_slow_rank(sys.argv[1])
