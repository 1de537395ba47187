"""TPE on a space with conditions, beside random search: a linear classifier on scikit-learn's digits.

Which settings there are depends on the penalty and on the schedule of the learning rate. Both methods get the same 60
trials, with three seeds::

    python examples/tpe.py

It needs Optuna: ``pip install 'luthier[optuna]'``.
"""

from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

import luthier as lt

images, labels = load_digits(return_X_y=True)
images = images / 16
train, valid = slice(0, 300), slice(300, 1000)

space = lt.Space(
    loss=lt.Choice(["hinge", "log_loss", "modified_huber"]),
    penalty=lt.Choice(["l2", "l1", "elasticnet"]),
    l1_ratio=lt.Float(0.0, 1.0, when={"penalty": "elasticnet"}),
    alpha=lt.Float(1e-7, 1.0, log=True),
    schedule=lt.Choice(["constant", "invscaling"]),
    rate=lt.Float(1e-6, 1e2, log=True),
    power=lt.Float(0.0, 2.0, when={"schedule": "invscaling"}),
)


def error(config):
    model = SGDClassifier(
        loss=config["loss"],
        penalty=config["penalty"],
        l1_ratio=config.get("l1_ratio", 0.15),
        alpha=config["alpha"],
        learning_rate=config["schedule"],
        eta0=config["rate"],
        power_t=config.get("power", 0.5),
        max_iter=20,
        tol=None,
        random_state=0,
    )
    return 1 - model.fit(images[train], labels[train]).score(images[valid], labels[valid])


if __name__ == "__main__":
    for seed in range(3):
        for method in ("random", "tpe"):
            study = lt.tune(error, method, space=space, trials=60, seed=seed, progress=False)
            later = [trial.metrics["loss"] for trial in study.trials[30:]]
            print(
                f"seed {seed}  {method:6}  best error {study.best.metrics['loss']:.4f}"
                f"  mean of the later half {sum(later) / len(later):.3f}"
            )
