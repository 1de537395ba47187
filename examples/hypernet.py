"""A hypernetwork learns how a network responds to its dropout and weight decay, and tunes both in one training.

python examples/hypernet.py
"""

from __future__ import annotations

import torch
from torch import nn

import luthier as lt


def network(config: lt.Config) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), lt.nn.Dropout("dropout"), nn.Linear(64, 10))


def penalty(params: dict[str, torch.Tensor], hyper: dict[str, torch.Tensor]) -> torch.Tensor:
    return hyper["decay"] * sum(param.square().sum() for name, param in params.items() if name.endswith("weight"))


task = lt.TorchTask(
    space=lt.Space(dropout=lt.Float(0.0, 0.8), decay=lt.Float(1e-4, 1e-1, log=True)),
    model=network,
    data=lt.data.digits(train=400),
    loss=lt.losses.cross_entropy,
    optimizer=lt.optim.Adam(lr=3e-3),
    penalty=penalty,
    batch_size=50,
    metrics={"accuracy": lt.metrics.accuracy},
)


def main() -> None:
    study = lt.tune(task, method=lt.adapt.Hypernet(warmup=10, outer_lr=0.05), epochs=100, seed=0, progress=False)
    assert study.best is not None
    for step, config in study.best.schedule[::20]:
        print(f"step {step}: dropout {config['dropout']:.2f}, decay {config['decay']:.1e}")
    print(f"validation accuracy {study.best.metrics['accuracy']:.3f}")

    response = study.response()
    print(response)
    decay = response.config["decay"]
    for factor in (0.5, 1.0, 2.0):  # a local response knows the neighbourhood
        near = min(max(factor * decay, 1e-4), 1e-1)
        print(f"decay {near:.1e}: predicted validation loss {response.loss({'decay': near}):.3f}")


if __name__ == "__main__":
    main()
