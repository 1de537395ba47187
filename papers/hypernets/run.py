"""Stochastic hyperparameter optimization with hypernets: the poster's figures 2 to 4, and 10 and 7,850 hyperparameters.

    python -m papers.hypernets.run                    everything that results.json does not have yet
    python -m papers.hypernets.run cosine curve       some parts: cosine, curve, predict, local, ten, many, cost
    python -m papers.hypernets.run --figures          only draw and write the tables again

Every run is kept as it ends, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

import luthier as lt
from papers import figures, tables

HERE = Path(__file__).resolve().parent
COMMAND = "python -m papers.hypernets.run"
CLASSES = 10
Params = dict[str, Tensor]


# --- the problems: linear regression onto the ten classes, as in the paper


def zeros(inputs: int) -> nn.Module:
    """A linear network that starts at zero, so that trainings differ in their hyperparameters alone."""
    layer = nn.Linear(inputs, CLASSES)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def one_hot(split: lt.Split, rows: int | None = None, dtype: torch.dtype = torch.float32) -> lt.Split:
    """Inputs as rows, and classes as vectors."""
    targets = nn.functional.one_hot(split.targets[:rows], CLASSES)
    return lt.Split(split.inputs[:rows].flatten(1).to(dtype), targets.to(dtype))


def shared(params: Params, hyper: Params) -> Tensor:
    """One penalty of all weights."""
    return hyper["penalty"] * params["weight"].square().sum()


def per_class(params: Params, hyper: Params) -> Tensor:
    """One penalty of each class' weights."""
    return (hyper["penalty"].unsqueeze(1) * params["weight"].square()).sum()


def per_weight(params: Params, hyper: Params) -> Tensor:
    """One penalty of each weight and bias."""
    count = params["weight"].numel()
    weight, bias = hyper["penalty"][:count].view_as(params["weight"]), hyper["penalty"][count:]
    return (weight * params["weight"].square()).sum() + (bias * params["bias"].square()).sum()


def regression(
    data: lt.Splits,
    low: float,
    high: float,
    penalty: Callable[..., Tensor],
    numbers: int | None = None,
    **settings: Any,
) -> lt.TorchTask:
    """A task with one vector of penalties, or one number."""
    inputs = data.train.inputs.shape[1]
    shape = () if numbers is None else (numbers,)
    return lt.TorchTask(
        space=lt.Space(penalty=lt.Float(low, high, log=True, shape=shape)),
        model=lambda config: zeros(inputs),
        data=data,
        loss=lt.losses.mean_squared_error,
        penalty=penalty,
        metrics={"accuracy": right},
        **settings,
    )


def right(output: Tensor, target: Tensor) -> Tensor:
    """The share of examples whose class is found."""
    return (output.argmax(1) == target.argmax(1)).double().mean()


def small_digits(seed: int, train: int, dtype: torch.dtype = torch.float32) -> lt.Splits:
    """The digits with few examples to train on."""
    data = lt.data.digits(seed=seed)
    return lt.Splits(
        one_hot(data.train, train, dtype), one_hot(data.valid, None, dtype), one_hot(data.test, None, dtype)
    )


def fashion(seed: int, train: int | None = None) -> lt.Splits:
    """Fashion-MNIST, 784 pixels a row."""
    data = lt.data.fashion_mnist(valid=10_000, seed=seed, train=train)
    return lt.Splits(one_hot(data.train), one_hot(data.valid), one_hot(data.test))


# --- 10 hyperparameters: the hypergradient against the exact one

STEPS = 2_000


def cosine(structure: str, seed: int) -> dict[str, Any]:
    """The hypernetwork's hypergradient at hyperparameters that stay where they are, and the exact one."""
    data = small_digits(seed, 100, torch.float64)
    task = regression(
        *(data, 3e-2, 1.0, per_class, 10),
        optimizer=lt.optim.Adam(lr=3e-3),
        schedule=lt.optim.Cosine(STEPS),  # an epoch is one step here
        batch_size=100,
        dtype=torch.float64,
        evaluate_every=STEPS,
    )
    method = lt.adapt.Hypernet(structure=structure, scale=0.3, entropy=None, warmup=2 * STEPS)  # type: ignore[arg-type]
    study = lt.tune(task, method=(lt.propose.Random(), method), trials=1, epochs=STEPS, seed=seed, progress=False)
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
    found = lt.response.exact(train_loss, valid_loss, params, {"log": place}, [train], valid)
    assert float(found.inner_gradient_norm) < 1e-10, "the closed form is not the minimum"
    return found.total["log"]


# --- figure 2: the validation loss over one hyperparameter

POINTS = 17


def curve(method: str, seed: int) -> dict[str, Any]:
    """A global hypernetwork's curve beside networks trained from scratch."""
    task = regression(
        *(small_digits(seed, 10), 1e-3, 10.0, shared),
        optimizer=lt.optim.Adam(lr=3e-3),
        schedule=lt.optim.Cosine(4_000),
        batch_size=10,
        evaluate_every=4_000,
    )
    at = np.geomspace(1e-3, 10.0, POINTS)
    scratch = lt.tune(task, lt.propose.Grid(points=POINTS), trials=POINTS, epochs=4_000, seed=seed, progress=False)
    true = [trial.metrics["loss"] for trial in sorted(scratch.trials, key=lambda trial: trial.config["penalty"])]
    net = lt.adapt.Hypernet(mode="global", samples=8, warmup=5_000)
    study = lt.tune(task, method=(lt.propose.Random(), net), trials=1, epochs=4_000, seed=seed, progress=False)
    predicted = study.response().losses([{"penalty": float(x)} for x in at])
    apart = [abs(p - t) / t for p, t in zip(predicted, true, strict=True)]
    return {
        "at": at.tolist(),
        "true": true,
        "predicted": predicted,
        "largest": 100 * max(apart),
        "mean": 100 * statistics.fmean(apart),
        "chosen": float(at[int(np.argmin(predicted))]),
        "best": float(at[int(np.argmin(true))]),
    }


# --- figure 3: three predictions of the validation loss

TOLD, ASKED = 25, 200


def predict(method: str, seed: int) -> list[dict[str, Any]]:
    """A Gaussian process and a hypernetwork of 25 trainings, and a hypernetwork of hyperparameters drawn anew."""
    steps = 2_000
    data = small_digits(seed, 50)
    task = regression(
        *(data, 1e-3, 1.0, per_class, 10),
        optimizer=lt.optim.Adam(lr=3e-3),
        schedule=lt.optim.Cosine(steps),
        batch_size=50,
        evaluate_every=steps,
    )
    run = partial(lt.tune, task, epochs=steps, progress=False, checkpoints=True)
    studied = run(lt.propose.Random(), trials=TOLD + ASKED, seed=seed)
    trials = sorted(studied.trials, key=lambda trial: trial.number)
    at = np.log([trial.config["penalty"] for trial in trials])
    true = np.array([trial.metrics["loss"] for trial in trials])
    net = run((lt.propose.Random(), lt.adapt.Hypernet(mode="global", samples=8, warmup=1e9)), trials=1, seed=seed)
    found = {
        "gp": gaussian_process(at[:TOLD], true[:TOLD], at[TOLD:]),
        "fixed": hypernetwork_of(at[:TOLD], data, at[TOLD:], seed),
        "sampled": net.response().losses([trial.config for trial in trials[TOLD:]]),
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
    kernel = ConstantKernel(1.0) * Matern(np.full(at.shape[1], 5.0), (1.0, 1e3), nu=2.5) + WhiteKernel(
        1e-3, (1e-6, 1.0)
    )
    model = GaussianProcessRegressor(kernel, n_restarts_optimizer=2, random_state=0)
    model.fit(at, (y - y.mean()) / y.std())
    return np.exp(model.predict(asked) * y.std() + y.mean())


def hypernetwork_of(at: np.ndarray, data: lt.Splits, asked: np.ndarray, seed: int) -> list[float]:
    """A hypernetwork of the same form and steps, which sees the hyperparameters of the 25 trainings alone."""
    generator = torch.Generator().manual_seed(seed)
    middle, half = math.log(1e-3) / 2, -math.log(1e-3) / 2  # inputs from -1 to 1
    told, x = (torch.tensor((each - middle) / half, dtype=torch.float32) for each in (at, asked))
    inputs, targets = data.train.inputs, data.train.targets
    outputs = CLASSES * inputs.shape[1] + CLASSES
    net = nn.Sequential(nn.Linear(told.shape[1], 50), nn.ReLU(), nn.Linear(50, outputs))
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.normal_(0, 1 / math.sqrt(layer.in_features), generator=generator)
            layer.bias.uniform_(-1, 1, generator=generator)
        net[2].weight.zero_()
        net[2].bias.zero_()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2_000)
    penalties = torch.tensor(np.exp(at), dtype=torch.float32)

    def weights(x: Tensor) -> tuple[Tensor, Tensor]:
        flat = net(x)
        return flat[:, :-CLASSES].view(len(x), CLASSES, -1), flat[:, -CLASSES:]

    for _ in range(2_000):
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


# --- figure 4: the best weight of a one-dimensional problem, and its linear approximation at the end


def local(method: str, seed: int) -> dict[str, Any]:
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
    )
    net = lt.adapt.Hypernet(entropy=None, scale=0.2, warmup=200, outer_lr=0.02)
    study = lt.tune(task, method=(lt.propose.Random(), net), trials=1, epochs=3_000, seed=seed, progress=False)
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
        "found": math.log10(response.config["penalty"]),
        "optimum": math.log10(at[int(np.argmin(losses))]),
    }


# --- 10 and 7,850 hyperparameters: the validation loss over CPU time

SECONDS = {"ten": 6.0, "many": 12.0}  # CPU time of each arm and seed
EPOCHS = {"ten": 50, "many": 10}  # of each training of a search


def arms(part: str) -> dict[str, tuple[bool, Any]]:
    """What is compared: whether each weight, or class, has its own penalty, and the method."""
    warm: dict[str, Any] = {"warmup": 1.0, "outer_lr": 0.05}
    cheap: dict[str, Any] = {"samples": 1, "inner_steps": 10}
    if part == "ten":
        return {"linear": (True, lt.adapt.Hypernet(structure="linear", **warm)), **others(True)}
    return {
        # Adam moves all 7,850 at once, far beyond the draws in the ten directions of this structure: smaller moves
        "low_rank": (True, lt.adapt.Hypernet(structure="low_rank", scale=0.3, warmup=1.0, outer_lr=0.002, **cheap)),
        "diagonal": (True, lt.adapt.Hypernet(structure="diagonal", **warm, **cheap)),
        "implicit": (True, lt.adapt.Bilevel("implicit", settings={"iterations": 10}, **warm)),
        "unrolled": (True, lt.adapt.Bilevel("unrolled", **warm)),
        **others(False),
    }


def others(own: bool) -> dict[str, tuple[bool, Any]]:
    """The two methods that search between trainings."""
    return {"random": (own, lt.propose.Random()), "gp": (own, lt.propose.GaussianProcess(batch=1))}


@dataclass(frozen=True)
class Start:
    """A proposer of one configuration: all penalties alike."""

    numbers: int
    value: float = 1e-4
    budget: lt.Budget | None = None
    extendable: ClassVar[bool] = False

    def bind(self, budget: lt.Budget) -> Start:
        """The same, with the steps of a training."""
        return replace(self, budget=budget)

    def propose(self, history: lt.History, count: int, seeds: lt.Seeds) -> list[lt.Job]:
        """The configuration, once."""
        config: dict[str, Any] = {"penalty": [self.value] * self.numbers}
        return [] if len(history) or self.budget is None else [lt.Job(0, config, self.budget.steps_for(config))]


def compared(part: str, method: str, seed: int) -> dict[str, Any]:
    """One arm for its CPU time: the best validation loss so far, and the test loss of what it chooses."""
    own, tuner = arms(part)[method]
    data = fashion(seed, 2_000) if part == "ten" else fashion(seed)
    per, numbers = (per_class, 10) if part == "ten" else (per_weight, 7_850)
    settings: dict[str, Any] = {"batch_size": 100, "optimizer": lt.optim.Adam(lr=1e-3)}
    shape = (per, numbers) if own else (shared, None)
    task = regression(data, 1e-8, 1e-1, *shape, **settings)
    trains = hasattr(tuner, "step")  # an adapter spends its time in one training, a proposer in many

    def tune(count: int) -> tuple[lt.Study, float]:
        clock = time.process_time()
        if trains:
            given: dict[str, Any] = {"method": (Start(numbers), tuner), "trials": 1, "epochs": count}
        else:
            given = {"method": tuner, "trials": count, "epochs": EPOCHS[part]}
        return lt.tune(task, seed=seed, progress=False, **given), time.process_time() - clock

    tune(3)  # traces the step
    _, first = tune(3)  # what an epoch, or a training, costs
    study, spent = tune(max(3, round(SECONDS[part] / (first / 3))))
    assert study.best is not None
    if trains:
        losses = [report.metrics["loss"] for report in study.history.reports[study.best.number]]
    else:
        losses = [trial.metrics["loss"] for trial in sorted(study.trials, key=lambda trial: trial.number)]
    penalties = np.array(study.best.final["penalty"] if trains else study.best.config["penalty"], ndmin=1)
    return {
        "seconds": spent,
        "count": len(losses),
        "course": np.round(np.minimum.accumulate(losses), 6).tolist(),
        "valid_loss": study.best.metrics["loss"],
        "test_loss": study.best.test["loss"],
        "test_accuracy": 100 * study.best.test["accuracy"],
        "quantiles": np.log10(np.quantile(penalties, (0.05, 0.5, 0.95))).tolist(),
    }


def cost(method: str, seed: int) -> list[dict[str, Any]]:
    """CPU time of training steps with 7,850 penalties, each hypernetwork's and a plain one, in turns."""
    task = regression(fashion(seed), 1e-8, 1e-1, per_weight, 7_850, batch_size=100, optimizer=lt.optim.Adam(lr=1e-3))
    tuners = {"plain": Start(7_850)} | {
        name: (Start(7_850), arms("many")[name][1]) for name in ("low_rank", "diagonal")
    }

    def spent(name: str, steps: int) -> float:
        clock = time.process_time()
        lt.tune(task, tuners[name], trials=1, steps=steps, seed=seed, progress=False)
        return time.process_time() - clock

    for name in tuners:
        spent(name, 5_000)  # the step is traced meanwhile, once for all
    # the difference has neither start nor the measurement at the end in it
    times = [{name: spent(name, 1_480) - spent(name, 490) for name in tuners} for _ in range(5)]
    step = {name: 1e3 * statistics.median(one[name] for one in times) / 990 for name in tuners}
    ratio = {name: statistics.median(one[name] / one["plain"] for one in times) for name in tuners}
    return [{"method": name, "ms": step[name], "ratio": ratio[name]} for name in tuners]


# --- all runs, tables and figures

PARTS: dict[str, tuple[tuple[str, ...], int, Callable[[str, int], Any]]] = {
    "local": (("hypernet",), 1, local),
    "cosine": (("linear", "gated"), 3, cosine),
    "curve": (("hypernet",), 3, curve),
    "predict": (("sampled",), 3, predict),  # and with it its two others
    "cost": (("plain",), 1, cost),
    "ten": (tuple(arms("ten")), 3, partial(compared, "ten")),
    "many": (tuple(arms("many")), 3, partial(compared, "many")),
}
TITLES = {
    "linear": "hypernet, local, `linear`",
    "gated": "hypernet, local, `gated`",
    "low_rank": "hypernet, local, rank 10",
    "diagonal": "hypernet, local, `diagonal`",
    "implicit": "`Bilevel`, implicit",
    "unrolled": "`Bilevel`, unrolled",
    "random": "random search",
    "gp": "`gp`",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="by default all")
    parser.add_argument("--figures", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    file = HERE / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": []}
    if not arguments.figures:
        work(results, arguments.parts or list(PARTS), file)
    results["tables"] = tables_of()
    write(results, file)
    draw(results["runs"])
    readme = HERE / "README.md"
    if readme.exists():
        readme.write_text(tables.filled(readme.read_text(), results))
    for name in results["tables"]:
        print(tables.render(results, name), end="\n\n")


def work(results: dict[str, Any], parts: Sequence[str], file: Path) -> None:
    """Run what has not been run."""
    results["command"] = COMMAND
    results["machine"] = {"torch": torch.__version__, "python": platform.python_version(), "threads": 1}
    made = {(one["part"], one["method"], one["seed"]) for one in results["runs"]}
    for part in parts:
        methods, seeds, function = PARTS[part]
        for seed in range(seeds):
            for method in methods:
                if (part, method, seed) not in made:
                    clock = time.process_time()
                    found = function(method, seed)
                    for one in found if isinstance(found, list) else [found]:
                        results["runs"].append({"part": part, "method": method, "seed": seed, **one})
                        short = {
                            name: value for name, value in results["runs"][-1].items() if not isinstance(value, list)
                        }
                        print(short, flush=True)
                    results["runs"][-1]["cpu_seconds"] = round(time.process_time() - clock, 1)
                    write(results, file)


def write(results: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps(results, indent=1) + "\n")


def tables_of() -> dict[str, Any]:
    """What the README shows."""

    def rows(part: str, methods: Sequence[str]) -> list[dict[str, Any]]:
        return [{"title": TITLES.get(name, name), "where": {"part": part, "method": name}} for name in methods]

    searched = [
        {"key": "valid_loss", "title": "validation loss", "digits": 5},
        {"key": "test_loss", "title": "test loss", "digits": 5},
        {"key": "test_accuracy", "title": "test accuracy, %", "digits": 2},
        {"key": "seconds", "title": "CPU seconds", "digits": 1},
        {"key": "count", "title": "epochs or trainings", "digits": 0},
    ]
    return {
        "cosine": {
            "by": "structure",
            "columns": [
                {"key": "cosine", "title": "cosine with the exact hypergradient", "digits": 4},
                {"key": "ratio", "title": "its norm over the exact one's", "digits": 3},
                {"key": "cosine", "title": "runs", "show": "count"},
            ],
            "rows": rows("cosine", ("linear", "gated")),
        },
        "curve": {
            "by": "training",
            "columns": [
                {"key": "largest", "title": "largest difference, %", "digits": 2},
                {"key": "mean", "title": "mean difference, %", "digits": 2},
                {"key": "largest", "title": "runs", "show": "count"},
            ],
            "rows": [{"title": "global hypernet", "where": {"part": "curve"}}],
        },
        "predict": {
            "by": "prediction of the validation loss",
            "columns": [
                {"key": "error", "title": "mean difference, %", "digits": 2},
                {"key": "bias", "title": "mean signed difference, %", "digits": 2},
                {"key": "rank", "title": "rank correlation", "digits": 3},
            ],
            "rows": [{"title": t, "where": {"part": "predict", "method": name}} for name, t in PREDICTIONS.items()],
        },
        "cost": {
            "by": "step",
            "columns": [
                {"key": "ms", "title": "CPU ms a training step", "digits": 3},
                {"key": "ratio", "title": "times a plain step", "digits": 2},
            ],
            "rows": [
                {"title": title, "where": {"part": "cost", "method": name}}
                for name, title in (("plain", "plain"), *((k, TITLES[k]) for k in ("low_rank", "diagonal")))
            ],
        },
        **{part: {"by": "method", "columns": searched, "rows": rows(part, PARTS[part][0])} for part in ("ten", "many")},
    }


PREDICTIONS = {
    "gp": f"Gaussian process, {TOLD} trainings",
    "fixed": f"hypernet, the same {TOLD} hyperparameters",
    "sampled": "hypernet, hyperparameters drawn at every step",
}


def draw(runs: Sequence[dict[str, Any]]) -> None:
    """The poster's figures 2 to 4, and the comparisons."""
    of = {part: [one for one in runs if one["part"] == part] for part in PARTS}
    if of["curve"]:
        at = [math.log10(x) for x in of["curve"][0]["at"]]
        series = {
            title: (at, np.array([one[key] for one in of["curve"]]))
            for key, title in (("true", "trained from scratch"), ("predicted", "global hypernet"))
        }
        figures.lines(HERE / "figure2.png", series, x="log10 of the penalty", y="validation loss")
    if of["local"]:
        one = of["local"][0]
        at = [math.log10(x) for x in one["at"]]
        for key, y in (("", "weight"), ("_loss", "validation loss")):
            series = {name: (at, np.array([one[name + key]])) for name in ("exact", "approximate")}
            figures.lines(HERE / f"figure4{key}.png", series, x="log10 of the penalty", y=y)
    for part in ("ten", "many"):
        series = {}
        for method in PARTS[part][0]:
            courses = [(one["seconds"], one["course"]) for one in of[part] if one["method"] == method]
            if courses:
                grid = np.linspace(0.05, 1, 60) * SECONDS[part]
                values = [np.interp(grid, np.linspace(0, s, len(c) + 1)[1:], c, left=np.nan) for s, c in courses]
                series[TITLES[method].replace("`", "")] = (grid.tolist(), np.array(values))
        if series:
            figures.lines(HERE / f"{part}.png", series, x="CPU seconds", y="best validation loss so far", log=True)
    if of["predict"]:
        scatter(of["predict"])


def scatter(runs: Sequence[dict[str, Any]]) -> None:
    """The poster's figure 3: predicted against true validation loss."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.4), dpi=120)
    FigureCanvasAgg(figure)
    for axes, colour, (name, title) in zip(
        figure.subplots(1, 3, sharex=True, sharey=True), figures.COLOURS, PREDICTIONS.items(), strict=False
    ):
        mine = [one for one in runs if one["method"] == name]
        true = np.concatenate([one["true"] for one in mine])
        axes.plot([true.min(), true.max()], [true.min(), true.max()], color="black", lw=0.8)
        axes.plot(true, np.concatenate([one["predicted"] for one in mine]), ".", ms=2.5, color=colour)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("true validation loss")
    figure.axes[0].set_ylabel("predicted")
    figure.tight_layout()
    figure.savefig(HERE / "figure3.png", metadata={"Software": None})


if __name__ == "__main__":
    main()
