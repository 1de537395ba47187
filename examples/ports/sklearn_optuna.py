"""A function of scikit-learn."""

import optuna
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

images, labels = load_digits(return_X_y=True)


def score(trial):
    config = {
        "C": trial.suggest_float("C", 1e-2, 1e3, log=True),
        "gamma": trial.suggest_float("gamma", 1e-6, 1e-1, log=True),
    }
    return cross_val_score(SVC(**config), images[:600], labels[:600], cv=3).mean()


study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
study.optimize(score, n_trials=12)
print("best", study.best_value, study.best_params)
