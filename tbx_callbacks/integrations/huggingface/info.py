"""Builds a `TrainingInfo` from `TrainingArguments`, `TrainerState` and the Trainer's logs."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import nn
from transformers import Trainer

from tbx_callbacks import tags
from tbx_callbacks._config.schedule import Schedule, at, either, every, never
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._model.sharding import find_sharding
from tbx_callbacks._model.sharding.torch_sharding import TorchSharding
from tbx_callbacks._stats.clip_factor import clip_factor
from tbx_callbacks.integrations.huggingface.abandoned_training import StillTraining, trainer_in_stack
from tbx_callbacks.rules.base import Action

logger = logging.getLogger(__name__)

_STANDARD_HPARAMS = (
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "weight_decay",
    "warmup_steps",
    "max_grad_norm",
    "lr_scheduler_type",
    "optim",
    "seed",
)
# Arguments about logging, saving and data loading, which do not affect the training.
_EXCLUDED_PREFIXES = (
    "dataloader_",
    "disable_tqdm",
    "do_",
    "eval_",
    "hub_",
    "load_best_model_at_end",
    "log_",
    "logging_",
    "output_dir",
    "per_device_eval_batch_size",
    "project",
    "push_to_hub",
    "remove_unused_columns",
    "report_to",
    "run_name",
    "save_",
    "use_cpu",
)
_REMEDY_ATTACHED = "put `labels` in the batch, and return `logits` from the model"
_REMEDY_NOT_ATTACHED = (
    "call callback.attach(trainer); it reads `labels` from the batch where the model does not get them"
)
_TRAINER = "transformers.trainer"
_DEEPSPEED = "DeepSpeed without ZeRO (remedy: ZeRO stage 1, 2 or 3 without offloading)"
_MODEL_HPARAMS = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def training_info(
    args: Any, state: Any, model: nn.Module, optimizer: Any, dataloader: Any, tokenizer: Any = None, *, attached: bool
) -> TrainingInfo:
    """Describes the training that begins, for the engine."""
    sharding, is_deepspeed = find_sharding(model, optimizer), getattr(args, "deepspeed", None)
    return TrainingInfo(
        still_training=StillTraining(),
        model=model,
        optimizers=optimizer,
        log_schedule=log_schedule(args, state, dataloader),
        log_option="logging_steps",
        clipping="norm" if (args.max_grad_norm or 0.0) > 0 else "none",
        spreads_nonfinite=spreads_nonfinite(args),
        sharding=sharding,
        unsupported_sharding=_DEEPSPEED if is_deepspeed and isinstance(sharding, TorchSharding) else None,
        hparams=hparams(args, model),
        texts=texts(args, model),
        larger_is_better=larger_is_better(args),
        earlier_logs=[log_tags(logs) for logs in state.log_history],
        compiled=is_compiled(model, args),
        steps_per_epoch=steps_per_epoch(args, dataloader),
        last_step=state.max_steps if state.max_steps > 0 else None,
        ends_with_last_weights=not args.load_best_model_at_end,
        logs_elsewhere=True,  # callbacks may set control.should_log
        predictions_remedy=_REMEDY_ATTACHED if attached else _REMEDY_NOT_ATTACHED,
        unknown_token=_unknown_token(tokenizer),
        tokenizer=tokenizer,
        length_limit=_length_limit(tokenizer),
        foreign_losses="" if attached else foreign_losses(trainer_in_stack()),
    )


def foreign_losses(trainer: Any) -> str:
    """Why the model's own loss is not the Trainer's, with a remedy; empty if it is, or if the Trainer is unknown."""
    is_changed = (
        getattr(trainer, "compute_loss_func", None) is not None
        or getattr(trainer, "label_smoother", None) is not None
        or getattr(getattr(trainer, "compute_loss", None), "__module__", _TRAINER) != _TRAINER
    )
    return "the Trainer computes its own loss, not the model's; call callback.attach(trainer)" if is_changed else ""


def _length_limit(tokenizer: Any) -> int | None:
    """Returns the length at which a fast tokenizer cut texts in its last call; None if it did not."""
    truncation = getattr(getattr(tokenizer, "backend_tokenizer", None), "truncation", None)
    limit = truncation.get("max_length") if isinstance(truncation, Mapping) else None
    return limit if isinstance(limit, int) and limit > 0 else None


def _unknown_token(tokenizer: Any) -> int | None:
    """Returns the id of unknown tokens, unless the tokenizer uses it for other tokens too (GPT-2)."""
    ids = [getattr(tokenizer, f"{name}_token_id", None) for name in ("unk", "pad", "eos", "bos")]
    return ids[0] if isinstance(ids[0], int) and ids[0] not in ids[1:] else None


def log_tags(logs: Mapping[str, Any]) -> dict[str, float | str]:
    """Converts the Trainer's log keys to tags, byte for byte as its own TensorBoard callback does."""
    tagged: dict[str, float | str] = {}
    for key, value in logs.items():
        prefix, _, rest = key.partition("_")
        tag = f"{prefix}/{rest}" if prefix in ("eval", "test") and rest else f"{tags.TRAIN}/{key}"
        if isinstance(value, (int, float, str)):
            tagged[tag] = value if isinstance(value, str) else float(value)
        else:
            logger.warning("%s is not logged: it must be a number or a string, got %s", key, type(value).__name__)
    return tagged


def evaluation_in(logs: Mapping[str, Any]) -> str | None:
    """The name of the evaluation whose metrics the Trainer logs: `eval`, `test` or `eval/<set>`; None without one."""
    prefixes = [key.removesuffix("_runtime") for key in logs if key.endswith("_runtime")]
    if not prefixes or prefixes[0] == tags.TRAIN:
        return None
    first, _, dataset = prefixes[0].partition("_")
    if first not in (tags.EVAL, tags.TEST):
        first, dataset = tags.EVAL, prefixes[0]
    return tags.clean(f"{first}/{dataset}" if dataset else first)


def clip_factor_in(logs: Mapping[str, Any], args: Any) -> float | None:
    """The clip factor computed from the norm in the Trainer's logs; None without one."""
    norm, limit = logs.get("grad_norm") if "loss" in logs else None, args.max_grad_norm or 0.0
    if not norm or not math.isfinite(norm) or limit <= 0:  # 0: the Trainer saw no gradients
        return None
    return clip_factor(float(norm), limit)


def log_schedule(args: Any, state: Any, dataloader: Any) -> Schedule:
    """The steps at which the Trainer logs (see transformers' `DefaultFlowCallback`)."""
    strategy = getattr(args.logging_strategy, "value", args.logging_strategy)
    first = at(1) if args.logging_first_step else never
    if strategy == "steps":
        return either(first, every(max(1, int(state.logging_steps))))
    if strategy == "epoch":
        steps = steps_per_epoch(args, dataloader)
        if steps is None:
            _warn_of_gradients("the data has no length")
            return first
        return either(first, every(steps), at(state.max_steps))
    _warn_of_gradients('logging_strategy is "no"')
    return first


def _warn_of_gradients(reason: str) -> None:
    logger.warning(
        "metrics of gradients with `every: log` are left out: %s, so the logging steps are unknown; set `every` to a"
        " number of steps",
        reason,
    )


def steps_per_epoch(args: Any, dataloader: Any) -> int | None:
    """Optimizer steps in an epoch; None if the data has no length."""
    try:
        batches = len(dataloader)
    except TypeError:
        return None
    return max(1, math.ceil(batches / int(args.gradient_accumulation_steps)))


def hparams(args: Any, model: nn.Module) -> dict[str, Any]:
    """Hyper-parameters for the HParams tab: the standard ones, and all others that differ from their default."""
    selected = {}
    for field in fields(args):
        value = getattr(args, field.name)
        value, default = (getattr(v, "value", v) for v in (value, field.default))  # the value of an enum
        is_standard = field.name in _STANDARD_HPARAMS
        is_changed = isinstance(default, (bool, int, float, str)) and value != default
        if is_standard or (is_changed and not field.name.startswith(_EXCLUDED_PREFIXES)):
            selected[field.name] = value
    config = getattr(model, "config", None)
    selected.update({f"model/{name}": getattr(config, name) for name in _MODEL_HPARAMS if hasattr(config, name)})
    return {name: value for name, value in selected.items() if value is not None}


def texts(args: Any, model: nn.Module) -> dict[str, str]:
    """The arguments and the model's configuration, as JSON."""
    config = getattr(model, "config", None)
    documents = {tags.ARGS: args.to_json_string()}
    if config is not None and hasattr(config, "to_json_string"):
        documents[tags.MODEL_CONFIG] = config.to_json_string()
    return documents


def spreads_nonfinite(args: Any) -> bool:
    """Whether the Trainer multiplies gradients by a factor of their norm, which turns one NaN into NaN everywhere.

    This is so when it clips. From transformers 5.3 on it is also so without clipping: to log the norm, `_get_grad_norm`
    clips to inf. Tested on transformers 4.52 and 5.23.
    """
    return bool(args.max_grad_norm) or hasattr(Trainer, "_get_grad_norm")


def larger_is_better(args: Any) -> dict[str, bool]:
    """The Trainer's setting for the metric that selects the best model, by tag."""
    name = getattr(args, "metric_for_best_model", None)
    if not name or args.greater_is_better is None:
        return {}
    return {f"{tags.EVAL}/{name.removeprefix('eval_')}": bool(args.greater_is_better)}


def is_compiled(model: nn.Module, args: Any) -> bool:
    """Whether the user, the Trainer or Accelerate (`accelerate launch` sets the environment) compiles the model."""
    by_accelerate = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no"
    return args.torch_compile or by_accelerate or getattr(model, "_compiled_call_impl", None) is not None


def apply_action(action: Action, control: Any) -> None:
    """Carries out the action of rules with the Trainer's control flags, on every rank after the same step."""
    if Action.CHECKPOINT in action:
        control.should_save = True
    if Action.STOP in action:
        control.should_training_stop = True
