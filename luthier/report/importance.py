"""Importance of hyperparameters to the objective: a random forest, permutation importance (Breiman 2001).

The forest learns the rank of the objective from the encoded configurations (ranks, so that a few wild values do not
decide; a diverged trial ranks last). Trials that the forest did not see are then predicted twice, the second time with
one hyperparameter's values shuffled among the trials in which it is active.
What the prediction loses is the importance.

Source: L. Breiman, "Random forests", Machine Learning 45 (2001), section 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.jobs import DIVERGED, History
from luthier.report.axes import activity
from luthier.report.facts import facts
from luthier.report.figures import thin_ranked
from luthier.seeds import Seeds

FEWEST = 5  # finished trials below which nothing is computed
RELIABLE = 10  # finished trials below which the answer is called unreliable
ROWS = 1000  # trials used at most
FOLDS, ROUNDS, SHUFFLES, TREES = 3, 2, 5, 60
LONG = 8  # a vector with more elements enters as its mean and spread


@dataclass(frozen=True)
class Importance:
    """Importance of each hyperparameter.

    Args:
        names: Hyperparameters, most important first.
        mean: Increase of the squared error of the predicted rank when the values are shuffled, as a share of the
            variance of the ranks, (names,).
        deviation: Standard deviation of ``mean`` over the forests, (names,).
        explained: Share of the variance of unseen trials' ranks that the forest explains (R²); at or below zero it
            has learnt nothing.
        trials: Trials used.
        finished: Finished trials among them.
    """

    names: list[str]
    mean: np.ndarray
    deviation: np.ndarray
    explained: float
    trials: int
    finished: int

    @property
    def reliable(self) -> bool:
        """Enough trials, and a forest that predicts something."""
        return self.finished >= RELIABLE and self.explained > 0


def importance(history: History) -> Importance | None:
    """Permutation importance of every hyperparameter.

    Args:
        history: The study. Finished and diverged jobs are used; where jobs have trained for unequal numbers of steps,
            the steps are one more input of the forest, so that age is not taken for merit.

    Returns:
        None where fewer than 5 jobs have finished, or where all have the same objective.
    """
    known = facts(history)
    ranked = known.ranked()
    if len(ranked) < FEWEST or not history.space.names or len(np.unique(known.values[ranked])) < 2:
        return None
    rows = thin_ranked(ranked, ROWS)
    finished = len(rows)
    diverged = np.flatnonzero(known.status == DIVERGED)[-ROWS // 2 :]
    rows = np.concatenate([rows, diverged])
    target = _ranks(np.append(known.sign * known.values[rows[:finished]], np.full(len(diverged), np.inf)))
    configs = [history.jobs[n].config for n in rows]
    inputs, columns = _inputs(history, configs, history.age[rows])
    active = activity(history.space, configs)
    scores, explained = _scores(inputs, columns, active, target, Seeds(0))
    order = np.argsort(-scores.mean(axis=0), kind="stable")
    names = [history.space.names[i] for i in order]
    return Importance(
        names, scores.mean(axis=0)[order], scores.std(axis=0, ddof=1)[order], explained, len(rows), finished
    )


def _ranks(losses: np.ndarray) -> np.ndarray:
    """Average ranks scaled to [0, 1]; equal losses have equal ranks."""
    from scipy.stats import rankdata

    return (rankdata(losses) - 1) / max(1, len(losses) - 1)


def _inputs(history: History, configs: list, age: np.ndarray) -> tuple[np.ndarray, dict[str, list[int]]]:
    """The forest's inputs, (n, columns), and the columns of each hyperparameter."""
    codes, _ = history.space.encode(configs)
    parts: list[np.ndarray] = []
    columns: dict[str, list[int]] = {}
    for name in history.space.names:
        own = codes[:, [i for i, column in enumerate(history.space.columns) if column.name == name]]
        if own.shape[1] > LONG:
            own = np.stack([own.mean(axis=1), own.std(axis=1)], axis=1)
        start = sum(part.shape[1] for part in parts)
        columns[name] = list(range(start, start + own.shape[1]))
        parts.append(own)
    if len(np.unique(age)) > 1:
        parts.append(age[:, None].astype(float))
    return np.concatenate(parts, axis=1), columns


def _scores(
    inputs: np.ndarray, columns: dict[str, list[int]], active: dict[str, np.ndarray], target: np.ndarray, seeds: Seeds
) -> tuple[np.ndarray, float]:
    """Importance by each forest, (forests, names), and the R² over all of them on trials they did not see."""
    from sklearn.ensemble import RandomForestRegressor

    variance = float(target.var())
    scores: list[list[float]] = []
    errors: list[float] = []
    for turn in range(ROUNDS):
        folds = seeds.rng(turn, "importance folds").permutation(len(target)) % FOLDS
        for fold in range(FOLDS):
            forest_number = turn * FOLDS + fold
            state = seeds.key(forest_number, "importance forest") % 2**32
            forest = RandomForestRegressor(TREES, min_samples_leaf=2, max_features=0.5, random_state=state)
            seen, held = folds != fold, np.flatnonzero(folds == fold)
            forest.fit(inputs[seen], target[seen])
            rng = seeds.rng(forest_number, "importance shuffles")
            plain = float(((forest.predict(inputs[held]) - target[held]) ** 2).mean())
            errors.append(plain)
            shuffled = [
                _shuffled_error(forest, inputs, cols, held, active[n], target, rng) for n, cols in columns.items()
            ]
            scores.append([(error - plain) / variance for error in shuffled])
    return np.array(scores), 1 - float(np.mean(errors)) / variance


def _shuffled_error(
    forest: Any,
    inputs: np.ndarray,
    columns: list[int],
    held: np.ndarray,
    active: np.ndarray,
    target: np.ndarray,
    rng: np.random.Generator,
) -> float:
    """Squared error on the held-out trials when these columns are shuffled together, among active trials alone."""
    takes_part = held[active[held]]
    stay = held[~active[held]]
    trials = np.concatenate([np.append(takes_part, stay)] * SHUFFLES)
    donors = np.concatenate([np.append(rng.permutation(takes_part), stay) for _ in range(SHUFFLES)])
    changed = inputs[trials]
    changed[:, columns] = inputs[donors][:, columns]
    return float(((forest.predict(changed) - target[trials]) ** 2).mean())
