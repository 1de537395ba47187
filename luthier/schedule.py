"""A schedule: the hyperparameters of one training over its steps, as a study found them or as a user writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final, overload

from luthier.errors import MethodError
from luthier.files import write_whole
from luthier.space import Config

WHERE = "schedule"
REMEDY = "Give study.best.schedule, the file or the JSON that it was saved as, or rows (step, {name: value})."


@final
@dataclass(frozen=True, eq=False)
class Schedule(Sequence[tuple[int, Config]]):
    """Hyperparameters over a training. As a sequence: (step, values in force from there on), a row for every change.

    Args:
        parts: The training in order, ``{"steps": steps, "config": {…}, "job": number}`` each. ``"job"`` is the job
            whose initial weights and noise the part has; it may be left out. The last part may have 0 steps: the values
            that an adapter had come to at the end.
        seed: The seed of the study in which it was found; None takes any.

    Examples:
        >>> schedule = Schedule([{"steps": 5, "config": {"lr": 0.1}}, {"steps": 5, "config": {"lr": 0.01}}])
        >>> list(schedule), schedule.steps
        ([(0, {'lr': 0.1}), (5, {'lr': 0.01})], 10)
    """

    parts: Sequence[Mapping[str, Any]]
    seed: int | None = None

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return sum(part["steps"] for part in self.parts)

    @property
    def rows(self) -> list[tuple[int, Config]]:
        """(step, values in force from there on), a row for every change."""
        rows: list[tuple[int, Config]] = []
        step = 0
        for part in self.parts:
            if not rows or rows[-1][1] != part["config"]:
                rows.append((step, dict(part["config"])))
            step += part["steps"]
        return rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[int, Config]]:
        return iter(self.rows)

    @overload
    def __getitem__(self, index: int) -> tuple[int, Config]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, Config]]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, Config] | list[tuple[int, Config]]:
        return self.rows[index]

    def __eq__(self, other: object) -> bool:
        """Equal to another schedule of the same parts and seed, and to a list of the same rows."""
        if isinstance(other, Schedule):
            return self.to_json() == other.to_json()
        return isinstance(other, list) and self.rows == other

    __hash__ = None  # type: ignore[assignment]  # its parts are dicts

    def to_json(self) -> dict[str, Any]:
        """The schedule as JSON; :meth:`from_json` reads it."""
        return {"seed": self.seed, "parts": [dict(part) for part in self.parts]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Schedule:
        """The schedule that :meth:`to_json` wrote.

        Raises:
            MethodError: If ``data`` is not such a schedule.
        """
        try:
            parts = [{**part, "steps": int(part["steps"]), "config": dict(part["config"])} for part in data["parts"]]
            found = Schedule(parts, data.get("seed"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"it is no schedule ({type(error).__name__}: {error})"
            raise MethodError(what, where=WHERE, remedy=REMEDY) from error
        lengths = [part["steps"] for part in parts]
        if not lengths or min(lengths[:-1], default=1) < 1 or lengths[-1] < 0 or not found.steps:
            remedy = "Each part has at least one step; at the end one of none may stand, after others."
            raise MethodError(f"its parts have {lengths} steps", where=WHERE, remedy=remedy)
        return found

    def save(self, path: str | Path) -> Path:
        """Write it as a JSON file, for ``tune(task, schedule=path)`` and ``luthier tune FILE --schedule PATH``.

        Raises:
            MethodError: If the file cannot be written.
        """
        try:
            write_whole(path, json.dumps(self.to_json(), indent=1) + "\n")
        except OSError as error:
            remedy = "Give the path of a file in a folder that you may write to."
            raise MethodError(f"it cannot be written ({error.strerror})", where=str(path), remedy=remedy) from error
        return Path(path)


def as_schedule(given: Any, steps: int | None = None) -> Schedule:
    """Convert what a user gives into a schedule.

    Args:
        given: A schedule; what its ``to_json`` gave; that as text; the path of a file with it; or rows
            (step, {name: value}), each whole, in order from step 0 on.
        steps: Number of steps of the whole training; only rows need it.

    Raises:
        MethodError: If it is none of these, or rows come without ``steps``.
    """
    if isinstance(given, Schedule):
        return given
    if isinstance(given, str | Path):
        given = _read(given)
    if isinstance(given, Mapping):
        return Schedule.from_json(given)
    if not isinstance(given, Sequence):
        raise MethodError(f"{given!r} is a {type(given).__name__}", where=WHERE, remedy=REMEDY)
    return _from_rows(given, steps)


def _read(given: str | Path) -> Any:
    text = str(given).strip()
    place = WHERE
    if isinstance(given, Path) or text[:1] not in ("{", "["):
        place = f"schedule {given}"
        try:
            text = Path(given).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            what = f"it cannot be read ({getattr(error, 'strerror', None) or error})"
            remedy = "Give the path that study.best.schedule.save() wrote."
            raise MethodError(what, where=place, remedy=remedy) from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise MethodError(f"it is not JSON ({error})", where=place, remedy=REMEDY) from error


def _from_rows(rows: Sequence[Any], steps: int | None) -> Schedule:
    try:
        points = [(int(step), dict(values)) for step, values in rows]
    except (TypeError, ValueError) as error:
        what = f"its rows are not pairs of a step and a dict ({error})"
        raise MethodError(what, where=WHERE, remedy=REMEDY) from error
    begins = [step for step, _ in points]
    if not begins or begins[0] != 0 or sorted(set(begins)) != begins:
        remedy = "The first row is at step 0, and each later one at a later step."
        raise MethodError(f"its rows are at the steps {begins}", where=WHERE, remedy=remedy)
    if steps is None or steps <= begins[-1]:
        raise MethodError(
            f"its last row begins at step {begins[-1]}, and steps={steps}",
            where=WHERE,
            remedy="Rows do not say when the training ends: give steps=, all of them; study.best.schedule knows it.",
        )
    ends = [*begins[1:], steps]
    return Schedule([{"steps": end - step, "config": values} for (step, values), end in zip(points, ends, strict=True)])
