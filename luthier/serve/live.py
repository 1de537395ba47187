"""One study as parts of a page that are made anew when they change."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from luthier.report.facts import facts
from luthier.report.formatting import script_json
from luthier.report.importance import Importance, importance
from luthier.report.page import rendered, sections
from luthier.report.summary import header
from luthier.serve.running import running_section
from luthier.serve.trial import trial_parts
from luthier.study.export import page_info
from luthier.study.study import Study

DEAREST = 0.05  # part of the time that may go into the importance of hyperparameters
CALM = 3.0  # seconds before that is first computed


@dataclass(frozen=True)
class Part:
    """A part of a page.

    Args:
        id: Id of its element.
        title: Title in the list of links; "" for none.
        html: The element.
        figures: Figures that its script draws, as JSON.
    """

    id: str
    title: str
    html: str
    figures: str = "[]"

    @property
    def mark(self) -> str:
        """Changes when anything in the part does."""
        return hashlib.blake2b(f"{self.title}\0{self.html}\0{self.figures}".encode("utf-8", "replace")).hexdigest()[:16]

    def json(self) -> str:
        """The part as a page's script takes it."""
        text = script_json({"id": self.id, "title": self.title, "html": self.html, "mark": self.mark})
        return f'{text[:-1]},"figures":{self.figures}}}'


def part_of(section: Any) -> Part:
    """A section of the report as a part."""
    html, figures = rendered(section)
    return Part(section.anchor, section.title, html, script_json(figures))


class Live:
    """A study that is looked at by any number of browsers, read and drawn once for all of them.

    Args:
        store: The open store.
        name: The study.

    Raises:
        StoreError: If there is none.
    """

    def __init__(self, store: Any, name: str) -> None:
        self._lock, self._store = threading.Lock(), store
        self.study = Study.load(name, store)
        self._parts: dict[str, tuple[int, list[Part]]] = {}  # by page: events that they show, and the parts
        self._found: Importance | None = None
        # results when it was found, when, and the seconds that it took: not while the first browser draws
        self._judged = (0, time.monotonic(), CALM * DEAREST)
        self._next: dict[str, float] = {}

    def parts(self, trial: int | None = None) -> list[Part]:
        """The parts of the study's page, or of one trial's, as the store has them now."""
        page = "" if trial is None else str(trial)
        with self._lock:
            count, made = self._parts.get(page, (-1, []))
            if time.monotonic() < self._next.get(page, 0.0):
                return made
            history = self.study.history
            if count == len(history.events) and not (trial is None and self._may_judge()):
                return made
            begun = time.thread_time()
            build: Callable[[], list[Part]] = self._study_parts if trial is None else lambda: self._trial_parts(trial)
            made = build()
            self._parts[page] = (len(history.events), made)
            self._next[page] = time.monotonic() + 5 * (time.thread_time() - begun)
            if len(self._parts) > 64:  # pages of trials that were looked at once
                self._parts.pop(next(iter(self._parts)))
            return made

    def _study_parts(self) -> list[Part]:
        history = self.study.history
        info = page_info(self.study._ledger, self._store.settings(self.study.name), fitted=False)
        known = facts(history, info.waiting)
        first = Part("header", "", f'<div id="header">{header(known, info)}</div>')
        now = running_section(known)
        found = sections(history, info, self._importance if "" in self._parts else lambda _: None)
        return [first, *(part_of(section) for section in ([now] if now else []) + found)]

    def _trial_parts(self, number: int) -> list[Part]:
        html, found = trial_parts(self.study, number)
        return [Part("header", "", f'<div id="header">{html}</div>'), *map(part_of, found)]

    def _may_judge(self) -> bool:
        """Return True if the importance is out of date and was last computed long enough ago, given what that took."""
        results, when, took = self._judged
        ended = len(self.study.history.arrival)
        return ended > 1.2 * results and ended > 3 and time.monotonic() - when > took / DEAREST

    def _importance(self, history: Any) -> Importance | None:
        if self._may_judge():
            begun = time.thread_time()
            self._found = importance(history)
            self._judged = (len(history.arrival), time.monotonic(), time.thread_time() - begun)
        return self._found


def message(parts: list[Part], seen: Mapping[str, str]) -> str | None:
    """Message for a browser that has seen parts with these marks; None if it needs nothing."""
    fresh = [part for part in parts if seen.get(part.id) != part.mark]
    if not fresh and set(seen) == {part.id for part in parts}:
        return None
    order = script_json([[part.id, part.title] for part in parts])
    return f'{{"order":{order},"parts":[{",".join(part.json() for part in fresh)}]}}'
