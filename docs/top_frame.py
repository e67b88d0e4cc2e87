"""Trains small models, shows them with `tbx-callbacks top`, and draws the picture of docs/top.md.

Run: python docs/top_frame.py FOLDER PICTURE.png   (needs playwright and chromium)

It prints the frame as text, as `top --once` does.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright
from rich.console import Console

from tbx_callbacks import TbxLoop
from tbx_callbacks.monitor import Frame, View, WatchedRuns
from tbx_callbacks.rules import default_rules

STEPS = {"lr-3e-4": (3e-4, 400), "lr-1e-3": (1e-3, 400), "lr-1e3": (1e3, 260)}
METRICS = """
extends: full
every: 5
"""


class Block(torch.nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = (
            torch.nn.LayerNorm(width),
            torch.nn.Linear(width, 2 * width),
            torch.nn.Linear(2 * width, width),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + self.down(torch.relu(self.up(self.norm(inputs))))


def train(folder: Path, lr: float, steps: int, metrics: Path) -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(*(Block(32) for _ in range(12)))
    model = torch.nn.ModuleDict({"embed": torch.nn.Linear(16, 32), "layers": layers, "head": torch.nn.Linear(32, 1)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    teacher = torch.randn(16, 1)

    def loss_of(number: int) -> torch.Tensor:
        inputs = torch.randn(number, 16)
        outputs = model["head"](model["layers"](model["embed"](inputs)))
        return torch.nn.functional.mse_loss(outputs, torch.tanh(inputs @ teacher))

    settings = {"lr": lr, "max_steps": 600}
    with TbxLoop(model, optimizer, str(metrics), log_dir=folder, max_grad_norm=1.0, hparams=settings) as loop:
        for step in range(1, steps + 1):
            loss = loss_of(32)
            loss.backward()
            loop.before_clip()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            loop.end_step(loss=loss, samples=32)
            optimizer.zero_grad()
            if step % 25 == 0:
                with torch.no_grad():
                    loop.evaluate(loss=loss_of(512))


def draw(svg: str, picture: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 700})
        page.set_content(f"<style>svg {{ width: 1000px }} body {{ margin: 0 }}</style>{svg}")
        page.locator("svg").screenshot(path=str(picture))
        browser.close()


def main(folder: Path, picture: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    metrics = folder / "metrics.yaml"
    metrics.write_text(METRICS)
    for name, (lr, steps) in STEPS.items():
        train(folder / name, lr, steps, metrics)
    *_, snapshot = WatchedRuns(str(folder), rules=default_rules()).snapshots()
    frame = Frame(snapshot, View(str(folder / "lr-1e-3")), folder.name)
    console = Console(
        file=io.StringIO(), record=True, width=110, height=36, force_terminal=True, color_system="truecolor"
    )
    console.print(frame, height=36)
    draw(console.export_svg(title="tbx-callbacks top runs"), picture)
    plain = Console(width=100, height=30, color_system=None)
    plain.print(frame, height=30)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
