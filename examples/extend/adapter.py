"""Halve the learning rate wherever the training loss has stopped falling."""

import math
from dataclasses import dataclass

import torch

import luthier as lt


@dataclass(frozen=True)
class Plateau:
    """Halve a member's learning rate after ``patience`` steps in which its smoothed loss set no new low."""

    patience: int = 20
    smoothing: float = 0.9

    window, needs_valid = 1, False

    def init(self, task, config, key, parent=None, overwrite=None):
        state = task.init(config, key, parent, overwrite)
        if parent is not None:
            return state  # with the parent's own tensors
        never = torch.full_like(state["hyper"]["lr"], torch.inf)
        return {**state, "own": {"mean": never, "low": never.clone(), "waited": torch.zeros_like(state["t"])}}

    def step(self, task, state, batches, valid):
        losses, gradients, buffers = task.gradient(state, state["hyper"], batches[0])
        after = task.apply(state, state["hyper"], gradients, buffers)
        own, lr = state["own"], state["hyper"]["lr"]
        mean = torch.where(torch.isinf(own["mean"]), losses, torch.lerp(losses, own["mean"], self.smoothing))
        waited = torch.where(mean < own["low"], 0, own["waited"] + 1)
        due = waited >= self.patience
        own = {"mean": mean, "low": torch.minimum(mean, own["low"]), "waited": torch.where(due, 0, waited)}
        hyper = {**state["hyper"], "lr": torch.where(due, lr / 2, lr)}
        return {**after, "hyper": hyper, "own": own}, {"train_loss": losses}

    def hyperparameters(self, state):
        return {"lr": state["hyper"]["lr"]}


if __name__ == "__main__":
    task = lt.TorchTask(
        space=lt.Space(lr=lt.Float(0.1, 10.0, log=True)),
        model=lambda config: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)),
        data=lt.data.digits(),
        loss=lt.losses.cross_entropy,
    )
    study = lt.tune(task, (lt.propose.Random(), Plateau(5)), trials=8, epochs=5, progress=False)
    runs = [(study.history.jobs[n].config["lr"], study.history.final(n)["lr"]) for n in range(8)]
    halvings = {round(math.log2(first / last)) for first, last in runs}
    print("halved at the members' own times:", len(halvings) > 1, sorted(halvings))
