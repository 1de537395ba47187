"""Hypergradient descent as the published code runs it: AdamHD on the whole of the training data at each iteration."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import luthier as lt
from papers.autotune.problems import NETWORKS, data, network

LR, HYPER_LR, EPSILON, LIMIT = 1e-3, 1e-3, 1e-3, 2_000  # of the code, but for the limit; ε is ours, as everywhere here
FEW = 25  # "under 25 iterations"
STILL = 25  # iterations on end that move the loss by less than ε, of a training that has ended


def published(name: str, dataset: int, seed: int) -> dict[str, Any]:
    """Iterations until the loss moves by less than ε: for the first time, and from then on; the network at both."""
    splits = data(dataset, seed)
    torch.manual_seed(seed)
    model = network(NETWORKS[name])
    optimizer = lt.optim.AdamHD(model.parameters(), LR, hyper_lr=HYPER_LR)
    train, losses, right, still, rates = splits.train, [float("inf")], [0.0], 0, [0.0]
    while len(losses) <= LIMIT and still < STILL:
        loss = nn.functional.binary_cross_entropy_with_logits(model(train.inputs), train.targets)
        losses.append(loss.item())
        still = still + 1 if abs(losses[-1] - losses[-2]) < EPSILON else 0
        with torch.no_grad():
            right.append(float(((model(splits.test.inputs) > 0) == splits.test.targets.bool()).double().mean()))
        rates.append(optimizer.rates()[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    first = next(i for i in range(1, len(losses)) if abs(losses[i] - losses[i - 1]) < EPSILON)
    settled = len(losses) - max(still, 1)
    return {
        "published": f"{name} on data set {dataset}",
        "seed": seed,
        "first": first,
        "first_accuracy": 100 * right[first],
        "iterations": settled,
        "few": 100.0 * (settled < FEW),
        "rate": rates[settled],
        "test_accuracy": 100 * right[settled],
    }
