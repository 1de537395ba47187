"""Small real problems that the training tests share: scikit-learn's digits, and networks of several kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import luthier as lt

SPACE = lt.Space(
    lr=lt.Float(1e-3, 0.3, log=True),
    momentum=lt.Float(0.0, 0.95),
    weight_decay=lt.Float(1e-6, 1e-1, log=True),
)


def mlp(config: dict[str, Any]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


def mlp_with_dropout_and_batch_norm(config: dict[str, Any]) -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Linear(32, 32), nn.ReLU(), lt.nn.Dropout("dropout"), nn.Linear(32, 10)),
    )


def cnn(config: dict[str, Any]) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8, 10)),
    )


NETWORKS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "mlp": mlp,
    "mlp with dropout and batch norm": mlp_with_dropout_and_batch_norm,
    "cnn": cnn,
}


def digits_task(network: str = "mlp", **settings: Any) -> lt.TorchTask:
    """A task on the digits, 1,257 rows for training."""
    space = settings.pop("space", SPACE)
    if "dropout" in network and "dropout" not in space:
        space = lt.Space({**space.domains, "dropout": lt.Float(0.0, 0.6)})
    given: dict[str, Any] = {"batch_size": 32, "metrics": {"accuracy": lt.metrics.accuracy}, **settings}
    return lt.TorchTask(
        space=space,
        model=NETWORKS[network],
        data=given.pop("data", None) or lt.data.digits(),
        loss=lt.losses.cross_entropy,
        **given,
    )


def equal(left: Any, right: Any) -> bool:
    """Whether two states are equal bit for bit (NaN equals NaN)."""
    from torch.utils import _pytree as pytree

    a, b = pytree.tree_leaves(left), pytree.tree_leaves(right)
    return len(a) == len(b) and all(
        torch.equal(x.nan_to_num(0.5), y.nan_to_num(0.5)) for x, y in zip(a, b, strict=True)
    )
