"""An own training loop with a DataLoader, poor trials stopped early."""

import torch
from ray import tune
from ray.tune.schedulers import MedianStoppingRule
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

inputs, targets = (torch.tensor(part) for part in load_digits(return_X_y=True))
data = TensorDataset(inputs.float() / 16, targets)
train_rows, valid_rows = random_split(data, [1297, 500], torch.Generator().manual_seed(0))


def train(config):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, config["width"]), torch.nn.ReLU(), torch.nn.Linear(config["width"], 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"])
    for _ in range(5):
        for images, labels in DataLoader(train_rows, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        images, labels = valid_rows[:]
        tune.report({"accuracy": (model(images).argmax(1) == labels).float().mean().item()})


space = {"lr": tune.loguniform(1e-3, 1.0), "width": tune.lograndint(8, 65)}
tuner = tune.Tuner(
    train,
    param_space=space,
    tune_config=tune.TuneConfig(metric="accuracy", mode="max", num_samples=8, scheduler=MedianStoppingRule()),
)
best = tuner.fit().get_best_result()
print("best", best.metrics["accuracy"], best.config)
