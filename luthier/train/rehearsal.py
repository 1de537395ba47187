"""The first training of a study, built and tried for one step before any trial begins: what can never work raises."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from luthier.adapt.plain import Plain
from luthier.errors import LuthierError, TaskError
from luthier.hidden import Code, outside
from luthier.optional import optional
from luthier.space import Config
from luthier.stack import Noise
from luthier.stack.run import planned
from luthier.task.call import describe
from luthier.task.member import half
from luthier.task.reading import InMemory, Streamed

if TYPE_CHECKING:
    from luthier.task.program import Program, State
    from luthier.task.sources import Sources

DATA = Code(
    where="TorchTask(data=…)",
    what="data(config), called twice with one configuration,",
    remedy="Read or draw the data once, outside of it, or draw from the global generators of torch, NumPy or random, "
    "which are set for it, or from one that it makes from a fixed seed.",
)


def try_step(task: Any, config: Config) -> Sequence[str]:
    """One step of a TorchTask on the real data: model, loss, gradient and optimizer; no weights are kept.

    Args:
        task: The task, on the device where it will be trained.
        config: Any configuration.

    Returns:
        The names of ``config`` that nothing reads.

    Raises:
        Exception: Whatever the user's code raises.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a training
    try:
        program = task.program(config)
        plain = Plain()
        state = plain.init(program, config, 0)
        batch = program.sources.example(rows=program.batch_size)
        plain.step(program, state, [batch], None)
        _check_data(program, config)
        _check_loss(program, state, batch)
        _check_measures(program, state)
        return program.unread
    finally:
        torch.set_num_threads(threads)


def _check_data(program: Program, config: Config) -> None:
    """Refuse a function ``data(config)`` that gives other data when it is called again, as each process calls it."""
    task = program.task
    if not callable(task.data):
        return
    before = outside({"data": task.data})
    there, here = (_beginnings(each) for each in (program.sources, task.sources_anew(config)))
    replace(DATA, owners={"data": task.data}).compare(there, here, before)


def _beginnings(sources: Sources) -> Any:
    """The numbers that two readings of the same data have in common: all rows in memory, or the first minibatch."""
    found: list[Any] = []
    for name in ("train", "valid"):
        source, size = sources[name], sources.size(name)
        found.append(source.steps(size))
        if not isinstance(source, Streamed):  # nothing is promised of it
            found.append(source.batch if isinstance(source, InMemory) else source.example(size))
    return found


def _check_loss(program: Program, state: State, batch: Any) -> None:
    """Refuse a penalty or an augmentation that gives something else when it is run again."""
    task, noise = program.task, Noise(state["key"], state["t"])
    scaled = {name: 1.1 * param for name, param in state["params"].items()}
    runs = {
        "penalty": [lambda p=p: program.penalties(p, state["hyper"]) for p in (state["params"], scaled)],
        "augment": [lambda f=f: program.augmented(f(batch), state["hyper"], noise) for f in (lambda b: b, half)],
    }
    for name, (run, other) in runs.items():
        given = getattr(task, name)
        if given is not None:
            remedy = "Let it be a function of its arguments alone: augment(inputs, hyper, noise) draws from noise."
            what = f"{name}, run on the same arguments,"
            Code(f"TorchTask({name}=…)", what, remedy, {name: given}).checked(run, other, often=True)


def _check_measures(program: Program, state: State) -> None:
    """Refuse a loss or metric that cannot measure the validation split.

    It is tried on one minibatch, and on the whole split where that fails: some need rows of every class.
    """
    batch = program.sources["valid"].example(rows=program.sources.size("valid"))
    measures, others = program.measures_of(state, batch), {}
    with suppress(Exception):  # a network may want all rows of a minibatch
        others = program.measures_of(state, half(batch))
    for name, run in measures.items():
        where, given = (
            (f"metric {name!r}", program.task.metrics.get(name)) if name != "loss" else (name, program.task.loss)
        )
        what = "measured on the same outputs and targets, it"
        code = Code(where, what, "Let it be a function of its arguments alone.", {name: given})
        with torch.no_grad():
            try:
                run()
            except Exception as error:
                _refuse_unmeasurable(program, state, where, error)
            else:
                code.checked(run, others.get(name))


def _refuse_unmeasurable(program: Program, state: State, what: str, error: Exception) -> None:
    """Raise what a loss or metric raised, unless it can measure the whole split."""
    try:
        program.evaluate(state, "valid")
    except LuthierError:
        raise
    except Exception:
        raise TaskError(
            f"measuring it fails: {describe(error)}",
            where=what,
            remedy="Call it on the outputs and targets of a minibatch to see the whole error: function(output, target) "
            "returns a number or a scalar tensor.",
        ) from error


def planned_run(task: Any, adapter: Any, config: Config, members: int, steps: int | None) -> str:
    """Describe in one line how so many trainings run; see :func:`luthier.stack.run.planned`."""
    adapter = adapter or Plain()
    if optional(adapter, "phase"):
        adapter = adapter.phase({})
    task = task.sharing() if optional(adapter, "shares_weights") else task
    program = task.program(config)
    return planned(program, adapter, program.init(config, 0), members, steps)
