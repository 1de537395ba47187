"""The paper's three data sets and three networks (its sections 2 and 3)."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from sklearn.datasets import make_classification
from torch import Tensor, nn

import luthier as lt

ROWS, TEST, VALID = 12_000, 2_000, 2_000
NETWORKS: dict[str, tuple[int, ...]] = {"logistic regression": (), "2-3-1": (3,), "2-5-5-1": (5, 5)}
DATASETS = {1: "linear boundary", 2: "labels of a 2-3-1 network", 3: "labels of a 2-5-5-1 network"}
SPACE = lt.Space(lr=lt.Float(1e-5, 1.0, log=True), momentum=lt.Float(0.1, 0.99))
BATCH = 64
BALANCE = 0.25  # the rarer label has at least this share: a network that labels everything alike teaches nothing


def network(hidden: tuple[int, ...]) -> nn.Sequential:
    """Two inputs, ReLU layers, one logit; the sigmoid of the output layer is in the loss."""
    sizes = (2, *hidden, 1)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def labelled(hidden: tuple[int, ...], inputs: Tensor, seed: int, cast: bool) -> Tensor:
    """Labels by a network with Kaiming-normal weights: the first one from ``seed`` on that uses both labels.

    With ``cast`` they are what the published code scores by: the sigmoid's value cast to an integer.
    """
    for attempt in itertools.count():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * seed + attempt)
            teacher = network(hidden)
            for layer in teacher:
                if isinstance(layer, nn.Linear):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.normal_(layer.bias, std=0.5)
        with torch.no_grad():
            outputs = teacher(inputs)
        labels = (outputs > 0).to(torch.float32)
        if BALANCE <= float(labels.mean()) <= 1 - BALANCE:
            return outputs.sigmoid().long().to(torch.float32) if cast else labels
    raise AssertionError("count() does not end")


def data(dataset: int, seed: int = 0, cast: bool = False, flips: float = 0.01, apart: float = 2.0) -> lt.Splits:
    """12,000 pairs: 8,000 to train on, 2,000 to choose by, 2,000 to test; inputs (n, 2), targets (n, 1) of 0 and 1.

    Args:
        dataset: 1, 2 or 3.
        seed: Of everything in it.
        cast: Labels of 2 and 3 cast to integers, as the published code scores its population.
        flips: The share of labels of 1 that are drawn at random; scikit-learn's default.
        apart: Half the distance of the classes' centres in 1, in units of their spread.
    """
    if dataset == 1:
        form: Any = {"n_features": 2, "n_informative": 2, "n_redundant": 0, "n_clusters_per_class": 1}
        x, y = make_classification(ROWS, **form, flip_y=flips, class_sep=apart, random_state=seed)
        inputs, targets = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)[:, None]
    else:
        inputs = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(seed))
        targets = labelled(NETWORKS["2-3-1" if dataset == 2 else "2-5-5-1"], inputs, seed, cast)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed + 1))
    train, valid, test = order[: -TEST - VALID], order[-TEST - VALID : -TEST], order[-TEST:]
    return lt.Splits(*(lt.Split(inputs[rows], targets[rows]) for rows in (train, valid, test)))


def task(name: str, splits: lt.Splits, evaluate_every: float = 1.0, device: str = "cpu") -> lt.TorchTask:
    """One of the networks on one of the data sets, trained by SGD and measured every so many epochs."""
    return lt.TorchTask(
        space=SPACE,
        model=lambda config: network(NETWORKS[name]),
        data=splits,
        loss=lt.losses.binary_cross_entropy_with_logits,
        optimizer=lt.optim.SGD(),
        batch_size=BATCH,
        metrics={"accuracy": lt.metrics.accuracy},
        evaluate_every=evaluate_every,
        device=device,
    )
