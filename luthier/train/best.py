"""Best measurement of a training, and the check for having gone too long without improvement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.limits import merits, violation
from luthier.train.members import rows_of, stacked

if TYPE_CHECKING:
    from luthier.jobs import Report
    from luthier.task.program import Program, State
    from luthier.train import Work
    from luthier.train.saved import StackMember

BEST = "best"  # in what a stored state has of its own


def best_report(work: Work, reports: Sequence[Report]) -> Report | None:
    """The report with the best finite value of the first objective within the limits, the earliest of equals."""
    name, direction = next(iter(work.objectives.items()))
    sign = 1.0 if direction == "min" else -1.0
    usable = [report for report in reports if math.isfinite(report.metrics.get(name, math.nan))]

    def merit(report: Report) -> float:
        return merits([sign * report.metrics[name]], violation(work.limits, report.metrics, whole=False))[0]

    return min(usable, key=merit, default=None)


def noted(work: Work, program: Program, state: State, i: int, reports: Sequence[Report], before: Any) -> Any:
    """Return the weights of the best measurement so far, a stack of one: the current ones if the last report is best.

    Args:
        work: Decides what is better.
        program: Decides whether they are kept at all.
        state: The stack at its last measurement.
        i: The member's row.
        reports: The member's, the last one of this state.
        before: The value returned at the previous measurement.
    """
    if program.task.keep != "best" or best_report(work, reports) is not reports[-1]:
        return before
    weights = {"params": program.updater.measured(state), "buffers": state["buffers"]}
    return rows_of(weights, [i])


def with_best(state: State, members: Sequence[StackMember], kept: Sequence[int]) -> State:
    """The state of some members of a stack to be stored, with the best weights of each."""
    state, best = rows_of(state, list(kept)), [members[i].best for i in kept]
    if any(one is None for one in best):
        return state
    return {**state, "own": {**state["own"], BEST: stacked(best)}}


def without_best(state: State) -> tuple[State, Any]:
    """A stored state as it trains on, and the weights that were kept beside it."""
    own = dict(state["own"])
    best = own.pop(BEST, None)
    return {**state, "own": own}, best


def at_best(state: State) -> State:
    """A stored state with the weights of its best measurement, where they were kept."""
    state, best = without_best(state)
    if best is None:
        return state
    own = {name: part for name, part in state["own"].items() if name != "average"}  # it is in them, as is what an
    return {**state, **best, "own": own, "opt": {}}  # optimizer with two sets of weights would make of its slots


def worn_out(work: Work, program: Program, reports: Sequence[Report]) -> bool:
    """No measurement has been better than one ``patience`` epochs ago, or longer."""
    patience = program.task.patience
    best = None if patience is None else best_report(work, reports)
    if patience is None or best is None:
        return False
    return reports[-1].step - best.step >= patience * program.epoch_steps
