"""A training in pieces whose state is saved on the way: successive halving goes on from it."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

import luthier as lt

images, labels = load_digits(return_X_y=True)


class Training:
    space = lt.Space(alpha=lt.Float(1e-7, 1.0, log=True), eta0=lt.Float(1e-4, 10.0, log=True))

    def init(self, config, key):
        return {
            "coef": np.zeros((10, 64)),
            "intercept": np.zeros(10),
            "t": 1.0,
            "alpha": config["alpha"],
            "eta0": config["eta0"],
        }

    def advance(self, state, config, steps):
        model = SGDClassifier(alpha=state["alpha"], eta0=state["eta0"], learning_rate="constant", random_state=0)
        model.partial_fit(images[:10], labels[:10], classes=np.arange(10))
        model.coef_, model.intercept_, model.t_ = state["coef"], state["intercept"], state["t"]
        for _ in range(steps):
            model.partial_fit(images[:1200] / 16, labels[:1200])
        return {**state, "coef": model.coef_, "intercept": model.intercept_, "t": float(model.t_)}, {}

    def evaluate(self, state):
        scores = images[1200:] / 16 @ state["coef"].T + state["intercept"]
        return {"accuracy": (scores.argmax(1) == labels[1200:]).mean()}


study = lt.tune(Training(), "asha", trials=9, steps=27, metric="accuracy", mode="max", store="trainable.db")
print("best", study.best.value, study.best.config)
