"""The space of the experiment: a perceptron or a small convolutional network, and what trains it."""

from __future__ import annotations

from torch import nn

import luthier as lt

KINDS = ("relu", "gelu", "tanh")
DENSE, CONVOLUTIONAL = {"network": "dense"}, {"network": "convolutional"}

ARCHITECTURE = lt.Space(
    network=lt.Choice(["dense", "convolutional"]),
    norm=lt.Choice(["none", "layer"], when=DENSE),
    width=lt.Choice([32, 64, 128], when=DENSE),
    dense_activation=lt.Choice(KINDS, when=DENSE),
    skip=lt.Choice([False, True], when=DENSE),
    dropout=lt.Float(0.0, 0.5, when=DENSE),
    activation=lt.Choice(KINDS, when=CONVOLUTIONAL),
    kernel_1=lt.Choice([3, 5], when=CONVOLUTIONAL),
    skip_convolution=lt.Choice([False, True], when=CONVOLUTIONAL),
    kernel_2=lt.Choice([3, 5], when={**CONVOLUTIONAL, "skip_convolution": False}),
    kernel_3=lt.Choice([3, 5], when=CONVOLUTIONAL),
)
JOINT = lt.Space(
    {
        **ARCHITECTURE.domains,
        "optimizer": lt.Choice(["sgd", "adam"]),
        "lr": lt.Float(3e-4, 0.1, log=True),
        "momentum": lt.Float(0.0, 0.95, when={"optimizer": "sgd"}),
        "weight_decay": lt.Float(1e-6, 1e-2, log=True),
    }
)
FIXED = lt.optim.Adam(lr=1e-3)
DECIDED = lt.optim.Switch("optimizer", {"sgd": lt.optim.sgd, "adam": lt.optim.adam})


def network(pixels: int) -> nn.Module:
    """All that the space holds, in one module, for square images of one channel."""
    return nn.Sequential(lt.nn.Choose("network", {"dense": dense(pixels**2), "convolutional": convolutional()}))


def dense(inputs: int) -> nn.Module:
    """Two hidden layers, the second of which may be left out."""
    second = nn.Sequential(nn.Linear(128, 128), activation("dense_activation"))
    norm = lt.nn.Choose("norm", {"none": nn.Identity(), "layer": nn.LayerNorm(128)})
    first = [nn.Flatten(), nn.Linear(inputs, 128), norm, lt.nn.Width("width"), activation("dense_activation")]
    return nn.Sequential(*first, lt.nn.Skip("skip", second), lt.nn.Dropout("dropout"), nn.Linear(128, 10))


def convolutional() -> nn.Module:
    """Three convolutions, the second of which may be left out."""
    second = lt.nn.Skip("skip_convolution", convolution("kernel_2", 8, 8, 1))
    layers = convolution("kernel_1", 1, 8, 2), second, convolution("kernel_3", 8, 16, 2)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10))


def convolution(name: str, inputs: int, outputs: int, stride: int) -> nn.Module:
    """One of two kernel sizes, and an activation."""
    sizes = {3: nn.Conv2d(inputs, outputs, 3, stride, 1), 5: nn.Conv2d(inputs, outputs, 5, stride, 2)}
    return nn.Sequential(lt.nn.Choose(name, sizes), activation("activation"))


def activation(name: str) -> nn.Module:
    """One of three."""
    return lt.nn.Choose(name, {"relu": nn.ReLU(), "gelu": nn.GELU(), "tanh": nn.Tanh()})
