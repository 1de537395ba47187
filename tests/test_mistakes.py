"""A hundred mistakes and more: each is an error of luthier's own at the call, before anything is trained.

Those of tests/test_bad_input.py are counted among them. Here stand what users of PyTorch, Optuna and Ray Tune write,
and thirty mistakes drawn by a seed in the examples.
"""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from mutants import EXAMPLES, mutants
from test_bad_input import MISTAKES
from torch import nn

import luthier as lt
from luthier.attributes import ELSEWHERE
from luthier.errors import LuthierError
from luthier.study.loop import Loop

SPACE = lt.Space(x=lt.Float(0.0, 1.0), layers=lt.Int(1, 4))
SEED, DRAWN = 7, 30
NEED_DATA = ("enas.py", "fashion_mnist.py", "demo.py")


class Trained(BaseException):
    """A mistake was not noticed: the training would have begun."""


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Loop) -> None:
        raise Trained

    monkeypatch.setattr(Loop, "run", run)


def value(config: dict[str, Any]) -> float:
    return config["x"]


def tune(task: Any = value, method: Any = "random", **changes: Any) -> Any:
    return lt.tune(task, method, **{"space": SPACE, "trials": 4, "progress": False, **changes})


def network(**changes: Any) -> Any:
    inputs = torch.zeros(16, 4)
    split = lt.Split(inputs, torch.zeros(16, 1))
    given: dict[str, Any] = {
        "space": lt.Space(lr=lt.Float(0.1, 1.0)),
        "model": lambda config: nn.Linear(4, 1),
        "data": lt.Splits(train=split, valid=split),
        "loss": nn.functional.mse_loss,
        "batch_size": 8,
    }
    return lt.tune(lt.TorchTask(**{**given, **changes}), trials=2, epochs=1, progress=False)


def study() -> lt.Study:
    return lt.Study("s", SPACE, trials=4)


def tried(settings: dict[str, Any]) -> Callable[[], Any]:
    return lambda: tune(**settings)


ARGUMENTS: list[dict[str, Any]] = [
    *({name: 3} for name in ("n_trials", "num_samples", "max_evals", "timeout", "n_jobs", "max_epochs", "num_workers")),
    *({name: "max"} for name in ("direction", "directions", "goal")),
    *({name: None} for name in ("sampler", "pruner", "search_alg", "scheduler", "storage", "study_name", "callback")),
    *({name: {}} for name in ("config", "param_space", "search_space", "points_to_evaluate", "early_stopping")),
    *({name: 1.5} for name in ("trials", "steps", "seed", "total_steps", "max_failures", "workers")),
    *({name: True} for name in ("trials", "epochs", "seconds", "seed")),
    *({name: float("nan")} for name in ("epochs", "seconds", "trial_seconds")),
    {"executor": 4, "workers": 2},
    {"callbacks": [print]},
    {"callbacks": [lt.follow.Follower]},
    {"stop": 0.5},
    {"stop": {"loss": 0.5}},
    {"start": {"z": 1}},
    {"start": [0.5]},
    {"known": 0.5},
    {"on_change": "stop"},
    {"mode": "maximize"},
    {"metric": ["loss", 3]},
    {"metric": ""},
    {"method": "randon"},
    {"method": lt.adapt.Hypergradient()},
    {"method": ("random",)},
    {"space": {"x": (0, 1)}},
    *({name: "no"} for name in ("progress", "fresh", "retry_failed", "checkpoints")),
    *({name: 3} for name in ("store", "mode", "executor")),
    {"store": []},
    {"executor": "ray"},
]

OTHERS: list[tuple[str, Callable[[], Any]]] = [
    ("an optimizer object", lambda: network(optimizer=torch.optim.SGD(nn.Linear(4, 1).parameters(), lr=0.1))),
    ("a scheduler's class for a schedule", lambda: network(schedule=torch.optim.lr_scheduler.StepLR)),
    ("a model that is no function", lambda: network(model=nn.Linear(4, 1))),
    ("a model that returns a tuple to a loss of tensors", lambda: network(model=lambda config: Pair())),
    ("a loss that returns one number a row", lambda: network(loss=lambda output, target: (output - target).abs())),
    ("a network that does not fit", lambda: network(model=lambda config: nn.Linear(5, 1))),
    ("a data set without its validation", lambda: network(data=[torch.zeros(16, 4), torch.zeros(16, 1)])),
    ("a name that nothing reads", lambda: network(space=lt.Space(lr=lt.Float(0.1, 1), rate=lt.Float(0, 1)))),
    ("no learning rate", lambda: network(space=lt.Space(weight_decay=lt.Float(0, 1)))),
    ("an argument of a task that is not there", lambda: network(n_epochs=3)),
    ("a direction for a task", lambda: network(direction="max")),
    ("a number for a metric", lambda: network(metrics={"accuracy": 3})),
    ("metrics as a list", lambda: network(metrics=[lt.metrics.accuracy])),
    ("an argument of a domain that is not there", lambda: lt.Float(1e-4, 1.0, lgo=True)),  # type: ignore[call-arg]
    ("a domain without an upper bound", lambda: lt.Int(3)),  # type: ignore[call-arg]
    ("options one by one", lambda: lt.Choice("sgd", "adam")),  # type: ignore[call-arg]
    ("a step that is not whole", lambda: study().report(study_job(), 0.5, loss=1.0)),  # type: ignore[arg-type]
    ("no task", lambda: lt.tune()),  # type: ignore[call-arg]
    ("trials by place", lambda: lt.tune(value, "random", 20)),  # type: ignore[call-arg]
    ("one method to compare", lambda: lt.compare(value, ["random"], space=SPACE)),
    ("a study without a space", lambda: lt.Study("s")),
    ("an array for a task", lambda: tune(np.zeros(3))),
    ("more configurations than trials", lambda: tune(start=[{}] * 5)),
    ("a name of Optuna's for a study", lambda: lt.Study("s", SPACE, direction="maximize")),  # type: ignore[call-arg]
]


class Steps:
    def setup(self, config: dict[str, Any]) -> None:
        self.x = config["x"]

    def step(self) -> dict[str, float]:
        return {"loss": self.x}


def suggesting(trial: Any) -> float:
    return (trial.suggest_float("x", -10, 10) - 2) ** 2


def reporting(*given: Any, **named: Any) -> Any:
    return lt.Trial(0, {"x": 0.5}, 1, 10, lambda step, metrics: False).report(*given, **named)


OTHERS += [
    ("a class in the form of Ray Tune", lambda: tune(Steps)),
    ("a class that is no task", lambda: tune(dict)),
    ("values that are suggested", lambda: tune(suggesting)),
    ("values that are suggested to a trial", lambda: tune(lambda config, trial: trial.suggest_int("n", 1, 3))),
    ("values that are suggested, and no space", lambda: lt.tune(suggesting, trials=3)),
    ("a report with the value first", lambda: reporting(0.5, 3)),
    ("a report with a value without its name", lambda: reporting(3, 0.5)),
    ("a report of a dict", lambda: reporting(3, {"loss": 0.5})),
    ("a report of a study by place", lambda: study().report(study_job(), 3, 0.5)),  # type: ignore[call-overload]
]
# What other tools call it, and a word of the answer.
ATTRIBUTES = {
    "Study": {"best_params": "best.config", "optimize": "lt.tune", "trials_dataframe": "to_pandas", "stop": "lt.stop"},
    "Trial": {"should_prune": "should_stop", "suggest_float": "lt.Space", "set_user_attr": "trial.note"},
    "TrialRecord": {"params": "config", "state": "status", "value": "metrics[name], by"},
    "Best": {"params": "config"},
    "": {"create_study": "lt.tune", "TrialPruned": "lt.Pruned", "loguniform": "log=True", "samplers": "methods"},
}


def test_what_other_tools_call_an_attribute_is_answered() -> None:
    found = lt.Study("s", SPACE, trials=1)
    found.tell(found.ask()[0], 0.5)
    trial = lt.Trial(0, {"x": 0.5}, 1, 10, lambda step, metrics: False)
    objects = {"Study": found, "Trial": trial, "TrialRecord": found.trials[0], "Best": found.best, "": lt}
    for kind, names in ATTRIBUTES.items():
        assert set(names) <= set(ELSEWHERE[kind])
        for name, answer in {**ELSEWHERE[kind], **names}.items():
            assert not hasattr(objects[kind], name), f"{kind}.{name} is there"
            with pytest.raises(LuthierError) as caught:
                getattr(objects[kind], name)
            assert answer in caught.value.remedy and isinstance(caught.value, AttributeError)
        with pytest.raises(AttributeError, match="nowhere") as plain:
            getattr(objects[kind], "nowhere")  # noqa: B009
        assert not isinstance(plain.value, LuthierError)
    for record in (found.trials[0], found.best):
        assert copy.deepcopy(record) == record == pickle.loads(pickle.dumps(record))


def test_an_attribute_error_inside_a_property_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lt.Study, "best", property(lambda self: self.trials.first))
    with pytest.raises(AttributeError, match="'list' object has no attribute 'first'"):
        study().best  # noqa: B018


@pytest.mark.parametrize("name", ["TPESampler", "bayes", "ASHAScheduler", "MedianPruner", "PopulationBasedTraining"])
def test_the_name_of_another_tools_method_is_answered(name: str) -> None:
    meant = {"TPESampler": "tpe", "bayes": "gp", "ASHAScheduler": "asha", "MedianPruner": "median"}.get(name, "pbt")
    with pytest.raises(LuthierError, match=f"Did you mean '{meant}'"):
        tune(method=name)


def test_what_stands_for_a_domain_is_answered_by_one_that_works() -> None:
    for given in ((0.1, 0.01), [0.01, 0.1], (1, 4), ["a", "b"], 64, "adam", [1, 1]):
        with pytest.raises(LuthierError) as caught:
            lt.Space(lr=given)  # type: ignore[arg-type]
        written = re.findall(r"lr=(\w+\(.*?\))(?:,|$)", caught.value.remedy.rstrip("."))
        for one in written:
            lt.Space(lr=eval(one, {kind: getattr(lt, kind) for kind in ("Float", "Int", "Choice")}))
        assert written


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 1)

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.one(inputs), inputs


def study_job() -> Any:
    return study().ask()[0]


def refused(make: Callable[[], Any]) -> None:
    with pytest.raises(LuthierError) as caught:
        make()
    error = caught.value
    assert error.what.strip() and error.where.strip() and error.remedy.strip(), error


@pytest.mark.parametrize("settings", ARGUMENTS, ids=[str(one)[:40] for one in ARGUMENTS])
def test_a_wrong_argument_is_an_error_of_ours(settings: dict[str, Any]) -> None:
    refused(tried(settings))


@pytest.mark.parametrize("make", [one for _, one in OTHERS], ids=[name for name, _ in OTHERS])
def test_a_mistake_is_an_error_of_ours(make: Callable[[], Any]) -> None:
    refused(make)


def drawn() -> Iterator[tuple[str, str]]:
    files = [file for file in sorted(EXAMPLES.glob("*.py")) if file.name not in NEED_DATA]
    seen: set[str] = set()
    for what, source in mutants(SEED, files):
        if what not in seen:
            seen.add(what)
            yield what, source


def test_mistakes_drawn_in_the_examples_are_errors_of_ours() -> None:
    counted, unanswered = 0, []
    for what, source in drawn():
        reached: list[bool] = []

        def mistaken(call: Callable[[], Any], reached: list[bool] = reached) -> Any:
            reached.append(True)
            return call()

        scope = {"__name__": "__main__", "__file__": str(EXAMPLES / what.partition(":")[0]), "mistaken": mistaken}
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(source, what, "exec"), scope)
            answer = "nothing was said"
        except LuthierError:
            answer = ""
        except Trained:
            answer = "it would have trained"
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        if not reached:  # an earlier training of the example stands before it
            continue
        counted += 1
        unanswered += [f"{what}: {answer}"] if answer else []
        if counted == DRAWN:
            break
    assert not unanswered
    assert len(MISTAKES) + len(ARGUMENTS) + len(OTHERS) + DRAWN >= 100
