"""Known configurations first, then Bayesian search."""

from ray import tune
from ray.tune.search.optuna import OptunaSearch


def height(config):
    return {"height": (config["x"] - 2) ** 2 + config["y"] ** 2}


space = {"x": tune.uniform(-10.0, 10.0), "y": tune.uniform(-10.0, 10.0)}
search = OptunaSearch(points_to_evaluate=[{"x": 1.0, "y": 1.0}, {"x": 3.0, "y": 0.0}])
settings = tune.TuneConfig(metric="height", mode="min", num_samples=15, search_alg=search)
best = tune.Tuner(height, param_space=space, tune_config=settings).fit().get_best_result()
print("best", best.metrics["height"], best.config)
