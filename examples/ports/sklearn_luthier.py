"""A function of scikit-learn."""

from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

import luthier as lt

images, labels = load_digits(return_X_y=True)


def score(config):
    return cross_val_score(SVC(**config), images[:600], labels[:600], cv=3).mean()


space = lt.Space(C=lt.Float(1e-2, 1e3, log=True), gamma=lt.Float(1e-6, 1e-1, log=True))
study = lt.tune(score, "tpe", space=space, trials=12, metric="accuracy", mode="max")
print("best", study.best.value, study.best.config)
