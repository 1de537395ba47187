"""Known configurations first, then Bayesian search."""

import optuna


def height(trial):
    return (trial.suggest_float("x", -10.0, 10.0) - 2) ** 2 + trial.suggest_float("y", -10.0, 10.0) ** 2


study = optuna.create_study()
study.enqueue_trial({"x": 1.0, "y": 1.0}, skip_if_exists=True)
study.enqueue_trial({"x": 3.0}, skip_if_exists=True)
study.optimize(height, n_trials=15)
print("best", study.best_value, study.best_params)
