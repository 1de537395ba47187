"""Member-steps a second of eight members, in the form that a long study takes, beside a plain loop."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree
from zoo.entry import Entry
from zoo.rows import plain_step, task_of

from luthier.adapt.plain import Plain
from luthier.stack.run import _can_be_traced, stack_width
from luthier.stack.trace import Eager, Traced, trace

MEMBERS, REPEATS, SECONDS = 8, 3, 0.15


def speed_of(entry: Entry) -> tuple[float, float]:
    """(member-steps a second of the stack, those of a plain loop): medians of three turns each, one after the other."""
    program, adapter = task_of(entry, 0.1).program({"lr": 0.03}), Plain()
    batch = program.sources.example(rows=program.batch_size)

    def step(state: Any, batches: Any, valid: Any) -> Any:
        return adapter.step(program, state, batches, valid)

    starts = [adapter.init(program, {"lr": 1e-3}, k) for k in range(MEMBERS)]
    width = stack_width(program, adapter, starts[0], MEMBERS)
    stack = pytree.tree_map(lambda *rows: torch.cat(rows), *starts[:width])
    graph = None
    if _can_be_traced(program, adapter):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = trace(step, stack, [batch], None)
    runner = Eager(step, stack) if graph is None else Traced(graph, stack)
    plain = plain_step(entry, 0.1, 1e-3)
    turns = [(_rate(lambda: runner([batch], None)), _rate(plain)) for _ in range(REPEATS)]
    return width * statistics.median(a for a, _ in turns), statistics.median(b for _, b in turns)


def _rate(step: Callable[[], Any]) -> float:
    """Calls a second, after one that is not counted."""
    step()
    calls, begin = 0, time.perf_counter()
    while (gone := time.perf_counter() - begin) < SECONDS:
        step()
        calls += 1
    return calls / gone
