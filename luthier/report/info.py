"""What a report is told beside the history: the study's name, its settings, and its test metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StudyInfo:
    """The facts about a study that its history does not hold.

    Args:
        name: The study's name.
        settings: The stored settings as JSON values. ``method``, ``seed`` and ``budget`` are shown in the header,
            the rest in a foldable list; keys are free.
        created: When the study began, in seconds since 1970 (UTC), or None.
        wall_seconds: Wall time of the study over all its runs, in seconds, or None.
        test_metrics: Metrics of the best configuration on the test split, in the user's own units and direction,
            or None where the test split was not read.
        export: The shell command that writes every trial to a file; None gives ``luthier export NAME``.

    Example:
        >>> StudyInfo("digits", {"method": "random", "seed": 0}).name
        'digits'
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    created: float | None = None
    wall_seconds: float | None = None
    test_metrics: Mapping[str, float] | None = None
    export: str | None = None
