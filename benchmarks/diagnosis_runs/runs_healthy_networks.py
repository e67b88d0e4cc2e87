"""Healthy runs of smaller networks with Lightning and in plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, MultiStepLR, OneCycleLR

from benchmarks.diagnosis_runs import data, models
from benchmarks.diagnosis_runs.adversaries import train_adversaries
from benchmarks.diagnosis_runs.cases import Facts, Place, accuracy_above, healthy, loss_below
from benchmarks.diagnosis_runs.with_lightning import Module, every_step, fit
from benchmarks.diagnosis_runs.with_loop import Loop

WITHOUT_WARMUP = {"no_warmup"}

# -- images ------------------------------------------------------------------------------------------------------------


@healthy(kind="image classification", planned=accuracy_above(0.9))
def convnet_one_cycle_sgd(place: Place) -> Facts:
    """CNN under SGD with the one-cycle schedule."""
    train, dev = data.digits(place.seed)

    def configure(net: nn.Module) -> object:
        optimizer = models.sgd(net, 0.05, weight_decay=5e-4)
        return every_step(optimizer, OneCycleLR(optimizer, 0.1, total_steps=200))

    return fit(place, Module(models.ConvNet(), configure), train, dev, steps=200)


@healthy(kind="image classification", ok=WITHOUT_WARMUP, planned=accuracy_above(0.9))
def convnet_adam_own_logger(place: Place) -> Facts:
    """CNN with Adam, logged by Lightning."""
    train, dev = data.digits(place.seed)
    module = Module(models.ConvNet(), lambda net: models.adam(net, 3e-3))
    return fit(place, module, train, dev, logs="own", steps=200)


@healthy(kind="image classification", ok=WITHOUT_WARMUP, planned=accuracy_above(0.9))
def mlp_dropout_adam(place: Place) -> Facts:
    """MLP with dropout on digits."""
    train, dev = data.digits(place.seed)
    net = models.mlp(dropout=0.2)
    return Loop(place, net, models.adam(net, 3e-3), train, dev, steps=240).run()


@healthy(kind="short run", ok=WITHOUT_WARMUP, planned=accuracy_above(0.5))
def mlp_60_steps(place: Place) -> Facts:
    """MLP that is trained for 60 steps with a linear schedule."""
    train, dev = data.digits(place.seed)
    net = models.mlp()
    optimizer = models.adam(net, 5e-3)
    return Loop(place, net, optimizer, train, dev, steps=60, schedule=models.linear(optimizer, 60)).run()


@healthy(kind="accumulated batches", ok=WITHOUT_WARMUP, planned=accuracy_above(0.85))
def mlp_accumulated_batches(place: Place) -> Facts:
    """MLP with 4 micro-batches a step."""
    train, dev = data.digits(place.seed)
    net = models.mlp()
    return Loop(place, net, models.adam(net, 3e-3), train, dev, batch=8, microbatches=4, steps=120).run()


@healthy(kind="small batches", ok=WITHOUT_WARMUP, planned=accuracy_above(0.75))
def mlp_batches_of_two(place: Place) -> Facts:
    """MLP with batches of two rows, whose loss is noisy."""
    train, dev = data.digits(place.seed)
    net = models.mlp()
    return Loop(place, net, models.sgd(net, 0.01), train, dev, batch=2, steps=400).run()


@healthy(kind="trained to the end", ok=WITHOUT_WARMUP | {"overfitting"}, planned=loss_below(0.05))
def mlp_trained_to_the_end(place: Place) -> Facts:
    """MLP whose training loss reaches zero while the evaluation stays good."""
    train, dev = data.digits(place.seed)
    net = models.mlp(width=96)
    return Loop(place, net, models.adam(net, 5e-3), train, dev, batch=32, steps=400, logs="default").run()


@healthy(kind="soft labels", ok=WITHOUT_WARMUP, planned=accuracy_above(0.85))
def convnet_mixup(place: Place) -> Facts:
    """CNN on mixtures of two images, whose loss stays above that of clean images."""
    train, dev = data.digits(place.seed)

    class Mixup(Module):
        def training_step(self, batch: Any, index: int) -> Any:
            x, y = batch
            share = float(torch.rand(()))
            outputs = self(share * x + (1 - share) * x.flip(0))
            loss = share * self.loss(outputs, y) + (1 - share) * self.loss(outputs, y.flip(0))
            self.log("train_loss", loss)
            self.losses.append(float(loss))
            return loss

    module = Mixup(models.ConvNet(), lambda net: models.adam(net, 3e-3))
    return fit(place, module, train, dev, logs="default", steps=240)


@healthy(kind="other optimizer", ok=WITHOUT_WARMUP, planned=accuracy_above(0.8))
def mlp_rmsprop(place: Place) -> Facts:
    """MLP with RMSprop."""
    train, dev = data.digits(place.seed)
    net = models.mlp()
    return Loop(place, net, torch.optim.RMSprop(net.parameters(), 1e-3), train, dev, steps=200).run()


@healthy(kind="other optimizer", ok=WITHOUT_WARMUP, planned=accuracy_above(0.8))
def convnet_adagrad(place: Place) -> Facts:
    """CNN with Adagrad in Lightning."""
    train, dev = data.digits(place.seed)
    module = Module(models.ConvNet(), lambda net: torch.optim.Adagrad(net.parameters(), 0.02))
    return fit(place, module, train, dev, steps=200)


@healthy(kind="other schedule", ok=WITHOUT_WARMUP, planned=accuracy_above(0.85))
def convnet_rate_divided_at_milestones(place: Place) -> Facts:
    """CNN whose rate is divided by 10 at 60 % and at 85 % of the steps."""
    train, dev = data.digits(place.seed)

    def configure(net: nn.Module) -> object:
        optimizer = models.sgd(net, 0.05)
        return every_step(optimizer, MultiStepLR(optimizer, [120, 170]))

    return fit(place, Module(models.ConvNet(), configure), train, dev, steps=200)


@healthy(kind="other schedule", ok=WITHOUT_WARMUP, planned=accuracy_above(0.85))
def mlp_gentle_warm_restarts(place: Place) -> Facts:
    """MLP with warm restarts at a moderate rate."""
    train, dev = data.digits(place.seed)
    net = models.mlp()
    optimizer = models.adam(net, 3e-3)
    schedule = CosineAnnealingWarmRestarts(optimizer, 60)
    return Loop(place, net, optimizer, train, dev, steps=240, schedule=schedule).run()


# -- tables and numbers ------------------------------------------------------------------------------------------------


@healthy(kind="tabular data", ok=WITHOUT_WARMUP, planned=accuracy_above(0.9))
def mlp_cancer_sgd(place: Place) -> Facts:
    """MLP under SGD on a table."""
    train, dev = data.table("breast_cancer", place.seed)
    net = models.mlp(30, 2)
    return Loop(place, net, models.sgd(net, 0.01), train, dev, logs="default").run()


@healthy(kind="tabular data", ok=WITHOUT_WARMUP, planned=lambda facts: facts.eval_loss < 0.8)
def mlp_diabetes(place: Place) -> Facts:
    """MLP on a table whose target is half noise."""
    train, dev = data.table("diabetes", place.seed)
    net = models.Regressor(10, dropout=0.1)
    optimizer = models.adam(net, 3e-3, weight_decay=0.1)
    schedule = CosineAnnealingLR(optimizer, 160)
    return Loop(place, net, optimizer, train, dev, batch=32, schedule=schedule, loss_function=functional.mse_loss).run()


@healthy(kind="tabular data", ok=WITHOUT_WARMUP, planned=accuracy_above(0.85))
def mlp_wine_own_logger(place: Place) -> Facts:
    """MLP on a small table of three classes, logged by a SummaryWriter."""
    train, dev = data.table("wine", place.seed)
    net = models.mlp(13, 3)
    return Loop(place, net, models.adam(net, 3e-3), train, dev, logs="own", steps=100).run()


@healthy(kind="regression", ok=WITHOUT_WARMUP, planned=lambda facts: facts.eval_loss < 0.15)
def mlp_noisy_sine(place: Place) -> Facts:
    """MLP that fits a noisy sine."""
    net = models.Regressor(1, width=32)
    train, dev = data.noisy_sine(1500, 1), data.noisy_sine(300, 2)
    module = Module(net, lambda net: models.adam(net, 5e-3), functional.mse_loss)
    return fit(place, module, train, dev, steps=200)


@healthy(kind="density", ok=WITHOUT_WARMUP, planned=lambda facts: facts.last < 0.5 < facts.first)
def gaussian_likelihood(place: Place) -> Facts:
    """Density model whose loss comes down towards zero and below."""
    net = models.GaussianNet()
    train, dev = data.noisy_sine(2000, 1), data.noisy_sine(300, 2)
    optimizer = models.adam(net, 5e-3)
    return Loop(
        place, net, optimizer, train, dev, batch=32, steps=400, loss_function=models.gaussian_loss, clip=1.0
    ).run()


@healthy(kind="recommender", ok=WITHOUT_WARMUP, planned=lambda facts: facts.last < 0.8 * facts.first)
def factors_sparse_adam(place: Place) -> Facts:
    """Matrix factorisation with sparse gradients."""
    net = models.Factors()
    pairs, scores = data.ratings(6500, 1)
    pairs, first = np.unique(pairs.numpy(), axis=0, return_index=True)  # a pair is rated once
    order = torch.randperm(len(first), generator=data.dice(2))
    pairs, scores = torch.from_numpy(pairs)[order], scores[torch.from_numpy(first)[order]]
    train, dev = (pairs[:-500], scores[:-500]), (pairs[-500:], scores[-500:])
    optimizer = torch.optim.SparseAdam(list(net.parameters()), 2e-2)
    return Loop(place, net, optimizer, train, dev, batch=128, steps=240, loss_function=functional.mse_loss).run()


class _Reconstructs(Loop):
    """Compares the outputs with the inputs; a variational model adds its divergence."""

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return functional.mse_loss(outputs, y) + 1e-3 * self.network.divergence


@healthy(kind="autoencoder", ok=WITHOUT_WARMUP, planned=loss_below(0.08))
def autoencoder_of_digits(place: Place) -> Facts:
    """Autoencoder of digits."""
    (images, _), (dev_images, _) = data.digits(place.seed)
    net = models.Autoencoder()
    module = Module(net, lambda net: models.adam(net, 3e-3), functional.mse_loss)
    return fit(place, module, (images, images), (dev_images, dev_images), batch=32, steps=240)


@healthy(kind="mixed losses", ok=WITHOUT_WARMUP, planned=loss_below(0.12))
def variational_autoencoder(place: Place) -> Facts:
    """Variational autoencoder, whose loss has two parts."""
    (images, _), (dev_images, _) = data.digits(place.seed)
    net = models.Autoencoder(variational=True)
    train, dev = (images, images), (dev_images, dev_images)
    return _Reconstructs(
        place, net, models.adam(net, 3e-3), train, dev, batch=32, steps=240, loss_function=functional.mse_loss
    ).run()


# -- sequences ---------------------------------------------------------------------------------------------------------


@healthy(kind="recurrent network", ok=WITHOUT_WARMUP, planned=accuracy_above(0.9))
def lstm_own_logger(place: Place) -> Facts:
    """LSTM with a cosine schedule, logged by a SummaryWriter."""
    net = models.Recurrent()
    optimizer = models.adam(net, 5e-3)
    train, dev = data.sentences(1500, 1), data.sentences(300, 2)
    schedule = CosineAnnealingLR(optimizer, 200)
    return Loop(place, net, optimizer, train, dev, logs="own", steps=200, schedule=schedule, clip=1.0).run()


@healthy(kind="recurrent network", ok=WITHOUT_WARMUP, planned=accuracy_above(0.9))
def gru_with_dropout(place: Place) -> Facts:
    """GRU with dropout and clipping."""
    net = models.Recurrent("GRU", dropout=0.2)
    train, dev = data.sentences(1500, 1), data.sentences(300, 2)
    return Loop(place, net, models.adam(net, 5e-3), train, dev, steps=200, clip=1.0).run()


@healthy(kind="regression", ok=WITHOUT_WARMUP, planned=lambda facts: facts.eval_loss < 0.3)
def gru_forecasts_waves(place: Place) -> Facts:
    """GRU that predicts the next value of a wave."""
    net = models.Forecaster()
    train, dev = data.waves(1500, 1), data.waves(300, 2)
    module = Module(net, lambda net: models.adam(net, 5e-3), functional.mse_loss)
    return fit(place, module, train, dev, steps=200, gradient_clip_val=1.0)


@healthy(kind="text classification", planned=accuracy_above(0.9))
def post_norm_transformer_with_warmup(place: Place) -> Facts:
    """Transformer of torch with a warm-up."""
    net = models.PostNorm(2)
    optimizer = models.adam(net, 2e-3)
    train, dev = data.sentences(1500, 1), data.sentences(300, 2)
    schedule = models.linear(optimizer, 240, 24)
    return Loop(place, net, optimizer, train, dev, steps=240, schedule=schedule, clip=1.0).run()


# -- loops of other shapes ---------------------------------------------------------------------------------------------


@healthy(kind="several optimizers", ok=WITHOUT_WARMUP, planned=accuracy_above(0.85))
def towers_two_optimizers(place: Place) -> Facts:
    """Two towers with an optimizer each; a third one has the head."""
    train, dev = data.digits(place.seed)
    net = models.Towers(detached=False)
    optimizers = [models.adam(net.left, 3e-3), models.sgd(net.right, 0.05), models.adam(net.head, 3e-3)]
    return Loop(place, net, optimizers, train, dev, steps=200).run()


@healthy(kind="resumed run", ok=WITHOUT_WARMUP, planned=accuracy_above(0.85))
def mlp_resumed_with_optimizer_state(place: Place) -> Facts:
    """MLP that is resumed at step 120 with its optimizer's state."""
    train, dev = data.digits(place.seed)
    net = models.mlp()
    optimizer = models.adam(net, 3e-3)
    first = Loop(place, net, optimizer, train, dev, steps=120).run()
    again = Loop(place, net, optimizer, train, dev, steps=120, start_step=120).run()
    return Facts(first.first, again.last, again.eval_loss, first.best_eval, again.accuracy, is_live=True)


@healthy(kind="adversaries", ok=WITHOUT_WARMUP, planned=lambda facts: 0.2 < facts.last < 4)
def gan_in_balance(place: Place) -> Facts:
    """GAN whose generator and discriminator keep up with each other."""
    return train_adversaries(place, rate=2e-3, discriminator_rate=5e-4)
