"""The task of the cluster scripts: a small network on scikit-learn's digits.

    luthier tune train.py --method random --trials 24 --epochs 20 --store $LUTHIER_STORE

The same command on any number of machines shares one study: each process takes jobs from the store, and puts results
back.
"""

from torch import nn

import luthier as lt

task = lt.TorchTask(
    space=lt.Space(lr=lt.Float(1e-3, 1.0, log=True), momentum=lt.Float(0.0, 0.95), width=lt.Choice([16, 32])),
    model=lambda config: nn.Sequential(
        nn.Flatten(), nn.Linear(64, config["width"]), nn.ReLU(), nn.Linear(config["width"], 10)
    ),
    data=lt.data.digits(),
    loss=lt.losses.cross_entropy,
    optimizer=lt.optim.sgd,
    batch_size=64,
    metrics={"accuracy": lt.metrics.accuracy},
)
