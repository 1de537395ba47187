"""Input to a study besides its own trials: results from elsewhere, changed code, trials to be run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from luthier.errors import LuthierError, StudyError
from luthier.jobs import FAILED, History
from luthier.optional import optional
from luthier.space import Config, Space
from luthier.study.ledger import Ledger
from luthier.study.starting import text
from luthier.task.call import as_objectives, short
from luthier.text import warn

OnChange = Literal["warn", "error"]
Results = list[tuple[Config, dict[str, float]]]


def check_known(known: Any, space: Space, goals: Mapping[str, str]) -> tuple[Results, list[str]]:
    """Results from elsewhere that belong to a space, and why others do not.

    Args:
        known: A study, pairs (configuration, metrics), or a DataFrame whose columns are the names of the space and of
            the objectives (with or without ``config.`` and ``metrics.`` before them, as in ``study.to_pandas()``).
        space: The search space.
        goals: The objectives; a number stands for the only one.

    Raises:
        StudyError: If it is none of these.
        TaskError: If an objective is missing or a value is not a real number.
    """
    if known is None:
        return [], []
    kept: Results = []
    outside: list[str] = []
    for config, metrics in _pairs(known, space, goals):
        try:
            checked = space.check(config)
        except LuthierError as error:
            outside.append(str(error))
            continue
        kept.append((checked, as_objectives(metrics, goals, "known")))
    return kept, outside


def _pairs(known: Any, space: Space, goals: Mapping[str, str]) -> list[tuple[Any, Any]]:
    if hasattr(known, "history"):
        history: History = known.history
        ended = [result for number in history.arrival if (result := history.results[number]) is not None]
        return [(history.jobs[one.number].config, one.metrics) for one in ended if one.status == "ok"]
    if hasattr(known, "to_dict") and hasattr(known, "columns"):
        rows = known.to_dict("records")
        return [(_named(row, space, "config."), _named(row, goals, "metrics.")) for row in rows]
    if isinstance(known, Sequence) and not isinstance(known, str):
        pairs = list(known)
        if all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
            return [(pair[0], pair[1]) for pair in pairs]
    raise StudyError(
        f"known must be a study, pairs (configuration, metrics) or a DataFrame, got {short(known)}",
        where="known",
        remedy='Give known=[({"lr": 0.1}, {"loss": 0.5}), …] or known=lt.Study.load("first", "mine.db").',
    )


def _named(row: Mapping[Any, Any], names: Any, prefix: str) -> dict[str, Any]:
    """The values of a row that are there (NaN in a column of a conditional name is not)."""
    found = {name: row.get(prefix + name, row.get(name)) for name in names}
    return {name: value for name, value in found.items() if value is not None and value == value}


def tell_known(ledger: Ledger, given: Results, outside: Sequence[str]) -> None:
    """Add those results that the study does not have yet; say how many are left aside."""
    if given:
        have = {(text(one.config), text(dict(one.metrics))) for one in ledger.history.foreign}
        fresh = [one for one in given if (text(one[0]), text(one[1])) not in have]
        if fresh:
            ledger.know(fresh)
    if given and optional(ledger.proposer, "learns_known") is None:
        warn(
            f"study {ledger.name!r}: {type(ledger.proposer).__name__} keeps the {len(given)} known results and learns "
            "nothing from them: methods with a model do, such as gp, tpe, freeze_thaw, gflownet and cmaes"
        )
    if outside:
        warn(
            f"study {ledger.name!r}: {len(outside)} of {len(outside) + len(given)} known results lie outside the space "
            f"and are left aside, the first because of {outside[0]}"
        )


def check_code(ledger: Ledger, mark: str, on_change: OnChange) -> None:
    """Say that the task's code has changed since the study's last job, and remember what it is now.

    Raises:
        StudyError: If it has and ``on_change="error"``.
    """
    history = ledger.history
    before = history.fingerprints[-1][1] if history.fingerprints else mark
    if before != mark and len(history):
        what = f"the task's code has changed since its first {len(history)} jobs"
        if on_change == "error":
            raise StudyError(
                what,
                where=f"study {ledger.name!r}",
                remedy="Give another name=, or leave on_change out: old and new results are then in one study.",
            )
        warn(
            f"study {ledger.name!r}: {what}; it goes on, with results of both: another name= begins anew, "
            "on_change='error' refuses"
        )
    if mark:
        ledger.fingerprint(mark)


def reopen_failed(ledger: Ledger) -> list[int]:
    """Let every failed job be tried again, under its number and seeds; the numbers."""
    failed = [number for number in range(len(ledger.history)) if ledger.history.status[number] == FAILED]
    return ledger.reopen(failed) if failed else []


def check_on_change(on_change: Any) -> OnChange:
    """``on_change``, checked.

    Raises:
        StudyError: If it is neither "warn" nor "error".
    """
    if on_change not in ("warn", "error"):
        remedy = "Give 'warn' or 'error'."
        raise StudyError(f"on_change must be 'warn' or 'error', got {on_change!r}", where="on_change", remedy=remedy)
    return on_change
