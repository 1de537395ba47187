"""No growth over many outer steps: neither tensors alive nor the resident set."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from luthier import optim, response

METHODS: dict[str, Callable[..., response.Hypergradient]] = {
    "cg": functools.partial(response.implicit, iterations=3),
    "neumann": functools.partial(response.implicit, solver="neumann", iterations=3, damping=5.0),
    "differences": response.finite_difference,
    "graph": functools.partial(response.unrolled, optimizer=optim.Adam(1e-3), steps=3),
    "checkpoint": functools.partial(response.unrolled, optimizer=optim.SGD(1e-2, 0.9), steps=3, memory="checkpoint"),
    "trajectory": functools.partial(response.unrolled, optimizer=optim.SGD(1e-2), steps=3, memory="trajectory"),
    "stock": functools.partial(
        response.unrolled, optimizer=lambda p, h: torch.optim.SGD(p.values(), lr=1e-2, momentum=0.9), steps=3
    ),
}


def outer_loop(method: Callable[..., Any], steps: int, width: int) -> tuple[int, int]:
    """Growth in tensors alive and in resident bytes between a tenth of the steps and their end."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, width), nn.Tanh(), nn.Linear(width, 3))
    losses = response.functional(
        model,
        nn.functional.cross_entropy,
        lambda p, h: torch.stack([(h[name].exp() * w.square()).sum() for name, w in p.items()]).sum(),
    )
    hyper = {name: torch.full_like(w, -4.0) for name, w in losses.params.items()}
    batch = (torch.randn(16, 20), torch.randint(3, (16,)))
    params = losses.params
    tensors = resident = 0
    gc.collect()
    gc.disable()  # so that a cycle of references shows as growth too
    try:
        for step in range(steps):
            result = method(response.Problem(losses.train_loss, losses.valid_loss, params, hyper, [batch], batch))
            hyper = {name: h - 0.01 * result.total[name] for name, h in hyper.items()}
            params = result.params or params
            if step == steps // 10:
                tensors, resident = alive(), resident_bytes()
    finally:
        gc.enable()
    return alive() - tensors, resident_bytes() - resident


def alive() -> int:
    return sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("name", METHODS)
def test_no_growth_over_outer_steps(name: str) -> None:
    tensors, resident = outer_loop(METHODS[name], steps=300 if name in ("cg", "trajectory") else 50, width=128)
    assert tensors <= 0
    # A step that leaves its tensors leaves 12 kB a copy of the weights, of which it has ten at least.
    assert resident < 4 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_no_growth_over_a_thousand_outer_steps(name: str) -> None:
    tensors, resident = outer_loop(METHODS[name], steps=1000, width=256)
    assert tensors <= 0
    assert resident < 8 * 2**20  # of 900 steps that would each leave 25 kB a copy of the weights


def test_a_leak_would_be_seen() -> None:
    kept = []

    def leaking(problem: response.Problem) -> response.Hypergradient:
        kept.append(METHODS["graph"](problem))
        return kept[-1]

    tensors, _ = outer_loop(leaking, steps=20, width=32)
    assert tensors > 100


def test_trajectory_holds_fewer_graphs_than_graph() -> None:
    """Largest number of saved tensors alive at once, counted by autograd's own hooks."""
    peaks = {}
    for memory in ("graph", "checkpoint", "trajectory"):
        counter = Counter()
        with torch.autograd.graph.saved_tensors_hooks(counter.pack, counter.unpack):
            w, h = {"w": torch.ones(50)}, {"c": torch.zeros(50)}
            response.unrolled(
                response.Problem(
                    lambda p, h, _: (torch.tanh(p["w"]) * h["c"].exp()).square().sum(),
                    lambda p, h, _: p["w"].square().sum(),
                    w,
                    h,
                ),
                optimizer=optim.SGD(0.1, 0.9),
                steps=25,
                memory=memory,  # type: ignore[arg-type]
            )
        peaks[memory] = counter.peak
    assert peaks["trajectory"] * 2 < peaks["checkpoint"] and peaks["checkpoint"] * 3 < peaks["graph"]


class Counter:
    """Counts tensors that autograd holds."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def pack(self, tensor: torch.Tensor) -> Held:
        return Held(self, tensor)

    def unpack(self, held: Held) -> torch.Tensor:
        return held.tensor


class Held:
    """A saved tensor that says when it is let go."""

    def __init__(self, counter: Counter, tensor: torch.Tensor) -> None:
        self.counter, self.tensor = counter, tensor
        counter.now += 1
        counter.peak = max(counter.peak, counter.now)

    def __del__(self) -> None:
        self.counter.now -= 1
