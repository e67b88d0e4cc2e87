"""Trains a generator against a discriminator in a plain loop."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from benchmarks.diagnosis_runs.cases import Facts, Place
from benchmarks.diagnosis_runs.models import Adversaries
from tbx_callbacks import TbxLoop


def train_adversaries(place: Place, *, rate: float, discriminator_rate: float, steps: int = 240) -> Facts:
    """Learns points on a circle; the loss of the run is the generator's."""
    net = Adversaries()
    of_generator = torch.optim.Adam(net.generator.parameters(), rate, betas=(0.5, 0.99))
    of_discriminator = torch.optim.Adam(net.discriminator.parameters(), discriminator_rate, betas=(0.5, 0.99))
    optimizers = {"generator": of_generator, "discriminator": of_discriminator}
    config = {"extends": "full", "rules": {"others": "warn"}}
    losses: list[float] = []
    others: list[float] = []
    with TbxLoop(net, optimizers, config, log_dir=str(place.folder), log_every=5) as log:
        for _ in range(steps):
            angle = 2 * math.pi * torch.rand(64, 1)
            real = 2 * torch.cat([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(64, 2)
            made = net.generator(torch.randn(64, 4))
            other = _judged(net.discriminator(real), real=True) + _judged(net.discriminator(made.detach()), real=False)
            of_discriminator.zero_grad()
            other.backward()
            of_discriminator.step()
            loss = _judged(net.discriminator(made), real=True)
            of_generator.zero_grad()
            loss.backward()
            of_generator.step()
            log.log("train/d_loss", other.detach())
            log.end_step(loss=loss, samples=64)
            losses.append(float(loss.detach()))
            others.append(float(other.detach()))
    return Facts(
        first=float(np.mean(losses[:4])),
        last=float(np.mean(losses[-16:])),
        eval_loss=float(np.mean(others[-16:])),
        best_eval=0.0,
        accuracy=None,
        is_live=True,
    )


def _judged(score: torch.Tensor, *, real: bool) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(score, torch.full_like(score, float(real)))
