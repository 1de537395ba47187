"""Steps, options that are lists or tuples, groups, defaults and constraints, in the space and through a study."""

from __future__ import annotations

import enum
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import luthier as lt
from luthier.errors import ConfigError, SpaceError, StudyError
from luthier.space import Choice, Config, Float, Int, Space
from tests.networks import digits_task
from tests.spaces import rng

TUPLES = Choice([(64, 64), (128,), [32, "relu"], None], default=(128,))


Kind = enum.Enum("Kind", {"SGD": "sgd", "ADAM": "adam"}, type=str)  # its str() is Kind.SGD


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


def test_members_of_enums_that_are_texts_or_numbers_are_these(tmp_path: Path) -> None:
    space = Space(kind=Choice([Kind.SGD, Kind.ADAM], default=Kind.ADAM), size=Choice([Size.SMALL, (Size.LARGE, 3)]))
    assert space.to_json()["domains"][0]["options"] == ["sgd", "adam"] and repr(space["size"]) == "Choice((1, (2, 3)))"
    types: set[type] = set()

    def train(config: Config) -> float:
        types.add(type(config["kind"]))
        return float(config["kind"] == Kind.SGD)

    for trials in (2, 3):  # the second call finds the study that the first has stored
        start = [{"kind": Kind.ADAM, "size": Size.SMALL}]
        study = lt.tune(train, space=space, trials=trials, start=start, store=tmp_path / "a.db", progress=False)
    assert types == {str} and study.trials[0].config == {"kind": "adam", "size": 1} and len(study.trials) == 3


def test_steps_are_exact_and_equally_likely() -> None:
    space = Space(p=Float(0.1, 0.75, step=0.1), n=Int(16, 130, step=16), v=Float(-1, 1, step=0.5, shape=(2,)))
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    drawn = space.sample(rng(), 7000)
    counts = np.array([[config["p"] == value for value in values] for config in drawn]).sum(axis=0)
    assert counts.sum() == 7000 and counts.min() > 850 and counts.max() < 1150
    assert {config["n"] for config in drawn} == set(range(16, 129, 16))
    assert {v for config in drawn for v in config["v"]} == {-1.0, -0.5, 0.0, 0.5, 1.0}
    assert space.size == 7 * 8 * 25 and len({space.key(space.finite[i]) for i in range(space.size)}) == space.size
    codes, _ = space.encode(drawn)
    assert space.decode(codes) == drawn
    assert [column.kind for column in space.columns] == ["ordinal", "int", "ordinal", "ordinal"]
    assert [column.levels for column in space.columns] == [7, 8, 5, 5]
    assert space.check({"p": np.float32(0.3), "n": np.int64(32), "v": np.array([0.5, -1])}) == {
        "p": 0.3, "n": 32, "v": [0.5, -1.0],
    }  # fmt: skip
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space
    assert Space(p=Float(0, 1)).to_json()["domains"][0].keys() == {"name", "type", "low", "high", "log", "shape"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"p": 0.15}, "p: 0.15 is not one of 0.1, 0.2, …, 0.7. Give a number from 0.1 to 0.75 in steps of 0.1"),
        ({"p": 0.75}, "p: 0.75 is not one of 0.1, 0.2, …, 0.7"),
        ({"p": float("nan")}, "p: nan is outside"),
    ],
)
def test_values_between_steps_are_refused(config: Config, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Space(p=Float(0.1, 0.75, step=0.1)).check(config)


def test_moves_stay_on_the_steps() -> None:
    space = Space(p=Float(0, 1, step=0.25), n=Int(0, 100, step=10))
    config, seen = {"p": 0.5, "n": 50}, set()
    for seed in range(200):
        for moved in (space.perturb(config, rng(seed)), space.perturb(config, rng(seed), factors=[0.8, 1.2])):
            assert space.check(moved) == moved and moved["p"] != 0.5 and moved["n"] != 50
            seen.add(space.key(moved))
        assert all(space.check(near) == near for near in space.neighbours(config, rng(seed)))
    assert len(seen) > 10
    near = space.neighbours(config, rng(), count=0)
    assert near == [{"p": 0.25, "n": 50}, {"p": 0.75, "n": 50}, {"p": 0.5, "n": 40}, {"p": 0.5, "n": 60}]
    assert space.clip({"p": 0.9, "n": 33.0}) == {"p": 1.0, "n": 30}


def test_tuples_and_lists_come_back_as_they_were_given() -> None:
    space = Space(
        layers=TUPLES, rate=Float(0, 1, when={"layers": (64, 64)}), more=Int(1, 2, when={"layers": [(128,), None]})
    )
    assert space.conditions["rate"] == {"layers": ((64, 64),)} and space.conditions["more"] == {
        "layers": ((128,), None)
    }
    back = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert back == space and repr(back["layers"]) == repr(space["layers"])
    drawn = space.sample(rng(), 100)
    assert {repr(config["layers"]) for config in drawn} == {"(64, 64)", "(128,)", "[32, 'relu']", "None"}
    assert space.check({"layers": [128], "more": 1}) == {"layers": (128,), "more": 1}
    assert space.check({"layers": np.array([64, 64]), "rate": 0.5})["layers"] == (64, 64)
    mine = next(config for config in drawn if config["layers"] == [32, "relu"])
    mine["layers"].append("changed")
    assert [32, "relu"] in [config["layers"] for config in space.sample(rng(), 100)], "an option was changed"
    assert space.finite is None and Space(layers=TUPLES).size == 4


@pytest.mark.parametrize("method", ["random", "grid", "tpe", "genetic", "gp", "gflownet", "cmaes", "nsga2"])
def test_methods_keep_the_types_of_options_through_a_store(method: str, tmp_path: Any) -> None:
    space = Space(layers=TUPLES, p=Float(0.1, 0.7, step=0.2), n=Int(0, 40, step=20))
    goals: dict[str, Any] = {"metric": ["a", "b"]} if method == "nsga2" else {}

    def objective(config: Config) -> Any:
        assert isinstance(config["layers"], list | tuple | None)
        value = abs(config["p"] - 0.5) + len(config["layers"] or ())
        if isinstance(config["layers"], list):
            config["layers"].append("the function's own affair")
        return {"a": value, "b": -value} if goals else value

    kept: dict[str, Any] = {"space": space, "store": tmp_path / "study.db", "name": "kinds", "progress": False, **goals}
    first = lt.tune(objective, method, trials=12, **kept).trials
    again = lt.tune(objective, method, trials=14, **kept)
    assert len(again.trials) == 14
    for one, other in zip(first, again.trials[:12], strict=True):
        assert repr(one.config) == repr(other.config) and repr(space.check(one.config)) == repr(one.config)


def test_groups_are_flat_in_a_space_and_nested_for_the_user(tmp_path: Any) -> None:
    space = Space(
        layers=Int(1, 3),
        optimizer={
            "kind": Choice(["sgd", "adam"]),
            "lr": Float(1e-4, 1.0, log=True),
            "momentum": Float(0, 0.9, when={"kind": "sgd"}),
            "more": {"deep": Int(0, 1, when={"layers": 2})},
        },
    )
    assert space == Space(
        {
            "layers": Int(1, 3),
            "optimizer.kind": Choice(["sgd", "adam"]),
            "optimizer.lr": Float(1e-4, 1.0, log=True),
            "optimizer.momentum": Float(0, 0.9, when={"optimizer.kind": "sgd"}),
            "optimizer.more.deep": Int(0, 1, when={"layers": 2}),
        }
    )
    assert (
        eval(repr(space), {"Space": Space, "Int": Int, "Float": Float, "Choice": Choice})
        == space
        == pickle.loads(pickle.dumps(space))
    )
    plain = {
        "layers": 2,
        "optimizer.kind": "sgd",
        "optimizer.lr": 0.1,
        "optimizer.momentum": 0.5,
        "optimizer.more.deep": 1,
    }
    config = pickle.loads(pickle.dumps(space.given(space.check(plain))))
    assert (
        config == plain and config["optimizer.lr"] == config["optimizer"]["lr"] == config.copy().get("optimizer")["lr"]
    )
    assert config["optimizer"]["more"]["deep"] == config["optimizer.more"]["deep"] == 1 and config.get("data") is None
    with pytest.raises(KeyError, match="data"):
        config["data"]

    def build(config: Config) -> float:
        def optimizer(kind: str, lr: float, momentum: float = 0.0, more: Any = None) -> float:
            return lr - momentum

        kwargs = dict(config["optimizer"])
        kwargs.pop("more.deep", None)
        return optimizer(**kwargs)

    study = lt.tune(build, "tpe", space=space, trials=15, progress=False)
    assert len(study.trials) == 15 and study.best is not None and "optimizer.lr" in study.best.config
    assert "optimizer.lr" in study.write_report(tmp_path / "page.html").read_text()


def test_what_a_study_gives_back_and_takes_has_the_groups_of_the_users_code(tmp_path: Any) -> None:
    """Configurations of best, trials, ask and a loaded study go back into the function; groups are taken as dicts."""
    space = Space(layers=Int(1, 3), optimizer={"lr": Float(1e-4, 1.0), "more": {"deep": Int(0, 5)}})

    def objective(config: Config) -> float:
        assert "optimizer" in config and "momentum" not in config["optimizer"]
        return config["optimizer"]["lr"] * config["layers"] + config["optimizer"]["more"]["deep"]

    first = {"layers": 2, "optimizer": {"lr": 0.25, "more": {"deep": 1}}}
    kept: dict[str, Any] = {"store": tmp_path / "study.db", "name": "groups", "progress": False}
    study = lt.tune(objective, space=space, trials=4, start=[first, {"optimizer": {"lr": 0.5}}], **kept)
    assert objective(study.trials[0].config) == 1.5 == study.trials[0].metrics["loss"]
    assert study.trials[1].config["optimizer"]["lr"] == 0.5
    for one in (study, lt.Study.load("groups", kept["store"])):
        assert objective(one.best.config) == objective(one.best.final) == one.best.value
    with lt.Study("by hand", space, method="gp", trials=3) as hand:
        hand.enqueue(first)
        (job,) = hand.ask()
        hand.tell(job, objective(job.config))
        assert hand.best.config == space.check(first) == study.trials[0].config

    class Training:
        def init(self, config: Config, key: int) -> float:
            return config["optimizer"]["lr"]

        def advance(self, state: float, config: Config, steps: int) -> tuple[float, dict[str, float]]:
            return state * config["optimizer"]["more"]["deep"], {}

        def evaluate(self, state: float) -> dict[str, float]:
            return {"loss": state}

    assert lt.tune(Training(), space=space, trials=2, steps=2, progress=False).best is not None
    with pytest.raises(lt.LuthierError, match=r"optimizer\.rate"):
        space.check({"layers": 2, "optimizer": {"rate": 0.25, "more": {"deep": 1}}})


def test_a_torch_task_reads_groups_and_knows_what_it_has_read() -> None:
    base = digits_task()
    space = Space(
        lr=Float(1e-2, 1.0, log=True), net={"width": Choice([8, 16]), "depth": Int(1, 2), "drop": Float(0, 0.5)}
    )

    def model(config: Config) -> nn.Module:
        width = config["net"]["width"]
        layers = [nn.Flatten(), nn.Linear(64, width), nn.ReLU(), lt.nn.Dropout("net.drop")]
        return nn.Sequential(
            *layers, *(nn.Linear(width, width) for _ in range(config["net.depth"])), nn.Linear(width, 10)
        )

    task = lt.TorchTask(space, model, base.data, base.loss, base.optimizer, batch_size=base.batch_size)
    static = task.static({"lr": 0.1, "net.width": 8, "net.depth": 2, "net.drop": 0.1})
    assert [name for name, _ in static] == ["net.width", "net.depth"]
    study = lt.tune(task, "random", trials=4, steps=20, progress=False)
    assert [trial.status for trial in study.trials] == ["ok"] * 4


def test_defaults() -> None:
    space = Space(
        kind=Choice(["sgd", "adam", None], default="sgd"),
        momentum=Float(0, 0.9, default=0.5, when={"kind": "sgd"}),
        beta=Float(0, 1, default=0.9, when={"kind": "adam"}),
        free=Float(0, 1),
        child=Int(0, 5, default=1, when={"momentum": [0.5]}),
    )
    assert space.default() == {"kind": "sgd", "momentum": 0.5, "child": 1}
    assert Space(kind=Choice(["a", None], default=None), x=Float(0, 1)).default() == {"kind": None}
    assert Space(layers=TUPLES).default() == {"layers": (128,)}
    assert Space.from_json(json.loads(json.dumps(space.to_json()))).default() == space.default()
    whole = space.complete(space.default(), rng())
    assert whole.keys() == {"kind", "momentum", "free", "child"} and whole["momentum"] == 0.5


def near(config: Config) -> bool:
    return config["a"] + config["b"] <= 1.0 and (config["kind"] != "x" or config["only"] < 5)


CONSTRAINED = Space(
    a=Float(0, 1), b=Float(0, 1), kind=Choice(["x", "y"]), only=Int(0, 9, when={"kind": "x"}), constraint=near
)


def test_nothing_that_a_space_makes_breaks_its_constraint() -> None:
    config = CONSTRAINED.sample(rng())
    for seed in range(100):
        source = rng(seed)
        made = [*CONSTRAINED.sample(source, 20), CONSTRAINED.perturb(config, source, scale=0.5)]
        made += [CONSTRAINED.complete({"a": 0.9, "b": 0.8}, source), CONSTRAINED.complete({"a": 0.95}, source)]
        made += CONSTRAINED.neighbours(config, source, scale=0.5)
        assert all(near(CONSTRAINED.check(one)) for one in made)
        config = made[-1]
    kept = [CONSTRAINED.complete({"a": 0.8}, rng(seed))["a"] for seed in range(50)]
    assert kept == [0.8] * 50, "what need not be changed is kept"
    with pytest.raises(ConfigError, match="the constraint 'near' refuses"):
        CONSTRAINED.check({"a": 0.9, "b": 0.8, "kind": "y"})
    few = Space(a=Int(0, 999), b=Int(0, 99), constraint=lambda c: c["a"] == 7 and c["b"] == 3)
    assert few.size == 1 and few.sample(rng()) == {"a": 7, "b": 3} == few.perturb({"a": 7, "b": 3}, rng())
    assert Space(constraint=Float(0, 1)).names == ["constraint"]


def test_another_constraint_is_noticed_and_the_same_is_known_again(tmp_path: Any) -> None:
    def made(constraint: Any) -> Space:
        return Space(a=Float(0, 1), b=Float(0, 1), constraint=constraint)

    limit = 0.5
    spaces = [made(near_half := lambda c: c["a"] < limit), made(lambda c: c["a"] < 0.6), made(lambda c: c["b"] < limit)]
    limit = 0.7
    spaces += [made(near_half), made(lambda c: bool(np.less(c["a"], 0.5)))]
    assert len({space.to_json()["constraint"] for space in spaces}) == len(spaces)
    assert made(lambda c: c["a"] < 0.6) == spaces[1], "the same function written again"
    stored = Space.from_json(spaces[1].to_json())
    assert stored.to_json() == spaces[1].to_json() and stored != spaces[1] and stored.feasible({"a": 0.9, "b": 0.1})
    settings: dict[str, Any] = {"store": tmp_path / "study.db", "name": "one", "progress": False}
    lt.tune(lambda c: c["a"], space=spaces[1], trials=3, **settings)
    assert len(lt.tune(lambda c: c["a"], space=made(lambda c: c["a"] < 0.6), trials=5, **settings).trials) == 5
    with pytest.raises(StudyError, match=r"space.constraint: stored \"<lambda> "):
        lt.tune(lambda c: c["a"], space=spaces[2], trials=6, **settings)


def test_what_the_constraint_does_wrong_later_is_said_with_the_configuration() -> None:
    space = Space(a=Float(0, 1), constraint=lambda c: True if c["a"] < 0.999 else 1 / 0)
    with pytest.raises(SpaceError, match=r"the constraint raised ZeroDivisionError .* at \{'a': 0.9995\}"):
        space.check({"a": 0.9995})


def test_scalars_of_other_libraries_are_numbers() -> None:
    one: Any = np.int64(1)
    more: Any = {
        "half": torch.tensor(0.5), "step": np.float64(0.25), "two": np.int8(2), "list": np.array([1, 2, 3]),
        "yes": np.bool_(True), "no": np.bool_(False), "zero": np.float32(0), "nine": np.int32(9),
    }  # fmt: skip
    space = Space(
        a=Float(more["zero"], more["half"], step=more["step"]),
        b=Int(one, more["nine"], step=more["two"]),
        c=Choice(more["list"], ordered=more["yes"], default=np.int64(2)),
        d=Float(0, 1, log=more["no"], shape=(one + 1,), when={"b": np.int64(3)}),
        e=Choice([np.str_("x"), np.float64(0.5), (np.int64(1), np.float32(0.5))]),
    )
    text = json.dumps(space.to_json())
    assert Space.from_json(json.loads(text)) == space and space["c"].default == 2
    last: Any = space["e"]
    assert [type(option) for option in last.options] == [str, float, tuple] and type(last.options[2][0]) is int
