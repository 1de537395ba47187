"""The same kind of network on scikit-learn's digits: 1,797 small images that need no file and no network.

From a shell::

    luthier tune examples/digits.py --method random --trials 16 --epochs 20 --store digits.db
"""

from torch import nn

import luthier as lt

task = lt.TorchTask(
    space=lt.Space(
        lr=lt.Float(1e-4, 1.0, log=True),
        momentum=lt.Float(0.0, 0.9),
        weight_decay=lt.Float(1e-6, 0.1, log=True),
    ),
    model=lambda config: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
    data=lt.data.digits(),
    loss=lt.losses.cross_entropy,
    optimizer=lt.optim.sgd,
    batch_size=32,
    metrics={"accuracy": lt.metrics.accuracy},
)
