"""Hypergradient descent on the digits: a learning rate that starts far too low finds its way while the weights train.

As a drop-in optimizer for any loop of torch, and as a tuning method, where it may start from several rates::

    python examples/hypergradient.py
    luthier tune examples/hypergradient.py --method hypergradient --epochs 20
"""

import torch
from torch import nn

import luthier as lt


def model(config):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


task = lt.TorchTask(
    space=lt.Space(lr=lt.Float(1e-5, 1.0, log=True)),
    model=model,
    data=lt.data.digits(),
    loss=lt.losses.cross_entropy,
    optimizer=lt.optim.SGD(momentum=0.9),
    batch_size=32,
    metrics={"accuracy": lt.metrics.accuracy},
)


def by_hand() -> None:
    """Any optimizer of torch, in a loop of one's own."""
    network, train = model({}), task.data.train
    optimizer = lt.optim.HypergradientDescent(torch.optim.Adam(network.parameters(), lr=1e-5))
    for step in range(400):
        rows = torch.randint(len(train), (32,))
        loss = nn.functional.cross_entropy(network(train.inputs[rows]), train.targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.3f}, learning rate {optimizer.rates()[0]:.2g}")


def main() -> None:
    torch.manual_seed(0)
    by_hand()
    method = (lt.propose.Grid(points=3), lt.adapt.Hypergradient())
    study = lt.tune(task, method=method, trials=3, epochs=20, seed=0, progress=False)
    for trial in study.trials:
        print(f"lr from {trial.config['lr']:.0e}: validation accuracy {trial.metrics['accuracy']:.3f}")
    assert study.best is not None
    print("learning rate of the best:", ", ".join(f"{step}: {c['lr']:.2g}" for step, c in study.best.schedule[::4]))


if __name__ == "__main__":
    main()
