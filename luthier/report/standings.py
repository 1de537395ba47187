"""Standings of several studies of one task: final values, ranks, curves, and the cost of reaching a level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from luthier.jobs import History
from luthier.report.formatting import number


class Curve(NamedTuple):
    """The best so far of one study, a row for every result, in the order in which they came.

    Args:
        steps: Training steps spent by then, of all trials together, (results,) int64.
        seconds: Seconds of training spent by then, (results,).
        best: The best objective so far, minimised, (results,); NaN before the first that ended well.
        trials: Configurations started by then, (results,) int64; a copy of a running member starts none.
    """

    steps: np.ndarray
    seconds: np.ndarray
    best: np.ndarray
    trials: np.ndarray


@dataclass(frozen=True)
class Run:
    """One study of a comparison, as far as it is compared.

    Args:
        label: The method.
        seed: The seed, the same for all methods of a pair.
        history: The study's history.
        test: Metrics of its best on the test split; empty where there is none.
        wall_seconds: Wall time of the study.
        method_seconds: CPU time in which the method itself made its proposals.
    """

    label: str
    seed: int
    history: History
    test: Mapping[str, float]
    wall_seconds: float
    method_seconds: float


@dataclass(frozen=True)
class Standing:
    """Results of a method over all seeds. Values are in the user's own units and direction.

    Args:
        label: The method.
        seeds: Studies that have a best.
        valid: The best objective of each seed, (seeds,); NaN where nothing ended well.
        test: The objective of that configuration on the test split, (seeds,); NaN where there is none.
        rank: Mean rank among the methods, 1 is best, ties shared.
        steps: Training steps spent, mean over seeds.
        steps_to_level: Training steps until the level was reached, (seeds,); infinite where it was not.
        seconds_to_level: Seconds of training until then, (seeds,); infinite where it was not.
        trials_to_level: Trials started until then, (seeds,); infinite where it was not.
        trials: Trials started, mean over seeds.
        tuned: Names of the hyperparameters that differ between trials or move within one.
        wall_seconds: Mean wall time of a study.
        method_seconds: Mean CPU time of the method's own proposals.
    """

    label: str
    seeds: int
    valid: np.ndarray
    test: np.ndarray
    rank: float
    steps: float
    steps_to_level: np.ndarray
    seconds_to_level: np.ndarray
    trials_to_level: np.ndarray
    trials: float
    tuned: tuple[str, ...]
    wall_seconds: float
    method_seconds: float


def curve(history: History) -> Curve:
    """Best so far against what was spent, one row a result."""
    arrival = np.array(history.arrival, dtype=np.int64)
    ended = [history.results[number] for number in history.arrival]
    values = np.where(history.good[arrival], history.values[arrival, 0], np.nan) if len(arrival) else np.empty(0)
    seconds = np.array([0.0 if result is None else result.seconds for result in ended])
    fresh = np.cumsum(history.parent < 0)  # jobs that continue nothing, up to each number
    return Curve(
        np.cumsum(history.steps[arrival]),
        np.cumsum(seconds),
        np.fmin.accumulate(values),
        np.maximum.accumulate(fresh[arrival]),
    )


def standings(runs: Sequence[Run], level: float | None = None) -> list[Standing]:
    """One standing a method, best mean rank first.

    Args:
        runs: All studies, of one task and one objective.
        level: The objective that counts as reached, in the user's direction; by default :func:`common_level`.
    """
    if not runs:
        return []
    sign = direction(runs)
    name = next(iter(runs[0].history.objectives))
    aim = sign * (common_level(runs) if level is None else level)
    ranks = mean_ranks(runs)
    found = [_standing([run for run in runs if run.label == label], name, sign, aim, ranks[label]) for label in ranks]
    return sorted(found, key=lambda standing: standing.rank)


def _standing(runs: Sequence[Run], name: str, sign: float, aim: float, rank: float) -> Standing:
    curves = [curve(run.history) for run in runs]
    final = np.array([line.best[-1] if len(line.best) else np.nan for line in curves])
    reached = [int(np.argmax(line.best <= aim)) if (line.best <= aim).any() else None for line in curves]

    def spent(what: str) -> np.ndarray:
        pairs = zip(curves, reached, strict=True)
        return np.array([np.inf if row is None else float(getattr(line, what)[row]) for line, row in pairs])

    return Standing(
        label=runs[0].label,
        seeds=int(np.isfinite(final).sum()),
        valid=sign * final,
        test=np.array([run.test.get(name, np.nan) for run in runs]),
        rank=rank,
        steps=float(np.mean([line.steps[-1] if len(line.steps) else 0 for line in curves])),
        steps_to_level=spent("steps"),
        seconds_to_level=spent("seconds"),
        trials_to_level=spent("trials"),
        trials=float(np.mean([line.trials[-1] if len(line.trials) else 0 for line in curves])),
        tuned=tuned(runs[0].history),
        wall_seconds=float(np.mean([run.wall_seconds for run in runs])),
        method_seconds=float(np.mean([run.method_seconds for run in runs])),
    )


def common_level(runs: Sequence[Run]) -> float:
    """The worst of the methods' median bests, in the user's direction: every method reaches it on half of its seeds."""
    sign = direction(runs)
    finals: dict[str, list[float]] = {}
    for run in runs:
        best = run.history.best
        finals.setdefault(run.label, []).append(np.inf if best is None else float(run.history.values[best, 0]))
    medians = [float(np.median(values)) for values in finals.values()]
    finite = [median for median in medians if np.isfinite(median)]
    return sign * max(finite) if finite else float("nan")


def mean_ranks(runs: Sequence[Run]) -> dict[str, float]:
    """The rank of each method among all on the same seed, averaged over the seeds; ties share their ranks."""
    from scipy.stats import rankdata

    labels = list(dict.fromkeys(run.label for run in runs))
    rows: dict[int, dict[str, float]] = {}
    for run in runs:
        best = run.history.best
        rows.setdefault(run.seed, {})[run.label] = np.inf if best is None else float(run.history.values[best, 0])
    whole = [row for row in rows.values() if len(row) == len(labels)]
    if not whole:
        return dict.fromkeys(labels, float("nan"))
    ranks = np.mean([rankdata([row[label] for label in labels]) for row in whole], axis=0)
    return {label: float(rank) for label, rank in zip(labels, ranks, strict=True)}


def tuned(history: History) -> tuple[str, ...]:
    """Names whose values differ between the trials or moved during one, in the order of the space."""
    moved = {name for result in history.results if result for name in result.final}
    seen: dict[str, set[str]] = {}
    for job in history.jobs:
        for name, value in job.config.items():
            seen.setdefault(name, set()).add(repr(value))
    return tuple(name for name in history.space.names if name in moved or len(seen.get(name, ())) > 1)


class Band(NamedTuple):
    """Best so far of one method over its seeds, in the user's own units and direction.

    Args:
        steps: Training steps spent, (points,).
        mean: Over the seeds, (points,); NaN where one has no result yet.
        low: The lowest seed, (points,).
        high: The highest seed, (points,).
    """

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bands(runs: Sequence[Run], points: int = 200) -> dict[str, Band]:
    """Best so far of each method, read at ``points`` steps; methods without a result are left out."""
    found = {}
    for label in dict.fromkeys(run.label for run in runs):
        lines = [curve(run.history) for run in runs if run.label == label]
        if all(len(line.steps) for line in lines):
            found[label] = _band(lines, direction(runs), points)
    return found


def _band(lines: Sequence[Curve], sign: float, points: int) -> Band:
    start, end = max(line.steps[0] for line in lines), max(line.steps[-1] for line in lines)
    grid = np.unique(np.linspace(start, max(start, end), points).round())
    values = sign * np.array([line.best[np.searchsorted(line.steps, grid, side="right") - 1] for line in lines])
    return Band(grid, values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def direction(runs: Sequence[Run]) -> float:
    """-1 where the objective of a comparison is maximised, else 1."""
    return -1.0 if next(iter(runs[0].history.objectives.values())) == "max" else 1.0


def spread(values: np.ndarray) -> str:
    """``0.4012 ± 0.0031`` of what is finite; one seed has no spread."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return "·"
    mean = number(float(finite.mean()))
    return mean if len(finite) == 1 else f"{mean} ± {number(float(finite.std(ddof=1)), 2)}"
