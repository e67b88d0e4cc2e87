"""Builds event files that no writer writes: absurd values, names and shapes, and bytes changed at random."""

from __future__ import annotations

import math
import random
import struct
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboardX.record_writer import masked_crc32c

LAYERS = [f"layer.{n}" for n in range(4)]
USUAL_TAGS = [
    *(
        "train/loss",
        "eval/loss",
        "eval/accuracy",
        "train/grad_norm",
        "lr/AdamW/decay",
        "clip/factor",
        "grad_norm/total",
    ),
    *("perf/step_s", "perf/samples_per_s", "memory/rss_gib", "amp/scale", "nonfinite/losses", "aux/x"),
    *("test/f1", "grad_norm/total"),
    *(f"{family}/{layer}" for family in ("grad_norm", "weight_norm", "update_ratio") for layer in LAYERS),
    *("alerts/divergence/text_summary", "args/text_summary", "model_config/text_summary", "environment/text_summary"),
    *("weights/layer.0", "weights/layer.1", "_hparams_/session_start_info"),
]
ODD_TAGS = [
    *("", "\x1b[31mred\x1b]0;title\x07", "a\rb", "\u202egnp.exe", "x\0y", "a/" * 300, "n" * 5000, "../../etc/passwd"),
    *("<script>alert(1)</script>", "a b", "a_b", "a/b", "grad_norm/a.b\n", "%{x}", "[red]x[/red]", "\ufeff", "é\u0301"),
    *("weights/\0", "activations/[bold]/zero_share", "grad_norm/\u2028", "memory/[link=file:///]x", "\\", "{{7*7}}"),
]
NUMBERS = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-300, 3e38, 1.7e308, -1.7e308, math.nan, math.inf, -math.inf, 0.5]
STEPS = [-(2**63), -1, 0, 2**31, 2**53 + 1, 2**63 - 1]
TIMES = [math.nan, math.inf, -math.inf, -5.0, 0.0, 1e300, 4e11, -1.7e308]
PLUGINS = ["scalars", "histograms", "text", "images", "pr_curves", "hparams", "", "custom_scalars", "mesh"]
SIZES = [0, 1, 2, 3, 6, -1, 2**20, 2**40, 2**62, 2**63 - 1]
TEXTS = [
    b"plain",
    b"\xff\xfe",
    b"\x1b[31m",
    b"<b>",
    b'{"lr": 1e999, "deep": ' + b"[" * 3000 + b"}",
    b'{"a": "\\ud800"}',
    b"",
]


def record(data: bytes) -> bytes:
    """A complete record of an event file."""
    header = struct.pack("<Q", len(data))
    return header + struct.pack("<I", masked_crc32c(header)) + data + struct.pack("<I", masked_crc32c(data))


def write_records(path: Path, *records: bytes) -> Path:
    """Writes an event file of records that `record` made, or of any other bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(records))
    return path


def event(step: int = 1, wall_time: float = 1.7e9, **value: Any) -> bytes:
    """The record of an event with one value."""
    values = [Summary.Value(**value)]
    return record(Event(step=step, wall_time=wall_time, summary=Summary(value=values)).SerializeToString())


def tensor(dtype: int, sizes: list[int], **fields: Any) -> TensorProto:
    """A tensor of a given shape, whatever its content is."""
    made = TensorProto(dtype=dtype, **fields)
    for size in sizes:
        made.tensor_shape.dim.add(size=size)
    return made


def hostile_file(seed: int) -> bytes:
    """The bytes of an event file: mostly usual events, with odd ones between them, and changed bytes in some."""
    dice = random.Random(seed)
    oddness = dice.choice([0.0, 0.02, 0.2, 1.0])
    records = [record(Event(wall_time=1.7e9, file_version="brain.Event:2").SerializeToString())]
    for step in range(1, dice.choice([2, 8, 40])):
        made = Event(step=step, wall_time=1.7e9 + step)
        if dice.random() < oddness:
            made.step = dice.choice(STEPS)
        if dice.random() < oddness:
            made.wall_time = dice.choice(TIMES)
        if dice.random() < oddness / 10:
            made.session_log.status = dice.choice([0, 1, 2, 3])
        for _ in range(dice.randrange(1, 12)):
            tag = dice.choice(ODD_TAGS if dice.random() < oddness else USUAL_TAGS)
            made.summary.value.add(tag=tag)
            _fill(made.summary.value[-1], dice, oddness)
        records.append(record(_changed(made.SerializeToString(), dice, oddness / 4)))
    return _changed(b"".join(records), dice, oddness / 4)


def _changed(data: bytes, dice: random.Random, share: float) -> bytes:
    """The data with bytes flipped, removed, repeated or inserted, in a share of the calls."""
    if not data or dice.random() >= share:
        return data
    changed = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 8])):
        at, size = dice.randrange(len(changed) + 1), dice.choice([1, 2, 8, 64])
        how = dice.randrange(5)
        if how == 0 and at < len(changed):
            changed[at] ^= 1 << dice.randrange(8)
        elif how == 1:
            del changed[at : at + size]
        elif how == 2:
            changed[at:at] = dice.randbytes(size)
        elif how == 3:
            changed[at:at] = changed[at : at + size]
        else:
            changed[at : at + 8] = struct.pack("<Q", dice.choice([2**60, 2**32, 2**63 - 1, 2**64 - 1]))
    return bytes(changed)


def _number(dice: random.Random, oddness: float) -> float:
    return dice.choice(NUMBERS) if dice.random() < oddness else dice.random()


def _fill(value: Any, dice: random.Random, oddness: float) -> None:
    """Fills in a value that fits the tag, or anything."""
    odd = dice.random() < oddness
    kind = dice.randrange(6) if odd else -1
    if value.tag == "_hparams_/session_start_info" and not odd:
        _fill_hparams(value, dice, oddness)
    elif value.tag.endswith("text_summary") and not odd:
        value.metadata.plugin_data.plugin_name = "text"
        value.tensor.CopyFrom(tensor(7, [1], string_val=[dice.choice(TEXTS)]))
    elif kind == 0 or value.tag.startswith("weights/"):
        count = dice.choice([0, 1, 5])
        limits = [_number(dice, oddness) for _ in range(dice.choice([count, count, 0, 7]) if odd else count)]
        counts = [_number(dice, oddness) for _ in range(count)]
        if not odd:
            limits.sort()
        low, high = (_number(dice, oddness), _number(dice, oddness)) if odd else (-1.0, 2.0)
        value.histo.CopyFrom(HistogramProto(min=low, max=high, num=1, bucket_limit=limits, bucket=counts))
    elif kind == 1:
        value.image.encoded_image_string = dice.choice([b"\x89PNG", b"", b"\x89PNG" + b"x" * 2000, b"GIF8<script>"])
    elif kind in (2, 3):
        value.metadata.plugin_data.plugin_name = dice.choice(PLUGINS)
        value.tensor.CopyFrom(_odd_tensor(dice, oddness))
    elif kind == 4:
        value.metadata.plugin_data.plugin_name = dice.choice(PLUGINS)
        value.metadata.plugin_data.content = dice.randbytes(dice.choice([0, 3, 40]))
    else:
        number = _number(dice, oddness)
        value.simple_value = number if abs(number) < 3e38 or not math.isfinite(number) else 3e38


def _fill_hparams(value: Any, dice: random.Random, oddness: float) -> None:
    data = HParamsPluginData()
    data.session_start_info.hparams["lr"].number_value = _number(dice, oddness)
    data.session_start_info.hparams["per_device_train_batch_size"].number_value = _number(dice, oddness)
    data.session_start_info.hparams["name\x1b"].string_value = "a\x1b[0m"
    data.session_start_info.hparams["on"].bool_value = True
    if dice.random() < oddness:
        data.session_start_info.hparams["list"].list_value.values.add(number_value=1)
        data.session_start_info.hparams["gradient_accumulation_steps"].string_value = "many"
    value.metadata.plugin_data.plugin_name = "hparams"
    value.metadata.plugin_data.content = _changed(data.SerializeToString(), dice, oddness)


def _odd_tensor(dice: random.Random, oddness: float) -> TensorProto:
    sizes = [dice.choice(SIZES) for _ in range(dice.choice([0, 1, 2, 2, 70]))]
    made = tensor(dice.randrange(0, 30), sizes)
    fill = dice.randrange(4)
    count = dice.choice([0, 1, 2, 6, 18])
    numbers = [_number(dice, oddness) for _ in range(count)]
    if fill == 0:
        made.tensor_content = dice.randbytes(dice.choice([1, 4, 8, 144]))
    elif fill == 1:
        made.double_val.extend(numbers)
        made.int64_val.extend([2**62] * count)
        made.int_val.extend([2**31 - 1] * count)
        made.half_val.extend([2**31 - 1] * count)
    elif fill == 2:
        made.string_val.extend([dice.choice(TEXTS)] * count)
        made.bool_val.extend([True] * count)
    if dice.random() < 0.3 and count in (6, 18):
        del made.tensor_shape.dim[:]
        for size in (count // 3, 3) if dice.random() < 0.5 else (6, count // 6):
            made.tensor_shape.dim.add(size=size)
        made.dtype = 2
    return made
