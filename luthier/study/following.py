"""The followers of one call of tune(): told of events as they come, kept from stopping the study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from luthier.errors import MethodError
from luthier.jobs import Event, History, Note, Result
from luthier.optional import optional
from luthier.task.call import describe, short
from luthier.text import warn

METHODS = ("started", "events", "finished")


def check_callbacks(callbacks: Any) -> list[Any]:
    """The followers that a user gave, as a list.

    Raises:
        MethodError: If one of them has none of a follower's methods.
    """
    given = [] if callbacks is None else list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
    for one in given:
        if isinstance(one, type) or not any(callable(getattr(one, name, None)) for name in METHODS):
            what = f"the class {one.__name__}" if isinstance(one, type) else f"{short(one)} ({type(one).__name__})"
            raise MethodError(
                f"a callback must have started(study), events(history, new) or finished(study), got {what}",
                where="callbacks",
                remedy="Subclass lt.follow.Follower, and give an object of it: tune(callbacks=[Mine()]).",
            )
    return given


class Followers:
    """All followers of a call, each told of every event once.

    Args:
        given: Objects with some of the methods of :class:`luthier.follow.Follower`.
        history: Gives the history as it is now.
    """

    def __init__(self, given: Sequence[Any], history: History) -> None:
        self._given, self._history = given, history
        self._cursor = 0
        self._blamed: set[int] = set()

    def started(self, study: Any) -> None:
        """Before the first job."""
        self._each("started", lambda: (study,))

    def tell(self) -> None:
        """Tell of what is new, if anything is."""
        log, begin = self._history.log, self._cursor
        if self._given and len(log) > begin:
            self._cursor = len(log)  # before the calls: one of them may bring the history up to date
            new: list[Event] = [event for event in log[begin : self._cursor] if not isinstance(event, Note)]
            self._each("events", lambda: (self._history, list(new)))

    def finished(self, study: Any) -> None:
        """Tell what is left, then the end itself."""
        self.tell()
        self._each("finished", lambda: (study,))

    def _each(self, name: str, arguments: Callable[[], tuple[Any, ...]]) -> None:
        for place, one in enumerate(self._given):
            method = getattr(one, name, None)
            if method is None:
                continue
            try:
                method(*arguments())
            except Exception as error:
                if place not in self._blamed:
                    self._blamed.add(place)
                    text = f"the follower {short(one)} raised in {name}, and the study goes on: {describe(error)}"
                    warn(text)


class Unjudged:
    """Says once that nothing or never the objective is reported, where a method could stop trials by reports.

    Args:
        proposer: The study's method.
        function: The task is a function, which reports where it is written so.
    """

    def __init__(self, proposer: Any, function: bool) -> None:
        self._stops = optional(proposer, "stop") is not None
        self._function, self._said = function, False

    def events(self, history: History, new: Sequence[Event]) -> None:
        """Look at the reports of each job that has ended."""
        if self._said or not self._stops:
            return
        for event in new:
            if not isinstance(event, Result):
                continue
            reports, goal = history.reports.get(event.number, []), next(iter(history.objectives))
            if reports and not any(goal in report.metrics for report in reports):
                names = ", ".join(dict.fromkeys(name for report in reports for name in report.metrics))
                what = f"{names or 'nothing'} and never the objective {goal!r}"
                remedy = "report it, or tune with metric= set to what is reported"
            elif not reports and self._function and event.status == "ok":
                what, remedy = "nothing", f"write f(config, trial), and call trial.report(epoch, {goal}=…) on the way"
            else:
                continue
            self._said = True
            text = f"trial {event.number} reported {what}, so that nothing can be stopped early: {remedy}"
            warn(text)
            return
