"""What a hypernetwork knows: its hypergradient, and the paper's figures 2 to 4."""

from __future__ import annotations

import math
import statistics
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import luthier as lt
from papers.command import Run
from papers.hypernets.problems import CLASSES, Start, digits_or_mnist, per_class, regression, shared, small_digits

STEPS = 2_000  # of a training with 10 penalties
# one pair of draws, and the published descent
PAIR: dict[str, Any] = {"samples": 2, "smoothing": 0.0, "entropy": None, "follow": False, "gate": 0}


def cosine(run: Run, structure: str, seed: int) -> dict[str, Any]:
    """The hypernetwork's hypergradient at hyperparameters that stay where they are, and the exact one."""
    data, steps = small_digits(seed, 100, torch.float64), run.size.steps(STEPS)
    task = regression(
        *(data, 3e-2, 1.0, per_class, 10),
        optimizer=lt.optim.Adam(lr=3e-3),
        schedule=lt.optim.Cosine(steps),  # an epoch is one step here
        batch_size=100,
        dtype=torch.float64,
        evaluate_every=steps,
        device=run.device,
    )
    method = lt.adapt.Hypernet(structure=structure, scale=0.3, warmup=2 * steps, **PAIR)  # type: ignore[arg-type]
    study = lt.tune(task, method=(lt.propose.Random(), method), trials=1, epochs=steps, seed=seed, progress=False)
    response = study.response()
    place = torch.tensor(response.config["penalty"], dtype=torch.float64).log()
    step = 1e-4
    moved = [place + sign * step * row for row in torch.eye(10, dtype=torch.float64) for sign in (1, -1)]
    losses = response.losses([{"penalty": one.exp().tolist()} for one in moved])
    found = torch.tensor(losses, dtype=torch.float64).view(10, 2).diff(dim=1).squeeze(1) / (-2 * step)
    expected = exact_hypergradient(data, place)
    similarity = nn.functional.cosine_similarity(found, expected, dim=0).item()
    return {"cosine": similarity, "ratio": (found.norm() / expected.norm()).item()}


def exact_hypergradient(data: lt.Splits, place: Tensor) -> Tensor:
    """By the implicit function theorem at the closed form of the weights."""
    train, valid = (data.train.inputs, data.train.targets), (data.valid.inputs, data.valid.targets)
    model = nn.Linear(train[0].shape[1], CLASSES).double()
    params, train_loss, valid_loss = lt.response.functional(
        model, nn.functional.mse_loss, lambda p, h: per_class(p, {"penalty": h["log"].exp()})
    )
    inputs = torch.cat((train[0], torch.ones(len(train[0]), 1, dtype=torch.float64)), 1)
    for k in range(CLASSES):  # each class is a ridge regression of its own, whose bias has no penalty
        ridge = torch.eye(inputs.shape[1], dtype=torch.float64) * place[k].exp() * CLASSES * len(inputs)
        ridge[-1, -1] = 0.0
        best = torch.linalg.solve(inputs.mT @ inputs + ridge, inputs.mT @ train[1][:, k])
        params["weight"].data[k], params["bias"].data[k] = best[:-1], best[-1]
    found = lt.response.exact(lt.response.Problem(train_loss, valid_loss, params, {"log": place}, [train], valid))
    assert float(found.inner_gradient_norm) < 1e-10, "the closed form is not the minimum"
    return found.total["log"]


POINTS = 17
AROUND = 0.1  # where the local hypernetwork is


def curve(run: Run, method: str, seed: int) -> dict[str, Any]:
    """A global and a local hypernetwork's curves beside networks trained from scratch, the paper's figure 2."""
    steps, data = run.size.steps(1_000), digits_or_mnist(seed, 10)
    task = regression(
        *(data, 1e-3, 10.0, shared),
        optimizer=lt.optim.Adam(lr=3e-3),
        schedule=lt.optim.Cosine(steps),
        batch_size=10,
        evaluate_every=steps,
        device=run.device,
    )
    tune = partial(lt.tune, task, epochs=steps, seed=seed, progress=False)
    at = np.geomspace(1e-3, 10.0, POINTS)

    studied = tune(lt.propose.Grid(points=POINTS), trials=POINTS, checkpoints=True)
    trials = sorted(studied.trials, key=lambda trial: trial.config["penalty"])
    true, true_train = [trial.metrics["loss"] for trial in trials], []
    for trial in trials:
        with torch.no_grad():
            output = studied.model(trial.number).to("cpu")(data.train.inputs)
        true_train.append(torch.nn.functional.mse_loss(output, data.train.targets).item())
    asked = [{"penalty": float(x)} for x in at]
    whole = lt.adapt.Hypernet(mode="global", samples=8, warmup=2 * steps, gate=0)
    predicted = tune((lt.propose.Random(), whole), trials=1).response()
    # one line through the current penalty, which stays where it is
    line = lt.adapt.Hypernet(structure="linear", scale=0.5, warmup=2 * steps, **PAIR)
    near = tune((Start(1, AROUND), line), trials=1).response()
    losses = predicted.losses(asked)
    apart = [abs(p - t) / t for p, t in zip(losses, true, strict=True)]
    return {
        "at": at.tolist(),
        "true": true,
        "true_train": true_train,
        "predicted": losses,
        "predicted_train": predicted.losses(asked, "train"),
        "local": near.losses(asked),
        "local_train": near.losses(asked, "train"),
        "largest": 100 * max(apart),
        "mean": 100 * statistics.fmean(apart),
        "chosen": float(at[int(np.argmin(losses))]),
        "best": float(at[int(np.argmin(true))]),
        "data": "MNIST" if data.train.inputs.shape[1] == 784 else "digits",
        "weights": sum(p.numel() for p in predicted.weights(asked[0]).values()),
        "numbers": predicted.numbers,
    }


TOLD = 25  # trainings that the first two know: the paper's
LONGER = 4  # times the steps of the hypernetwork


def predict(run: Run, method: str, seed: int) -> list[dict[str, Any]]:
    """A Gaussian process and a hypernetwork of 25 trainings, and hypernetworks of hyperparameters drawn anew."""
    data, steps = small_digits(seed, 50), run.size.steps(STEPS)

    def task(steps: int) -> lt.TorchTask:
        return regression(
            *(data, 1e-3, 1.0, per_class, 10),
            optimizer=lt.optim.Adam(lr=3e-3),
            schedule=lt.optim.Cosine(steps),
            batch_size=50,
            evaluate_every=steps,
            device=run.device,
        )

    tune = partial(lt.tune, progress=False, checkpoints=True, seed=seed)
    studied = tune(task(steps), lt.propose.Random(), epochs=steps, trials=TOLD + run.size.asked)
    trials = sorted(studied.trials, key=lambda trial: trial.number)
    at = np.log([trial.config["penalty"] for trial in trials])
    true = np.array([trial.metrics["loss"] for trial in trials])
    hypernet = lt.propose.Random(), lt.adapt.Hypernet(mode="global", samples=8, warmup=1e9)
    configs = [trial.config for trial in trials[TOLD:]]
    found = {
        "gp": gaussian_process(at[:TOLD], true[:TOLD], at[TOLD:]),
        "fixed": hypernetwork_of(at[:TOLD], data, at[TOLD:], seed, steps),
        "sampled": tune(task(steps), hypernet, epochs=steps, trials=1).response().losses(configs),
        "sampled longer": tune(task(LONGER * steps), hypernet, epochs=LONGER * steps, trials=1)
        .response()
        .losses(configs),
    }
    asked = true[TOLD:]
    return [
        {
            "method": name,
            "true": np.round(asked, 6).tolist(),
            "predicted": np.round(each, 6).tolist(),
            "error": 100 * float(np.mean(np.abs(each - asked) / asked)),
            "bias": 100 * float(np.mean((each - asked) / asked)),
            "rank": float(np.corrcoef(np.argsort(np.argsort(each)), np.argsort(np.argsort(asked)))[0, 1]),
        }
        for name, each in ((name, np.array(values)) for name, values in found.items())
    ]


def gaussian_process(at: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Scikit-learn's process, one length a hyperparameter, of the standardised logarithm of the loss."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    y = np.log(y)
    lengths: Any = np.full(at.shape[1], 5.0)
    kernel = ConstantKernel(1.0) * Matern(lengths, (1.0, 1e3), nu=2.5) + WhiteKernel(1e-3, (1e-6, 1.0))
    model = GaussianProcessRegressor(kernel, n_restarts_optimizer=2, random_state=0)
    model.fit(at, (y - y.mean()) / y.std())
    return np.exp(model.predict(asked) * y.std() + y.mean())


def hypernetwork_of(at: np.ndarray, data: lt.Splits, asked: np.ndarray, seed: int, steps: int) -> list[float]:
    """A hypernetwork of the same form and steps, which sees the hyperparameters of the 25 trainings alone."""
    generator = torch.Generator().manual_seed(seed)
    middle, half = math.log(1e-3) / 2, -math.log(1e-3) / 2  # inputs from -1 to 1
    told, x = (torch.tensor((each - middle) / half, dtype=torch.float32) for each in (at, asked))
    inputs, targets = data.train.inputs, data.train.targets
    outputs = CLASSES * inputs.shape[1] + CLASSES
    first, last = nn.Linear(told.shape[1], 50), nn.Linear(50, outputs)
    net = nn.Sequential(first, nn.ReLU(), last)
    with torch.no_grad():
        for layer in (first, last):
            layer.weight.normal_(0, 1 / math.sqrt(layer.in_features), generator=generator)
            layer.bias.uniform_(-1, 1, generator=generator)
        last.weight.zero_()
        last.bias.zero_()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    penalties = torch.tensor(np.exp(at), dtype=torch.float32)

    def weights(x: Tensor) -> tuple[Tensor, Tensor]:
        flat = net(x)
        return flat[:, :-CLASSES].view(len(x), CLASSES, -1), flat[:, -CLASSES:]

    for _ in range(steps):
        w, b = weights(told)
        errors = (inputs @ w.mT + b.unsqueeze(1) - targets).square().mean((1, 2))
        loss = (errors + (penalties.unsqueeze(2) * w.square()).sum((1, 2))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        w, b = weights(x)
        return (data.valid.inputs @ w.mT + b.unsqueeze(1) - data.valid.targets).square().mean((1, 2)).tolist()


def local(run: Run, method: str, seed: int) -> dict[str, Any]:
    """One weight, one penalty: the exact best weight and loss over the penalty, and the hypernetwork's."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(rows: int, slope: float) -> lt.Split:
        x = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
        return lt.Split(x, slope * x + 0.1 * torch.randn(rows, 1, generator=generator, dtype=torch.float64))

    data = lt.Splits(drawn(20, 1.0), drawn(200, 0.5), drawn(200, 0.5))  # training asks for too great a weight
    x, y = data.train.inputs, data.train.targets
    task = lt.TorchTask(
        space=lt.Space(penalty=lt.Float(1e-2, 1e2, log=True)),
        model=lambda config: nn.Linear(1, 1, bias=False),
        data=data,
        loss=lt.losses.mean_squared_error,
        penalty=lambda params, hyper: hyper["penalty"] * params["weight"].square().sum(),
        optimizer=lt.optim.SGD(lr=0.02),
        batch_size=20,
        dtype=torch.float64,
        evaluate_every=100,
        device=run.device,
    )
    net = lt.adapt.Hypernet(scale=0.2, warmup=200, outer_lr=0.02, **PAIR)
    study = lt.tune(
        task, method=(lt.propose.Random(), net), trials=1, epochs=run.size.steps(3_000), seed=seed, progress=False
    )
    response, at = study.response(), np.geomspace(1e-2, 1e2, 81)
    best = [float((x * y).sum() / ((x * x).sum() + penalty * len(x))) for penalty in at]
    weights = [float(response.weights({"penalty": float(penalty)})["weight"]) for penalty in at]
    losses = [float((data.valid.inputs * w - data.valid.targets).square().mean()) for w in best]
    return {
        "at": at.tolist(),
        "exact": best,
        "approximate": weights,
        "exact_loss": losses,
        "approximate_loss": response.losses([{"penalty": float(penalty)} for penalty in at]),
        "squares": [  # means of x², xy and y², which give both losses at any weight
            [float((a * b).mean()) for a, b in ((p.inputs, p.inputs), (p.inputs, p.targets), (p.targets, p.targets))]
            for p in (data.train, data.valid)
        ],
        "found": math.log10(response.config["penalty"]),
        "optimum": math.log10(at[int(np.argmin(losses))]),
    }
