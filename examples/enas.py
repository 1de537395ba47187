"""A controller decides architecture and optimizer of a network for Fashion-MNIST together, over shared weights.

    python examples/enas.py
    luthier tune examples/enas.py --method enas --trials 10 --epochs 4

A multilayer perceptron and a small convolutional network, with their depth, widths, kernel sizes, activations, skips
and normalisation, and the optimizer that trains them, are one space; half of the budget goes to the search, the other
half to the training of what it found, from scratch.
"""

from torch import nn

import luthier as lt


def activation(name):
    return lt.nn.Choose(name, {"relu": nn.ReLU(), "gelu": nn.GELU(), "tanh": nn.Tanh()})


def dense():
    """Two hidden layers, the second of which may be left out."""
    second = nn.Sequential(nn.Linear(128, 128), activation("dense_activation"))
    norm = lt.nn.Choose("norm", {"none": nn.Identity(), "layer": nn.LayerNorm(128)})
    first = [nn.Flatten(), nn.Linear(784, 128), norm, lt.nn.Width("width"), activation("dense_activation")]
    return nn.Sequential(*first, lt.nn.Skip("skip", second), lt.nn.Dropout("dropout"), nn.Linear(128, 10))


def convolution(name, inputs, outputs, stride):
    sizes = {3: nn.Conv2d(inputs, outputs, 3, stride, 1), 5: nn.Conv2d(inputs, outputs, 5, stride, 2)}
    return nn.Sequential(lt.nn.Choose(name, sizes), activation("activation"))


def convolutional():
    """A convolution, a second one that may be left out, and one more."""
    second = lt.nn.Skip("skip_convolution", convolution("kernel_2", 8, 8, 1))
    layers = convolution("kernel_1", 1, 8, 2), second, convolution("kernel_3", 8, 16, 2)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10))


def model(config):
    return nn.Sequential(lt.nn.Choose("network", {"dense": dense(), "convolutional": convolutional()}))


IN_DENSE, IN_CONVOLUTIONAL = {"network": "dense"}, {"network": "convolutional"}
KINDS = ["relu", "gelu", "tanh"]

architecture = {
    "network": lt.Choice(["dense", "convolutional"]),
    "norm": lt.Choice(["none", "layer"], when=IN_DENSE),
    "width": lt.Choice([32, 64, 128], when=IN_DENSE),
    "dense_activation": lt.Choice(KINDS, when=IN_DENSE),
    "skip": lt.Choice([False, True], when=IN_DENSE),
    "dropout": lt.Float(0.0, 0.5, when=IN_DENSE),
    "activation": lt.Choice(KINDS, when=IN_CONVOLUTIONAL),
    "kernel_1": lt.Choice([3, 5], when=IN_CONVOLUTIONAL),
    "skip_convolution": lt.Choice([False, True], when=IN_CONVOLUTIONAL),
    "kernel_2": lt.Choice([3, 5], when={**IN_CONVOLUTIONAL, "skip_convolution": False}),
    "kernel_3": lt.Choice([3, 5], when=IN_CONVOLUTIONAL),
}
optimizer = {
    "optimizer": lt.Choice(["sgd", "adam"]),
    "lr": lt.Float(3e-4, 0.1, log=True),
    "momentum": lt.Float(0.0, 0.95, when={"optimizer": "sgd"}),
    "weight_decay": lt.Float(1e-6, 1e-2, log=True),
}

task = lt.TorchTask(
    space=lt.Space({**architecture, **optimizer}),
    model=model,
    data=lt.data.fashion_mnist(valid=2000, train=6000),
    loss=lt.losses.cross_entropy,
    optimizer=lt.optim.Switch("optimizer", {"sgd": lt.optim.sgd, "adam": lt.optim.adam}),
    batch_size=64,
    metrics={"accuracy": lt.metrics.accuracy},
)


def main() -> None:
    method = (lt.propose.Derive(draws=20), lt.adapt.Enas("unrolled"))
    study = lt.tune(task, method=method, trials=8, epochs=4, seed=0, progress=False)
    search = study.history.results[0]
    assert search is not None and study.best is not None
    print(f"shared weights: validation accuracy of the most probable child {search.metrics['shared_accuracy']:.3f}")
    print(f"controller: entropy {search.metrics['entropy']:.2f}, learning rate {search.metrics['policy.lr.mean']:.2g}")
    print(f"best from scratch: {study.best.metrics['accuracy']:.3f}, on test data {study.best.test['accuracy']:.3f}")
    print(", ".join(f"{name} {value}" for name, value in study.best.config.items()))


if __name__ == "__main__":
    main()
