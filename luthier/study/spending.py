"""The budget of a call: what each training and the study may spend, in whole windows of the adapter's."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from luthier.adapt.window import too_short
from luthier.jobs import Budget
from luthier.propose.derive import Derive
from luthier.study.resolve import Resolved
from luthier.task import Task, epoch_steps, is_torch

DRAWS = 64  # configurations among which the shortest training is looked for, where the batch size is searched


def budget_for(
    task: Task,
    adapter: Any,
    trials: int | None,
    epochs: float | None,
    steps: int | None,
    seconds: float | None = None,
    total: int | None = None,
) -> Budget:
    """The budget of a call that trains ``task`` by a method with this adapter, or None."""
    window, least = 1, None
    if adapter is not None and is_torch(task):
        window = int(adapter.window)
        if window > 1 and epochs is not None:
            with suppress(Exception):  # a fault of the data is told where they are read
                least = _shortest(task, epochs)
    return Budget(trials, steps, epochs, seconds, lambda config: epoch_steps(task, config), total, window, least)


def check_room(method: Resolved, budget: Budget) -> Any:
    """The proposer, bound to the budget, where each of its trainings has room for a window of the adapter's.

    Raises:
        MethodError: If one has not, or the proposer does not fit the budget.
    """
    if budget.windows == 0 and not isinstance(method.proposer, Derive):  # whose trials have no adapter
        least = budget.steps if budget.steps is not None else budget.least
        assert least is not None, "or the number of windows would not be known"
        given, most = f"steps={least}", f"steps={budget.window} or more"
        if budget.epochs is not None:
            given, most = f"epochs={budget.epochs:g}, {least} steps,", f"more epochs, or {most}"
        raise too_short(method.adapter, given, least, "steps" if budget.epochs is None else "epochs", most)
    return method.proposer.bind(budget)


def _shortest(task: Any, epochs: float) -> int:
    """Steps of the shortest training of so many epochs."""
    searched = "batch_size" in task.space.domains and not callable(task.data)
    drawn = task.space.sample(np.random.default_rng(0), DRAWS if searched else 1)
    return min(max(1, round(epochs * epoch_steps(task, config))) for config in drawn)
