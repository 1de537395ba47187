"""A study that is interrupted and goes on where it was when the script is started again."""

from pathlib import Path

from ray import tune


def height(config):
    return {"height": (config["x"] - 2) ** 2}


path = str(Path("heights").resolve())
if tune.Tuner.can_restore(path):
    tuner = tune.Tuner.restore(path, trainable=height, resume_unfinished=True)
else:
    settings = tune.TuneConfig(metric="height", mode="min", num_samples=20)
    run = tune.RunConfig(name="heights", storage_path=Path.cwd())
    tuner = tune.Tuner(height, param_space={"x": tune.uniform(-10.0, 10.0)}, tune_config=settings, run_config=run)
best = tuner.fit().get_best_result(metric="height", mode="min")
print("best", best.metrics["height"], best.config)
