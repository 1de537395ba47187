"""A function of scikit-learn."""

from ray import tune
from ray.tune.search.optuna import OptunaSearch
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

images, labels = load_digits(return_X_y=True)


def score(config):
    return {"accuracy": cross_val_score(SVC(**config), images[:600], labels[:600], cv=3).mean()}


space = {"C": tune.loguniform(1e-2, 1e3), "gamma": tune.loguniform(1e-6, 1e-1)}
settings = tune.TuneConfig(metric="accuracy", mode="max", num_samples=12, search_alg=OptunaSearch())
best = tune.Tuner(score, param_space=space, tune_config=settings).fit().get_best_result()
print("best", best.metrics["accuracy"], best.config)
