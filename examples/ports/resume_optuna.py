"""A study that is interrupted and goes on where it was when the script is started again."""

import optuna


def height(trial):
    return (trial.suggest_float("x", -10.0, 10.0) - 2) ** 2


study = optuna.create_study(storage="sqlite:///resume_optuna.db", study_name="heights", load_if_exists=True)
finished = sum(trial.state.is_finished() for trial in study.trials)
study.optimize(height, n_trials=20 - finished)
print("best", study.best_value, study.best_params)
