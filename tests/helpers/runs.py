"""Reads runs with TensorBoard's own reader."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parents[2]
"""Root of the checkout."""
SHARED = ROOT.parent / "shared" / "data"
"""Real sentences and a real vocabulary, where they lie beside the checkout."""


class Run:
    """A folder of event files as TensorBoard's own reader sees it."""

    def __init__(self, folder: str | Path | None) -> None:
        assert folder is not None
        self.folder = Path(folder)
        everything = {"scalars": 0, "histograms": 0, "tensors": 0, "images": 0}
        self._events = EventAccumulator(str(folder), size_guidance=everything)
        self._events.Reload()
        tags = self._events.Tags()
        self.scalars: dict[str, list[tuple[int, float]]] = {
            tag: [(event.step, event.value) for event in self._events.Scalars(tag)] for tag in tags["scalars"]
        }
        self.histograms = {
            tag: {event.step: event.histogram_value for event in self._events.Histograms(tag)}
            for tag in tags["histograms"]
        }
        self.texts = {
            tag.removesuffix("/text_summary"): [
                event.tensor_proto.string_val[0].decode() for event in self._events.Tensors(tag)
            ]
            for tag in tags["tensors"]
            if tag.endswith("/text_summary")
        }

    def steps(self, tag: str) -> list[int]:
        return [step for step, _ in self.scalars[tag]]

    def at(self, tag: str) -> dict[int, float]:
        return dict(self.scalars[tag])

    def family(self, prefix: str) -> set[str]:
        return {tag.removeprefix(f"{prefix}/") for tag in self.scalars if tag.startswith(f"{prefix}/")}

    def plugin(self, name: str) -> dict[str, bytes]:
        return self._events.PluginTagToContent(name)


def module_at(file: Path) -> Any:
    """Imports a Python file outside of all packages."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files(folder: str | Path | None) -> list[Path]:
    assert folder is not None
    return sorted(Path(folder).glob("*tfevents*"))
