"""An own training loop with a DataLoader, poor trials stopped early."""

import optuna
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

inputs, targets = (torch.tensor(part) for part in load_digits(return_X_y=True))
data = TensorDataset(inputs.float() / 16, targets)
train_rows, valid_rows = random_split(data, [1297, 500], torch.Generator().manual_seed(0))


def train(trial):
    torch.manual_seed(trial.number)
    lr = trial.suggest_float("lr", 1e-3, 1.0, log=True)
    width = trial.suggest_int("width", 8, 64, log=True)
    model = torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for epoch in range(5):
        for images, labels in DataLoader(train_rows, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        images, labels = valid_rows[:]
        accuracy = (model(images).argmax(1) == labels).float().mean().item()
        trial.report(accuracy, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return accuracy


study = optuna.create_study(
    direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0), pruner=optuna.pruners.MedianPruner()
)
study.optimize(train, n_trials=8)
print("best", study.best_value, study.best_params)
