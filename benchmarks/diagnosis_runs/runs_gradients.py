"""Runs in which gradients or activations fail: frozen, dead, detached, vanishing, exploding, never cleared."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.diagnosis_runs import data, models
from benchmarks.diagnosis_runs.cases import (
    LEARNS_NOTHING,
    TOO_HIGH,
    TOO_LOW,
    Facts,
    Place,
    accuracy_below,
    fault,
)
from benchmarks.diagnosis_runs.with_huggingface import fine_tune
from benchmarks.diagnosis_runs.with_lightning import Module, fit
from benchmarks.diagnosis_runs.with_loop import Loop

# -- gradients that are not cleared ------------------------------------------------------------------------------------


class _NeverCleared(Loop):
    def clear_gradients(self) -> None:
        pass


@fault(
    kind="gradients not cleared",
    wants={"gradients_not_cleared"},
    also_ok=TOO_HIGH | {"exploding_gradients"},
    pattern="zero_grad forgotten",
    planned=accuracy_below(0.85),
)
def mlp_gradients_not_cleared(place: Place) -> Facts:
    """MLP under SGD whose gradients are never cleared."""
    train, dev = data.digits(place.seed)
    net = models.mlp()
    return _NeverCleared(place, net, models.sgd(net, 0.05), train, dev).run()


@fault(
    kind="gradients not cleared",
    wants={"gradients_not_cleared"},
    also_ok=TOO_HIGH | {"exploding_gradients", "clipping_saturated"},
)
def lstm_gradients_not_cleared(place: Place) -> Facts:
    """LSTM under AdamW and clipping whose gradients are never cleared."""
    net = models.Recurrent()
    train, dev = data.sentences(1500, 1), data.sentences(300, 2)
    return _NeverCleared(place, net, models.adam(net, 5e-3), train, dev, logs="default", clip=1.0).run()


# -- gradients that vanish, explode or are zero ------------------------------------------------------------------------


@fault(kind="vanishing gradients", wants={"vanishing_gradients"}, also_ok=TOO_LOW, planned=accuracy_below(0.4))
def sigmoid_network_of_8_layers(place: Place) -> Facts:
    """8 sigmoid layers, whose first layers get no gradient."""
    train, dev = data.digits(place.seed)
    module = Module(models.DeepNet(8, torch.sigmoid), lambda net: models.sgd(net, 0.05))
    return fit(place, module, train, dev)


@fault(
    kind="exploding gradients",
    wants={"exploding_gradients", "nonfinite", "divergence", "loss_spike", "learning_rate_too_high"},
    also_ok=TOO_HIGH,
    planned=accuracy_below(0.8),
)
def rnn_gradients_explode(place: Place) -> Facts:
    """ReLU RNN over 40 tokens whose recurrent weights are 3 times an orthogonal matrix."""
    net = models.LastState("RNN", nonlinearity="relu")
    nn.init.orthogonal_(net.rnn.weight_hh_l0, 3.0)
    train, dev = data.sentences(1500, 1, length=40), data.sentences(300, 2, length=40)
    return Loop(place, net, models.sgd(net, 0.05), train, dev).run()


@fault(
    kind="dead units",
    wants={"dead_activations", "zero_gradient"},
    tag="conv|norm|act",
    also_ok=LEARNS_NOTHING | {"vanishing_gradients", "frozen_layers", "no_gradient"},
    planned=accuracy_below(0.3),
)
def convnet_dead_relus(place: Place) -> Facts:
    """CNN whose second ReLU gets only negative numbers."""
    train, dev = data.digits(place.seed)
    net = models.ConvNet(batch_norm=False)
    nn.init.constant_(net.conv2.bias, -20.0)
    return fit(place, Module(net, lambda net: models.sgd(net, 0.05)), train, dev)


@fault(
    kind="bad initialisation",
    wants={"first_loss_unusual"},
    also_ok={"exploding_gradients", "clipping_saturated", "plateau"},
    planned=lambda facts: facts.first > 8,
)
def gpt2_initialised_with_std_1(place: Place) -> Facts:
    """GPT-2 whose weights start with a standard deviation of 1: its first loss is far above that of guessing."""
    train, dev = (data.language_rows(data.markov_text(number, seed)) for number, seed in ((1500, 1), (200, 2)))
    return fine_tune(place, models.gpt2(initializer_range=1.0), train, dev, rate=3e-3, scores=None)


@fault(
    kind="bad initialisation",
    wants={"first_loss_unusual"},
    also_ok=TOO_HIGH | {"exploding_gradients", "clipping_saturated"},
    planned=lambda facts: facts.first > 8,
)
def convnet_head_initialised_100_times_too_large(place: Place) -> Facts:
    """CNN whose head starts with weights that are 100 times too large."""
    train, dev = data.digits(place.seed)
    net = models.ConvNet()
    with torch.no_grad():
        net.fc.weight.mul_(100)
    return fit(place, Module(net, lambda net: models.adam(net, 3e-3)), train, dev)


# -- layers that do not train ------------------------------------------------------------------------------------------


@fault(kind="layers frozen", wants={"frozen_layers"}, tag=r"embeddings|layer\.0", also_ok=LEARNS_NOTHING)
def roberta_embeddings_frozen(place: Place) -> Facts:
    """RoBERTa from random weights, whose embeddings and first layer are frozen."""
    model = models.encoder("Roberta", layers=3)
    models.freeze(model, "embeddings", "layer.0.")
    return fine_tune(place, model, data.labelled_text(1500, 1), data.labelled_text(300, 2))


@fault(kind="layers frozen", wants={"frozen_layers", "head_only"}, also_ok=LEARNS_NOTHING)
def convnet_convolutions_frozen(place: Place) -> Facts:
    """CNN from random weights, whose convolutions are frozen."""
    train, dev = data.digits(place.seed)
    net = models.ConvNet()
    models.freeze(net, "conv", "norm")
    return fit(place, Module(net, lambda net: models.adam(net, 3e-3)), train, dev)


@fault(
    kind="all frozen but norms",
    wants={"frozen_layers", "head_only"},
    also_ok=LEARNS_NOTHING,
    pattern="everything frozen but LayerNorm",
)
def bert_all_frozen_but_norms(place: Place) -> Facts:
    """BERT from random weights, of which only the LayerNorms are trained."""
    model = models.encoder("Bert")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("LayerNorm" in name)
    return fine_tune(place, model, data.labelled_text(1500, 1), data.labelled_text(300, 2))


@fault(
    kind="branch detached",
    wants={"frozen_layers", "zero_gradient", "no_gradient"},
    tag="right",
    also_ok=LEARNS_NOTHING,
)
def towers_one_detached(place: Place) -> Facts:
    """Two towers, of which one is detached from the loss."""
    train, dev = data.digits(place.seed)
    net = models.Towers(detached=True)
    return Loop(place, net, models.adam(net, 3e-3, weight_decay=0.0), train, dev).run()


class _WithoutGradient(nn.Module):
    """A network whose first part runs under no_grad, as in an evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = models.mlp(64, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.encoder(x)
        return self.head(functional.relu(hidden))


@fault(
    kind="no gradient",
    wants={"no_gradient", "zero_gradient", "frozen_layers", "head_only"},
    also_ok=LEARNS_NOTHING,
    pattern="the encoder under no_grad",
)
def mlp_encoder_without_gradient(place: Place) -> Facts:
    """MLP whose encoder runs under no_grad."""
    train, dev = data.digits(place.seed)
    net = _WithoutGradient()
    return Loop(place, net, models.adam(net, 3e-3, weight_decay=0.0), train, dev).run()


@fault(
    kind="no gradient",
    wants={"no_gradient", "zero_gradient", "frozen_layers", "head_only"},
    also_ok=LEARNS_NOTHING,
)
def bert_encoder_without_gradient(place: Place) -> Facts:
    """BERT whose encoder runs under no_grad, so that only the pooler and the head learn."""
    model = models.encoder("Bert")
    encode = model.bert.encoder.forward

    @torch.no_grad()
    def without_gradient(*args: Any, **kwargs: Any) -> Any:
        return encode(*args, **kwargs)

    model.bert.encoder.forward = without_gradient
    train, dev = data.labelled_text(1500, 1), data.labelled_text(300, 2)
    return fine_tune(place, model, train, dev, logs="default", weight_decay=0.0)


@fault(
    kind="lora frozen",
    wants={"lora_not_training"},
    also_ok=LEARNS_NOTHING | {"zero_gradient", "frozen_layers", "all_frozen", "no_gradient"},
)
def gpt2_lora_b_frozen(place: Place) -> Facts:
    """GPT-2 with LoRA whose B matrices are frozen at zero."""
    model = models.with_lora(models.gpt2(), ["c_attn"], task="CAUSAL_LM", fan_in_fan_out=True)
    models.freeze(model, "lora_B")
    train, dev = (data.language_rows(data.markov_text(number, seed)) for number, seed in ((1500, 1), (200, 2)))
    return fine_tune(place, model, train, dev, scores=None, label_names=["labels"])


# -- the optimizer has other weights -----------------------------------------------------------------------------------


@fault(
    kind="optimizer of another model",
    wants={"all_frozen", "parameter_not_optimized", "parameter_not_in_model"},
    also_ok=LEARNS_NOTHING | {"frozen_layers", "no_gradient", "zero_gradient"},
    planned=accuracy_below(0.3),
)
def mlp_optimizer_of_a_copy(place: Place) -> Facts:
    """MLP whose optimizer has the weights of a copy."""
    train, dev = data.digits(place.seed)
    net = models.mlp()
    return Loop(place, net, models.adam(copy.deepcopy(net), 3e-3), train, dev, logs="default").run()


@fault(
    kind="head replaced",
    wants={"parameter_not_optimized", "parameter_not_in_model"},
    also_ok=LEARNS_NOTHING | {"frozen_layers"},
    pattern="a head replaced after the optimizer was made",
)
def bert_head_replaced(place: Place) -> Facts:
    """BERT whose head is replaced after the optimizer was made, so that the new one is never trained."""
    model = models.encoder("Bert")
    optimizer = models.adam(model, 2e-3)
    model.classifier = nn.Linear(32, 2)
    options = {"optimizers": (optimizer, models.linear(optimizer, 160, 16))}
    return fine_tune(place, model, data.labelled_text(1500, 1), data.labelled_text(300, 2), options=options)


@fault(
    kind="head replaced",
    wants={"parameter_not_optimized", "parameter_not_in_model"},
    also_ok=LEARNS_NOTHING | {"frozen_layers"},
)
def convnet_head_replaced(place: Place) -> Facts:
    """CNN whose head is replaced after the optimizer was made."""
    train, dev = data.digits(place.seed)
    net = models.ConvNet()
    optimizer = models.adam(net, 3e-3)
    net.fc = nn.Linear(96, 10)
    return Loop(place, net, optimizer, train, dev, logs="default").run()
