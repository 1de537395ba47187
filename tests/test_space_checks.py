"""What a space refuses: configurations outside it, codes of a wrong shape, domains and conditions that cannot be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from spaces import GOOD, SPACE, rng

from luthier.errors import ConfigError, SpaceError
from luthier.space import Choice, Config, Float, Int, Space


@pytest.mark.parametrize(
    ("change", "plain"),
    [
        ({"lr": np.float64(0.1)}, 0.1),
        ({"lr": np.float32(0.5)}, 0.5),
        ({"lr": 1}, 1.0),
        ({"lr": np.array(0.25)}, 0.25),
        ({"layers": np.int64(3)}, 3),
        ({"layers": 3.0}, 3),
        ({"batch": np.int32(64)}, 64),
        ({"batch": 64.0}, 64),
        ({"nesterov": np.bool_(False)}, False),
        ({"optimizer": np.str_("sgd")}, "sgd"),
        ({"dropout": np.array([0.0, 0.5, 0.25])}, [0.0, 0.5, 0.25]),
        ({"dropout": (0, np.float64(0.5), 0.25)}, [0.0, 0.5, 0.25]),
    ],
)
def test_values_are_made_plain(change: Config, plain: Any) -> None:
    [name] = change
    assert repr(SPACE.check({**GOOD, **change})[name]) == repr(plain)


def test_check_copies_into_the_order_of_the_space() -> None:
    checked = SPACE.check(dict(reversed(GOOD.items())))
    assert list(checked) == list(GOOD)
    checked["dropout"][0] = 0.7
    assert GOOD["dropout"][0] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": math.nan}, r"lr: nan is outside \[0.0001, 1.0\]. Give a number from 0.0001 to 1.0"),
        ({"lr": math.inf}, "lr: inf is outside"),
        ({"lr": 2}, "lr: 2 is outside"),
        ({"lr": True}, "lr: True is not a number"),
        ({"lr": "0.1"}, "lr: '0.1' is not a number"),
        ({"lr": None}, "lr: None is not a number"),
        ({"lr": [0.1]}, r"lr: \[0.1\] is not a number"),
        ({"layers": True}, "layers: True is not a whole number"),
        ({"layers": 2.5}, "layers: 2.5 is not a whole number. Give a whole number from 1 to 4"),
        ({"layers": math.nan}, "layers: nan is not a whole number"),
        ({"layers": 5}, "layers: 5 is outside"),
        ({"batch": 48}, "batch: 48 is not an option. The options are 16, 32, 64, 128"),
        ({"optimizer": ["sgd"]}, r"optimizer: \['sgd'\] is not an option"),
        ({"nesterov": 1}, "nesterov: 1 is not an option"),
        ({"dropout": 0.5}, "dropout: the value is 0.5. Give a list of 3 numbers"),
        ({"dropout": [0.5, 0.5]}, "dropout: the value has 2 elements"),
        ({"dropout": [0.5, 0.5, 0.9]}, r"dropout\[2\]: 0.9 is outside"),
        ({"dropout": "abc"}, "dropout: the value is 'abc'"),
        ({"momentun": 0.9}, "momentun: there is no such hyperparameter in the space. Did you mean 'momentum'?"),
        ({"zzz": 0.9}, "zzz: there is no such hyperparameter in the space. The names are lr, layers"),
        ({"optimizer": "adam"}, r"momentum: an inactive hyperparameter has the value 0.9. .*optimizer in \['sgd'\]"),
        ({"layers": 1}, "dropout: an inactive hyperparameter has the value"),
    ],
)
def test_configurations_outside_the_space_are_refused(change: Config, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SPACE.check({**GOOD, **change})


def test_other_wrong_configurations_are_refused() -> None:
    for name in GOOD:
        with pytest.raises(ConfigError, match=f"{name}: an active hyperparameter has no value"):
            SPACE.check({key: value for key, value in GOOD.items() if key != name})
    with pytest.raises(ConfigError, match="is a list"):
        SPACE.check([1, 2])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="Did you mean 'batch'"):
        SPACE.perturb({"batsh": 16}, rng())
    with pytest.raises(ConfigError, match="Did you mean 'width'"):
        SPACE.complete({"widht": 16}, rng())


@pytest.mark.parametrize(
    "change",
    [{"lr": -1.0}, {"lr": "a"}, {"optimizer": "lion"}, {"dropout": [0.1]}, {"dropout": None}, {"layers": None}],
)
def test_what_cannot_be_encoded_is_named(change: Config) -> None:
    [name] = change
    with pytest.raises(ConfigError, match=f"^{name}"):
        SPACE.encode([GOOD, {**GOOD, **change}])
    with pytest.raises(ConfigError, match="lr: an active hyperparameter has no value"):
        SPACE.encode([{key: value for key, value in GOOD.items() if key != "lr"}])


@pytest.mark.parametrize("codes", [[0.5] * 10, [[0.5] * 9], [[math.nan] * 10], np.zeros((1, 2, 5))])
def test_codes_of_a_wrong_shape_are_refused(codes: Any) -> None:
    with pytest.raises(ConfigError, match="decode: the codes"):
        SPACE.decode(codes)


IMPOSSIBLE: list[tuple[Callable[[], Any], str]] = [
    (lambda: Float(3.0, 1.0), r"Float\(3.0, 1.0\): low=3.0 is not below high=1.0"),
    (lambda: Float(1, 1), "low=1 is not below high=1"),
    (lambda: Float(0, 1, log=True), "low=0.0 has no logarithm. Use a lower bound above zero"),
    (lambda: Float(-1, 1, log=True), "low=-1.0 has no logarithm"),
    (lambda: Float(math.nan, 1), "low=nan is not between"),
    (lambda: Float(0, math.inf), "high=inf is not between"),
    (lambda: Float(0, 1e301), "high=1e[+]301 is not between"),
    (lambda: Float(True, 2), "low=True is not a number"),
    (lambda: Float("0", 1), "low='0' is not a number"),  # pyright: ignore[reportArgumentType]
    (lambda: Float(None, 1), "low=None is not a number"),  # pyright: ignore[reportArgumentType]
    (lambda: Float(0, 1, log="yes"), "log='yes' is not True or False"),  # pyright: ignore[reportArgumentType]
    (lambda: Float(0, 1, shape=(2, 3)), r"shape=\(2, 3\) is not a vector's"),
    (lambda: Float(0, 1, shape=(0,)), r"shape=\(0,\) is not a vector's"),
    (lambda: Float(0, 1, shape=5), "shape=5 is not a vector's"),  # pyright: ignore[reportArgumentType]
    (lambda: Float(1e5, math.nextafter(1e5, 2e5), log=True), "are too close for a log scale"),
    (lambda: Int(3, 1), "low=3 is above high=1"),
    (lambda: Int(0, 8, log=True), "low=0 has no logarithm. Use a lower bound at least 1"),
    (lambda: Int(1.5, 3), "low=1.5 is not a whole number"),  # pyright: ignore[reportArgumentType]
    (lambda: Int(1, 3.0), "high=3.0 is not a whole number"),  # pyright: ignore[reportArgumentType]
    (lambda: Int(False, 3), "low=False is not a number"),
    (lambda: Int(0, 2**41), "high=2199023255552 is not between"),
    (lambda: Choice([]), "there are no options"),
    (lambda: Choice("abc"), "options='abc' is not a list"),
    (lambda: Choice(3), "options=3 is not a list"),  # pyright: ignore[reportArgumentType]
    (lambda: Choice({"a": 1}), "is not a list"),  # pyright: ignore[reportArgumentType]
    (lambda: Choice(["a", "a"]), "the option 'a' is there twice"),
    (lambda: Choice([1, True]), "the options 1 and True are equal"),
    (lambda: Choice([0.0, 1.0, 1]), "the options 1.0 and 1 are equal"),
    (lambda: Choice(["a", math.nan]), "the option nan is not a finite number"),
    (lambda: Choice([math.sin]), "the option <built-in function sin> is a builtin"),  # pyright: ignore
    (lambda: Choice([[1, 2], (1, 2)]), r"the options \[1, 2\] and \(1, 2\) are equal"),
    (lambda: Choice([(1, {})]), r"the option {} is a dict"),  # pyright: ignore[reportArgumentType]
    (lambda: Choice([(1, math.inf)]), "the option inf is not a finite number"),
    (lambda: Float(0, 1, step=0), "step=0 is not a number above zero"),
    (lambda: Float(0, 1, step=-0.1), "step=-0.1 is not a number above zero"),
    (lambda: Float(0, 1, step=2), "step=2 leaves a single value"),
    (lambda: Float(0, 1e300, step=1e-3), "makes more than"),
    (lambda: Float(0.1, 1, log=True, step=0.1), "step=0.1 and log=True exclude each other"),
    (lambda: Int(1, 9, step=1.5), "step=1.5 is not a whole number above zero"),  # pyright: ignore[reportArgumentType]
    (lambda: Int(16, 1024, log=True, step=16), "exclude each other"),
    (lambda: Float(0, 1, default=2), "default=2 is no value of it: 2 is outside"),
    (lambda: Float(0, 1, step=0.25, default=0.3), "default=0.3 is no value of it"),
    (lambda: Choice([1, 2], default=None), "default=None is no value of it"),
    (lambda: Space({"a.b": Int(0, 1), "a": Int(0, 1)}), "a: it is a hyperparameter and a group of others"),
    (lambda: Space(a={}), "a: the group is empty"),
    (lambda: Space(a={"b": 1}), "a.b: 1 is not a domain"),
    (lambda: Space({"a..b": Int(0, 1)}), "'a..b' cannot be the name"),
    (lambda: Space(a=Int(0, 1), constraint=3), "constraint=3 is not a function"),
    (
        lambda: Space(a=Int(0, 1), constraint=lambda c: False),
        "no configuration fulfils the constraint",
    ),
    (lambda: Space(a=Float(0, 1), constraint=lambda c: c["a"] == 0.5), "no configuration fulfils"),
    (lambda: Space(a=Float(0, 1), constraint=lambda c: c["b"] > 0), "the constraint raised KeyError"),
    (lambda: Space(a=Float(0, 1), constraint=lambda c: "yes"), "the constraint returned 'yes'"),
    (lambda: Space(a=Float(0, 1, default=0.2), constraint=lambda c: c["a"] > 0.5).default(), "break the constraint"),
    (lambda: Space(a=Float(0, 1)).default(), "no domain has a default"),
    (lambda: Float(0, 1, when={}), "when={} is not a condition"),
    (lambda: Float(0, 1, when="other"), "when='other' is not a condition"),  # pyright: ignore[reportArgumentType]
    (lambda: Float(0, 1, when={"a": []}), "the condition on 'a' names no value"),
    (lambda: Space(lr=(0.0, 1.0)), r"lr: \(0.0, 1.0\) is not a domain. Write lr=Float\(0.0, 1.0\)"),  # pyright: ignore
    (lambda: Space(n=[1, 8]), r"n: \[1, 8\] is not a domain. Write n=Int\(1, 8\)"),  # pyright: ignore
    (lambda: Space(c=["a", "b", "c"]), r"Write c=Choice\(\['a', 'b', 'c'\]\)"),  # pyright: ignore[reportArgumentType]
    (lambda: Space(x=0.1), "x: 0.1 is not a domain. Leave a constant out"),  # pyright: ignore[reportArgumentType]
    (lambda: Space(x=Float), "x: <class 'luthier.space.domains.Float'> is not a domain"),  # pyright: ignore
    (lambda: Space({"learning rate": Float(0, 1)}), "'learning rate' cannot be the name"),
    (lambda: Space({"": Float(0, 1)}), "'' cannot be the name"),
    (lambda: Space({1: Float(0, 1)}), "1 cannot be the name"),  # pyright: ignore[reportArgumentType]
    (lambda: Space({"x": Float(0, 1)}, x=Int(1, 2)), "x: the name is there twice"),
    (lambda: Space(Float(0, 1)), r"space: Float\(0.0, 1.0\) does not name its domains"),  # pyright: ignore
    (lambda: Space([Float(0, 1)]), "does not name its domains"),  # pyright: ignore[reportArgumentType]
    (lambda: Space(x=Float(0, 1, when={"y": 1}), y=Int(0, 1)), "x: its condition is on 'y', which is not an earlier"),
    (lambda: Space(y=Int(0, 1), x=Float(0, 1, when={"z": 1})), "on 'z'.*the names before it are y"),
    (lambda: Space(x=Float(0, 1, when={"x": 1})), "its condition is on 'x'.*it is the first name"),
    (
        lambda: Space(c=Choice(["a"]), x=Float(0, 1, when={"c": "b"})),
        "x: its condition on 'c' can never hold: 'b' is not",
    ),
    (lambda: Space(c=Choice(["a"]), x=Float(0, 1, when={"c": ["a", "b"]})), "'b' is not an option"),
    (lambda: Space(n=Int(1, 3), x=Float(0, 1, when={"n": 4})), r"can never hold: 4 is outside \[1, 3\]"),
    (lambda: Space(b=Choice([True, False]), x=Float(0, 1, when={"b": 1})), "can never hold: 1 is not an option"),
    (lambda: Space(v=Float(0, 1, shape=(2,)), x=Float(0, 1, when={"v": 1})), "its condition is on the vector 'v'"),
]


@pytest.mark.parametrize(("make", "message"), IMPOSSIBLE, ids=[message[:40] for _, message in IMPOSSIBLE])
def test_impossible_spaces_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message) as caught:
        make()
    assert caught.value.remedy.endswith((".", "?"))


@pytest.mark.parametrize(
    "data",
    [
        {}, [], None, {"domains": 3}, {"domains": [3]}, {"domains": [{"name": "x"}]},
        {"domains": [{"name": "x", "type": "complex"}]},
        {"domains": [{"name": "x", "type": "float", "low": 1.0, "high": 0.0}]},
        {"domains": [{"name": "x", "type": "float", "low": 0.0, "high": 1.0, "colour": "red"}]},
        {"domains": [{"type": "int", "low": 0, "high": 1}]},
        {"domains": [{"name": "x", "type": "int", "low": 0, "high": 1}] * 2},
    ],
)  # fmt: skip
def test_damaged_descriptions_are_refused(data: Any) -> None:
    with pytest.raises(SpaceError):
        Space.from_json(data)
