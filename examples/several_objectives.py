"""Loss against size on scikit-learn's digits: a small network, a good one, and what lies between them.

    python examples/several_objectives.py
    luthier tune examples/several_objectives.py --method genetic --trials 60 --epochs 6 --metric loss,parameters
    luthier report several_objectives-genetic

Where there are several objectives there is no one best: ``study.front`` is the Pareto set, the trainings that no other
equals in every objective and betters in one. ``--method gp`` finds it in fewer trials (``pip install
'luthier[botorch]'``).
"""

from torch import nn

import luthier as lt


def network(config: dict) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    width = 64
    for _ in range(config["layers"]):
        layers += [nn.Linear(width, config["width"]), nn.ReLU()]
        width = config["width"]
    return nn.Sequential(*layers, nn.Linear(width, 10))


task = lt.TorchTask(
    space=lt.Space(
        lr=lt.Float(1e-3, 1.0, log=True),
        momentum=lt.Float(0.0, 0.9),
        layers=lt.Int(0, 2),
        width=lt.Int(4, 128, log=True, when={"layers": [1, 2]}),
    ),
    model=network,
    data=lt.data.digits(),
    loss=lt.losses.cross_entropy,
    optimizer=lt.optim.sgd,
    batch_size=32,
    metrics={"accuracy": lt.metrics.accuracy},
    costs={"parameters": lt.metrics.parameters},
)


def main() -> None:
    study = lt.tune(task, method="genetic", trials=60, epochs=6, metric=["loss", "parameters"], seed=0, progress=False)
    for one in sorted(study.front, key=lambda one: one.metrics["parameters"]):
        size = f"{one.config['layers']} hidden layers" + (f" of {one.config['width']}" if "width" in one.config else "")
        print(
            f"{one.metrics['parameters']:>6.0f} parameters: validation loss {one.metrics['loss']:.3f}, "
            f"test accuracy {one.test['accuracy']:.3f} ({size})"
        )


if __name__ == "__main__":
    main()
