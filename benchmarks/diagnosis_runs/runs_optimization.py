"""Runs whose learning rate, schedule, clipping, weight decay or precision is wrong."""

from __future__ import annotations

import torch
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, ExponentialLR, StepLR

from benchmarks.diagnosis_runs import data, models
from benchmarks.diagnosis_runs.cases import (
    LEARNS_NOTHING,
    TOO_HIGH,
    TOO_LOW,
    Facts,
    Place,
    accuracy_below,
    fault,
    loss_above,
)
from benchmarks.diagnosis_runs.with_huggingface import fine_tune
from benchmarks.diagnosis_runs.with_lightning import Module, every_step, fit
from benchmarks.diagnosis_runs.with_loop import Loop

# -- the learning rate -------------------------------------------------------------------------------------------------


@fault(kind="rate too high", wants={"learning_rate_too_high"}, also_ok=TOO_HIGH, planned=accuracy_below(0.8))
def distilbert_rate_50_times_too_high(place: Place) -> Facts:
    """DistilBERT at a learning rate of 0.1."""
    train, dev = data.labelled_text(1500, 1), data.labelled_text(300, 2)
    return fine_tune(place, models.distilbert(), train, dev, rate=0.1)


@fault(kind="rate too high", wants={"learning_rate_too_high", "divergence"}, also_ok=TOO_HIGH, planned=loss_above(2.9))
def gpt2_rate_200_times_too_high(place: Place) -> Facts:
    """GPT-2 at a learning rate of 1."""
    train, dev = (data.language_rows(data.markov_text(number, seed)) for number, seed in ((1500, 1), (200, 2)))
    return fine_tune(place, models.gpt2(), train, dev, logs="default", rate=1.0, schedule="cosine", scores=None)


@fault(
    kind="rate too high", wants={"learning_rate_too_high", "divergence"}, also_ok=TOO_HIGH, planned=accuracy_below(0.8)
)
def lstm_rate_1000_times_too_high(place: Place) -> Facts:
    """LSTM with AdamW at a learning rate of 5, logged by a SummaryWriter."""
    net = models.Recurrent()
    return Loop(place, net, models.adam(net, 5.0), data.sentences(1500, 1), data.sentences(300, 2), logs="own").run()


@fault(
    kind="rate too high", wants={"learning_rate_too_high", "divergence"}, also_ok=TOO_HIGH, planned=accuracy_below(0.8)
)
def convnet_sum_of_losses_under_sgd(place: Place) -> Facts:
    """CNN whose loss is the sum over the batch: under SGD the rate is 16 times as high."""
    train, dev = data.digits(place.seed)

    def summed(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(outputs, y, reduction="sum")

    module = Module(models.ConvNet(batch_norm=False), lambda net: models.sgd(net, 0.1), summed)
    return fit(place, module, train, dev)


@fault(kind="rate too low", wants={"underfitting", "update_too_small"}, also_ok=TOO_LOW, planned=accuracy_below(0.4))
def vit_rate_100_times_too_low(place: Place) -> Facts:
    """ViT at a learning rate of 2e-5, from random weights."""
    train, dev = map(data.image_rows, data.digits(place.seed))
    return fine_tune(place, models.vit(), train, dev, rate=2e-5)


@fault(kind="rate too low", wants={"underfitting", "update_too_small"}, also_ok=TOO_LOW, planned=accuracy_below(0.5))
def mlp_loss_scaled_by_1e_4(place: Place) -> Facts:
    """MLP under SGD whose loss is multiplied by 1e-4."""
    train, dev = data.digits(place.seed)
    net = models.mlp()

    def scaled(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 1e-4 * functional.cross_entropy(outputs, y)

    return Loop(place, net, models.sgd(net, 0.05), train, dev, loss_function=scaled).run()


@fault(kind="rate too low", wants={"underfitting", "update_too_small"}, also_ok=TOO_LOW, planned=loss_above(3.3))
def t5_rate_1000_times_too_low(place: Place) -> Facts:
    """T5 at a learning rate of 2e-6, logged by the Trainer's own callback."""
    train, dev = data.successor_rows(1500, 1), data.successor_rows(200, 2)
    return fine_tune(place, models.t5(), train, dev, logs="own", rate=2e-6, scores=None)


@fault(
    kind="rate jumps",
    wants={"divergence", "nonfinite"},
    also_ok=TOO_HIGH,
    steps=(80, 125),
    planned=accuracy_below(0.8),
)
def convnet_rate_jumps_200_times(place: Place) -> Facts:
    """CNN whose rate jumps 200 times at step 100, logged by Lightning."""
    train, dev = data.digits(place.seed)

    def configure(net: torch.nn.Module) -> object:
        optimizer = models.sgd(net, 0.05)
        return every_step(optimizer, models.scheduled(optimizer, lambda step: 200.0 if step >= 100 else 1.0))

    module = Module(models.ConvNet(batch_norm=False), configure)
    return fit(place, module, train, dev, logs="own", steps=200)


@fault(kind="rate jumps", wants={"loss_spike"}, also_ok=TOO_HIGH)
def convnet_warm_restarts_too_high(place: Place) -> Facts:
    """CNN whose warm restarts each throw the loss up."""
    train, dev = data.digits(place.seed)

    def configure(net: torch.nn.Module) -> object:
        optimizer = models.sgd(net, 1.5)
        return every_step(optimizer, CosineAnnealingWarmRestarts(optimizer, 60))

    module = Module(models.ConvNet(batch_norm=False), configure)
    return fit(place, module, train, dev, steps=240, gradient_clip_val=1.0)


# -- the schedule ------------------------------------------------------------------------------------------------------


class _SteppedTwice(torch.optim.lr_scheduler.LambdaLR):
    def step(self, epoch: int | None = None) -> None:
        super().step()
        super().step()


@fault(kind="rate ends early", wants={"decayed_early"}, also_ok=LEARNS_NOTHING, steps=(60, 90))
def lstm_schedule_stepped_twice(place: Place) -> Facts:
    """LSTM whose linear schedule is stepped twice a batch: the rate is zero from half on."""
    net = models.Recurrent()
    optimizer = models.adam(net, 5e-3)
    schedule = _SteppedTwice(optimizer, lambda step: max(0.0, 1 - step / 160))
    return Loop(place, net, optimizer, data.sentences(1500, 1), data.sentences(300, 2), schedule=schedule).run()


@fault(kind="rate ends early", wants={"decayed_early"}, also_ok=LEARNS_NOTHING, steps=(40, 90))
def roberta_schedule_for_fewer_steps(place: Place) -> Facts:
    """RoBERTa whose schedule was made for 60 of its 160 steps."""
    model = models.encoder("Roberta")
    optimizer = models.adam(model, 2e-3)
    options = {"optimizers": (optimizer, models.linear(optimizer, 60, 6))}
    train, dev = data.labelled_text(1500, 1), data.labelled_text(300, 2)
    return fine_tune(place, model, train, dev, logs="default", options=options)


@fault(
    kind="rate per batch",
    wants={"decayed_early"},
    also_ok=LEARNS_NOTHING | {"update_too_small"},
    pattern="a scheduler stepped per batch (meant per epoch)",
    planned=accuracy_below(0.8),
)
def convnet_step_schedule_per_batch(place: Place) -> Facts:
    """CNN whose StepLR, meant to divide the rate by 10 every 5 epochs, does so every 5 batches."""
    train, dev = data.digits(place.seed)

    def configure(net: torch.nn.Module) -> object:
        optimizer = models.sgd(net, 0.05)
        return every_step(optimizer, StepLR(optimizer, 5, 0.1))

    return fit(place, Module(models.ConvNet(), configure), train, dev)


@fault(kind="rate per batch", wants={"decayed_early"}, also_ok=LEARNS_NOTHING, planned=accuracy_below(0.9))
def lstm_exponential_schedule_per_batch(place: Place) -> Facts:
    """LSTM whose ExponentialLR, meant for epochs, is stepped per batch; logged by a SummaryWriter."""
    net = models.Recurrent()
    optimizer = models.adam(net, 5e-3)
    schedule = ExponentialLR(optimizer, 0.8)
    return Loop(
        place, net, optimizer, data.sentences(1500, 1), data.sentences(300, 2), logs="own", schedule=schedule
    ).run()


# -- clipping, weight decay, precision ---------------------------------------------------------------------------------


@fault(kind="clipping", wants={"clipping_saturated"}, also_ok=TOO_LOW, planned=accuracy_below(0.8))
def lstm_clipped_at_1e_3(place: Place) -> Facts:
    """LSTM under SGD, clipped at 1e-3: it hardly moves."""
    net = models.Recurrent()
    return Loop(place, net, models.sgd(net, 0.3), data.sentences(1500, 1), data.sentences(300, 2), clip=1e-3).run()


@fault(
    kind="clipping",
    wants={"clipping_saturated"},
    also_ok=TOO_HIGH,
    pattern="a rate hidden by clipping",
)
def bert_rate_hidden_by_clipping(place: Place) -> Facts:
    """BERT under SGD at a rate of 100, which only clipping at 0.002 makes bearable."""
    model = models.encoder("Bert")
    optimizer = models.sgd(model, 100.0)
    options = {"optimizers": (optimizer, models.linear(optimizer, 160))}
    train, dev = data.labelled_text(1500, 1), data.labelled_text(300, 2)
    return fine_tune(place, model, train, dev, clip=2e-3, options=options)


@fault(
    kind="weight decay",
    wants={"weights_shrink"},
    also_ok=LEARNS_NOTHING,
    pattern="weight decay 10",
    planned=loss_above(0.05),
)
def lstm_weight_decay_10(place: Place) -> Facts:
    """LSTM with AdamW and a weight decay of 10."""
    net = models.Recurrent()
    optimizer = models.adam(net, 5e-3, weight_decay=10.0)
    return Loop(place, net, optimizer, data.sentences(1500, 1), data.sentences(300, 2)).run()


@fault(kind="weight decay", wants={"weights_shrink"}, also_ok=LEARNS_NOTHING, planned=loss_above(0.05))
def electra_weight_decay_20(place: Place) -> Facts:
    """Electra with a weight decay of 20, where 0.02 was meant."""
    train, dev = data.labelled_text(1500, 1), data.labelled_text(300, 2)
    return fine_tune(place, models.encoder("Electra"), train, dev, logs="default", weight_decay=20.0)


@fault(
    kind="precision of the weights",
    wants={"update_too_small", "all_frozen"},
    also_ok=LEARNS_NOTHING | {"frozen_layers"},
    pattern="bf16 weights with a tiny rate",
    planned=loss_above(3.5),
)
def gpt2_bf16_weights_tiny_rate(place: Place) -> Facts:
    """GPT-2 with weights in bf16 and a rate of 1e-6, so that most updates are rounded away."""
    train, dev = (data.language_rows(data.markov_text(number, seed)) for number, seed in ((1500, 1), (200, 2)))
    model = models.gpt2().to(torch.bfloat16)
    return fine_tune(place, model, train, dev, rate=1e-6, scores=None, weight_decay=0.0)


@fault(
    kind="precision of the weights",
    wants={"update_too_small", "all_frozen", "frozen_layers"},
    also_ok=LEARNS_NOTHING,
    planned=accuracy_below(0.9),
)
def mlp_bf16_weights_under_sgd(place: Place) -> Facts:
    """MLP with weights in bf16 under SGD at 1e-5."""
    (x, y), (dev_x, dev_y) = data.digits(place.seed)
    net = models.mlp().to(torch.bfloat16)
    train, dev = (x.to(torch.bfloat16), y), (dev_x.to(torch.bfloat16), dev_y)
    return Loop(place, net, models.sgd(net, 1e-5, momentum=0.0), train, dev).run()


class _Fp16(Loop):
    """Trains in fp16 with a GradScaler; its loss is so large that it overflows at every scale."""

    scaler: torch.amp.GradScaler

    def run(self) -> Facts:
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        return super().run()

    def tbx_options(self) -> dict[str, object]:
        return {"scaler": self.scaler}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.float16):
            return self.network(x)

    def loss(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 1e6 * self.loss_function(outputs.half(), y)

    def backward(self, loss: torch.Tensor) -> None:
        self.scaler.scale(loss).backward()

    def step_optimizers(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()


@fault(
    kind="loss scale",
    wants={"amp_scale_collapse", "amp_skipped_steps"},
    also_ok=TOO_HIGH | {"clipping_saturated", "first_loss_not_finite"},
)
def mlp_fp16_overflows(place: Place) -> Facts:
    """MLP in fp16 whose loss overflows, so that the loss scale collapses."""
    train, dev = data.digits(place.seed)
    net = models.mlp()
    return _Fp16(place, net, models.adam(net, 3e-3), train, dev).run()


def _resumed(first: Facts, again: Facts) -> Facts:
    """The facts of both parts: `first` is the loss after the restart, `best_eval` the evaluation before it."""
    return Facts(again.first, again.last, again.eval_loss, first.eval_loss, again.accuracy, is_live=True)


def _jumped(facts: Facts) -> bool:
    return facts.first > 2 * facts.best_eval


@fault(kind="restart", wants={"restart_spike"}, also_ok=TOO_HIGH, steps=(95, 130), planned=_jumped)
def lstm_restart_without_optimizer_state(place: Place) -> Facts:
    """LSTM that is resumed at step 100 without the optimizer's state and at a rate 40 times as high."""
    net = models.Recurrent()
    train, dev = data.sentences(1500, 1), data.sentences(300, 2)
    first = Loop(place, net, models.adam(net, 5e-3), train, dev, steps=100).run()
    return _resumed(first, Loop(place, net, models.adam(net, 0.2), train, dev, steps=80, start_step=100).run())


@fault(kind="restart", wants={"restart_spike"}, also_ok=TOO_HIGH, steps=(95, 130), planned=_jumped)
def mlp_restart_with_other_scaling(place: Place) -> Facts:
    """MLP that is resumed at step 100 with inputs that are no longer scaled."""
    train, dev = data.digits(place.seed)
    net = models.mlp()
    optimizer = models.sgd(net, 0.05)
    first = Loop(place, net, optimizer, train, dev, steps=100).run()
    raw = (16 * train[0], train[1])
    return _resumed(first, Loop(place, net, optimizer, raw, dev, steps=80, start_step=100).run())
