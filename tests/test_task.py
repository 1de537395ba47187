"""Tasks at their three levels, the checks of what they give, and tasks loaded from files."""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luthier.errors import LuthierError, MethodError, TaskError
from luthier.space import Float, Space
from luthier.task import (
    FunctionTask,
    Pruned,
    Trainable,
    TrainableTask,
    Trial,
    as_task,
    epoch_steps,
    level,
    load_task,
    require_level,
    source_of,
)
from luthier.task.call import as_metrics, as_objectives, describe

SPACE = Space(x=Float(0.0, 1.0), y=Float(0.0, 1.0))


class Counter:
    """The smallest Trainable."""

    def init(self, config, key):
        return 0

    def advance(self, state, config, steps):
        return state + steps, {}

    def evaluate(self, state):
        return {"loss": state}


class Half:
    def init(self, config, key):
        return 0

    def evaluate(self, state):
        return {}


def make_trial(send: Any = lambda step, metrics: False, asked: Any = lambda: False) -> Trial:
    return Trial(4, {"x": 0.5}, key=1, steps=1, send=send, asked=asked)


@pytest.mark.parametrize(
    ("function", "takes_trial"),
    [
        (lambda config: 0.0, False),
        (lambda config, trial: 0.0, True),
        (lambda config, trial=None: 0.0, True),
        (lambda config, verbose=True: 0.0, False),
        (lambda *arguments: 0.0, False),
        (functools.partial(lambda data, config: 0.0, 1), False),
        (functools.partial(lambda data, config, trial: 0.0, 1), True),
        (Counter().evaluate, False),
        (len, False),
    ],
)
def test_a_function_gets_the_trial_where_it_has_room_for_it(function, takes_trial) -> None:
    task = as_task(function, SPACE)
    assert isinstance(task, FunctionTask) and task.takes_trial is takes_trial
    assert level(task) == "function"
    assert as_task(task) is task


async def _asynchronous(config):
    return 0.0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: 0.0, "f(config)"),
        (lambda a, b, c: 0.0, "(a, b, c)"),
        (lambda x, y: 0.0, 'config["name"]'),  # the hyperparameters as arguments
        (lambda x: x["x"], "x is a hyperparameter"),  # one name for the configuration and for one of its values
        (lambda x, trial: x["x"], 'Call the argument config, f(config) or f(config, trial), and read config["x"]'),
        (lambda *, x: 0.0, "f(config)"),
        (lambda **kinds: 0.0, "f(config)"),
        (_asynchronous, "async"),
        (3, "3 (int)"),
        (None, "None"),
        ("random", "'random' (str)"),
        (Counter, "Counter(…)"),
        (Half(), "has init and evaluate but not advance"),
    ],
)
def test_what_is_no_task_is_refused_with_what_is_accepted(given, said: str) -> None:
    with pytest.raises(TaskError) as caught:
        as_task(given, SPACE)
    assert said in str(caught.value)
    assert caught.value.remedy


def test_a_space_is_needed_once() -> None:
    with pytest.raises(TaskError, match="no search space"):
        as_task(lambda config: 0.0)
    with pytest.raises(TaskError, match="not a Space"):
        as_task(lambda config: 0.0, {"x": Float(0.0, 1.0)})  # type: ignore[arg-type]
    task = as_task(lambda config: 0.0, SPACE)
    assert as_task(task, Space(x=Float(0.0, 1.0), y=Float(0.0, 1.0))) is task
    with pytest.raises(TaskError, match="one place only"):
        as_task(task, Space(x=Float(0.0, 2.0)))


def test_a_trainable() -> None:
    counter = Counter()
    assert isinstance(counter, Trainable)
    task = as_task(counter, SPACE)
    assert isinstance(task, TrainableTask) and level(task) == "trainable"
    assert task.report_steps({}) is None and epoch_steps(task, {}) == 1
    counter.report_every = 5  # type: ignore[attr-defined]
    assert task.report_steps({}) == 5
    counter.space = SPACE  # type: ignore[attr-defined]
    assert as_task(counter).space is SPACE
    counter.report_every = 0  # type: ignore[attr-defined]
    with pytest.raises(TaskError, match="report_every=0"):
        as_task(counter)
    del counter.report_every  # type: ignore[attr-defined]
    counter.epoch_steps = lambda config: 8  # type: ignore[attr-defined]
    assert epoch_steps(as_task(counter), {}) == 8 and as_task(counter).report_steps({}) == 8  # type: ignore[union-attr]
    counter.epoch_steps = lambda config: 2.5  # type: ignore[attr-defined]
    with pytest.raises(TaskError, match=r"2\.5"):
        epoch_steps(as_task(counter), {})
    counter.save = lambda state: state  # type: ignore[attr-defined]
    with pytest.raises(TaskError, match="save and load"):
        as_task(counter)


def test_a_method_that_asks_for_too_much_names_the_level_it_needs() -> None:
    function, trainable = as_task(lambda config: 0.0, SPACE), as_task(Counter(), SPACE)
    require_level(function, "function", "random search calls")
    require_level(trainable, "trainable", "PBT continues trainings")
    with pytest.raises(MethodError, match=r"PBT continues trainings.* is a function.*a Trainable or a TorchTask"):
        require_level(function, "trainable", "PBT continues trainings")
    with pytest.raises(MethodError, match="needs a TorchTask"):
        require_level(trainable, "torch", "it needs gradients")


def test_metrics_are_real_numbers() -> None:
    given = {"a": 1, "b": np.float32(0.5), "c": np.array(2.0), "d": torch.tensor([3.0]), "e": True, "f": Fraction(1, 4)}
    given["g"] = torch.tensor(1.5, requires_grad=True)
    metrics = as_metrics(given, "result")
    assert metrics == {"a": 1.0, "b": 0.5, "c": 2.0, "d": 3.0, "e": 1.0, "f": 0.25, "g": 1.5}
    assert {type(value) for value in metrics.values()} == {float}
    assert np.isnan(as_metrics({"a": float("nan")}, "result")["a"])


@pytest.mark.parametrize(
    "value", ["0.5", None, 1j, np.complex64(1), np.zeros(2), torch.zeros(2), [0.5], 10**400, Decimal(1)]
)
def test_a_metric_that_is_no_real_number_is_named(value: Any) -> None:
    with pytest.raises(TaskError) as caught:
        as_metrics({"fine": 1.0, "loss": value}, "result")
    assert "loss=" in str(caught.value) and type(value).__name__ in str(caught.value)
    assert caught.value.remedy


def test_what_a_function_returns() -> None:
    one, two = {"loss": "min"}, {"loss": "min", "size": "min"}
    assert as_objectives(0.5, one, "f") == {"loss": 0.5}
    assert (
        as_objectives((0.5, 3), two, "f") == as_objectives([0.5, np.int64(3)], two, "f") == {"loss": 0.5, "size": 3.0}
    )
    assert as_objectives({"loss": 0.5, "more": 1}, one, "f") == {"loss": 0.5, "more": 1.0}
    for given, objectives, said in [
        (None, one, "None (NoneType) was returned"),
        ("0.5", one, "'0.5' (str) was returned"),
        ((0.5, 1.0), one, "(0.5, 1.0) (tuple) was returned"),
        (0.5, two, "the objectives are loss, size"),
        ((0.5, 1.0, 2.0), two, "the objectives are loss, size"),
        ((0.5, "big"), two, "size='big' (str)"),
        ({"acc": 1.0, "f1": 2.0}, one, "'loss' is not among the names returned (acc, f1)"),
        ({}, one, "(none)"),
        ({3: 1.0}, one, "the name 3"),
    ]:
        with pytest.raises(TaskError) as caught:
            as_objectives(given, objectives, "f")
        assert said in str(caught.value)


def test_report_sends_and_prunes() -> None:
    sent: list[tuple[int, dict[str, float]]] = []
    trial = make_trial(lambda step, metrics: sent.append((step, metrics)) or step >= 2)
    trial.report(1, loss=np.float32(0.5))
    with pytest.raises(Pruned, match="step 2"):
        trial.report(2, loss=0.4)
    assert sent == [(1, {"loss": 0.5}), (2, {"loss": 0.4})]
    assert trial.stopped
    assert issubclass(Pruned, Exception) and not issubclass(Pruned, LuthierError)
    with pytest.raises(TaskError, match=r"got 0\.5"):
        trial.report(0.5, loss=1.0)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="loss='low'"):
        trial.report(3, loss="low")


def test_a_function_that_reads_should_stop_ends_by_itself() -> None:
    trial = make_trial(lambda step, metrics: True)
    assert not trial.should_stop
    trial.report(1, loss=0.5)  # does not raise
    assert trial.should_stop and trial.stopped
    assert make_trial(asked=lambda: True).should_stop  # the study may ask between reports


def test_describe_names_the_place_in_the_users_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import json\ndef f():\n    return json.loads('{')\n")
    scope: dict[str, Any] = {}
    exec(compile((tmp_path / "mine.py").read_text(), str(tmp_path / "mine.py"), "exec"), scope)
    with pytest.raises(ValueError) as caught:
        scope["f"]()
    text = describe(caught.value)
    assert text.startswith("JSONDecodeError: Expecting property name") and " at mine.py:3 in f\n" in text
    assert f"{tmp_path}/mine.py:3 in f" in text and "decoder.py" in text

    class OddError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe(OddError()).startswith("OddError: (its message cannot be shown)")
    assert len(describe(ValueError("x" * 10_000))) < 2_100


def write(path: Path, text: str) -> Path:
    path.write_text(textwrap.dedent(text))
    return path


def test_a_task_from_a_file(tmp_path: Path) -> None:
    write(tmp_path / "beside_it.py", "OFFSET = 2.0\n")
    write(tmp_path / "late.py", "FACTOR = 3.0\n")
    file = write(
        tmp_path / "my-task.py",
        """
        from dataclasses import dataclass
        from luthier.space import Float, Space
        from beside_it import OFFSET
        space = Space(x=Float(0.0, 1.0))
        count = 0
        @dataclass
        class Part:
            x: float
        def objective(config):
            from late import FACTOR  # the folder is still found when it runs
            return Part(config["x"]).x * FACTOR + OFFSET
        other = lambda config: 0.0
        """,
    )
    before = list(sys.path)
    task = load_task(file)
    assert isinstance(task, FunctionTask) and task.space.names == ["x"]
    assert task({"x": 0.5}, make_trial()) == 3.5
    assert load_task(str(file)) is task
    assert source_of(task) == (str(file), "task") and source_of(load_task(file, "other")) == (str(file), "other")
    assert source_of(as_task(lambda config: 0.0, SPACE)) is None
    assert sys.path == [*before, str(tmp_path)]
    sys.path[:] = before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file"),
        ("", "Define task ="),
        ("space = 3\ndef train(config):\n    return 0.0\n", "It defines train: give that name"),
        ("def objective(config):\n    return 0.0\n", "no search space"),
        ("task = 3\n", "3 (int) was given"),
        ("x = 1\ny = 1 / 0\n", "ZeroDivisionError: division by zero at broken.py:2 in <module>"),
        ("def f(:\n", "SyntaxError"),
        ("import no_such_module_here\n", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("exit(3)\n", "SystemExit"),
    ],
)
def test_a_file_without_a_task_says_why(tmp_path: Path, content: str | None, said: str, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "broken.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(TaskError) as caught:
        load_task(file)
    assert said in str(caught.value) and "broken.py" in caught.value.where


def test_a_file_that_was_mended_can_be_loaded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = write(tmp_path / "mended.py", "1 / 0\n")
    with pytest.raises(TaskError):
        load_task(file)
    write(file, "from luthier.space import *\nspace = Space(x=Float(0.0, 1.0))\ntask = lambda config: 1.0\n# longer\n")
    assert load_task(file)({}, make_trial()) == 1.0  # type: ignore[operator]
    with pytest.raises(TaskError, match=r"not a \.py file"):
        load_task(write(tmp_path / "notes.txt", ""))
    with pytest.raises(TaskError, match="a folder"):
        load_task(tmp_path)


def test_functions_are_tuned_without_torch() -> None:
    code = "import sys, luthier.train, luthier.execute, luthier.execute.worker; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
