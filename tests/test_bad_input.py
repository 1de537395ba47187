"""What users get wrong: each mistake is a named error with value, place and remedy, and loses nothing recorded."""

from __future__ import annotations

import contextlib
import math
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import luthier as lt
from luthier.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LuthierError,
    MethodError,
    SpaceError,
    StoreError,
    StudyError,
    TaskError,
)

SPACE = lt.Space(x=lt.Float(0.0, 1.0), layers=lt.Int(1, 4))
GOOD = {"x": 0.5, "layers": 2}


@dataclass
class Place:
    """Where a mistake is made: a store that holds a study of three finished trials, and its folder."""

    folder: Path
    store: str
    kept: lt.Study

    def study(self, **changes: Any) -> lt.Study:
        return lt.Study("kept", **{"space": SPACE, "trials": 5, "store": self.store, **changes})

    def tune(self, task: Any = None, *method: Any, **changes: Any) -> lt.Study:
        given = {"space": SPACE, "trials": 5, "store": self.store, "name": "new", "progress": False, **changes}
        return lt.tune(objective if task is None else task, *method, **given)

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def edited(self, statement: str) -> lt.Study:
        """A copy of the store with a change by hand, opened."""
        copy = self.folder / "copy.db"
        with (
            contextlib.closing(sqlite3.connect(self.store)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
            target.execute(statement)
            target.commit()
        return lt.Study.load("kept", copy)


def objective(config: dict[str, Any]) -> float:
    return config["x"]


def three(config: dict[str, Any], trial: lt.Trial, extra: int) -> float:
    return config["x"]


async def later(config: dict[str, Any]) -> float:
    return config["x"]


class HalfTrainable:
    space = SPACE

    def init(self, config: dict[str, Any], key: int) -> float:
        return 0.0

    def advance(self, state: float, config: dict[str, Any], steps: int) -> tuple[float, dict[str, float]]:
        return state, {}


class Large(HalfTrainable):
    """A training whose state is a megabyte."""

    def init(self, config: dict[str, Any], key: int) -> Any:
        return {"w": list(range(1 << 17))}

    def evaluate(self, state: Any) -> dict[str, float]:
        return {"loss": 1.0}


def torch_task(**changes: Any) -> lt.TorchTask:
    import torch
    from torch import nn

    split = lt.Split(torch.zeros(8, 2), torch.zeros(8, 1))
    given: dict[str, Any] = {
        "space": lt.Space(lr=lt.Float(0.1, 1.0)),
        "model": lambda config: nn.Linear(2, 1),
        "data": lt.Splits(split, split, split),
        "loss": lambda output, target: ((output - target) ** 2).mean(),
        "batch_size": 4,
    }
    return lt.TorchTask(**{**given, **changes})


def truncated_images(place: Place) -> Any:
    folder = place.folder / "mnist"
    folder.mkdir()
    for part in ("train", "t10k"):
        header = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in (50, 28, 28))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + bytes(1000))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + (50).to_bytes(4, "big") + bytes(50))
    return lt.data.mnist(folder, 10)


def mismatched_split(place: Place) -> Any:
    import torch

    return lt.Split(torch.zeros(5, 2), torch.zeros(4))


def full_disk(place: Place) -> Any:
    import resource

    from luthier.store.checkpoints import Checkpoints

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        Checkpoints(place.folder / "states").save("job-1", {"w": list(range(1 << 16))})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


Mistake = tuple[str, Callable[[Place], Any], type[LuthierError], list[str]]

MISTAKES: list[Mistake] = [
    # the space
    ("low above high", lambda p: lt.Float(3.0, 1.0), SpaceError, ["3.0", "1.0"]),
    ("a log scale from zero", lambda p: lt.Float(0.0, 1.0, log=True), SpaceError, ["0.0", "log"]),
    ("a bound that is not a number", lambda p: lt.Float(math.nan, 1.0), SpaceError, ["nan"]),
    ("a fraction for an integer", lambda p: lt.Int(1, 2.5), SpaceError, ["2.5"]),  # type: ignore[arg-type]
    ("an option twice", lambda p: lt.Choice(["sgd", "adam", "sgd"]), SpaceError, ["sgd"]),
    ("no options", lambda p: lt.Choice([]), SpaceError, ["[]"]),
    ("a condition on nothing", lambda p: lt.Space(x=lt.Float(0, 1, when={"kind": "a"})), SpaceError, ["kind", "x"]),
    ("a value for a domain", lambda p: lt.Space(lr=0.1), SpaceError, ["0.1", "lr"]),  # type: ignore[arg-type]
    # a configuration
    ("a value out of bounds", lambda p: p.study().enqueue({**GOOD, "x": 7.5}), ConfigError, ["7.5", "x"]),
    ("a misspelt name", lambda p: p.study().enqueue({"x": 0.5, "layer": 2}), ConfigError, ["layer", "layers"]),
    ("a text for a number", lambda p: p.study().enqueue({**GOOD, "x": "half"}), ConfigError, ["half", "x"]),
    ("a number for a configuration", lambda p: p.study().enqueue(0.5), ConfigError, ["enqueue", "0.5"]),
    # the task
    ("a number for a task", lambda p: p.tune(42), TaskError, ["42"]),
    ("a class for a task", lambda p: p.tune(Large, steps=3), TaskError, ["Large"]),
    ("a function without a space", lambda p: p.tune(space=None), TaskError, ["objective", "space"]),
    ("a function of three arguments", lambda p: p.tune(three), TaskError, ["three", "extra"]),
    ("an async function", lambda p: p.tune(later), TaskError, ["later", "async"]),
    ("a Trainable without evaluate", lambda p: p.tune(HalfTrainable()), TaskError, ["HalfTrainable", "evaluate"]),
    ("no length of a training", lambda p: p.tune(Large()), MethodError, ["Large", "epochs"]),
    ("a missing file", lambda p: p.tune(p.folder / "absent.py"), TaskError, ["absent.py"]),
    ("a file without a task", lambda p: p.tune(p.file("empty.py", "x = 1\n")), TaskError, ["empty.py", "task"]),
    (
        "a file that raises",
        lambda p: p.tune(p.file("raises.py", "import no_such_thing\n")),
        TaskError,
        ["no_such_thing"],
    ),
    ("a file that is not Python", lambda p: p.tune(p.file("task.txt", "x")), TaskError, ["task.txt", ".py"]),
    ("an empty minibatch", lambda p: torch_task(batch_size=0), TaskError, ["batch_size=0"]),
    ("a network for a function", lambda p: torch_task(model=torch_task().model({})), TaskError, ["Linear"]),
    (
        "a metric that the task does not measure",
        lambda p: p.tune(torch_task(), space=None, epochs=1, metric="acuracy", mode="max"),
        StudyError,
        ["acuracy", "train_loss"],
    ),
    (
        "a device that is not there",
        lambda p: p.tune(torch_task(device="cuda:99"), space=None, epochs=1),
        DataError,
        ["cuda:99", "device"],
    ),
    (
        "an executor's device that is not there",
        lambda p: p.tune(torch_task(), space=None, epochs=1, executor=lt.execute.Local(device="abacus")),
        DataError,
        ["abacus", "device"],
    ),
    # what the task returns
    (
        "an objective that is not returned",
        lambda p: p.tune(lambda config: {"error": 0.5}, max_failures=2),
        StudyError,
        ["'loss'", "error"],
    ),
    (
        "a text for a result",
        lambda p: p.tune(lambda config: "good", max_failures=2),
        StudyError,
        ["'good'", "in a row"],
    ),
    (
        "an exception each time",
        lambda p: p.tune(lambda config: 1 / 0, max_failures=2),
        StudyError,
        ["ZeroDivisionError"],
    ),
    # the method and its budget
    ("an unknown method", lambda p: p.tune(None, "random forest"), MethodError, ["random forest", "'random'"]),
    ("the class of a method", lambda p: p.tune(None, lt.propose.Random), MethodError, ["Random()"]),
    ("a number for a method", lambda p: p.tune(None, 3), MethodError, ["3"]),
    ("a pair the wrong way round", lambda p: p.tune(None, ("random", "random")), MethodError, ["adapter"]),
    ("a grid over a name that is not there", lambda p: p.tune(None, lt.propose.Grid({"lr": 3})), MethodError, ["lr"]),
    ("no end", lambda p: p.tune(trials=None), MethodError, ["trials=None", "seconds"]),
    ("no trials", lambda p: p.tune(trials=0), StudyError, ["trials must be an integer ≥ 1", "got 0"]),
    ("a text for trials", lambda p: p.tune(trials="ten"), StudyError, ["got 'ten'"]),
    ("negative time", lambda p: p.tune(seconds=-1.0), StudyError, ["seconds must be a finite number > 0", "-1.0"]),
    ("epochs and steps", lambda p: p.tune(epochs=2, steps=10), StudyError, ["epochs=2", "steps=10"]),
    ("half a seed", lambda p: p.tune(seed=0.5), StudyError, ["seed must be an integer", "0.5"]),
    ("an unknown direction", lambda p: p.tune(mode="up"), StudyError, ["mode='up'", "'max'"]),
    ("an empty direction", lambda p: p.tune(mode=""), StudyError, ["mode=''", "'max'"]),
    ("two directions for one metric", lambda p: p.tune(mode=["min", "max"]), StudyError, ["2 modes", "1 metrics"]),
    ("an accuracy to be minimised", lambda p: p.tune(metric="accuracy"), StudyError, ["'accuracy'", "mode='max'"]),
    ("a metric twice", lambda p: p.tune(metric=["loss", "loss"]), StudyError, ["loss"]),
    ("no workers", lambda p: lt.execute.Local(workers=0), MethodError, ["workers must be an integer ≥ 1, got 0"]),
    # the study
    ("another seed", lambda p: p.study(seed=9), StudyError, ["stored 0, given 9", "name="]),
    ("another space", lambda p: p.study(space=lt.Space(x=lt.Float(0.0, 2.0))), StudyError, ["1.0", "2.0", "name="]),
    ("another method", lambda p: p.study(method="grid", trials=3), StudyError, ["Random", "Grid"]),
    ("a space for a name", lambda p: lt.Study(SPACE), StudyError, ["space=None"]),  # type: ignore[arg-type]
    ("a job of another process", lambda p: p.study().tell(p.kept.ask()[0], 1.0), StudyError, ["job 3", "not held"]),
    ("a metric that is not told", lambda p: p.kept.tell(p.kept.ask()[0], {"cost": 1.0}), TaskError, ["'loss'", "cost"]),
    ("a text for a metric", lambda p: p.kept.tell(p.kept.ask()[0], {"loss": "low"}), TaskError, ["loss='low'"]),
    ("an unknown status", lambda p: p.kept.tell(p.kept.ask()[0], 1.0, status="done"), StudyError, ["status='done'"]),  # type: ignore[arg-type]
    ("a job told twice", lambda p: p.study().tell(1, 0.5), StudyError, ["job 1", "ended"]),
    ("a job that was never asked for", lambda p: p.study().tell(77, 0.5), StudyError, ["77", "does not exist"]),
    ("no count", lambda p: p.study().ask(0), StudyError, ["count", "got 0"]),
    ("a report of a finished job", lambda p: p.study().report(0, 1, loss=1.0), StudyError, ["job 0", "ended"]),
    ("a report to a folder", lambda p: p.study().write_report(p.folder), StudyError, [""]),
    # the store
    ("an unknown URL", lambda p: lt.open_store("redis://here/0"), StoreError, ["redis", "postgresql"]),
    ("a folder for a store", lambda p: lt.open_store(p.folder), StoreError, ["folder"]),
    (
        "a file of something else",
        lambda p: lt.open_store(p.file("notes.db", "no database " * 99)),
        StoreError,
        ["notes.db"],
    ),
    ("a store that is not there", lambda p: lt.Study.load("kept", p.folder / "absent.db"), StoreError, ["absent.db"]),
    ("an unknown study", lambda p: lt.Study.load("lost", p.store), StoreError, ["'lost'", "'kept'"]),
    ("a name that is none", lambda p: p.tune(name=" "), StoreError, ["' '"]),
    (
        "a lost row",
        lambda p: p.edited("DELETE FROM luthier_events WHERE number = 1"),
        StoreError,
        ["copy.db", "missing"],
    ),
    ("a lost table", lambda p: p.edited("DROP TABLE luthier_events"), StoreError, ["copy.db", "luthier_events"]),
    (
        "settings by hand",
        lambda p: p.edited("UPDATE luthier_studies SET settings = '{}'"),
        StudyError,
        ["kept", "damaged"],
    ),
    # states and data
    ("a full disk", full_disk, CheckpointError, ["job-1", "full"]),
    ("a data file cut short", truncated_images, DataError, ["idx3-ubyte"]),
    ("data that is not there", lambda p: lt.data.mnist(p.folder / "none"), DataError, ["none"]),
    ("targets for other inputs", mismatched_split, DataError, ["(5, 2)", "(4,)"]),
]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    store = str(tmp_path / "kept.db")
    study = lt.Study("kept", SPACE, trials=5, store=store)
    for job in study.ask(3):
        study.report(job, 1, loss=1.0)
        study.tell(job, job.config["x"])
    return Place(tmp_path, store, study)


@pytest.mark.parametrize(("make", "error", "words"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_named_and_loses_nothing(
    place: Place, make: Callable[[Place], Any], error: type[LuthierError], words: list[str]
) -> None:
    before = lt.Study.load("kept", place.store).history.events[:9]
    with pytest.raises(LuthierError) as caught:
        make(place)
    assert type(caught.value) is error, caught.value
    assert caught.value.what.strip() and caught.value.where.strip() and caught.value.remedy.strip()
    assert caught.value.remedy[0].isupper() and caught.value.remedy.rstrip().endswith((".", "?", "!", ")"))
    assert all(word in str(caught.value) for word in words), caught.value
    after = lt.Study.load("kept", place.store).history
    assert after.events[:9] == before and [result is not None for result in after.results[:3]] == [True] * 3


def test_a_full_disk_ends_the_call_and_fails_no_trial(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr("luthier.train.keep.PAUSES", (0.01,))
    monkeypatch.setattr("luthier.study.again.MISSING", 0.1)  # of a file that is too large for the process
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, before[1]))  # the database fits, a state does not
    try:
        with pytest.raises(StudyError, match="the disk is full") as caught:
            place.tune(Large(), steps=2, trials=2, checkpoints=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not caught.value.study.history.arrival
    assert [path for path in place.folder.rglob("*.ckpt*")] == []
