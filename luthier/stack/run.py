"""The width of a stack, and the decision to trace its step: both follow from sizes, never from a clock."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.utils import _pytree as pytree

from luthier.optional import optional
from luthier.stack.trace import Eager, Traced, leaves_of, trace

TRACED_STEPS = 1000  # of stacks of one shape, from which on a trace repays its making
PARAMETERS = 4 << 20  # bytes of the parameters of a stack: wider ones leave the caches of a core between two operators
ELEMENTS = 16 << 20  # numbers that a forward pass of a stack makes
LARGEST_STACK = 1 << 30  # bytes of one stack's state
WIDEST = 256
TOGETHER = 8  # members in turn that share one pass of a data pipeline


class Runner(Protocol):
    """A stack on its way."""

    def __call__(self, batches: Any, valid: Any) -> dict[str, torch.Tensor]:
        """Advance the state by one step; returns its metrics."""
        ...

    @property
    def state(self) -> Any:
        """The current state; the next step may write over it."""
        ...

    @property
    def traced(self) -> bool:
        """True if steps run, or may come to run, by a trace, which writes over the state."""
        ...


class Data(Protocol):
    """Batches by step."""

    def at(self, step: int) -> tuple[list[Any], Any]:
        """(minibatches of one adapter step, validation batch or None)."""
        ...


def make_runner(program: Any, adapter: Any, state: Any, data: Data, position: int, ahead: int) -> Runner:
    """Make a runner that advances ``state``; a scheduler is asked for the steps ahead beforehand."""
    prepared = program.updater.prepared(state, ahead * adapter.window)
    runner = _made(program, adapter, prepared, data, position, ahead)
    return runner if prepared is state else Prepared(runner, program.updater.bare)


def _made(program: Any, adapter: Any, state: Any, data: Data, position: int, ahead: int) -> Runner:
    """Something that advances ``state``: traced once the steps of stacks of its shape repay the tracing, else eager.

    Both give the same numbers. An adapter whose step branches on values says ``traceable = False``.
    """

    def step(state: Any, batches: Any, valid: Any) -> Any:
        return adapter.step(program, state, batches, valid)

    if not _can_be_traced(program, adapter):
        return Eager(step, state)
    window = adapter.window
    if getattr(program.optimizer, "starts_empty", False) and not set(state["opt"]) - {"group"}:
        return Starting(Eager(step, state), lambda s: _made(program, adapter, s, data, position + window, ahead - 1))
    batches, valid = data.at(position)
    if not all(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves((batches, valid or ()))):
        return Eager(step, state)
    key = (adapter, tuple(tuple(leaf.shape) for leaf in pytree.tree_leaves((state, batches, valid or ()))))
    if key not in program.traces:
        planned = ("steps", key)  # of all stacks of this shape, this one included
        program.traces[planned] = program.traces.get(planned, 0) + ahead
        if not program.task.compile and program.traces[planned] < TRACED_STEPS:
            return Eager(step, state)
        others = [data.at(position + window * i) for i in (1, 2)]
        program.traces[key] = trace(step, state, batches, valid, compiled=program.task.compile, others=others)
    graph = program.traces[key]
    return Eager(step, state) if graph is None else Fitting(graph, state, step, _shapes(batches, valid))


def _can_be_traced(program: Any, adapter: Any) -> bool:
    traceable = optional(adapter, "traceable") and getattr(program.optimizer, "traceable", True)
    return traceable and (not program.in_turn or program.task.compile)


def _shapes(*parts: Any) -> list[torch.Size]:
    """The shapes of all tensors of a step's minibatches."""
    return [leaf.shape for leaf in leaves_of(parts) if isinstance(leaf, torch.Tensor)]


class Prepared:
    """A runner whose state is told without what was prepared for it."""

    def __init__(self, runner: Runner, bare: Any) -> None:
        self._runner, self._bare = runner, bare

    def __call__(self, batches: Any, valid: Any) -> Any:
        return self._runner(batches, valid)

    @property
    def state(self) -> Any:
        return self._bare(self._runner.state)

    @property
    def traced(self) -> bool:
        return self._runner.traced


class Fitting:
    """Runs a traced step on minibatches of its shapes, any other one, such as an epoch's last, as it is written."""

    traced = True

    def __init__(self, graph: Any, state: Any, step: Any, shapes: Any) -> None:
        self._graph, self._step, self._shapes = graph, step, shapes
        self._runner: Any = Traced(graph, state)

    def __call__(self, batches: Any, valid: Any) -> Any:
        fits = _shapes(batches, valid) == self._shapes
        if fits != isinstance(self._runner, Traced):
            state = self._runner.state
            self._runner = Traced(self._graph, state) if fits else Eager(self._step, state)
        return self._runner(batches, valid)

    @property
    def state(self) -> Any:
        return self._runner.state


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

    @property
    def traced(self) -> bool:
        return self._then is not None or self._runner.traced


def stack_width(program: Any, adapter: Any, state: Any, members: int) -> int:
    """Largest number of members in a stack, a power of two unless it holds them all.

    Args:
        program: The step.
        adapter: The adapter, which moves hyperparameters.
        state: A stack of one.
        members: Number of members to train.
    """
    if members == 1 or not optional(adapter, "traceable"):  # such members run in turn, in a stack too
        return 1
    if program.in_turn:
        return min(members, 1 if program.in_memory else TOGETHER)
    bytes_of = lambda tree: sum(leaf.numel() * leaf.element_size() for leaf in pytree.tree_leaves(tree))  # noqa: E731
    most = min(
        WIDEST,
        PARAMETERS // max(1, bytes_of(state["params"])),
        ELEMENTS // max(1, program.elements),
        LARGEST_STACK // max(1, bytes_of(state)),
    )
    return members if members <= most else 1 << max(0, int(most).bit_length() - 1)


def planned(program: Any, adapter: Any, state: Any, members: int, steps: int | None) -> str:
    """Describe in one line how a study's trainings run: form, width, traced or not, and what ruled out a faster form.

    Args:
        program: The step.
        adapter: The adapter, which moves hyperparameters.
        state: A stack of one.
        members: Trainings of one kind at once.
        steps: Steps of each training; None if unknown.
    """
    width = stack_width(program, adapter, state, members)
    stacks = -(-members // width)
    traced = _can_be_traced(program, adapter) and (
        program.task.compile or (steps or 0) // adapter.window * stacks >= TRACED_STEPS
    )
    how = "compiled" if traced and program.task.compile else "traced" if traced else "eager"
    text, why = str(program.execution), program.execution.why
    notes = "".join(f"; {note}" for note in dict.fromkeys(program.notes))
    return f"{text}, at most {width} wide, {how}" + (f" ({why})" if why else "") + notes
