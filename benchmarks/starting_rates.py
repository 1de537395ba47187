"""A learning rate that is six starts over five decades away: steps to a loss, beside those of the best fixed rate.

    python benchmarks/starting_rates.py                    # reporting: writes results/starting_rates.json
    python benchmarks/starting_rates.py --part choosing    # writes results/starting_rates_choosing.json

Each optimizer trains from 1e-1, 1e-2, …, 1e-6 until the running mean of its training loss (decay 0.98) is below a
target, for at most four times the steps that the best of seventeen fixed rates of plain SGD needs. "Worst" is the worst
of the six starts over that best fixed rate. Problems and seeds of choosing and reporting are in
starting_rates_split.json, the problems in starting_rates_problems.py.

- "adaptive", "multiplicative": rules of ``lt.optim.HypergradientDescent`` around SGD; "adaptive, Adam" around Adam;
- "online scaled": AdaGrad with 0.3 on the normalised feedback -g·g'/‖g'‖² (Gao, Chu, Ye and Udell 2025); "null step":
  it takes back a step after which the minibatch's loss is higher than before;
- "Prodigy" and "schedule-free AdamW" (prodigyopt, schedulefree) take the start as their first estimate and their rate;
- "cosine": SGD, the start as the first rate of a cosine over twice the best fixed rate's steps. Its "best" is what a
  search over the six ends with; such a search costs six trainings.

Rows are kept as they come, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from starting_rates_problems import PROBLEMS, Problem
from torch import Tensor, nn

import luthier as lt

HERE = Path(__file__).resolve().parent
SPLIT = HERE / "starting_rates_split.json"
OUT = {"reporting": HERE / "results/starting_rates.json", "choosing": HERE / "results/starting_rates_choosing.json"}
STARTS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FIXED = tuple(10 ** (k / 4) for k in range(6, -11, -1))  # four a decade, from 32 to 0.003
DECAY, LONGEST, LIMIT = 0.98, 4, 1500


# --- optimizers


class OnlineScaled(torch.optim.SGD):
    """SGD whose rate is learnt by AdaGrad on the normalised feedback; with a null step it needs the closure's loss."""

    def __init__(self, params: Any, lr: float, gamma: float = 0.3, null: bool = False) -> None:
        super().__init__(params, lr)
        self.gamma, self.null, self.squares, self.before = gamma, null, 0.0, None

    @torch.no_grad()
    def refused(self, loss: Callable[[], Tensor]) -> bool:
        """Go back to the weights before the last step where the loss was lower there."""
        if not self.null or self.before is None:
            return False
        params = self.param_groups[0]["params"]
        here, now = [p.clone() for p in params], loss()
        for p, old in zip(params, self.before[0], strict=True):
            p.copy_(old)
        if bool(now > loss()) or not bool(now.isfinite()):
            return True
        for p, new in zip(params, here, strict=True):
            p.copy_(new)
        return False

    @torch.no_grad()
    def learn(self) -> None:
        """Move the rate by the gradients, before ``step``."""
        params = self.param_groups[0]["params"]
        g = torch.cat([p.grad.flatten() for p in params])
        if self.before is not None:
            old = self.before[1]
            h = -float(g @ old / (old @ old).clamp_min(1e-30))
            if math.isfinite(h):
                self.squares += h * h
                rate = self.param_groups[0]["lr"] - self.gamma * h / math.sqrt(max(self.squares, 1e-30))
                self.param_groups[0]["lr"] = min(max(rate, 1e-8), 100.0)
        self.before = [p.clone() for p in params], g


def optimizers() -> dict[str, Callable[[Any, float], Any]]:
    """Optimizers of parameters and a start, by name."""
    import prodigyopt
    import schedulefree

    hd, sgd, adam = lt.optim.HypergradientDescent, torch.optim.SGD, torch.optim.Adam
    return {
        "adaptive": lambda params, lr: hd(sgd(params, lr), rule="adaptive"),
        "multiplicative": lambda params, lr: hd(sgd(params, lr), rule="multiplicative"),
        "online scaled": lambda params, lr: OnlineScaled(params, lr),
        "online scaled, null step": lambda params, lr: OnlineScaled(params, lr, null=True),
        "adaptive, Adam": lambda params, lr: hd(adam(params, lr), rule="adaptive"),
        "multiplicative, Adam": lambda params, lr: hd(adam(params, lr), rule="multiplicative"),
        "Prodigy": lambda params, lr: prodigyopt.Prodigy(params, d0=lr),
        "schedule-free AdamW": lambda params, lr: schedulefree.AdamWScheduleFree(params, lr=lr),
        "fixed": lambda params, lr: sgd(params, lr),
    }


# --- the count


def minibatches(rows: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Endless: a new order each epoch, the last, smaller batch left out."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(rows, generator=generator)[: rows // batch * batch].split(batch)


def steps_to(
    problem: Problem, data: tuple[Tensor, Tensor], make: Callable[[Any], Any], limit: int, seed: int, cosine: int = 0
) -> list[int | None]:
    """Steps until the loss is below each target; None: not within the limit."""
    torch.manual_seed(seed)
    model = problem.model()
    optimizer = make(list(model.parameters()))
    start = optimizer.param_groups[0]["lr"]
    getattr(optimizer, "train", lambda: None)()  # schedule-free ones
    inputs, targets = data
    measure = nn.functional.mse_loss if targets.is_floating_point() else nn.functional.cross_entropy
    found: list[int | None] = [None] * len(problem.targets)
    mean = 0.0
    for t, rows in enumerate(minibatches(len(inputs), problem.batch, seed), start=1):
        loss_here = lambda rows=rows: measure(model(inputs[rows]), targets[rows])  # noqa: E731
        if cosine:
            optimizer.param_groups[0]["lr"] = start * 0.5 * (1 + math.cos(math.pi * min(1.0, (t - 1) / cosine)))
        if isinstance(optimizer, OnlineScaled) and optimizer.refused(loss_here):
            optimizer.param_groups[0]["lr"] *= 0.5
        loss = loss_here()
        optimizer.zero_grad()
        loss.backward()
        if isinstance(optimizer, OnlineScaled):
            optimizer.learn()
        optimizer.step()
        mean = DECAY * mean + (1 - DECAY) * loss.item()
        running = mean / (1 - DECAY**t)
        found = [
            n or (t if t >= 10 and running < target else None) for n, target in zip(found, problem.targets, strict=True)
        ]
        if t >= limit or None not in found or not math.isfinite(running):
            return found
    raise AssertionError("minibatches do not end")


def best_fixed(problem: Problem, data: tuple[Tensor, Tensor], seed: int) -> list[tuple[int, float]]:
    """For each target the least steps of a fixed rate, and that rate."""
    best = [(LIMIT, math.nan)] * len(problem.targets)
    for rate in FIXED:
        found = steps_to(problem, data, lambda params, rate=rate: torch.optim.SGD(params, rate), best[-1][0], seed)
        best = [min(old, (n, rate)) if n is not None else old for old, n in zip(best, found, strict=True)]
    return best


def one(name: str, seed: int, rows: dict[str, Any], keep: Callable[[], None], wanted: list[str] | None = None) -> None:
    """All rows of a problem and seed that are wanted and not there yet."""
    problem, place = PROBLEMS[name], rows.setdefault(f"{name}, seed {seed}", {})
    data = problem.data()
    if "best fixed" not in place:
        place["best fixed"] = [{"steps": n, "rate": rate} for n, rate in best_fixed(problem, data, seed)]
        keep()
    best = [row["steps"] for row in place["best fixed"]]
    contestants: dict[str, Any] = {title: (make, 0) for title, make in optimizers().items()}
    contestants["cosine"] = (contestants["fixed"][0], 2 * best[-1])
    for title, (make, cosine) in contestants.items():
        if title in place or (wanted and title not in wanted):
            continue
        limit = LONGEST * best[-1]
        counts = [
            steps_to(problem, data, lambda params, lr=lr, make=make: make(params, lr), limit, seed, cosine)
            for lr in STARTS
        ]
        each = list(zip(*counts, strict=True))
        place[title] = {
            "steps": each,
            "worst": [round(max(c) / n, 2) if None not in c else None for c, n in zip(each, best, strict=True)],  # type: ignore[type-var]
            "best": [round(min(filter(None, c), default=math.inf) / n, 2) for c, n in zip(each, best, strict=True)],
        }
        print(f"{name}, seed {seed}: {title:26} worst {place[title]['worst']} best {place[title]['best']}", flush=True)
        keep()


def summary(rows: dict[str, Any]) -> dict[str, Any]:
    """The worst of each optimizer over seeds, by problem: None where a target was not reached from a start."""
    found: dict[str, Any] = {}
    for place, row in rows.items():
        for title, counts in row.items():
            if "worst" in counts:
                found.setdefault(title, {}).setdefault(place.partition(",")[0], []).append(counts)
    return {
        title: {
            problem: {
                "seeds": len(runs),
                "worst": [None if None in c else max(c) for c in zip(*(run["worst"] for run in runs), strict=True)],
                "starts that reach the last target": sum(n is not None for run in runs for n in run["steps"][-1]),
                "of": len(STARTS) * len(runs),
            }
            for problem, runs in problems.items()
        }
        for title, problems in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["choosing", "reporting"], default="reporting")
    parser.add_argument("--problems", nargs="*", choices=list(PROBLEMS))
    parser.add_argument("--rows", nargs="*", help="these optimizers alone")
    parser.add_argument("--out", type=Path, help="by default in benchmarks/results")
    arguments = parser.parse_args()
    out = arguments.out or OUT[arguments.part]
    torch.set_num_threads(1)
    split = json.loads(SPLIT.read_text())[arguments.part]
    kept: dict[str, Any] = {"part": arguments.part, "starts": STARTS, "machine": lt.environment(), "rows": {}}
    if out.exists() and json.loads(out.read_text())["part"] == arguments.part:
        kept["rows"] = json.loads(out.read_text())["rows"]

    def keep() -> None:
        kept["summary"] = summary(kept["rows"])
        out.write_text(json.dumps(kept, indent=1) + "\n")

    for seed in split["seeds"]:
        for name in arguments.problems or split["problems"]:
            one(name, seed, kept["rows"], keep, arguments.rows)
    keep()
    for title, problems in kept["summary"].items():
        print(f"{title:26}", "  ".join(f"{name} {worst}" for name, worst in problems.items()))


if __name__ == "__main__":
    main()
