"""CSV: one line for each number, so that any program can read a study while it runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, final

from luthier.files import absolute
from luthier.follow.background import Background
from luthier.follow.log import Log, LoggedTrial, cut
from luthier.text import cell

HEADER = ("time", "study", "trial", "step", "name", "value")


def lines(path: str | Path = "study.csv") -> Background:
    """A follower that appends a study's numbers to a CSV file, a line each: time, study, trial, step, name, value.

    The time is in seconds since 1970. The values of a trial's configuration come at its beginning under the names
    ``config/NAME``, its status at its end as ``status`` (and ``error``).

    Args:
        path: The file. Several drivers of one study may give the same; each study needs a file of its own.

    Examples:
        >>> import luthier as lt, tempfile
        >>> path = Path(tempfile.mkdtemp(), "log.csv")
        >>> space = lt.Space(x=lt.Float(0, 1))
        >>> follower = lt.follow.CSV(path)
        >>> study = lt.tune(lambda c: c["x"], space=space, trials=2, callbacks=follower, progress=False)
        >>> [line.split(",")[2:5] for line in path.read_text().splitlines()[:3]]
        [['trial', 'step', 'name'], ['0', '0', 'config/x'], ['0', '1', 'loss']]
    """
    return Background(_Lines(absolute(path)))


@final
class _Lines(Log):
    def __init__(self, path: Path) -> None:
        super().__init__(path.parent)
        self._path = path
        self._stream: IO[bytes] | None = None

    def __repr__(self) -> str:
        return f"CSV({str(self._path)!r})"

    def open(self, state: Mapping[str, Any]) -> None:
        cut({str(self._path): state.get("size", 0)})
        self._stream = self._path.open("ab")
        if not self._stream.tell():
            self._write(HEADER)

    def begin(self, trial: LoggedTrial, at: float) -> None:
        for name, value in trial.config.items():
            self._line(trial, trial.steps, f"config/{name}", value, at)

    def point(self, trial: LoggedTrial, step: int, values: Mapping[str, float], at: float) -> None:
        for name, value in values.items():
            self._line(trial, step, name, value, at)

    def end(self, trial: LoggedTrial, at: float) -> None:
        self._line(trial, trial.steps, "status", trial.status, at)
        if trial.error:
            self._line(trial, trial.steps, "error", trial.error, at)

    def flush(self) -> Mapping[str, Any]:
        if self._stream is None:
            return {}
        self._stream.flush()
        return {"size": self._stream.tell()}

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _line(self, trial: LoggedTrial, step: int, name: str, value: Any, at: float) -> None:
        self._write((f"{at:.3f}", self.study, trial.number, step, name, value))

    def _write(self, cells: Any) -> None:
        assert self._stream is not None
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(map(cell, cells))
        self._stream.write(text.getvalue().encode("utf-8", "backslashreplace"))
