"""One call of a user's function: the Trial it is given, the check of what it reports and returns, what it raised."""

from __future__ import annotations

import math
import numbers
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from luthier.errors import LuthierError, TaskError
from luthier.space import Config

_OURS = str(Path(__file__).parents[1])
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class Pruned(Exception):  # noqa: N818 - a signal, as StopIteration is: nothing went wrong
    """Raised by :meth:`Trial.report` when the study has asked this trial to stop. Let it pass."""


@final
class Trial:
    """What a function is told about its own call, and how it reports while it runs.

    Args:
        number: The job's number in its study.
        config: The configuration, the same that the function gets as its first argument.
        seed: An integer in [0, 2**62) for the function's own randomness: the same after a resume and in any process.
        steps: Steps asked for: what a method that gives unequal budgets wants spent here; 1 where none was said.
        send: Takes (step, metrics) to the study; returns whether the study has asked to stop.
        asked: Whether the study has asked to stop by now.

    Example:
        >>> trial = Trial(0, {"lr": 0.1}, seed=7, steps=1, send=lambda step, metrics: step >= 2)
        >>> trial.report(1, loss=0.5)
        >>> trial.report(2, loss=0.6)
        Traceback (most recent call last):
        luthier.task.call.Pruned: trial 0 was asked to stop at step 2
    """

    def __init__(
        self,
        number: int,
        config: Config,
        seed: int,
        steps: int,
        send: Callable[[int, dict[str, float]], bool],
        asked: Callable[[], bool] = lambda: False,
    ) -> None:
        self.number, self.config, self.seed, self.steps = number, config, seed, steps
        self.last: tuple[int, dict[str, float]] | None = None  # the latest report
        self.stopped = False  # the function has been told to stop
        self._send, self._asked = send, asked
        self._asked_to_stop = False
        self._ends_by_itself = False

    def report(self, step: int, **metrics: Any) -> None:
        """Tell the study how far the training is: its curve is kept, and the study may stop a poor one.

        Args:
            step: How far, in the function's own unit, rising.
            metrics: Measured values by name, real numbers, in the user's own units and direction.

        Raises:
            Pruned: If the study has asked this trial to stop, unless the function has read :attr:`should_stop`.
            TaskError: If a value is not a real number.
        """
        whole = isinstance(step, numbers.Integral) and not isinstance(step, bool)
        if not whole or not 0 <= step < 1 << 63:
            raise TaskError(
                f"step must be an integer from 0 to 2**63 - 1, got {short(step)}",
                where="trial.report",
                remedy="Give the epoch or the step first, then the metrics by name: trial.report(3, loss=0.5).",
            )
        self.last = (int(step), as_metrics(metrics, "trial.report"))
        self._asked_to_stop |= self._send(*self.last)
        if self._asked_to_stop and not self._ends_by_itself:
            self.stopped = True
            raise Pruned(f"trial {self.number} was asked to stop at step {step}")

    @property
    def should_stop(self) -> bool:
        """Whether the study has asked to stop. Reading it promises that the function ends by itself.

        From the first reading on, :meth:`report` no longer raises: read it before a report, as in
        ``while not trial.should_stop:``. What the function then returns are the metrics of the pruned trial.
        """
        self._ends_by_itself = True
        self._asked_to_stop = self._asked_to_stop or self._asked()
        self.stopped = self.stopped or self._asked_to_stop
        return self._asked_to_stop


def as_metrics(given: Mapping[Any, Any], where: str) -> dict[str, float]:
    """Metrics as plain floats; NumPy and torch scalars are taken, NaN and infinity pass.

    Raises:
        TaskError: If a name is not a string or a value is not a real number.

    Example:
        >>> import numpy as np
        >>> as_metrics({"loss": np.float32(0.5), "epochs": 3}, "result")
        {'loss': 0.5, 'epochs': 3.0}
    """
    if not isinstance(given, Mapping):
        raise TaskError(
            f"{short(given)} ({type(given).__name__}) is not a dict of metrics",
            where=where,
            remedy='Give metrics by name: {"loss": 0.5}.',
        )
    metrics: dict[str, float] = {}
    for name, value in given.items():
        if not isinstance(name, str):
            raise TaskError(
                f"the name {name!r} is not a string", where=where, remedy='Name metrics as in {"loss": 0.5}.'
            )
        number = _as_float(value)
        if number is None:
            raise TaskError(
                f"{name}={short(value)} ({type(value).__name__}) is not a real number",
                where=where,
                remedy="A metric is one real number: float(…) of it, or leave it out.",
            )
        metrics[name] = number
    return metrics


def as_objectives(given: Any, objectives: Mapping[str, str], where: str) -> dict[str, float]:
    """Metrics of a finished training: a number stands for the only objective, a dict must hold all of them.

    Raises:
        TaskError: If a value is not a real number, or an objective is missing.
    """
    if not isinstance(given, Mapping):
        if len(objectives) != 1:
            raise TaskError(
                f"{short(given)} was returned, and the objectives are {', '.join(objectives)}",
                where=where,
                remedy=f"Return a dict with all of them: {{{', '.join(f'{name!r}: …' for name in objectives)}}}.",
            )
        if _as_float(given) is None:
            raise TaskError(
                f"{short(given)} ({type(given).__name__}) was returned",
                where=where,
                remedy=f"Return a real number or a dict of real numbers with {', '.join(map(repr, objectives))} in it.",
            )
        given = {next(iter(objectives)): given}
    metrics = as_metrics(given, where)
    missing = [name for name in objectives if name not in metrics]
    if missing:
        raise TaskError(
            f"the objective {missing[0]!r} is not among the names returned ({', '.join(metrics) or 'none'})",
            where=where,
            remedy="Return it, or name one of those as the metric of the study.",
        )
    return metrics


def is_finite(metrics: Mapping[str, float], objectives: Mapping[str, str]) -> bool:
    """Whether every objective that is there is a finite number."""
    return all(math.isfinite(metrics[name]) for name in objectives if name in metrics)


def describe(error: BaseException) -> str:
    """What was raised, where in the user's code, and the way there: the text kept with a failed result.

    Frames of luthier itself are left out where there are others. The place is the innermost frame of the user's own
    files, that is, not of an installed library.

    Example:
        >>> describe(ValueError("no such file"))
        'ValueError: no such file'
    """
    try:
        message = str(error)
    except Exception:
        message = "(its message cannot be shown)"
    title = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if len(title) > 2_000:
        title = title[:1_997] + "..."
    every = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in every if not _inside(frame.filename, (_OURS, "<frozen"))]
    if not frames and not isinstance(error, LuthierError):
        frames = list(every)  # a fault of our own, or one that a value of the user's provoked inside
    own = [frame for frame in frames if not _inside(frame.filename, _LIBRARIES)] or frames
    if not own:
        return title
    lines = [f"  {f.filename}:{f.lineno} in {f.name}" + (f": {f.line}" if f.line else "") for f in frames[-6:]]
    return "\n".join([f"{title} at {Path(own[-1].filename).name}:{own[-1].lineno} in {own[-1].name}", *lines])


def _inside(file: str, folders: tuple[str, ...]) -> bool:
    return file.startswith(folders)


def _as_float(value: Any) -> float | None:
    if not isinstance(value, numbers.Number) and hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:
        value = value.item()  # an array or a tensor of one element
    if not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer or a fraction beyond the largest float
        return None


def short(value: Any) -> str:
    """``repr(value)``, cut to fit into a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
