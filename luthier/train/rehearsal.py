"""The first training of a study, built and tried for one step before any trial begins: what can never work raises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from luthier.adapt.plain import Plain
from luthier.optional import optional
from luthier.space import Config
from luthier.stack.run import planned


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
        plain.step(program, plain.init(program, config, 0), [program.sources.example(rows=program.batch_size)], None)
        return program.unread
    finally:
        torch.set_num_threads(threads)


def planned_run(task: Any, adapter: Any, config: Config, members: int, steps: int | None) -> str:
    """Describe in one line how so many trainings run; see :func:`luthier.stack.run.planned`."""
    adapter = adapter or Plain()
    if optional(adapter, "phase"):
        adapter = adapter.phase({})
    task = task.sharing() if optional(adapter, "shares_weights") else task
    program = task.program(config)
    return planned(program, adapter, program.init(config, 0), members, steps)
