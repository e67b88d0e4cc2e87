"""Adapt a small language model to a new format with LoRA, trl and PEFT and log the run to TensorBoard.

The base model first learns to report generated weather in one format; LoRA then teaches it another.
"""

from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from datasets import Dataset
from peft import LoraConfig
from recipe_run import Config, Output, Rate, Seed, Steps, finish, new_folder, start
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig, SFTTrainer

from tbx_callbacks import TbxTrainerCallback, load_config
from tbx_callbacks.cli.terminal import console

CITIES = ["oslo", "lima", "cairo", "delhi", "quito", "tokyo", "paris", "accra", "sofia", "osaka", "perth", "milan"]
SKIES = {"rain": "wet", "snow": "wet", "hail": "wet", "sun": "dry", "cloud": "dry", "fog": "damp"}
TIMES = ("today", "tonight", "tomorrow")


def warmth(degrees: int) -> str:
    """The word for a temperature."""
    return "cold" if degrees < 8 else "mild" if degrees < 20 else "hot"


def reports(rows: int, seed: int, *, is_new: bool) -> Dataset:
    """Generates prompts such as `oslo 3 rain today =`, and the answer of each in the old or the new format."""
    made = random.Random(seed)
    pairs = []
    for _ in range(rows):
        city, degrees, sky, when = made.choice(CITIES), made.randrange(30), made.choice([*SKIES]), made.choice(TIMES)
        old = f"{when} : it is {warmth(degrees)} , {SKIES[sky]} ( in {city} )"
        new = f"{city} ( {when} ) : {SKIES[sky]} , {warmth(degrees)}"
        pairs.append({"prompt": f"{city} {degrees} {sky} {when} =", "completion": f" {new if is_new else old}"})
    return Dataset.from_list(pairs)


def word_tokenizer() -> Any:
    """A tokenizer with a token for each word."""
    words = ["<pad>", "<eos>", "<unk>", *CITIES, *SKIES, *TIMES, *map(str, range(30))]
    words += ["wet", "dry", "damp", "cold", "mild", "hot", "it", "is", "in", "=", ":", ",", "(", ")"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def answers(model: Any, tokenizer: Any, prompts: list[str]) -> list[str]:
    """Generates an answer to each prompt."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        made = model.generate(**inputs, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return [text.strip() for text in tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], True)]


def main(
    config: Config = "finetune",
    max_steps: Steps = 200,
    base_steps: Annotated[int, typer.Option(min=1, help="Steps of the base model, before LoRA.")] = 400,
    lr: Rate = 2e-3,
    rank: Annotated[int, typer.Option(min=1, max=64, help="Rank of the adapters.")] = 8,
    bf16: Annotated[bool, typer.Option("--bf16", help="Train the adapters in mixed precision.")] = False,
    seed: Seed = 0,
    output_dir: Output = Path("outputs/text_generation_lora"),
) -> None:
    """Train a base model, adapt it with LoRA, and compare the generated answers with the right ones."""
    started = time.time()
    load_config(config)  # report configuration errors before any work
    set_seed(seed)
    tokenizer = word_tokenizer()
    tokens = {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id")} | {"bos_token_id": None}
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes, **tokens))
    common: dict[str, Any] = {"per_device_train_batch_size": 32, "per_device_eval_batch_size": 100, "seed": seed}
    common |= {"report_to": "none", "save_strategy": "no", "max_length": 32, "gradient_checkpointing": False}
    common |= {"warmup_steps": 0.1, "logging_steps": 10, "dataloader_pin_memory": torch.cuda.is_available()}
    common["use_cpu"] = not torch.cuda.is_available()

    def trainer(arguments: dict[str, Any], *, is_new: bool, **options: Any) -> Any:
        options |= {"args": SFTConfig(str(output_dir), **common, **arguments), "processing_class": tokenizer}
        train, dev = (reports(rows, seed + n, is_new=is_new) for n, rows in ((is_new, 2000), (2, 200)))
        return SFTTrainer(model, train_dataset=train, eval_dataset=dev, **options)

    trainer({"max_steps": base_steps, "learning_rate": 3e-3, "bf16": False}, is_new=False).train()
    dev = reports(200, seed + 2, is_new=True)
    prompts, right = dev["prompt"][:], [text.strip() for text in dev["completion"]]
    before = answers(model.eval(), tokenizer, prompts)
    callback = TbxTrainerCallback(config, log_dir=new_folder(output_dir))
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    chosen = {"max_steps": max_steps, "learning_rate": lr, "bf16": bf16, "eval_strategy": "steps", "eval_steps": 25}
    adapting = trainer(chosen, is_new=True, peft_config=adapters, callbacks=[callback])
    callback.attach(adapting)
    adapting.train()
    after = answers(adapting.model.eval(), tokenizer, prompts)
    for prompt, *texts in list(zip(prompts, before, after, right, strict=True))[:3]:
        console.print(f"{prompt}\n  base: {texts[0]}\n  LoRA: {texts[1]}\n  right: {texts[2]}", markup=False)
    exact = [sum(a == b for a, b in zip(made, right, strict=True)) / len(right) for made in (before, after)]
    results = {"LoRA": (adapting.evaluate()["eval_loss"], exact[1]), "base model": (math.nan, exact[0])}
    columns, steps = ("loss", "right answers"), adapting.state.global_step
    finish(callback.log_dir, steps=steps, started=started, columns=columns, rows=results)


if __name__ == "__main__":
    start(main, __doc__)
