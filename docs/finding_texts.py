"""Holds the handwritten parts of docs/findings.md: symptoms, and each rule's meaning, threshold and fix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Chart:
    """How the evidence is drawn.

    Args:
        tags: the tags that are drawn; empty for those of the finding.
        beside: prefixes of further tags, drawn in grey.
        scale: of the values.
        relative: whether each series is divided by its first value.
    """

    tags: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    scale: Literal["linear", "log"] = "linear"
    relative: bool = False


@dataclass(frozen=True)
class Text:
    """The words about a rule.

    Args:
        meaning: what it means for the training, in one or two sentences.
        when: when it is reported; thresholds of the rule in braces.
        fix: the fix as code; empty if no code helps.
        chart: how the evidence is drawn.
    """

    meaning: str
    when: str
    fix: str = ""
    chart: Chart = Chart()


SYMPTOMS: dict[str, tuple[str, ...]] = {
    "The loss is NaN or Inf": (
        "nonfinite",
        "eval_loss_not_finite",
        "first_loss_not_finite",
        "labels_ignored",
        "amp_scale_collapse",
        "learning_rate_too_high",
        "divergence",
    ),
    "The loss does not fall at all (for two classes, it stays at ln 2 = 0.69: guessing)": (
        "underfitting",
        "all_frozen",
        "no_optimizer_step",
        "parameter_not_optimized",
        "parameter_not_in_model",
        "no_gradient",
        "zero_gradient",
        "update_too_small",
        "labels_ignored",
        "lora_not_training",
    ),
    "The loss falls, but slowly or not far": (
        "plateau",
        "double_softmax",
        "clipping_saturated",
        "decayed_early",
        "vanishing_gradients",
        "frozen_layers",
        "head_only",
        "lora_not_training",
        "eval_mode_in_training",
    ),
    "The loss rises or explodes, at once or when the warm-up ends": (
        "divergence",
        "learning_rate_too_high",
        "update_too_large",
        "gradients_not_cleared",
        "exploding_gradients",
        "no_warmup",
    ),
    "The loss falls below zero without end": ("nll_of_logits", "loss_maximised"),
    "The loss jumps": ("loss_spike", "restart_spike", "weights_changed_outside"),
    "The first loss looks wrong": ("first_loss_unusual", "first_loss_not_finite", "labels_out_of_range"),
    "All predictions are one class; the accuracy is that of the majority class": (
        "class_never_predicted",
        "labels_sorted",
        "underfitting",
    ),
    "Training is fine, evaluation is bad": (
        "overfitting",
        "accuracy_gap",
        "eval_disagrees",
        "train_mode_in_evaluation",
        "batch_norm_single",
        "repeated_batches",
    ),
    "The evaluation accuracy does not change": ("eval_disagrees", "class_never_predicted", "underfitting"),
    "Results are too good to be true": ("perfect_at_once", "evaluation_rows_in_training"),
    "Results change with the padding or the batch size": (
        "padding_attended",
        "batch_norm_single",
        "gradients_summed",
    ),
    "The model forgets what it learned before": ("uneven_drift", "update_too_large", "weights_shrink"),
    "The weights shrink": ("weights_shrink",),
    "A layer does not learn": (
        "frozen_layers",
        "zero_gradient",
        "dead_activations",
        "parameter_not_optimized",
        "no_gradient",
        "unused_parameters",
    ),
    "A layer moves twice as far as it should": ("parameter_in_two_optimizers", "gradients_summed"),
    "LoRA has no effect": ("lora_not_training", "zero_gradient", "underfitting"),
    "fp16: the loss scale falls, or steps are skipped": ("amp_scale_collapse", "amp_skipped_steps", "nonfinite"),
    "The text looks unknown to the model": ("unknown_tokens", "padding_attended"),
    "The GPU is idle": ("input_bound", "slow_rank"),
    "Several GPUs: results differ, or one is slow": ("replicas_differ", "slow_rank"),
    "Reinforcement learning or preference tuning goes wrong": (
        "entropy_collapse",
        "kl_runaway",
        "no_reward_variance",
        "likelihood_falls",
        "completions_truncated",
    ),
}
"""What a user sees -> the findings that may explain it, the likeliest first."""

QUESTIONS: dict[str, str] = {
    "The loss jumps": "resumed",
    "The evaluation accuracy does not change": "evaluation",
    "Several GPUs: results differ, or one is slow": "ranks",
}
"""What a user sees -> the place in docs/faq.md that says more."""

FAMILIES: dict[str, str] = {
    "NUM": "Numbers that are not finite",
    "LOSS": "The training loss",
    "LR": "The learning rate",
    "EVAL": "Training against evaluation",
    "GRAD": "Gradients",
    "UPD": "Weights and updates",
    "ACT": "Activations",
    "AMP": "Mixed precision in fp16",
    "DIST": "Several processes",
    "DATA": "Data and input",
    "LORA": "LoRA",
    "RL": "Reinforcement learning and preference tuning",
    "WIRE": "How the training is put together",
}
"""Area in the code of a rule -> the title of its group."""

_NORMS = Chart(beside=("weight_norm/",), relative=True)
_GRADS = Chart(beside=("grad_norm/",), scale="log")

TEXTS: dict[str, Text] = {
    "nonfinite": Text(
        "One bad number spreads: a bad gradient writes bad weights, and every later loss is bad too. "
        "The checkpoints after this step are useless. The metric [bad_batches](rows.md) keeps the rows of such a "
        "step. It must be on before: resume from the last good checkpoint with it.",
        "Any NaN or Inf in the training loss, the gradients or the weights. It is a note, and no error, if the weights "
        "stay finite and later losses are, too, as with a batch whose labels are all ignored, or while fp16 searches "
        "for its loss scale. Without counts of weights, it is a warning if later losses are finite. Evaluation losses "
        "have a rule of their own, [eval_loss_not_finite](#tbx-num-002-eval_loss_not_finite).",
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # before optimizer.step()\n"
        "args = TrainingArguments(..., bf16=True, fp16=False)  # bf16 does not overflow where fp16 does",
        Chart(tags=("nonfinite/gradients/total",)),
    ),
    "eval_loss_not_finite": Text(
        "The evaluation cannot tell how good the model is, and a best checkpoint cannot be chosen. The training goes "
        "on.",
        "Any NaN or Inf in an evaluation loss, unless the training is lost to NaN. It is an error if the last "
        "evaluation has it, else a warning.",
        'labels = batch["labels"]\nassert (labels != -100).any()  # of each batch of the evaluation',
    ),
    "divergence": Text(
        "The updates made the model worse and worse. More steps do not help.",
        "The smoothed loss ends at {ratio:g} times its best value or more, the rise is at least {rise:.0%} "
        "of the initial "
        "loss, and it is larger than {deviations:g} standard deviations of the noise. Needs {min_points:g} points. "
        "Without learning rates in the log, also a loss that rises within the first points and ends above the first "
        "one, less {recovery:.0%}: a warning up to {many:g} times the first one, else an error. This needs 20 points.",
        "optimizer = torch.optim.AdamW(model.parameters(), lr=lr / 3)\n"
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
    ),
    "loss_spike": Text(
        "One or a few batches gave a harmful update, and the training recovered. The steps until it had "
        "recovered are lost.",
        "A point lies above {ratio:g} times the median of the {window:g} points before it, by more than {deviations:g} "
        "standard deviations of the noise and {rise:.0%} of the initial loss, and the loss comes back later.",
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # before optimizer.step()",
    ),
    "learning_rate_too_high": Text(
        "The first steps destroyed the initial weights, pretrained or random. What follows starts from "
        "damaged weights.",
        "In the first {early:.0%} of the points, the loss reaches {peak:g} times its initial value, or the "
        "weight norm of "
        "half of the layers grows by more than {growth:g} times; and the loss has not fallen by {improvement:.0%} "
        "({recovery:.0%} after a rise) in the end. A loss that ends at {peak:g} times that of guessing has risen.",
        "optimizer = torch.optim.AdamW(model.parameters(), lr=lr / 10)",
        Chart(tags=("train/loss",)),
    ),
    "no_warmup": Text(
        "The first steps are the riskiest ones: gradients are large, and an optimizer with moving averages has "
        "measured few of them.",
        "The first learning rate is {of_peak:.0%} of the peak or more. For a constant rate, only if the loss "
        "rises in the "
        "first steps, to more than {rise:g} times its first value.",
        "from transformers import get_linear_schedule_with_warmup\n\n"
        "scheduler = get_linear_schedule_with_warmup(optimizer, num_steps // 10, num_steps)",
    ),
    "decayed_early": Text(
        "The schedule was made for fewer steps than the training has. The steps after its end change nothing.",
        "The learning rate is below {of_peak:.1%} of its peak before {before:.0%} of the steps are done, and "
        "stays there.",
        "num_steps = epochs * (len(train_loader) // accumulation_steps)\n"
        "scheduler = get_linear_schedule_with_warmup(optimizer, num_steps // 10, num_steps)",
    ),
    "restart_spike": Text(
        "Each restart of the schedule throws away a part of what was learned. "
        "For a jump after a resume, see the [FAQ](faq.md#resumed).",
        "After most restarts (the rate jumps {jump:g} times or more), the loss rises above {ratio:g} times its value "
        "before. In the middle of the cycle it is still above {back:g} times.",
        "CosineAnnealingWarmRestarts(optimizer, T_0=cycle, T_mult=2)  # longer cycles, and a lower lr in the optimizer",
        Chart(tags=("train/loss",)),
    ),
    "underfitting": Text(
        "The model learns nothing. The cause is often the wiring or the learning rate, and not the model.",
        "The loss has not fallen by {improvement:.0%} after {enough:g} points, or after the learning rate "
        "came down. It "
        "is not reported if an evaluation accuracy is above {accuracy:.0%} or rose by {gained:.0%}.",
        "batch = next(iter(train_loader))  # train on this batch only: the loss must come near zero",
    ),
    "plateau": Text(
        "The model learned something and then stopped. The later steps cost time and change nothing.",
        "The loss fell by at least {learned:.0%}, has not improved by {improvement:.0%} for {share:.0%} of "
        "the points, and "
        "is still above {still_high:.0%} of its initial value.",
        "scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_steps)",
    ),
    "overfitting": Text(
        "The evaluation loss got worse while the training went on. Check whether your metric did, too: accuracy may "
        "still improve for a while.",
        "The last {after:g} evaluation losses are {ratio:g} times the best one or more ({steady:g} times if "
        "each was worse "
        "than the one before), the rise is at least {rise:.0%} of the initial loss, and the training loss fell by "
        "{train_fall:.0%} in that time.",
        'args = TrainingArguments(..., load_best_model_at_end=True, eval_strategy="epoch", save_strategy="epoch")',
    ),
    "eval_disagrees": Text(
        "The two data sets contradict each other. Often a label mapping or a step of the preprocessing differs.",
        "The evaluation loss ends at {ratio:g} times its first value or more while the training loss falls by "
        "{train_fall:.0%}; and the accuracy is below {accuracy:.0%}, or the best evaluation loss is above "
        "{above:g} times "
        "the initial training loss.",
        'label2id = {"negative": 0, "positive": 1}  # one mapping for both data sets',
        Chart(tags=("train/loss", "eval/loss", "eval/accuracy")),
    ),
    "accuracy_gap": Text(
        "The model is much better on rows that it has seen. It has memorised them, or the evaluation rows differ.",
        "Training accuracy is above evaluation accuracy by {gap:.0%} or more, in the last evaluations. Needs "
        "{min_points:g} "
        "evaluations.",
        "model = AutoModelForSequenceClassification.from_pretrained(name, hidden_dropout_prob=0.2)",
    ),
    "vanishing_gradients": Text(
        "The first layers get almost no signal, so they stay near their initial weights.",
        "The gradient norm of the first layer is below {ratio:g} of that of the last layer (medians).",
        "x = x + layer(norm(x))  # a residual connection around each block",
        _GRADS,
    ),
    "exploding_gradients": Text(
        "The first layers get far larger gradients than the last ones. Clipping and the learning rate then "
        "fit neither.",
        "The gradient norm of the first layer is above {ratio:g} times that of the last layer (medians).",
        "x = x + layer(norm(x))  # a LayerNorm before each block\n"
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
        _GRADS,
    ),
    "zero_gradient": Text(
        "The loss does not depend on this layer, or its activation is saturated. The optimizer cannot train it.",
        "The gradient norm of a trainable layer is exactly 0 at {share:.0%} of the points or more. It is an "
        "error if all "
        "layers are named.",
        "features = encoder(x)  # not encoder(x).detach(), and not under torch.no_grad()",
        Chart(beside=("grad_norm/",)),
    ),
    "all_frozen": Text(
        "The whole training changed nothing. The saved model is the initial one.",
        "No weight norm changes after the first point, bit by bit. Needs {min_points:g} points.",
        "optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)  # of this model, and a rate above 0",
        Chart(beside=("weight_norm/",), relative=True),
    ),
    "head_only": Text(
        "Only the last layer learns, on top of fixed features. This is right for a linear probe, and a mistake in a "
        "fine-tuning.",
        "No layer of the numbered stack changes its weight norm, and layers outside of it do. Always a note.",
        "model.bert.requires_grad_(True)  # before the optimizer is made",
        _NORMS,
    ),
    "frozen_layers": Text(
        "These layers keep their initial weights. That is fine for pretrained weights, and bad for random ones.",
        "The weight norm of some layers is constant and that of others changes. It is a note if only the "
        "lowest layers are "
        "constant, which is usually on purpose.",
        "for parameter in model.encoder.layer[2].parameters():\n    parameter.requires_grad_(True)",
        _NORMS,
    ),
    "update_too_large": Text(
        "Each step overwrites a good part of a layer. A pretrained model forgets what it knew.",
        "The largest tenth of a layer's update ratios has a median above {ratio:.0%} of the weight norm. It is "
        "{always:.0%} if the loss has fallen by {learned:.0%} all the same.",
        "optimizer = torch.optim.AdamW(model.parameters(), lr=lr / 10)",
        Chart(scale="log"),
    ),
    "update_too_small": Text(
        "The steps are so small that the layer stays where it is.",
        "The largest tenth of a layer's update ratios has a median below {ratio:g}.",
        'optimizer = torch.optim.AdamW([{"params": body, "lr": 10 * lr}, {"params": head, "lr": lr}])',
        Chart(scale="log"),
    ),
    "weights_shrink": Text(
        "The decay removes more than the gradients add, so the layers lose what they hold.",
        "At least {layers:.0%} of the layers have less than {left:.0%} of their first norm left. It is a "
        "note if the loss "
        "has fallen all the same.",
        "optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay / 10)",
        Chart(relative=True),
    ),
    "uneven_drift": Text(
        "These layers moved much farther than the others. In a fine-tuning, they forget most.",
        "The distance of a layer from its initial weights, divided by their norm, is above {factor:g} times "
        "that of the "
        "median layer. Needs {layers:g} layers. Always a note.",
        'optimizer = torch.optim.AdamW([{"params": head, "lr": lr / 10}, {"params": body, "lr": lr}])',
        Chart(beside=("drift/",)),
    ),
    "clipping_saturated": Text(
        "The limit decides the size of every update. The gradient gives only the direction.",
        "At least {share:.0%} of the steps are clipped, and the median clip factor is below {factor:g}. It "
        "is a note if "
        "the loss has fallen all the same.",
        "torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=usual_norm)  # see grad_norm/total",
        Chart(tags=("clip/factor",), scale="log"),
    ),
    "dead_activations": Text(
        "A unit that is zero for every input gets no gradient. It never comes back by itself.",
        "The share of zeros in a module's output is {share:.0%} or more (median of the second half of the points).",
        'torch.nn.init.zeros_(layer.bias)\nmodel = BertModel(BertConfig(hidden_act="gelu"))',
        Chart(beside=("activations/",)),
    ),
    "amp_scale_collapse": Text(
        "Gradients overflow fp16 at every scale. The scale goes down until small gradients vanish.",
        "The loss scale ends below {scale:g}. Needs {min_points:g} points. A loop must pass `scaler=`. DeepSpeed has "
        "a scale of its own, which no rule reads.",
        'with torch.autocast("cuda", torch.bfloat16):  # needs no GradScaler\n    loss = model(**batch).loss',
        Chart(scale="log"),
    ),
    "amp_skipped_steps": Text(
        "A skipped step changes no weight, and the schedule goes on. The training is shorter than it looks.",
        "More than {share:.0%} of the steps are skipped, and more than {at_start:g} steps.",
        'scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)',
    ),
    "replicas_differ": Text(
        "The processes train different models. Usually only one of them is saved, and the work of the others is lost.",
        "A layer's weights or optimizer state do not have the same bits on all ranks. It is an error if they stay "
        "different, and a note if they are the same again later. Buffers that differ are a note.",
        "model = torch.nn.parallel.DistributedDataParallel(model)",
        Chart(tags=("replicas/weights/total",)),
    ),
    "slow_rank": Text(
        "All processes wait for the slowest one in each step. Its machine or its data is the cause.",
        "The same rank is the slowest one for {steps:g} steps or more, by {share:.0%} of a step or more. From "
        "{large_share:.0%} on it is a warning, below a note.",
        "sampler = torch.utils.data.DistributedSampler(dataset, shuffle=True)  # similar lengths on average",
        Chart(tags=("time/slowest_lead",), beside=("time/slowest_rank",)),
    ),
    "input_bound": Text(
        "The training thread waits for data, and the device may be idle meanwhile. Other causes of an idle device are "
        "small batches, `.item()` or `print` in each step, and frequent evaluations: the metric `time` shows the parts "
        "of a step.",
        "The training waits for data {share:.0%} of the time or more (median, without the first point).",
        "loader = DataLoader(dataset, batch_size=32, num_workers=8, pin_memory=True, persistent_workers=True)",
    ),
    "class_never_predicted": Text(
        "The model gives the easy answer for all rows of a rare class. The accuracy looks good and hides it.",
        "In the last third of the points, a class with at least {labels:g} labels is never predicted, "
        "although the loss "
        "has fallen by {learned:.0%} and has stopped falling. Needs {min_points:g} points.",
        "weights = 1 / torch.bincount(train_labels).float()\n"
        "loss = torch.nn.functional.cross_entropy(logits, labels, weight=weights / weights.mean())",
        Chart(tags=("train/label_share/1", "train/predicted_share/1")),
    ),
    "lora_not_training": Text(
        "B begins at zero. Until it changes, the adapter adds nothing. The sets `finetune` and `full` show it. "
        "With the others, add the metric `lora`.",
        "The update of an adapter, or the norm of its B matrix, is zero in the whole run, or no LoRA matrix changes. "
        "Needs {min_points:g} points.",
        "model = get_peft_model(model, config)\n"
        "optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)",
    ),
    "entropy_collapse": Text(
        "The policy gives nearly the same answer each time. There is nothing left to compare, so learning stops.",
        "The entropy falls below {left:.0%} of its initial value. Needs {min_points:g} points.",
        "loss = policy_loss - 0.01 * entropy.mean()  # an entropy bonus",
    ),
    "kl_runaway": Text(
        "The policy leaves the reference model faster and faster. Usually it has found a weakness of the reward.",
        "The last KL divergence is above {growth:g} times that of the middle third of the run, and above "
        "{limit:g} nat.",
        "args = GRPOConfig(..., beta=0.04, learning_rate=1e-6)",
    ),
    "no_reward_variance": Text(
        "The advantage compares the completions of one prompt. Where all rewards are equal, it is zero.",
        "In {share:.0%} of the groups or more, all completions have the same reward (median of the second half).",
        "args = GRPOConfig(..., num_generations=16, temperature=1.0)",
    ),
    "likelihood_falls": Text(
        "The loss falls because rejected answers fall faster. The probability goes to answers that are in "
        "neither column.",
        "Both log-probabilities fall by more than {fall:.0%} of their initial value, and by more than {deviations:g} "
        "standard deviations of the noise.",
        "args = DPOConfig(..., beta=0.3, rpo_alpha=1.0)",
    ),
    "completions_truncated": Text(
        "The reward judges answers that are cut off. The model does not learn to end them.",
        "{share:.0%} of the completions or more reach the length limit (median of the second half of the points).",
        "args = GRPOConfig(..., max_completion_length=1024, mask_truncated_completions=True)",
    ),
    "parameter_not_optimized": Text(
        "The layer gets gradients, and nothing uses them. It keeps its initial weights.",
        "The check `parameter_not_optimized` counts such parameters: any number above 0.",
        "model.classifier = torch.nn.Linear(768, 3)\n"
        "optimizer = torch.optim.AdamW(model.parameters())  # after the change",
    ),
    "parameter_in_two_optimizers": Text(
        "Each step moves the parameter twice. Its learning rate is not the one you set.",
        "The check `parameter_in_two_optimizers` counts such parameters: any number above 0.",
        'optimizer = torch.optim.AdamW([{"params": body, "lr": 1e-5}, {"params": head, "lr": 1e-4}])',
    ),
    "parameter_not_in_model": Text(
        "The optimizer trains an old copy of the parameters. The model that you evaluate is another one.",
        "The check `parameter_not_in_model` counts such parameters: any number above 0.",
        "model = model.to(device)\n"
        "optimizer = torch.optim.AdamW(model.parameters())  # after the last change of the model",
    ),
    "no_gradient": Text(
        "Something between these layers and the loss cuts the graph. The layers before the cut are never trained.",
        "The check `no_gradient` counts trainable parameters without a gradient, from the first layer on: "
        "any number above "
        "0.",
        "features = encoder(x)  # not under torch.no_grad(), and without .detach()\nlogits = head(features)",
    ),
    "unused_parameters": Text(
        "Some layers take no part in the loss. They cost memory, and DistributedDataParallel may complain about them.",
        "The check `unused_parameters` counts trainable parameters without a gradient: any number above 0. "
        "Always a note.",
        "model = BertModel.from_pretrained(name, add_pooling_layer=False)",
    ),
    "gradients_not_cleared": Text(
        "Each update uses all gradients since the start. The steps grow and point to the past.",
        "The check `gradients_not_cleared` finds the gradients of the step before: any number above 0.",
        "optimizer.zero_grad()\nloss.backward()\noptimizer.step()",
    ),
    "no_optimizer_step": Text(
        "The loop computes gradients and never uses them. The saved model is the initial one.",
        "At the end of the training, no optimizer of the model has stepped.",
        "loss.backward()\noptimizer.step()\noptimizer.zero_grad()",
    ),
    "eval_mode_in_training": Text(
        "Dropout is off and batch normalisation stands still. The model overfits more easily.",
        "The check `eval_mode_in_training` gives the share of steps in evaluation mode: above 0. It is a "
        "note if the model "
        "has never been in training mode, as is done on purpose.",
        "evaluate(model)\nmodel.train()",
    ),
    "train_mode_in_evaluation": Text(
        "The evaluation is too bad, and changes with each call. Batch normalisation also learns from evaluation rows.",
        "The check `train_mode_in_evaluation` counts evaluations in training mode: any number above 0.",
        "model.eval()\nwith torch.no_grad():\n    evaluate(model)\nmodel.train()",
    ),
    "labels_ignored": Text(
        "The loss leaves out labels of -100. If all of them are -100, there is nothing to learn.",
        "The check `labels_ignored` gives the share of labels that are -100 in the first batches: it is 1.",
        'print(batch["labels"][0])  # of one batch of the loader: at least one label must not be -100',
    ),
    "labels_out_of_range": Text(
        "A label has no output of the model. On a GPU this gives an error without a clear message.",
        "The check `labels_out_of_range` counts such labels: any number above 0. It is a note if the loss "
        "accepts them.",
        "model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=len(label2id))",
    ),
    "double_softmax": Text(
        "Softmax is applied twice. The loss cannot come near 0, and gradients are small.",
        "The check `double_softmax` finds that what enters the cross entropy are probabilities: any number above 0.",
        "logits = model(x)  # without nn.Softmax at the end\nloss = torch.nn.functional.cross_entropy(logits, labels)",
    ),
    "weights_changed_outside": Text(
        "Some other code writes weights: a second initialisation, a loaded checkpoint, an average.",
        "The check `weights_changed_outside` gives the share of steps before which weights changed: above 0. It is a "
        "warning if the loss rises by {rise:g} times then, else a note.",
        "model.load_state_dict(state)  # before the training, and only once",
    ),
    "first_loss_not_finite": Text(
        "The training has not begun yet, so the data or the initial weights are the cause.",
        "The loss of batch 1 is NaN or Inf.",
        'assert torch.isfinite(batch["inputs"]).all()\nassert (batch["labels"] != -100).any()',
    ),
    "gradients_summed": Text(
        "The gradient is as many times too large as there are micro-batches. Clipping then cuts nearly every step.",
        "The check `gradients_summed` gives the number of micro-batches that are added: any number above 0.",
        "loss = model(**batch).loss / accumulation_steps\nloss.backward()",
    ),
    "batch_norm_single": Text(
        "The mean of one row is the row. The statistics say nothing about the data.",
        "The check `batch_norm_single` counts batch normalisations that get one sample: any number above 0. "
        "Always a note.",
        "loader = DataLoader(dataset, batch_size=16, drop_last=True)\nnorm = torch.nn.GroupNorm(8, channels)",
    ),
    "first_loss_unusual": Text(
        "A new classifier starts near `log(classes)`, the loss of equal probabilities. Another start has a reason.",
        "The loss of batch 1 is above {above:g} times or below {below:g} times `log(classes)`. Always a note.",
        "torch.nn.init.normal_(model.classifier.weight, std=0.02)\ninputs = (inputs - mean) / std",
    ),
    "perfect_at_once": Text(
        "That is unusual, unless the model was trained on this task before. The answer may be in the inputs.",
        "Every prediction of the first batches is right. Always a note.",
        'inputs = table.drop(columns=["label"])',
    ),
    "unknown_tokens": Text(
        "The tokenizer has no entry for these words, so the model sees the same token for all of them.",
        "More than {share:.0%} of the tokens of the first batches are the unknown token. Always a note.",
        "tokenizer = AutoTokenizer.from_pretrained(name)  # the name of the model's checkpoint",
    ),
    "labels_sorted": Text(
        "Each batch shows one class only. The model learns the class of the batch, and forgets the one before.",
        "In {share:.0%} of the first batches or more, all labels are equal. Always a note.",
        "loader = DataLoader(dataset, batch_size=32, shuffle=True)",
    ),
    "padding_attended": Text(
        "What stands at padded positions changes the loss. A row then gives other results in another batch.",
        "`preflight` changes the tokens at padded positions, and the loss changes.",
        'outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])',
    ),
    "evaluation_rows_in_training": Text(
        "The model has seen rows of the evaluation. Its score there says little about new rows.",
        "`preflight` finds rows of the evaluation in the training. From {share:.0%} of the rows on it is a "
        "warning, below "
        "a note.",
        'data = data.drop_duplicates("text")  # before the split',
    ),
    "repeated_batches": Text(
        "The model sees the same rows again and again. It learns them by heart.",
        "All of the first batches have the same rows. It is a warning if there are more than {batches:g}, else a note: "
        "the data may be one batch.",
        "def __getitem__(self, index):\n    return self.rows[index]  # not self.rows[0]",
    ),
    "loss_maximised": Text(
        "The optimizer goes uphill. The model gets worse with each step.",
        "The sign of one of torch's losses is negative in each of the first 3 steps. Another fault gives a loss below "
        "zero, and no rule finds it: binary cross entropy with labels outside 0 to 1.",
        "loss = torch.nn.functional.cross_entropy(logits, labels)  # without a minus",
    ),
    "nll_of_logits": Text(
        "`nll_loss` does not normalise. The model lowers the loss by larger logits, not by better predictions.",
        "The check `nll_of_logits` finds `nll_loss` whose input is the output of a linear layer or a convolution: any "
        "number above 0.",
        "loss = torch.nn.functional.cross_entropy(logits, labels)  # nll_loss takes logits.log_softmax(-1)",
    ),
}
"""Rule -> the words about it."""
