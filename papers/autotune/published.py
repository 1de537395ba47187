"""Hypergradient descent as the published code runs it: AdamHD on the whole of the training data at each iteration."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import luthier as lt
from papers.autotune.problems import NETWORKS, data, network

LR, HYPER_LR, EPSILON, LIMIT = 1e-3, 1e-3, 1e-3, 2_000  # of the code, but for the limit; ε is ours, as everywhere here
FEW = 25  # "under 25 iterations"


def published(name: str, dataset: int, seed: int) -> dict[str, Any]:
    """Iterations until the loss moves by less than ε, and what the network is then."""
    splits = data(dataset, seed)
    torch.manual_seed(seed)
    model = network(NETWORKS[name])
    optimizer = lt.optim.AdamHD(model.parameters(), LR, hyper_lr=HYPER_LR)
    train, before, done = splits.train, None, 0
    for done in range(1, LIMIT + 1):
        loss = nn.functional.binary_cross_entropy_with_logits(model(train.inputs), train.targets)
        if before is not None and abs(loss.item() - before) < EPSILON:
            break
        before = loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = (model(splits.test.inputs) > 0) == splits.test.targets.bool()
    return {
        "published": f"{name} on data set {dataset}",
        "all": "all six",
        "seed": seed,
        "iterations": done,
        "few": 100.0 * (done < FEW),
        "rate": optimizer.rates()[0],
        "test_accuracy": 100 * float(right.double().mean()),
    }
