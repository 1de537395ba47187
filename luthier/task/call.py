"""One call of a user's function: the Trial it is given, the check of what it reports and returns, what it raised."""

from __future__ import annotations

import math
import numbers
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never, final

from luthier.attributes import elsewhere
from luthier.errors import LuthierError, TaskError
from luthier.space import Config

_OURS = str(Path(__file__).parents[1])
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class Pruned(Exception):  # noqa: N818 - a signal, as StopIteration is: nothing went wrong
    """Raised by :meth:`Trial.report` when the study has asked this trial to stop. Let it pass."""


@final
class Trial:
    """One call of a function: what the function is told about it, and how it reports while it runs.

    A step counts what is *done*: a function whose first report is at step 0 (``for epoch in range(n)``) has done
    ``step + 1`` steps at each of its reports, any other one ``step``. So reports from 0 to n - 1 and from 1 to n both
    are n steps, in whatever the study keeps and shows.

    Args:
        number: The trial's number in its study.
        config: The configuration, the same that the function gets as its first argument.
        key: An integer in [0, 2**62) for randomness that takes so long a one, as :attr:`seed` does not: the same after
            a resume and in any process.
        steps: Steps asked for: what a method that gives unequal budgets wants spent here; 1 where none was said.
        send: Takes (steps done, metrics) to the study; returns whether the study has asked to stop.
        asked: Returns True once the study has asked to stop.
        study: The study's name.
        place: Gives the path of the trial's own folder, which need not exist yet.

    Examples:
        >>> trial = Trial(0, {"lr": 0.1}, key=7, steps=1, send=lambda step, metrics: step >= 2)
        >>> trial.report(0, loss=0.5)
        >>> trial.report(1, loss=0.6)
        Traceback (most recent call last):
        luthier.task.call.Pruned: trial 0 was asked to stop at step 1
    """

    def __init__(
        self,
        number: int,
        config: Config,
        key: int,
        steps: int,
        send: Callable[[int, dict[str, float]], bool],
        asked: Callable[[], bool] = lambda: False,
        study: str = "",
        place: Callable[[], Path] | None = None,
    ) -> None:
        self.number, self.config, self.key, self.steps, self.study = number, config, key, steps, study
        self.last: tuple[int, dict[str, float]] | None = None  # the latest report: steps done, metrics
        self.stopped = False  # the function has been told to stop
        self.notes: dict[str, Any] = {}
        self._send, self._asked, self._place = send, asked, place
        self._first = 1  # 0 where the first report was at step 0
        self._asked_to_stop = False
        self._ends_by_itself = False

    if not TYPE_CHECKING:
        __getattr__ = elsewhere("Trial")

    def __repr__(self) -> str:
        return f"Trial({self.number}, {self.config!r}, steps={self.steps})"

    @property
    def seed(self) -> int:
        """An integer in [0, 2**32), which every library takes, for the function's own randomness.

        It is the same after a resume and in any process.
        """
        return self.key % (1 << 32)

    @property
    def folder(self) -> Path:
        """A folder for the trial's own files, beside the store; made when it is first asked for.

        Raises:
            TaskError: If there is none: the trial was made by hand, or the study's files are not on this machine.
        """
        if self._place is None:
            raise TaskError(
                f"trial {self.number} has no folder", where="trial.folder", remedy="lt.tune gives each trial its own."
            )
        path = self._place()
        path.mkdir(parents=True, exist_ok=True)
        return path

    def note(self, **values: Any) -> None:
        """Keep values that are no metrics beside the trial: strings, numbers, paths, and lists and dicts of them.

        They are in ``study.trials``, in the exports and on the page; a later note of the same name replaces it.

        Raises:
            TaskError: If a value is none of these.
        """
        for name, value in values.items():
            self.notes[name] = as_note(value, f"trial.note({name}=…)")

    def report(self, step: int, /, *values: Never, **metrics: Any) -> None:
        """Tell the study how far the training is: its curve is kept, and the study may stop a poor one.

        Args:
            step: Progress in the function's own unit, rising from 0 or 1.
            values: None: metrics are given by name.
            metrics: Measured values by any name, real numbers, in the user's own units and direction.

        Raises:
            Pruned: If the study has asked this trial to stop, unless the function has read :attr:`should_stop`.
            TaskError: If a value is not a real number, or has no name.
        """
        check_named(values, "trial.report")
        whole = as_step(step, "trial.report")
        if self.last is None and whole == 0:
            self._first = 0
        self.last = (whole + 1 - self._first, as_metrics(metrics, "trial.report"))
        self._asked_to_stop |= self._send(*self.last)
        if self._asked_to_stop and not self._ends_by_itself:
            self.stopped = True
            raise Pruned(f"trial {self.number} was asked to stop at step {step}")

    @property
    def should_stop(self) -> bool:
        """True once the study has asked to stop. Reading it promises that the function ends by itself.

        From the first reading on, :meth:`report` no longer raises: read it before a report, as in
        ``while not trial.should_stop:``. What the function then returns are the metrics of the pruned trial.
        """
        self._ends_by_itself = True
        self._asked_to_stop = self._asked_to_stop or self._asked()
        self.stopped = self.stopped or self._asked_to_stop
        return self._asked_to_stop


def check_named(values: tuple[Any, ...], where: str) -> None:
    """Raise a TaskError where metrics were given without their names."""
    if values:
        given = ", or report(3, **metrics)" if isinstance(values[0], Mapping) else ""
        remedy = f"Give the epoch or the step first, then the metrics by name: report(3, loss=0.5){given}."
        raise TaskError(f"metrics must be given by name, got {values[0]!r}", where=where, remedy=remedy)


def as_step(step: Any, where: str) -> int:
    """A step as a plain integer; NumPy and torch scalars are taken.

    Raises:
        TaskError: If it is not a whole number, or below 0.

    Examples:
        >>> import numpy as np
        >>> as_step(np.int64(3), "report")
        3
    """
    value = _item(step)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 0 <= int(value) < 1 << 62:
        raise TaskError(
            f"step must be an integer from 0 to 2**62, got {short(step)}",
            where=where,
            remedy="Give the epoch or the step first, then the metrics by name: report(3, loss=0.5).",
        )
    return int(value)


def as_note(value: Any, where: str) -> Any:
    """A note as JSON has it; paths become strings, tuples lists, NumPy and torch scalars numbers.

    Raises:
        TaskError: If it holds something else.

    Examples:
        >>> as_note({"weights": Path("best.pt"), "shape": (3, 4)}, "note")
        {'weights': 'best.pt', 'shape': [3, 4]}
    """
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): as_note(part, where) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_note(part, where) for part in value]
    value = _item(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    if value is None or isinstance(value, str | bool):
        return value
    raise TaskError(
        f"{short(value)} ({type(value).__name__}) cannot be kept as a note",
        where=where,
        remedy="Keep a string, a number, a path, or a list or dict of them; larger things belong into trial.folder.",
    )


def as_metrics(given: Mapping[Any, Any], where: str) -> dict[str, float]:
    """Metrics as plain floats; NumPy and torch scalars are taken, NaN and infinity pass.

    Raises:
        TaskError: If a name is not a string or a value is not a real number.

    Examples:
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
    """Metrics of a finished training: a number stands for the only objective, a tuple for several, in their order; a
    dict must hold all of them.

    Raises:
        TaskError: If a value is not a real number, or an objective is missing.
    """
    if not isinstance(given, Mapping):
        if len(objectives) > 1 and isinstance(given, tuple | list) and len(given) == len(objectives):
            return as_metrics(dict(zip(objectives, given, strict=True)), where)
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
    """Return True if every objective that was measured is a finite number."""
    return all(math.isfinite(metrics[name]) for name in objectives if name in metrics)


def describe(error: BaseException) -> str:
    """Describe an error, its place in the user's code and the way there: the text kept with a failed result.

    Frames of luthier itself are left out where there are others. The place is the innermost frame of the user's own
    files, that is, not of an installed library.

    Examples:
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


def _item(value: Any) -> Any:
    """The element of an array or a tensor of one; anything else as it is."""
    if not isinstance(value, numbers.Number) and hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:
        return value.item()
    return value


def _as_float(value: Any) -> float | None:
    value = _item(value)
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
