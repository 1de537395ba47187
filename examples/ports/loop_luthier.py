"""An own training loop with a DataLoader, poor trials stopped early."""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

import luthier as lt

inputs, targets = (torch.tensor(part) for part in load_digits(return_X_y=True))
data = TensorDataset(inputs.float() / 16, targets)
train_rows, valid_rows = random_split(data, [1297, 500], torch.Generator().manual_seed(0))


def train(config, trial):
    torch.manual_seed(trial.seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, config["width"]), torch.nn.ReLU(), torch.nn.Linear(config["width"], 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"])
    for epoch in range(5):
        for images, labels in DataLoader(train_rows, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        images, labels = valid_rows[:]
        accuracy = (model(images).argmax(1) == labels).float().mean().item()
        trial.report(epoch, accuracy=accuracy)
    return accuracy


space = lt.Space(lr=lt.Float(1e-3, 1.0, log=True), width=lt.Int(8, 64, log=True))
study = lt.tune(train, "median", space=space, trials=8, metric="accuracy", mode="max", seed=0)
print("best", study.best.value, study.best.config)
