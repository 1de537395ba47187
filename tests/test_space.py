"""The space: codec, conditions, JSON, counting: properties on spaces that hypothesis draws, and values by hand."""

from __future__ import annotations

import itertools
import json
import math
import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spaces import GOOD, SPACE, choices, rng, spaces

from luthier.space import Choice, Column, Config, Domain, Float, Int, Space
from luthier.space.combinations import Combinations


@given(spaces())
def test_json_gives_an_equal_space_back(space: Space) -> None:
    text = json.dumps(space.to_json(), sort_keys=True, allow_nan=False)
    again = Space.from_json(json.loads(text))
    assert again == space
    assert hash(again) == hash(space)
    assert again.names == space.names
    assert json.dumps(again.to_json(), sort_keys=True) == text
    assert again.sample(rng(), 3) == space.sample(rng(), 3)
    assert pickle.loads(pickle.dumps(space)) == space


@given(spaces())
def test_the_representation_is_the_call_that_makes_the_space(space: Space) -> None:
    assert eval(repr(space), {"Space": Space, "Float": Float, "Int": Int, "Choice": Choice}) == space


@given(spaces(), st.integers(0, 100))
def test_samples_are_valid_and_complete(space: Space, seed: int) -> None:
    for config in space.sample(rng(seed), 20):
        assert repr(space.check(config)) == repr(config)
        assert space.active(config) == set(config)
        assert space.complete(config, rng()) == config
        assert space.clip(config) == config
        assert json.loads(json.dumps(config, allow_nan=False)) == config
    assert space.sample(rng(seed)) == space.sample(rng(seed), 1)[0]
    assert space.sample(rng(seed), 0) == []


@given(spaces(), st.integers(0, 100))
def test_codes_round_trip(space: Space, seed: int) -> None:
    configs = space.sample(rng(seed), 20)
    codes, mask = space.encode(configs)
    assert codes.shape == mask.shape == (20, len(space.columns))
    assert codes.dtype == np.float64
    assert np.all((codes >= 0) & (codes <= 1))
    assert np.all(codes[~mask] == 0.5)
    for config, row in zip(configs, mask, strict=True):
        assert [column.name in config for column in space.columns] == row.tolist()
    again, same_mask = space.encode(decoded := space.decode(codes))
    assert np.array_equal(mask, same_mask)
    assert again == pytest.approx(codes, abs=1e-12)
    for old, new in zip(configs, decoded, strict=True):
        assert space.check(new) == new
        assert old.keys() == new.keys()
        for name, domain in space.domains.items():
            if name in old and not isinstance(domain, Float):
                assert repr(old[name]) == repr(new[name])  # integers and options come back exactly


@given(spaces(), st.integers(0, 100))
def test_a_code_does_not_depend_on_what_is_encoded_with_it(space: Space, seed: int) -> None:
    configs = space.sample(rng(seed), 9)
    codes, mask = space.encode(configs)
    for i, config in enumerate(configs):
        one, one_mask = space.encode([config])
        assert one.tobytes() == codes[i : i + 1].tobytes()
        assert one_mask.tobytes() == mask[i : i + 1].tobytes()
    assert [space.decode(codes[i : i + 1])[0] for i in range(9)] == space.decode(codes)
    reordered = [dict(sorted(config.items(), reverse=True)) for config in configs]
    assert space.encode(reordered)[0].tobytes() == codes.tobytes()


@given(spaces(), st.sampled_from([0.0, 1.0, -3.0, 7.0, 0.5]))
def test_any_code_is_clipped_into_the_space(space: Space, code: float) -> None:
    [config] = space.decode([[code] * len(space.columns)])
    assert repr(space.check(config)) == repr(config)
    for name, value in config.items():
        domain = space[name]
        if isinstance(domain, Choice):
            continue
        bound = domain.low if code <= 0 else domain.high
        if code != 0.5:
            assert value == ([bound] * domain.width if isinstance(value, list) else bound)


@given(spaces(st.one_of(choices(), st.builds(Int, st.integers(0, 2), st.integers(2, 4)))))
def test_size_counts_the_distinct_configurations(space: Space) -> None:
    axes: dict[str, Any] = {
        n: range(d.low, d.high + 1) if isinstance(d, Int) else getattr(d, "options", None)
        for n, d in space.domains.items()
    }
    everything = [
        {name: value for name, value in zip(axes, values, strict=True)} for values in itertools.product(*axes.values())
    ]
    distinct = {repr({n: c[n] for n in axes if n in _active(space, c)}) for c in everything}
    combinations = Combinations(axes, space.conditions)
    assert space.size == combinations.count == len(distinct)
    assert {repr(combinations[i]) for i in range(combinations.count)} == distinct


def _active(space: Space, values: Config) -> set[str]:
    """The plain reference: a name is active when all that it depends on is active and has a value asked for."""
    names: set[str] = set()
    for name in space:
        parents = space.conditions.get(name, {})
        if all(other in names and values[other] in allowed for other, allowed in parents.items()):
            names.add(name)
    return names


@pytest.mark.parametrize(
    ("domain", "value", "code"),
    [
        (Float(0, 10), 2.5, 0.25),
        (Float(1e-4, 1.0, log=True), 0.01, 0.5),
        (Int(1, 4), 1, 0.125),
        (Int(1, 4), 4, 0.875),
        (Int(1, 15, log=True), 7, math.log(7 / 0.5) / math.log(15.5 / 0.5)),
        (Int(5, 5), 5, 0.5),
        (Choice(["a", "b", "c", "d"]), "b", 0.375),
        (Choice([None]), None, 0.5),
    ],
)
def test_codes_by_hand(domain: Domain, value: Any, code: float) -> None:
    space = Space(x=domain)
    assert space.encode([{"x": value}])[0].item() == pytest.approx(code, rel=1e-12)
    [config] = space.decode([[code]])
    assert config["x"] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value)


def test_columns() -> None:
    assert SPACE.columns[:2] == [Column("lr", 0, "float", None), Column("layers", 0, "int", 4)]
    assert [c.index for c in SPACE.columns if c.name == "dropout"] == [0, 1, 2]
    assert [c.kind for c in SPACE.columns][3:5] == ["ordinal", "categorical"]
    assert [c.levels for c in SPACE.columns][2:5] == [1009, 4, 3]


def test_values_beyond_a_bound_get_the_code_of_the_bound() -> None:
    space = Space(x=Float(0, 1), n=Int(1, 9))
    assert space.encode([{"x": 1.5, "n": -4}])[0].tolist() == [[1.0, 0.0]]


def test_every_value_is_equally_likely() -> None:
    space = Space(n=Int(1, 5), c=Choice(["a", "b", "c"]), log=Float(1e-4, 1, log=True))
    configs = space.sample(rng(), 6000)
    numbers = np.bincount([config["n"] for config in configs])[1:]
    options = np.unique([config["c"] for config in configs], return_counts=True)[1]
    decades, _ = np.histogram(np.log10([config["log"] for config in configs]), bins=4, range=(-4, 0))
    for counts in (numbers, options, decades):
        expected = 6000 / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < 18.5  # chi squared, 4 degrees of freedom, 0.1 %


def test_conditions_by_hand() -> None:
    space = Space(
        a=Choice(["x", "y"]),
        b=Int(1, 3, when={"a": "x"}),
        c=Float(0, 1, when={"b": [2, 3]}),
        d=Float(0, 1, when={"a": "y"}),
        e=Choice([1, 2], when={"a": "x", "b": 2}),
    )
    assert space.active({"a": "x", "b": 1}) == {"a", "b"}
    assert space.active({"a": "x", "b": 2, "c": 0.1}) == {"a", "b", "c", "e"}
    assert space.active({"a": "x", "b": 3}) == {"a", "b", "c"}
    assert space.active({"a": "y", "b": 2}) == {"a", "d"}  # b is inactive, and so is what depends on it
    assert space.size is None
    assert space.conditions == {
        "b": {"a": ("x",)},
        "c": {"b": (2, 3)},
        "d": {"a": ("y",)},
        "e": {"a": ("x",), "b": (2,)},
    }
    completed = space.complete({"a": "y", "b": 2, "c": 0.5}, rng())
    assert completed.keys() == {"a", "d"}


def test_a_condition_may_be_on_a_number() -> None:
    space = Space(n=Int(0, 3), x=Float(0, 1), y=Float(0, 1, when={"n": 2.0, "x": 0}))
    assert space.active({"n": 2, "x": 0.0}) == {"n", "x", "y"}
    assert space.active({"n": 2, "x": 0.5}) == {"n", "x"}
    assert space.to_json()["domains"][2]["when"] == {"n": [2], "x": [0.0]}


def test_a_space_is_an_immutable_collection_of_names() -> None:
    assert (len(SPACE), list(SPACE), SPACE.names) == (8, SPACE.names, list(GOOD))
    assert "lr" in SPACE and "x" not in SPACE
    assert SPACE["layers"] == Int(1, 4)
    with pytest.raises(TypeError):
        SPACE.domains["x"] = Int(1, 2)  # pyright: ignore[reportIndexIssue]
    with pytest.raises(AttributeError):
        SPACE["layers"].low = 2  # pyright: ignore[reportAttributeAccessIssue]
    names = SPACE.names
    names.append("x")
    assert "x" not in SPACE.names


def test_equality_is_that_of_json() -> None:
    assert Space(x=Float(0, 1)) == Space({"x": Float(0.0, 1.0)}) == Space([("x", Float(0, 1, shape=()))])
    assert Space(x=Choice([1, 2])) != Space(x=Choice([1.0, 2]))
    assert Space(x=Int(0, 1), y=Int(0, 1)) != Space(y=Int(0, 1), x=Int(0, 1))
    assert Space(x=Int(0, 1)) != "x"
    assert len({Space(x=Int(0, 1)), Space(x=Int(0, 1)), Space(x=Int(0, 2))}) == 2


def test_a_space_without_names_has_one_configuration() -> None:
    empty = Space()
    assert (empty.size, empty.sample(rng(), 2), empty.check({}), empty.perturb({}, rng())) == (1, [{}, {}], {}, {})
    codes, mask = empty.encode([{}, {}, {}])
    assert codes.shape == mask.shape == (3, 0)


def test_size_of_a_large_conditional_space() -> None:
    names = {f"layer{i}": Choice(["conv", "pool"]) for i in range(40)}
    kernels = {f"kernel{i}": Int(1, 2**40, when={f"layer{i}": "conv"}) for i in range(40)}
    paired = {name: domain for pair in zip(names.items(), kernels.items(), strict=True) for name, domain in pair}
    assert Space(paired).size == (2**40 + 1) ** 40


def test_ten_thousand_configurations_of_nine_columns_take_well_under_50_ms() -> None:
    domains: dict[str, Domain] = {f"log{i}": Float(1e-5, 1, log=True) for i in range(3)}
    domains |= {"a": Float(0, 1), "b": Float(-1, 1), "n": Int(1, 9), "m": Int(1, 999, log=True)}
    domains |= {"c": Choice(["a", "b", "c"]), "o": Choice([1, 2, 4], ordered=True)}
    space = Space(domains)
    configs = space.sample(rng(), 10_000)
    codes, _ = space.encode(configs)
    assert _processor_time(lambda: space.encode(configs)) < 0.05
    assert _processor_time(lambda: space.decode(codes)) < 0.05
    assert _processor_time(lambda: [space.encode(configs[i : i + 1]) for i in range(100)]) < 100 * 100e-6


def _processor_time(call: Callable[[], Any]) -> float:
    """Seconds of the fastest of several calls."""
    times = []
    for _ in range(15):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)
