"""study.diverse: nearly as good as the best, and different; and the distance that this is measured by."""

from __future__ import annotations

import numpy as np
import pytest

import luthier as lt
from luthier.errors import MethodError
from luthier.space.distance import distances, farthest, first_apart

SPACE = lt.Space(x=lt.Float(0.0, 1.0), kind=lt.Choice(["a", "b", "c"]), deep=lt.Float(0.0, 1.0, when={"kind": "c"}))


def made(rows: list[tuple[dict, float, float]], mode: str = "max") -> lt.Study:
    study = lt.Study("diverse", SPACE, metric="accuracy", mode=mode)
    for config, accuracy, latency in rows:
        study.enqueue(config)
        study.tell(study.ask()[0], {"accuracy": accuracy, "latency": latency})
    return study


ROWS = [
    ({"x": 0.50, "kind": "a"}, 0.900, 9.0),
    ({"x": 0.51, "kind": "a"}, 0.899, 1.0),
    ({"x": 0.90, "kind": "a"}, 0.895, 5.0),
    ({"x": 0.50, "kind": "b"}, 0.892, 3.0),
    ({"x": 0.10, "kind": "b"}, 0.500, 0.1),
]


def test_without_a_second_measure_the_best_comes_first_then_the_farthest() -> None:
    chosen = made(ROWS).diverse(3)
    assert [one.number for one in chosen] == [0, 3, 2]  # another kind is farther than 0.4 of x


def test_by_a_second_measure() -> None:
    study = made(ROWS)
    assert [one.number for one in study.diverse(5, by="latency")] == [1, 3, 2]  # 0 is too near to 1, 4 not good enough
    assert [one.number for one in study.diverse(5, by="latency", apart=0.0)] == [1, 3, 2, 0]
    assert [one.number for one in study.diverse(1, by="latency", mode="max")] == [0]
    assert [one.number for one in study.diverse(2, by=lambda one: -one.config["x"])] == [2, 1]
    assert study.diverse(9, within=1.0, by="x")[0].number == 4


def test_errors_and_nothing_to_choose_from() -> None:
    study = made(ROWS)
    with pytest.raises(MethodError, match="no number by the name 'speed'"):
        study.diverse(2, by="speed")
    with pytest.raises(MethodError, match=r"by\(job 0\) returned 'slow'"):
        study.diverse(2, by=lambda one: "slow")  # type: ignore[arg-type, return-value]
    assert lt.Study("none", SPACE).diverse(3) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"count": 0}, "count=0 cannot be"),
        ({"count": 2.0}, "count=2.0 cannot be"),
        ({"count": True}, "count=True cannot be"),
        ({"within": -1.0}, r"within=-1.0 cannot be. Give a number from 0 on: 0.01 is 1 % of the best"),
        ({"within": "1 %"}, "within='1 %' cannot be"),
        ({"within": float("nan")}, "within=nan cannot be"),
        ({"apart": None}, "apart=None cannot be"),
        ({"mode": "up"}, "mode='up' cannot be"),
        ({"by": 3}, "by=3 cannot be"),
    ],
)
def test_each_mistake_is_named(wrong: dict, said: str) -> None:
    with pytest.raises(MethodError, match=f"study.diverse: {said}"):
        made(ROWS).diverse(**{"count": 1, **wrong})


def test_where_everything_failed_there_is_nothing_and_a_measure_that_is_missing_comes_last() -> None:
    study = lt.Study("failed", SPACE, metric="accuracy", mode="max")
    for job in study.ask(3):
        study.tell(job, status="failed", error="no memory")
    assert study.diverse(2) == [] and study.diverse(2, by="seconds") == []
    latest = made(ROWS)

    def by(one: lt.Best) -> float:
        return float("nan") if one.number == 1 else one.metrics["latency"]

    assert [one.number for one in latest.diverse(9, by=by, apart=0.0)] == [3, 2, 0, 1]
    assert [one.number for one in latest.diverse(9, by=by, apart=0.0, mode="max")] == [0, 2, 3, 1]


def test_distances_by_hand() -> None:
    configs = [{"x": 0.2, "kind": "a"}, {"x": 0.5, "kind": "b"}, {"x": 0.2, "kind": "c", "deep": 0.9}]
    codes, mask = SPACE.encode(configs)
    gaps = distances(SPACE, codes, mask, codes, mask)
    np.testing.assert_allclose(gaps[0, 1], np.sqrt((0.3**2 + 1) / 3))
    np.testing.assert_allclose(gaps[0, 2], np.sqrt((0 + 1 + 1) / 3))  # active in one alone
    np.testing.assert_allclose(gaps, gaps.T)
    assert np.diag(gaps).tolist() == [0.0, 0.0, 0.0]


def test_the_greedy_choice_is_within_a_factor_of_two_of_the_best() -> None:
    space = lt.Space(x=lt.Float(0.0, 1.0))
    codes, mask = np.linspace(0.0, 1.0, 11)[:, None], np.ones((11, 1), dtype=bool)
    rows = farthest(space, codes, mask, 5, first=3)
    assert np.diff(np.sort(codes[rows, 0])).min() >= 0.25 / 2
    assert first_apart(space, codes, mask, 0.25) == [0, 3, 6, 9]
    assert farthest(space, codes[[0, 0, 0]], mask[:3], 3) == [0]
