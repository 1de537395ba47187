"""Hypergradient descent on the learning rate: iterations to convergence from six starting rates, and beside its peers.

    python benchmarks/hypergradient_descent.py                     # some minutes on one core
    python benchmarks/hypergradient_descent.py --data digits --networks

The grid of Baydin et al. (2018): logistic regression, minibatches of 128, converged when the running mean of the
training loss (decay 0.98) is below a target. The weights of all starting rates are parameter groups of one optimizer,
``lt.optim.HypergradientDescent(torch.optim.SGD(…), per="group")``, so that all see the same minibatches. The best fixed
rate is chosen from a finer grid that reaches beyond the largest start. What is promised: with some β of the published
(additive) rule, SGD-HD needs at most 3 times the iterations of the best fixed rate from every start, where half of
these starts, or more, do not converge as fixed rates. Lower targets are printed too, and nothing is promised of them:
the rate is greedy on a noisy loss, and falls below what the last stretch to the optimum needs.

The second part trains two networks on Fashion-MNIST for the same number of steps under hypergradient descent, SGD,
Adam, and, where they are installed (prodigyopt, schedulefree), Prodigy and schedule-free AdamW. It promises nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import luthier as lt

OUT = Path(__file__).resolve().parent / "results" / "hypergradient_descent.json"
STARTS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FIXED = tuple(10 ** (k / 4) for k in range(-16, 7))  # four a decade, from 1e-4 to 32: the best is chosen from these
FIXED_LIMIT, HYPER_LIMIT = 2_000, 2_500  # iterations; the starts as fixed rates get --limit
TARGETS = {"digits": (0.5, 0.29), "fashion-mnist": (0.6, 0.5, 0.45)}  # of the running mean of the training loss
PROMISED = {"digits": 0.29, "fashion-mnist": 0.6}
BETAS = {"additive": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1), "multiplicative": (0.02, 0.05, 0.1, 0.2, 0.4)}
BATCH, DECAY, BOUND, EPOCHS = 128, 0.98, 3.0, 2
Counts = dict[float, list[int | None]]  # by target, one a start; None: not within the limit


def load(name: str) -> lt.Splits:
    """The data, normalised."""
    return lt.data.digits() if name == "digits" else lt.data.fashion_mnist(valid=10_000)


def minibatches(data: lt.Split, seed: int) -> Any:
    """Endless: a new order each epoch, the last, smaller batch left out."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(data), generator=generator)
        for rows in order[: len(data) // BATCH * BATCH].split(BATCH):
            yield data.inputs[rows], data.targets[rows]


def iterations(
    data: lt.Split, targets: tuple[float, ...], rates: tuple[float, ...], hyper: dict[str, Any], limit: int, seed: int
) -> tuple[Counts, list[float]]:
    """Iterations until the loss of each start is below each target; and the rates at the end.

    Args:
        data: Inputs (n, …).
        targets: Falling.
        rates: The starts.
        hyper: Settings of HypergradientDescent; empty for fixed rates.
        limit: Iterations at most.
        seed: Of the weights, equal for all starts, and of the order of the data.
    """
    torch.manual_seed(seed)
    first, count = nn.Linear(data.inputs[0].numel(), 10), len(rates)
    weights = [nn.Parameter(first.weight.detach().clone()) for _ in rates]
    biases = [nn.Parameter(first.bias.detach().clone()) for _ in rates]
    groups = [{"params": [w, b], "lr": lr} for w, b, lr in zip(weights, biases, rates, strict=True)]
    optimizer: Any = torch.optim.SGD(groups, rates[0])
    if hyper:
        optimizer = lt.optim.HypergradientDescent(optimizer, **hyper, per="group")
    found: Counts = {target: [None] * count for target in targets}
    mean = torch.zeros(count)
    for t, (inputs, labels) in enumerate(minibatches(data, seed), start=1):
        outputs = nn.functional.linear(inputs.flatten(1), torch.cat(weights), torch.cat(biases)).view(-1, count, 10)
        labels = labels[:, None].expand(-1, count)
        losses = nn.functional.cross_entropy(outputs.transpose(1, 2), labels, reduction="none").mean(0)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        mean = DECAY * mean + (1 - DECAY) * losses.detach()
        running = (mean / (1 - DECAY**t)).tolist()
        for target in targets if t >= 10 else ():
            for i, loss in enumerate(running):
                if found[target][i] is None and loss < target:
                    found[target][i] = t
        if t == limit or all(n is not None for n in found[targets[-1]]):
            break
    return found, [group.get("tuned_lr", group["lr"]) for group in optimizer.param_groups]


def grid(name: str, limit: int, seed: int) -> dict[str, Any]:
    """All rows of one data set."""
    begun = time.process_time()
    data, targets = load(name).train, TARGETS[name]
    finer, _ = iterations(data, targets, FIXED, {}, FIXED_LIMIT, seed)
    best: dict[float, tuple[int, float]] = {}
    for target in targets:
        best[target] = min((n, rate) for n, rate in zip(finer[target], FIXED, strict=True) if n is not None)
    counts, _ = iterations(data, targets, STARTS, {}, limit, seed)
    rows: list[dict[str, Any]] = [{"rule": "fixed", "hyper_lr": None, "limit": limit, "iterations": counts}]
    for rule, betas in BETAS.items():
        for beta in betas:
            hyper = {"hyper_lr": beta, "rule": rule}
            counts, ends = iterations(data, targets, STARTS, hyper, HYPER_LIMIT, seed)
            rows.append({"rule": rule, "hyper_lr": beta, "limit": HYPER_LIMIT, "iterations": counts, "ends": ends})
    for row in rows:
        row["worst / best fixed"] = {
            target: None if None in counts else round(max(counts) / best[target][0], 2)
            for target, counts in row["iterations"].items()
        }
    fixed = {target: {"iterations": n, "rate": rate} for target, (n, rate) in best.items()}
    return {
        "data": name,
        "seed": seed,
        "starts": STARTS,
        "best fixed": fixed,
        "rows": rows,
        "cpu seconds": round(time.process_time() - begun, 1),
    }


def show(result: dict[str, Any]) -> None:
    """Print one data set's tables, one a target."""
    for target, best in result["best fixed"].items():
        print(f"\n{result['data']}: iterations to a training loss of {target}")
        print(f"best fixed rate {best['rate']:.3g}: {best['iterations']}")
        print(f"{'rule':16}{'hyper_lr':>9}" + "".join(f"{start:>9.0e}" for start in STARTS) + f"{'worst/best':>12}")
        for row in result["rows"]:
            cells = "".join(f"{n if n is not None else '>' + str(row['limit']):>9}" for n in row["iterations"][target])
            ratio, beta = row["worst / best fixed"][target], row["hyper_lr"]
            print(f"{row['rule']:16}{'' if beta is None else beta:>9}{cells}{'-' if ratio is None else ratio:>12}")


def checks(results: list[dict[str, Any]]) -> dict[str, bool]:
    """What is promised, and whether it holds."""
    found = {}
    for result in results:
        name, target = result["data"], PROMISED[result["data"]]
        ratios = {r["hyper_lr"]: r["worst / best fixed"][target] for r in result["rows"] if r["rule"] == "additive"}
        kept = {beta: ratio for beta, ratio in ratios.items() if ratio is not None}
        beta = min(kept, key=lambda beta: kept[beta], default=None)
        ratio = float("inf") if beta is None else kept[beta]
        text = f"{name}: SGD-HD with hyper_lr={beta} needs at most {ratio} times the best fixed rate's iterations"
        found[f"{text}, from every start (promised: {BOUND})"] = ratio <= BOUND
        failed = sum(n is None for n in result["rows"][0]["iterations"][target])
        found[f"{name}: SGD does not converge from {failed} of {len(STARTS)} starts (promised: 3)"] = failed >= 3
    return found


def mlp() -> nn.Module:
    """784-128-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn() -> nn.Module:
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 10)),
    )


def contestants() -> dict[str, Callable[[Any], Any]]:
    """Optimizers by name; peers that are not installed are left out, and named."""
    adam, sgd, wrap = torch.optim.Adam, torch.optim.SGD, lt.optim.HypergradientDescent
    found: dict[str, Callable[[Any], Any]] = {
        "Adam 1e-3": lambda p: adam(p, 1e-3),
        "Adam 1e-5": lambda p: adam(p, 1e-5),
        "SGD momentum 1e-2": lambda p: sgd(p, 1e-2, momentum=0.9),
        "SGD momentum 1e-5": lambda p: sgd(p, 1e-5, momentum=0.9),
        "HD(Adam 1e-3)": lambda p: wrap(adam(p, 1e-3)),
        "HD(Adam 1e-5)": lambda p: wrap(adam(p, 1e-5)),
        "HD(SGD momentum 1e-2)": lambda p: wrap(sgd(p, 1e-2, momentum=0.9)),
        "HD(SGD momentum 1e-5)": lambda p: wrap(sgd(p, 1e-5, momentum=0.9)),
        "AdamHD 1e-3, published 1e-7": lambda p: lt.optim.AdamHD(p, 1e-3, hyper_lr=1e-7),
    }
    peers = {"prodigyopt": ("Prodigy", {"lr": 1.0}), "schedulefree": ("AdamWScheduleFree", {"lr": 2.5e-3})}
    for module, (name, settings) in peers.items():
        try:
            kind = getattr(importlib.import_module(module), name)
        except ImportError:
            print(f"{name} is left out: pip install {module}", file=sys.stderr)
        else:
            found[f"{name} {settings['lr']:g}"] = lambda p, kind=kind, settings=settings: kind(p, **settings)
    return found


def train(
    make: Callable[[], nn.Module], optimizer_of: Callable[[Any], Any], data: lt.Splits, seed: int
) -> dict[str, Any]:
    """Losses after EPOCHS passes, and the processor time of them."""
    torch.manual_seed(seed)
    model = make()
    optimizer = optimizer_of(model.parameters())
    mode = {name: getattr(optimizer, name, lambda: None) for name in ("train", "eval")}  # schedule-free has both
    mode["train"]()
    losses: list[Tensor] = []
    begun = time.process_time()
    for t, (inputs, labels) in enumerate(minibatches(data.train, seed), start=1):
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if t == EPOCHS * (len(data.train) // BATCH):
            break
    seconds = time.process_time() - begun
    mode["eval"]()
    with torch.no_grad():
        outputs = torch.cat([model(inputs) for inputs in data.valid.inputs.split(1000)])
    return {
        "training loss": round(torch.stack(losses[-100:]).mean().item(), 4),
        "validation loss": round(nn.functional.cross_entropy(outputs, data.valid.targets).item(), 4),
        "validation accuracy": round((outputs.argmax(1) == data.valid.targets).double().mean().item(), 4),
        "rate": getattr(optimizer, "rates", lambda: [None])()[0],
        "cpu ms a step": round(1000 * seconds / len(losses), 2),
    }


def main() -> None:
    """Measure, print, write JSON; exit status 1 where what is promised does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--networks", nargs="*", choices=["mlp", "cnn"], default=["mlp", "cnn"])
    parser.add_argument("--limit", type=int, default=10_000, help="iterations at a fixed rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = [grid(name, arguments.limit, arguments.seed) for name in arguments.data]
    for result in results:
        show(result)
    networks: dict[str, dict[str, Any]] = {}
    fashion = load("fashion-mnist") if arguments.networks else None
    for name in arguments.networks:
        networks[name] = {}
        print(f"\n{name} on Fashion-MNIST after {EPOCHS} epochs")
        for label, optimizer_of in contestants().items():
            row = train({"mlp": mlp, "cnn": cnn}[name], optimizer_of, fashion, arguments.seed)  # type: ignore[arg-type]
            networks[name][label] = row
            print(f"{label:30}" + "  ".join(f"{key} {value:.4g}" for key, value in row.items() if value is not None))
    promised = checks(results)
    for text, holds in promised.items():
        print(f"{'holds' if holds else 'BROKEN'}: {text}")
    found = {
        "command": " ".join(["python", "benchmarks/hypergradient_descent.py", *sys.argv[1:]]),
        "machine": lt.environment(),
        "promised": promised,
        "grids": results,
        "networks": networks,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    if not all(promised.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
