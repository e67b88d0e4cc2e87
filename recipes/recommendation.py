"""Train a recommender with sparse embeddings and two optimizers in a plain loop and log the run to TensorBoard.

The clicks are generated from known tastes, so the best possible score is known.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from recipe_run import Batch, Config, Output, Rate, Rows, Seed, Steps, finish, new_folder, start
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from tbx_callbacks import TbxLoop, load_config

FACTORS, FEATURES = 4, 12


@dataclass(frozen=True)
class Clicks:
    """Shown items and whether users clicked them, `[rows]` each; `odds` are the log-odds of each click."""

    users: Tensor
    items: Tensor
    clicked: Tensor
    odds: Tensor


class Recommender(nn.Module):
    """The log-odds of a click: the taste of a user times an item's vector, and the item's bias.

    A dense layer turns an item's features into a first vector; its embedding corrects it.
    """

    def __init__(self, users: int, features: Tensor, dim: int) -> None:
        super().__init__()
        self.users = nn.Embedding(users, dim, sparse=True)
        self.items = nn.Embedding(len(features), dim + 1, sparse=True)
        nn.init.normal_(self.users.weight, std=0.1)
        nn.init.zeros_(self.items.weight)
        self.content = nn.Linear(features.shape[1], dim + 1)
        self.register_buffer("features", features)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Returns log-odds, `[rows]`."""
        item = self.items(items) + self.content(self.features[items])  # type: ignore[index]
        odds: Tensor = (self.users(users) * item[:, :-1]).sum(-1) + item[:, -1]
        return odds


def generate(users: int, items: int, rows: int) -> tuple[Clicks, Tensor]:
    """Draws clicks from tastes, traits and an appeal. Returns them, and noisy features of the items."""
    tastes, traits = torch.randn(users, FACTORS), torch.randn(items, FACTORS)
    appeal = torch.randn(items) - 1.5
    popularity = 1 / torch.arange(1, items + 1) ** 0.7
    shown = torch.multinomial(popularity, rows, replacement=True)
    who = torch.randint(users, (rows,))
    odds = 0.8 * (tastes[who] * traits[shown]).sum(-1) + appeal[shown]
    clicked = torch.bernoulli(odds.sigmoid())
    features = traits @ torch.randn(FACTORS, FEATURES) / 2 + torch.randn(items, FEATURES)
    return Clicks(who, shown, clicked, odds), features


def main(
    config: Config = "default",
    max_steps: Steps = 1000,
    lr: Rate = 1e-2,
    batch: Batch = 512,
    rows: Rows = 200_000,
    users: Annotated[int, typer.Option(min=2, max=10_000_000, help="Number of users.")] = 2000,
    items: Annotated[int, typer.Option(min=2, max=10_000_000, help="Number of items.")] = 1000,
    dim: Annotated[int, typer.Option(min=1, max=10_000, help="Size of a user's vector.")] = 8,
    seed: Seed = 0,
    output_dir: Output = Path("outputs/recommendation"),
) -> None:
    """Train, evaluate every 100 steps, and compare with the items' popularity and with the true odds."""
    started = time.time()
    load_config(config)  # report configuration errors before any work
    torch.manual_seed(seed)
    dev = max(rows // 5, 50)
    data, features = generate(users, items, rows + dev)
    network = Recommender(users, features, dim)
    sparse = torch.optim.SparseAdam([network.users.weight, network.items.weight], lr=lr)
    dense = torch.optim.AdamW(network.content.parameters(), lr=lr / 10)
    criterion = nn.BCEWithLogitsLoss()

    def scores(odds: Tensor) -> tuple[float, float]:
        clicked = data.clicked[rows:]
        return float(criterion(odds, clicked)), float(roc_auc_score(clicked, odds))

    folder = new_folder(output_dir)
    optimizers = {"embeddings": sparse, "content": dense}
    with TbxLoop(network, optimizers, config, log_dir=folder, hparams={"dim": dim, "batch": batch}) as loop:
        order = torch.randint(rows, (max_steps, batch))
        for rows_of_step in loop.track(order):
            clicked = data.clicked[rows_of_step]
            loss = criterion(network(data.users[rows_of_step], data.items[rows_of_step]), clicked)
            loss.backward()
            sparse.step()
            dense.step()
            network.zero_grad()
            loop.end_step(loss=loss, samples=batch)
            if loop.step % 100 == 0 or loop.step == max_steps:
                with torch.no_grad():
                    final = scores(network(data.users[rows:], data.items[rows:]))
                loop.evaluate(loss=final[0], auc=final[1])
    shown = torch.bincount(data.items[:rows], minlength=items)
    popularity = (torch.bincount(data.items[:rows], data.clicked[:rows], items) + 1) / (shown + 2)
    known = torch.logit(popularity)[data.items[rows:]]
    results = {"recommender": final, "true odds (the best)": scores(data.odds[rows:]), "popularity": scores(known)}
    finish(folder, steps=loop.step, started=started, columns=("loss", "AUC"), rows=results)


if __name__ == "__main__":
    start(main, __doc__)
