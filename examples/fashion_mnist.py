"""The 784-128-10 network on Fashion-MNIST: learning rate, momentum and weight decay to be found.

From a shell::

    luthier tune examples/fashion_mnist.py --method random --trials 16 --epochs 5 --store fashion.db
"""

from torch import nn

import luthier as lt

task = lt.TorchTask(
    space=lt.Space(
        lr=lt.Float(1e-4, 1.0, log=True),
        momentum=lt.Float(0.0, 0.9),
        weight_decay=lt.Float(1e-6, 0.1, log=True),
    ),
    model=lambda config: nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)),
    data=lt.data.fashion_mnist(valid=10_000),
    loss=lt.losses.cross_entropy,
    optimizer=lt.optim.sgd,
    batch_size=64,
    metrics={"accuracy": lt.metrics.accuracy},
)
