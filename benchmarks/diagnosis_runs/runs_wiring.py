"""Runs in which the training loop is wired wrongly: modes, steps, losses, optimizers, adversaries, input."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Trainer, TrainerCallback

from benchmarks.diagnosis_runs import data, models
from benchmarks.diagnosis_runs.adversaries import train_adversaries
from benchmarks.diagnosis_runs.cases import (
    LEARNS_NOTHING,
    MEMORISES,
    TOO_HIGH,
    Facts,
    Place,
    accuracy_below,
    fault,
)
from benchmarks.diagnosis_runs.with_huggingface import fine_tune
from benchmarks.diagnosis_runs.with_lightning import Module, fit
from benchmarks.diagnosis_runs.with_loop import Loop

# -- modes of the modules ----------------------------------------------------------------------------------------------


class _StaysInEvaluation(Loop):
    def set_training_mode(self) -> None:
        if self.now == 0:
            super().set_training_mode()


@fault(
    kind="mode in training",
    wants={"eval_mode_in_training"},
    also_ok=MEMORISES,
    pattern="model.train() forgotten after an evaluation",
)
def lstm_stays_in_evaluation_mode(place: Place) -> Facts:
    """LSTM with dropout that stays in evaluation mode after the first evaluation."""
    net = models.Recurrent(dropout=0.3)
    train, dev = data.sentences(1500, 1), data.sentences(300, 2)
    return _StaysInEvaluation(place, net, models.adam(net, 5e-3), train, dev).run()


@fault(kind="mode in training", wants={"eval_mode_in_training"}, also_ok=MEMORISES | TOO_HIGH)
def convnet_stays_in_evaluation_mode(place: Place) -> Facts:
    """CNN with batch norm that stays in evaluation mode after the first evaluation."""
    train, dev = data.digits(place.seed)
    net = models.ConvNet()
    return _StaysInEvaluation(place, net, models.adam(net, 3e-3), train, dev, logs="default").run()


class _EvaluatesInTraining(Loop):
    def set_evaluation_mode(self) -> None:
        pass


@fault(
    kind="mode in evaluation",
    wants={"train_mode_in_evaluation"},
    also_ok={"eval_disagrees"},
    pattern="dropout active in evaluation",
)
def mlp_dropout_in_evaluation(place: Place) -> Facts:
    """MLP whose dropout is active in the evaluation."""
    train, dev = data.digits(place.seed)
    net = models.mlp(dropout=0.4)
    return _EvaluatesInTraining(place, net, models.adam(net, 3e-3), train, dev).run()


class _TrainsInValidation(Module):
    def validation_step(self, batch: Any, index: int) -> None:
        self.train()
        super().validation_step(batch, index)


@fault(kind="mode in evaluation", wants={"train_mode_in_evaluation"}, also_ok={"eval_disagrees"})
def mlp_validation_step_in_training_mode(place: Place) -> Facts:
    """MLP whose validation_step switches back to training mode."""
    train, dev = data.digits(place.seed)
    module = _TrainsInValidation(models.mlp(dropout=0.4), lambda net: models.adam(net, 3e-3))
    return fit(place, module, train, dev)


# -- the loss ----------------------------------------------------------------------------------------------------------


@fault(
    kind="loss doubled by softmax",
    wants={"double_softmax"},
    also_ok=LEARNS_NOTHING | {"vanishing_gradients"},
    pattern="softmax before cross entropy",
)
def mlp_softmax_before_cross_entropy(place: Place) -> Facts:
    """MLP that ends in a softmax, before a cross entropy that applies its own."""
    train, dev = data.digits(place.seed)
    net = models.mlp().append(nn.Softmax(dim=-1))
    return Loop(place, net, models.adam(net, 3e-3), train, dev).run()


@fault(kind="loss doubled by softmax", wants={"double_softmax"}, also_ok=LEARNS_NOTHING)
def convnet_softmax_before_cross_entropy(place: Place) -> Facts:
    """CNN in Lightning that ends in a softmax before the cross entropy."""
    train, dev = data.digits(place.seed)
    net = nn.Sequential(models.ConvNet(), nn.Softmax(dim=-1))
    return fit(place, Module(net, lambda net: models.adam(net, 3e-3)), train, dev, logs="default")


@fault(
    kind="loss doubled by softmax",
    wants={"double_softmax"},
    also_ok=LEARNS_NOTHING,
)
def bert_softmax_before_cross_entropy(place: Place) -> Facts:
    """BERT whose own loss function gets probabilities."""

    def loss(outputs: Any, labels: Tensor, **_: Any) -> Tensor:
        return functional.cross_entropy(torch.softmax(outputs["logits"], -1), labels)

    train, dev = data.labelled_text(1500, 1), data.labelled_text(300, 2)
    return fine_tune(place, models.encoder("Bert"), train, dev, options={"compute_loss_func": loss})


class _Summed(Loop):
    """Adds up the gradients of the micro-batches without dividing their losses."""

    def backward(self, loss: Tensor) -> None:
        loss.backward()


@fault(
    kind="loss summed",
    wants={"gradients_summed"},
    also_ok=TOO_HIGH,
    pattern="loss summed over micro-batches",
)
def mlp_loss_summed_over_microbatches(place: Place) -> Facts:
    """MLP under SGD with 8 micro-batches a step, whose gradients are summed."""
    train, dev = data.digits(place.seed)
    net = models.mlp()
    return _Summed(place, net, models.sgd(net, 0.05), train, dev, microbatches=8, batch=8, steps=100).run()


class _UndividedTrainer(Trainer):
    """Claims that its loss is divided by the number of items in all micro-batches, but it is the mean of one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


@fault(kind="loss summed", wants={"gradients_summed"}, also_ok=TOO_HIGH | {"eval_disagrees", "first_loss_unusual"})
def distilbert_loss_summed_over_microbatches(place: Place) -> Facts:
    """DistilBERT with 4 micro-batches a step, whose compute_loss does not divide."""
    train, dev = data.labelled_text(1500, 1), data.labelled_text(300, 2)
    return fine_tune(
        place,
        models.distilbert(),
        train,
        dev,
        batch=8,
        steps=100,
        trainer=_UndividedTrainer,
        gradient_accumulation_steps=4,
    )


class _WrongSign(Loop):
    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return -super().loss(outputs, y)


@fault(
    kind="loss with the wrong sign",
    wants={"loss_maximised"},
    also_ok=TOO_HIGH | {"eval_disagrees", "exploding_gradients"},
    pattern="the loss with the wrong sign",
    planned=accuracy_below(0.3),
)
def mlp_loss_with_the_wrong_sign(place: Place) -> Facts:
    """MLP that maximises its cross entropy."""
    train, dev = data.digits(place.seed)
    net = models.mlp()
    return _WrongSign(place, net, models.adam(net, 1e-3), train, dev).run()


@fault(
    kind="loss with the wrong sign",
    wants=set(),
    also_ok=TOO_HIGH | {"eval_disagrees", "exploding_gradients"},
)
def gaussian_likelihood_minimised(place: Place) -> Facts:
    """Density model that minimises the likelihood instead of its negative."""
    net = models.GaussianNet()
    train, dev = data.noisy_sine(1500, 1), data.noisy_sine(300, 2)
    optimizer = models.adam(net, 1e-3)
    return _WrongSign(
        place, net, optimizer, train, dev, loss_function=models.gaussian_loss, steps=100, clip=1.0, logs="default"
    ).run()


def _unbounded_likelihood(outputs: Tensor, y: Tensor) -> Tensor:
    """A likelihood whose variance starts at zero."""
    variance = functional.relu(outputs[:, 1])
    return 0.5 * (variance.log() + (y - outputs[:, 0]) ** 2 / variance).mean()


@fault(
    kind="first loss not finite",
    wants={"first_loss_not_finite", "nonfinite"},
    also_ok=LEARNS_NOTHING | {"all_frozen"},
    steps=(0, 5),
)
def gaussian_with_a_variance_of_zero(place: Place) -> Facts:
    """Density model whose variance may be zero, so that the first loss is infinite."""
    net = models.GaussianNet()
    train, dev = data.noisy_sine(1500, 1), data.noisy_sine(300, 2)
    return Loop(place, net, models.adam(net, 3e-3), train, dev, loss_function=_unbounded_likelihood, steps=100).run()


# -- optimizer steps ---------------------------------------------------------------------------------------------------


class _NeverSteps(Loop):
    def step_optimizers(self) -> None:
        pass


@fault(
    kind="optimizer never steps",
    wants={"no_optimizer_step"},
    also_ok=LEARNS_NOTHING | {"all_frozen"},
    pattern="optimizer.step() forgotten",
)
def mlp_optimizer_never_steps(place: Place) -> Facts:
    """MLP whose loop never calls optimizer.step()."""
    train, dev = data.digits(place.seed)
    net = models.mlp()
    return _NeverSteps(place, net, models.adam(net, 3e-3), train, dev).run()


class _ManualWithoutStep(Module):
    """Optimizes manually and forgets the step."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> Any:
        found = super().training_step(batch, index)
        self.optimizers().zero_grad()
        self.manual_backward(found["loss"])
        return {"loss": found["loss"].detach(), "logits": found["logits"]}


@fault(kind="optimizer never steps", wants={"no_optimizer_step"}, also_ok=LEARNS_NOTHING | {"all_frozen"})
def convnet_manual_optimization_without_step(place: Place) -> Facts:
    """CNN in Lightning that optimizes manually and never steps."""
    train, dev = data.digits(place.seed)
    module = _ManualWithoutStep(models.ConvNet(), lambda net: models.adam(net, 3e-3))
    return fit(place, module, train, dev, max_epochs=2)


@fault(
    kind="parameter optimized twice",
    wants={"parameter_in_two_optimizers"},
    also_ok=TOO_HIGH,
)
def mlp_layer_in_two_optimizers(place: Place) -> Facts:
    """MLP whose last layer is in two optimizers."""
    train, dev = data.digits(place.seed)
    net = models.mlp()
    optimizers = [models.adam(net, 3e-3), models.sgd(net[-1], 0.05)]
    return Loop(place, net, optimizers, train, dev).run()


# -- weights and batches -----------------------------------------------------------------------------------------------


class _InitialisesAgain(TrainerCallback):
    """Initialises the weights of the encoder again after step 80."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 80:
            _initialise(kwargs["model"])


@torch.no_grad()
def _initialise(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.02)


@fault(
    kind="weights changed outside",
    wants={"weights_changed_outside"},
    also_ok=TOO_HIGH,
    steps=(76, 88),
    pattern="weights initialised again in mid-training",
)
def bert_weights_initialised_again(place: Place) -> Facts:
    """BERT whose weights are initialised again after step 80."""
    train, dev = data.labelled_text(1500, 1), data.labelled_text(300, 2)
    return fine_tune(place, models.encoder("Bert"), train, dev, callbacks=[_InitialisesAgain()])


class _LoadsOldWeights(Loop):
    """Loads the weights of the start again at step 81."""

    def before_step(self) -> None:
        if self.now == 1:
            self._start = {name: value.clone() for name, value in self.network.state_dict().items()}
        if self.now == 81:
            self.network.load_state_dict(self._start)


@fault(kind="weights changed outside", wants={"weights_changed_outside"}, also_ok=TOO_HIGH, steps=(75, 90))
def lstm_loads_old_weights(place: Place) -> Facts:
    """LSTM whose loop loads the weights of the start again at step 81."""
    net = models.Recurrent()
    train, dev = data.sentences(1500, 1), data.sentences(300, 2)
    return _LoadsOldWeights(place, net, models.adam(net, 5e-3), train, dev, logs="default").run()


@fault(
    kind="batch norm",
    wants={"batch_norm_single"},
    also_ok=TOO_HIGH | {"eval_disagrees"},
)
def convnet_batch_norm_of_one_row(place: Place) -> Facts:
    """CNN with batch norm and batches of one row."""
    train, dev = data.digits(place.seed)
    net = models.ConvNet()
    return Loop(place, net, models.adam(net, 1e-3), train, dev, batch=1).run()


@fault(
    kind="batch norm",
    wants={"eval_disagrees"},
    also_ok=MEMORISES,
    planned=accuracy_below(0.7),
)
def convnet_batch_norm_never_updates(place: Place) -> Facts:
    """CNN whose batch norm has a momentum of zero: its running statistics never change."""
    train, dev = data.digits(place.seed)
    train, dev = (16 * train[0] + 40, train[1]), (16 * dev[0] + 40, dev[1])
    module = Module(models.ConvNet(momentum=0.0), lambda net: models.adam(net, 3e-3))
    return fit(place, module, train, dev)


class _SlowInput(Loop):
    """Waits 10 ms for each batch."""

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in super().batches():
            time.sleep(0.01)
            yield batch


@fault(kind="slow input", wants={"input_bound"})
def mlp_slow_input(place: Place) -> Facts:
    """MLP that waits most of the time for its batches."""
    train, dev = data.digits(place.seed)
    net = models.mlp()
    return _SlowInput(place, net, models.adam(net, 3e-3), train, dev, logs="default").run()


# -- adversaries -------------------------------------------------------------------------------------------------------


@fault(kind="gan out of balance", wants=set(), also_ok={"divergence", "overfitting"})
def gan_discriminator_wins(place: Place) -> Facts:
    """GAN whose discriminator learns 100 times as fast as its generator."""
    return train_adversaries(place, rate=2e-4, discriminator_rate=2e-2)
