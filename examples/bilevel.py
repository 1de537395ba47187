"""A penalty for each part of the image, and a dropout rate, moved down the validation loss while a network trains.

150 digits to learn from, so that regularisation matters; 17 hyperparameters, one training. The report shows the
penalties over time and, as they belong to an image of 4 by 4 parts, at the end as one.

    python examples/bilevel.py
    luthier tune examples/bilevel.py --method bilevel --epochs 200
"""

import math

from torch import nn

import luthier as lt


def model(config):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), lt.nn.Dropout("dropout"), nn.Linear(32, 10))


def penalty(params, hyper):
    """Half a weight decay for what leaves each part, of 2 by 2 pixels."""
    squares = params["1.weight"].square().view(32, 4, 2, 4, 2).sum((0, 2, 4))
    return 0.5 * (squares.flatten() * hyper["parts"]).sum()


task = lt.TorchTask(
    space=lt.Space(dropout=lt.Float(0.05, 0.8), parts=lt.Float(1e-4, 1.0, log=True, shape=(16,))),
    model=model,
    data=lt.data.digits(train=150),
    loss=lt.losses.cross_entropy,
    optimizer=lt.optim.SGD(lr=0.1, momentum=0.9),
    penalty=penalty,
    batch_size=50,
    metrics={"accuracy": lt.metrics.accuracy},
    evaluate_every=5.0,
)


def main() -> None:
    start = lt.propose.Grid(points={"dropout": [0.2], "parts": [0.001]})
    moving = lt.adapt.Bilevel(lt.response.implicit, inner_steps=5, outer_lr=0.03)
    held = lt.tune(task, method=start, trials=1, epochs=200, progress=False)
    study = lt.tune(task, method=(start, moving), trials=1, epochs=200)  # a line for each measurement
    for name, found in (("held", held), ("moved", study)):
        print(f"{name:6} validation loss {found.best.metrics['loss']:.3f}  test loss {found.best.test['loss']:.3f}")
    parts = [math.log10(value) for value in study.best.final["parts"]]
    print("penalties of the parts, log10:")
    for row in range(4):
        print(" ".join(f"{value:5.1f}" for value in parts[4 * row : 4 * row + 4]))
    print("report:", study.write_report("bilevel.html"))


if __name__ == "__main__":
    main()
