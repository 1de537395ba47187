"""Facts for a report beyond the history: the study's name, settings and test metrics, and a sampler's draws."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from luthier.space import Config


@dataclass(frozen=True, eq=False)
class Samples:
    """Draws of a generative sampler in a study, and draws of one that is fitted to all its results.

    Args:
        initial: Jobs that the method named before it had a sampler.
        drawn: Jobs that it drew from one.
        missing: The reason that no sampler could be fitted; "" if one was, and only then is the rest meaningful.
        configs: Configurations drawn from the fitted sampler.
        predicted: Its surrogate's predictions for them, in the user's units and direction, (configs,).
        untrained: The same for configurations drawn from the sampler before it has learnt anything.
        random: The same for configurations drawn at random.
        beta: The exponent of its target R^beta / Z.
        leaves: Number of configurations that it tells apart.
        rmse: Held-out error of the surrogate, in the user's units.
        losses: Loss at each gradient step of the sampler's training; None where it is exact and was not trained.

    Examples:
        >>> Samples(initial=[0, 1], drawn=[2], missing="too few results").missing
        'too few results'
    """

    initial: Sequence[int]
    drawn: Sequence[int]
    missing: str = ""
    configs: Sequence[Config] = ()
    predicted: np.ndarray = field(default_factory=lambda: np.zeros(0))
    untrained: np.ndarray = field(default_factory=lambda: np.zeros(0))
    random: np.ndarray = field(default_factory=lambda: np.zeros(0))
    beta: float = 1.0
    leaves: int = 0
    rmse: float = float("nan")
    losses: np.ndarray | None = None


class KeptFile(NamedTuple):
    """A file in a trial's own folder.

    Args:
        name: Its path within that folder.
        size: Bytes.

    Examples:
        >>> KeptFile("curve.png", 1024).name
        'curve.png'
    """

    name: str
    size: int


@dataclass(frozen=True)
class StudyInfo:
    """The facts about a study that its history does not hold.

    Args:
        name: The study's name.
        settings: The stored settings as JSON values. ``method``, ``seed`` and ``budget`` are shown in the header,
            the rest in a foldable list; keys are free.
        created: Start of the study, in seconds since 1970 (UTC), or None.
        wall_seconds: Wall time of the study over all its runs, in seconds, or None.
        test_metrics: Metrics of the best configuration on the test split, in the user's own units and direction,
            or None where the test split was not read.
        export: The shell command that writes every trial to a file; None gives ``luthier export NAME``.
        samples: Samples of a method that draws from a generative sampler; None for all others.
        folder: The folder in which each trial has one of its own.
        files: The files that trials have kept there, by job.
        waiting: Jobs that have not ended and that nobody runs.

    Examples:
        >>> StudyInfo("digits", {"method": "random", "seed": 0}).name
        'digits'
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    created: float | None = None
    wall_seconds: float | None = None
    test_metrics: Mapping[str, float] | None = None
    export: str | None = None
    samples: Samples | None = None
    folder: str = ""
    files: Mapping[int, Sequence[KeptFile]] = field(default_factory=dict)
    waiting: Collection[int] = ()
