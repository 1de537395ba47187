"""A training in pieces whose state is saved on the way: successive halving goes on from it."""

import pickle
from pathlib import Path

import numpy as np
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

images, labels = load_digits(return_X_y=True)


class Training(tune.Trainable):
    def setup(self, config):
        self.model = SGDClassifier(**config, learning_rate="constant", random_state=0)

    def step(self):
        self.model.partial_fit(images[:1200] / 16, labels[:1200], classes=np.arange(10))
        return {"accuracy": self.model.score(images[1200:] / 16, labels[1200:])}

    def save_checkpoint(self, folder):
        Path(folder, "model.pkl").write_bytes(pickle.dumps(self.model))

    def load_checkpoint(self, folder):
        self.model = pickle.loads(Path(folder, "model.pkl").read_bytes())


space = {"alpha": tune.loguniform(1e-7, 1.0), "eta0": tune.loguniform(1e-4, 10.0)}
settings = tune.TuneConfig(metric="accuracy", mode="max", num_samples=9, scheduler=ASHAScheduler(max_t=27))
run = tune.RunConfig(
    stop={"training_iteration": 27},
    checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
    storage_path=Path.cwd(),
)
best = tune.Tuner(Training, param_space=space, tune_config=settings, run_config=run).fit().get_best_result()
print("best", best.metrics["accuracy"], best.config)
