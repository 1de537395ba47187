"""One hypergradient of a 784-128-10 network with one log-penalty a weight (101,770): CPU time and peak memory.

    python benchmarks/hypergradient.py                 # all rows, each in a process of its own
    python benchmarks/hypergradient.py --repeats 30    # more repeats

Rows named "by hand" are the same mathematics written out for this one network with torch.autograd.grad alone: what a
general library can hope for. Times are CPU time of the process with one thread; memory, measured in another process, is
the growth of the peak resident set once warm, with large allocations mapped and so returned (MALLOC_MMAP_THRESHOLD_).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from luthier import optim, response

BATCH, RATE = 128, 0.1
MAPPED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
Tree = dict[str, Tensor]


def problem() -> tuple[response.Functional, Tree, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The network with random weights, log-penalties of -6, and two random minibatches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    losses = response.functional(
        model,
        nn.functional.cross_entropy,
        lambda p, h: torch.stack([(h[name].exp() * w.square()).sum() for name, w in p.items()]).sum(),
    )
    hyper = {name: torch.full_like(w, -6.0) for name, w in losses.params.items()}

    def batch() -> tuple[Tensor, Tensor]:
        return torch.rand(BATCH, 784), torch.randint(10, (BATCH,))

    return losses, hyper, batch(), batch()


def rows() -> dict[str, Callable[[], Tree]]:
    """Every row as a function that computes the hypergradient once."""
    losses, hyper, train, valid = problem()
    arguments = response.Problem(losses.train_loss, losses.valid_loss, losses.params, hyper, [train], valid)

    def unrolled(steps: int, memory: str) -> Callable[[], Tree]:
        optimizer = optim.SGD(lr=RATE)
        return lambda: response.unrolled(arguments, optimizer=optimizer, steps=steps, memory=memory).total  # type: ignore

    def series(terms: int) -> Callable[[], Tree]:
        return lambda: response.implicit(arguments, solver="neumann", iterations=terms, alpha=RATE, damping=0.0).total

    return {
        "plain training 5": lambda: train_plainly(losses, hyper, train, 5),
        "plain training 20": lambda: train_plainly(losses, hyper, train, 20),
        "unrolled 5": unrolled(5, "graph"),
        "unrolled 5, by hand": lambda: unrolled_by_hand(losses, hyper, train, valid, 5),
        "unrolled 20": unrolled(20, "graph"),
        "unrolled 20, by hand": lambda: unrolled_by_hand(losses, hyper, train, valid, 20),
        "unrolled 20, checkpoint": unrolled(20, "checkpoint"),
        "unrolled 20, trajectory": unrolled(20, "trajectory"),
        "Neumann 5": series(5),
        "Neumann 5, by hand": lambda: series_by_hand(losses, hyper, train, valid, 5),
        "Neumann 20": series(20),
        "Neumann 20, by hand": lambda: series_by_hand(losses, hyper, train, valid, 20),
        "conjugate gradients 20": lambda: response.implicit(arguments).total,
        "identity": lambda: response.identity(arguments, alpha=RATE).total,
        "finite difference": lambda: response.finite_difference(arguments, alpha=RATE).total,
    }


def train_plainly(losses: response.Functional, hyper: Tree, train: tuple[Tensor, Tensor], steps: int) -> Tree:
    """Gradient descent without a hypergradient: the floor."""
    params = losses.params
    for _ in range(steps):
        leaves = {name: w.detach().requires_grad_() for name, w in params.items()}
        grads = torch.autograd.grad(losses.train_loss(leaves, hyper, train), list(leaves.values()))
        params = {name: w - RATE * g for (name, w), g in zip(params.items(), grads, strict=True)}
    return params


def unrolled_by_hand(
    losses: response.Functional, hyper: Tree, train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor], steps: int
) -> Tree:
    """One graph through all steps, one backward pass."""
    knobs = {name: h.detach().requires_grad_() for name, h in hyper.items()}
    params = {name: w.detach().requires_grad_() for name, w in losses.params.items()}
    for _ in range(steps):
        loss = losses.train_loss(params, knobs, train)
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params = {name: w - RATE * g for (name, w), g in zip(params.items(), grads, strict=True)}
    found = torch.autograd.grad(losses.valid_loss(params, knobs, valid), list(knobs.values()))
    return dict(zip(knobs, found, strict=True))


def series_by_hand(
    losses: response.Functional, hyper: Tree, train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor], terms: int
) -> Tree:
    """Double backward on one retained graph."""
    knobs = {name: h.detach().requires_grad_() for name, h in hyper.items()}
    params = {name: w.detach().requires_grad_() for name, w in losses.params.items()}
    leaves = list(params.values())
    p = list(torch.autograd.grad(losses.valid_loss(params, knobs, valid), leaves))
    total = list(p)
    grads = torch.autograd.grad(losses.train_loss(params, knobs, train), leaves, create_graph=True)
    for _ in range(terms):
        products = torch.autograd.grad(grads, leaves, grad_outputs=p, retain_graph=True)
        p = [x - RATE * y for x, y in zip(p, products, strict=True)]
        total = [x + y for x, y in zip(total, p, strict=True)]
    found = torch.autograd.grad(grads, list(knobs.values()), grad_outputs=total)
    return {name: -RATE * x for name, x in zip(knobs, found, strict=True)}


def measure(name: str, repeats: int) -> dict[str, float | str]:
    """Time of one row in this process, or with no repeats its peak memory."""
    torch.set_num_threads(1)
    row = rows()[name]
    row()
    row()
    if repeats == 0:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
        before = _resident("VmHWM")
        row()
        return {"peak MiB": (_resident("VmHWM") - before) / 1024}
    times = []
    for _ in range(repeats):
        start = time.process_time()
        row()
        times.append(1e3 * (time.process_time() - start))
    return {"row": name, "ms min": min(times), "ms median": statistics.median(times)}


def _resident(field: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1])  # kB


def main() -> None:
    """Run every row in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--row", help="measure this row alone, in this process, and print JSON")
    parser.add_argument("--out", type=Path, help="write all rows to this JSON file")
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(arguments.row, arguments.repeats)))
        return
    found = []
    print(f"{'row':28}{'ms min':>9}{'median':>9}{'peak MiB':>10}")
    for name in rows():
        row: dict[str, Any] = {}
        for repeats, environment in ((arguments.repeats, {}), (0, MAPPED)):
            command = [sys.executable, __file__, "--row", name, "--repeats", str(repeats)]
            done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True)
            row |= json.loads(done.stdout)
        found.append(row)
        print(f"{name:28}{row['ms min']:9.1f}{row['ms median']:9.1f}{row['peak MiB']:10.1f}", flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps({"torch": torch.__version__, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
