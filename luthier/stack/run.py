"""How wide a stack runs best here, and whether its step is worth a trace: both decided by measuring."""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch
from torch.utils import _pytree as pytree

from luthier.stack.trace import Eager, Traced, trace

TRACE_SECONDS = 1.0  # what a first trace costs at most for networks of a few layers
TRACE_GAIN = 0.3  # the part of the eager step's time that a trace saves, at least
FEW_STEPS = 20  # not even worth the measuring
LARGEST_STACK = 1 << 30  # bytes of one stack's state
WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Data(Protocol):
    """Batches by step."""

    def at(self, step: int) -> tuple[list[Any], Any]:
        """(minibatches of one adapter step, validation batch or None)."""
        ...


def make_runner(program: Any, adapter: Any, state: Any, data: Data, position: int, ahead: int) -> Eager | Traced:
    """Something that advances ``state``: traced once stacks of its shape repay the tracing, else eager.

    Both give the same numbers, so the choice is free to depend on the clock. An adapter whose step branches on values
    says ``traceable = False``.
    """

    def step(state: Any, batches: Any, valid: Any) -> Any:
        return adapter.step(program, state, batches, valid)

    if not getattr(adapter, "traceable", True) or (ahead < FEW_STEPS and not program.task.compile):
        return Eager(step, state)
    if state["opt"] == {} and getattr(program.optimizer, "starts_empty", False):
        return Starting(Eager(step, state), lambda s: make_runner(program, adapter, s, data, position + 1, ahead - 1))  # type: ignore[return-value]
    batches, valid = data.at(position)
    key = (adapter, tuple(tuple(leaf.shape) for leaf in pytree.tree_leaves((state, batches, valid or ()))))
    if key not in program.traces:
        eager = _fastest(Eager(step, state), batches, valid)
        compiled = program.task.compile
        spent = ("eager seconds", key)  # of all stacks of this shape, this one included
        program.traces[spent] = program.traces.get(spent, 0.0) + eager * ahead
        if not compiled and program.traces[spent] * TRACE_GAIN < TRACE_SECONDS:
            return Eager(step, state)
        window = getattr(adapter, "window", 1)
        others = [data.at(position + window * i) for i in (1, 2)]
        graph = trace(step, state, batches, valid, compiled=compiled, others=others)
        worth = graph is not None and _fastest(Traced(graph, state), batches, valid) < eager
        program.traces[key] = graph if worth else None
    graph = program.traces[key]
    return Eager(step, state) if graph is None else Traced(graph, state)


class Starting:
    """Runs the first step, in which torch's optimizers make their slots, and then what ``then`` gives."""

    def __init__(self, eager: Eager, then: Any) -> None:
        self._runner: Any = eager
        self._then = then

    def __call__(self, batches: Any, valid: Any) -> Any:
        metrics = self._runner(batches, valid)
        if self._then is not None:
            self._runner, self._then = self._then(self._runner.state), None
        return metrics

    @property
    def state(self) -> Any:
        return self._runner.state


def _fastest(runner: Eager | Traced, batches: list[Any], valid: Any) -> float:
    """Seconds of the fastest of a few steps, after one to warm up.

    On a CPU they are those of this thread, so that other processes' work does not count.
    """
    times = []
    for _ in range(4):
        cpu, wall = time.thread_time(), time.perf_counter()
        metrics = runner(batches, valid)
        if next(iter(metrics.values())).is_cuda:
            torch.cuda.synchronize()
            times.append(time.perf_counter() - wall)
        else:
            times.append(time.thread_time() - cpu)
    return min(times[1:])


def measured_width(program: Any, adapter: Any, state: Any, data: Data, members: int) -> int:
    """Members that a stack should have at most: the least width with, nearly, the least time a member and step.

    Measured once for a program and adapter with a few eager steps of ``state``, a stack of one, repeated.
    """
    if members == 1 or not getattr(adapter, "traceable", True):  # such members run in turn, in a stack too
        return 1
    key = ("width", adapter)
    known: dict[int, float] = program.traces.setdefault(key, {})
    batches, valid = data.at(0)
    size = sum(leaf.numel() * leaf.element_size() for leaf in pytree.tree_leaves(state))
    for width in WIDTHS:
        best = min(known.values(), default=float("inf"))
        slower = known and known[max(known)] > 1.2 * best
        if width > members or slower or width * size > LARGEST_STACK:
            break
        if width not in known:
            known[width] = _seconds(program, adapter, state, batches, valid, width) / width
    usable = {width: seconds for width, seconds in known.items() if width <= members}
    enough = 1.05 * min(usable.values(), default=0.0)  # no wider than it pays: results come sooner, in less memory
    return next((width for width, seconds in usable.items() if seconds <= enough), 1)


def _seconds(program: Any, adapter: Any, state: Any, batches: Any, valid: Any, width: int) -> float:
    stacked = pytree.tree_map(lambda tensor: tensor.expand(width, *tensor.shape[1:]).clone(), state)
    if program.task.own_batches:
        batches, valid = pytree.tree_map_only(
            torch.Tensor, lambda tensor: tensor[:1].expand(width, *tensor.shape[1:]), (batches, valid)
        )

    def step(state: Any, batches: Any, valid: Any) -> Any:
        return adapter.step(program, state, batches, valid)

    return _fastest(Eager(step, stacked), batches, valid)
