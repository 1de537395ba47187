"""Progress display of a running study: a live line on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

import numpy as np

from luthier.jobs import Report
from luthier.text import Tolerant, plain


@dataclass(frozen=True)
class Tick:
    """Snapshot of what there is to show.

    Args:
        done: Jobs that have ended, in this call and before.
        running: Jobs that are being trained.
        total: Jobs that the study will have, or None when that is not known.
        fresh: Jobs that ended in this call: the rate is theirs.
        best: The best value so far in the user's direction, or None.
        metric: Name of the objective that ``best`` is of, the first.
        front: Jobs on the Pareto front, where there are several objectives, else None.
        troubled: Jobs that failed or diverged.
        pruned: Jobs that were stopped early.
        infeasible: Jobs that ended outside the limits.
        waiting: Jobs that have not ended and that nobody runs now, as the call is over.
        furthest: Progress of the running job that is farthest along, in words.
        latest: The latest value reported, or None.
        rate: Training steps a second, 0 where none are counted.
        left: Seconds until the study has all its jobs, or None where that cannot be said.
        deadline: Seconds of wall time left of the budget, or None.
    """

    done: int
    running: int
    total: int | None
    fresh: int
    best: float | None
    metric: str
    front: int | None = None
    troubled: int = 0
    pruned: int = 0
    infeasible: int = 0
    waiting: int = 0
    furthest: str = ""
    latest: float | None = None
    rate: float = 0.0
    left: float | None = None
    deadline: float | None = None


class Display(Protocol):
    """Something that shows ticks; ``wants(now)`` says whether it is time for one. ``say`` shows a line of its own."""

    def wants(self, now: float) -> bool: ...
    def show(self, tick: Tick) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self, tick: Tick) -> None: ...


def choose(progress: bool | None, name: str, stream: TextIO | None = None) -> Display:
    """A live line on a terminal, plain lines when the output is not one, nothing for ``progress=False``."""
    if progress is False:
        return Silent()
    out: Any = Tolerant(stream or sys.stderr)
    return LiveLine(name, out) if out.isatty() or in_notebook() else PlainLines(name, out)


def in_notebook() -> bool:
    """Return True if this program is the kernel of a notebook, which shows what Rich draws."""
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


def line(tick: Tick, elapsed: float) -> str:
    """One tick as text.

    Args:
        tick: Snapshot to describe.
        elapsed: Seconds since the call began.

    Examples:
        >>> line(Tick(done=5, running=2, total=10, fresh=5, best=0.25, metric="loss"), elapsed=10.0)
        '5/10 done · 2 running · best loss 0.25 · 0.5/s · 10 s left'
    """
    parts = [f"{tick.done}{'' if tick.total is None else f'/{tick.total}'} done"]
    for count, what in (
        (tick.running, "running"),
        (tick.waiting, "to go on with"),
        (tick.pruned, "pruned"),
        (tick.infeasible, "outside the limits"),
        (tick.troubled, "failed or diverged"),
    ):
        if count:
            parts.append(f"{count} {what}")
    if tick.furthest:
        parts.append(tick.furthest)
    now = "" if tick.latest is None else f"{tick.metric} {tick.latest:.6g} now, "
    parts.append(f"{now}best {tick.metric} {tick.best:.6g}" if tick.best is not None else f"{now}no {tick.metric} yet")
    if tick.latest is not None and tick.best is None:
        parts[-1] = f"{tick.metric} {tick.latest:.6g} now"
    if tick.front:
        parts.append(f"{tick.front} on the front")
    rate = tick.fresh / elapsed if elapsed > 0 else 0.0
    if tick.rate > 0:
        parts.append(f"{tick.rate:,.3g} steps/s" if tick.rate < 100 else f"{tick.rate:,.0f} steps/s")
    elif rate > 0:
        parts.append(f"{rate:.3g}/s" if rate >= 0.1 else f"{duration(1 / rate)} each")
    left = [] if tick.deadline is None else [tick.deadline]
    if tick.left is not None:
        left.append(tick.left)
    elif tick.total is not None and rate > 0:
        left.append((tick.total - tick.done) / rate)
    if left and min(left) > 0:
        parts.append(f"{duration(min(left))} left")
    return " · ".join(parts)


def moved(report: Report) -> str:
    """Describe in one line where an adapter has moved the hyperparameters of one training.

    Args:
        report: A measurement with the hyperparameters that the adapter moves; vectors are shown by their 5 %, 50 % and
            95 % quantiles.

    Examples:
        >>> moved(Report(0, 20, {"loss": 0.5, "hypergradient": 0.25}, {"weight_decay": 0.01, "penalty": [1.0, 3.0]}))
        'job 0 · step 20 · loss 0.5 · hypergradient 0.25 · weight_decay 0.01 · penalty 1.1 2 2.9 (2 numbers)'
    """
    parts = [f"job {report.number}", f"step {report.step:,}"]
    parts += [f"{name} {value:.4g}" for name, value in report.metrics.items()]
    for name, value in report.hyperparameters.items():
        if isinstance(value, list):
            low, middle, high = np.quantile(np.array(value, dtype=float), (0.05, 0.5, 0.95))
            parts.append(f"{name} {low:.4g} {middle:.4g} {high:.4g} ({len(value):,} numbers)")
        else:
            parts.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    Examples:
        >>> duration(9.6), duration(75), duration(7260)
        ('10 s', '1 min 15 s', '2 h 1 min')
    """
    whole = max(0, math.ceil(seconds - 0.5))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Silent:
    """Shows nothing."""

    def wants(self, now: float) -> bool:
        return False

    def show(self, tick: Tick) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def close(self, tick: Tick) -> None:
        """Nothing."""


class PlainLines:
    """A line every few seconds and one at the end, for logs.

    Args:
        name: The study, at the start of each line.
        stream: Stream that takes the lines.
        every: Seconds between two lines.
    """

    def __init__(self, name: str, stream: TextIO, every: float = 10.0) -> None:
        self._name, self._stream, self._every = name, stream, every
        self._start = time.monotonic()
        self._next = self._start + every

    def wants(self, now: float) -> bool:
        return now >= self._next

    def show(self, tick: Tick) -> None:
        now = time.monotonic()
        self._next = now + self._every
        print(plain(f"{self._name}: {line(tick, now - self._start)}"), file=self._stream, flush=True)

    def say(self, text: str) -> None:
        print(plain(f"{self._name}: {text}"), file=self._stream, flush=True)

    def close(self, tick: Tick) -> None:
        self.show(tick)


class LiveLine:
    """A spinner and one line that is rewritten in place, at most four times a second.

    Args:
        name: The study, at the start of the line.
        stream: The terminal.
    """

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name, self._stream = name, stream
        self._start = time.monotonic()
        self._next = self._start
        self._live: Any = None

    def wants(self, now: float) -> bool:
        return now >= self._next

    def show(self, tick: Tick) -> None:
        now = time.monotonic()
        self._next = now + 0.25
        text = self._text(tick, now)
        if self._live is None:
            self._live = self._begun(text)
        self._live.update(text, refresh=True)

    def _begun(self, text: Any) -> Any:
        from rich.console import Console
        from rich.live import Live as RichLive

        console = Console() if in_notebook() else Console(file=self._stream)
        live = RichLive(text, console=console, auto_refresh=False, transient=False)
        live.start()
        return live

    def say(self, text: str) -> None:
        """Put a line above the one that is rewritten, which need not be there yet."""
        if self._live is None:
            self._live = self._begun("")
        from rich.text import Text

        self._live.console.print(Text(plain(text)))

    def close(self, tick: Tick) -> None:
        self.show(tick)
        live, self._live = self._live, None
        live.stop()

    def _text(self, tick: Tick, now: float) -> Any:
        from rich.text import Text

        text = Text(overflow="fold")
        if tick.total:
            filled = round(20 * min(1.0, tick.done / tick.total))
            text.append("━" * filled, "green").append("━" * (20 - filled) + " ", "bright_black")
        text.append(f"{plain(self._name)} ", "bold")
        return text.append(plain(line(tick, now - self._start)))
