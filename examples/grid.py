"""A grid over the learning rate and the batch size of a linear classifier on scikit-learn's digits.

python examples/grid.py
luthier tune examples/grid.py --method grid --set points=4 --epochs 5 --store grid.db
"""

from torch import nn

import luthier as lt

task = lt.TorchTask(
    space=lt.Space(lr=lt.Float(1e-3, 1.0, log=True), batch_size=lt.Choice([16, 64], ordered=True)),
    model=lambda config: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
    data=lt.data.digits(),
    loss=lt.losses.cross_entropy,
    metrics={"accuracy": lt.metrics.accuracy},
)


def main() -> None:
    study = lt.tune(task, method=lt.propose.Grid(points=4), epochs=5, progress=False)
    for trial in study.trials:
        print(
            f"lr {trial.config['lr']:<6.3g} batch size {trial.config['batch_size']:<3} "
            f"validation accuracy {trial.metrics['accuracy']:.3f}"
        )


if __name__ == "__main__":
    main()
