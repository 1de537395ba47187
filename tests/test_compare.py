"""compare(): equal totals, paired seeds, resuming, and the numbers of its table against hand-made histories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import luthier as lt
from luthier.errors import LuthierError, MethodError, StudyError
from luthier.report.standings import Run, bands, common_level, curve, mean_ranks, spread, standings, tuned
from luthier.testing.adapters import digits_task

SPACE = lt.Space(x=lt.Float(-1.0, 1.0), y=lt.Float(-1.0, 1.0))


def bowl(config: lt.Config) -> float:
    return config["x"] ** 2 + config["y"] ** 2


def history(values: list[float | None], mode: str = "min", steps: int = 10) -> lt.History:
    """Trials that ended in this order; None failed."""
    made = lt.History(lt.Space(x=lt.Float(0, 1), y=lt.Float(0, 1)), {"score": mode})
    for number, value in enumerate(values):
        made.add(lt.Job(number, {"x": number / 10, "y": 0.5}, steps))
        ended = lt.Result(number, "failed") if value is None else lt.Result(number, "ok", {"score": value}, steps)
        made.add(ended if value is None else lt.Result(number, "ok", {"score": value}, steps, seconds=0.5))
    return made


def run(label: str, seed: int, values: list[float | None], mode: str = "min") -> Run:
    return Run(label, seed, history(values, mode), {}, 1.0, 0.25)


def test_every_method_spends_the_same_steps() -> None:
    task = digits_task()
    methods = ["random", "pbt", "hyperband", "asha", "median", "hypergradient"]
    found = lt.compare(task, methods, trials=6, epochs=3, seeds=2, progress=False)
    assert found.total == 6 * 3 * 33
    for (label, seed), study in found.studies.items():
        spent = int(study.history.steps.sum())
        longest = 3 * 33
        assert found.total - longest < spent <= found.total, (label, seed, spent)
        if label in ("random", "pbt", "hypergradient"):
            assert spent == found.total, label
    assert [row.label for row in found.table()] and found.objective == "loss"


def test_seeds_are_paired() -> None:
    found = lt.compare(bowl, {"a": "random", "b": lt.propose.Random()}, space=SPACE, trials=5, seeds=2, progress=False)
    for seed in (0, 1):
        first, second = (found.studies[label, seed].history.jobs for label in "ab")
        assert [job.config for job in first] == [job.config for job in second]
    assert found.studies["a", 0].history.jobs[0].config != found.studies["a", 1].history.jobs[0].config
    assert [row.rank for row in found.table()] == [1.5, 1.5]


def test_the_same_call_again_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    calls: list[lt.Config] = []

    def counted(config: lt.Config) -> float:
        calls.append(config)
        if len(calls) == 17:
            raise KeyboardInterrupt
        return bowl(config)

    def again() -> lt.Comparison:
        given = {"space": SPACE, "trials": 6, "seeds": 2, "store": tmp_path / "c.db", "progress": False}
        return lt.compare(counted, ["random", "genetic"], **given)

    with pytest.raises(KeyboardInterrupt):
        again()
    found = again()
    assert len(calls) == 1 + 2 * 2 * 6, "only the interrupted call ran twice"
    assert all(len(study.history.arrival) == 6 for study in found.studies.values())
    again()
    assert len(calls) == 1 + 2 * 2 * 6
    assert [(row["method"], row["seed"]) for row in found.records()] == [
        *(("random", 0), ("genetic", 0)),
        *(("random", 1), ("genetic", 1)),
    ]


def test_the_page_names_every_method_and_needs_no_network(tmp_path: Path) -> None:
    found = lt.compare(bowl, ["random", "genetic"], space=SPACE, trials=8, seeds=2, name="<bowls>", progress=False)
    text = found.report(tmp_path / "page.html").read_text()
    assert "&lt;bowls&gt;" in text and "random" in text and "genetic" in text
    assert "src=" not in text.split("<script>")[0]


def test_a_curve_counts_what_was_spent() -> None:
    line = curve(history([0.5, None, 0.75, 0.25]))
    assert line.steps.tolist() == [10, 10, 20, 30], "a failure before its first step costs none"
    assert line.best.tolist() == [0.5, 0.5, 0.5, 0.25]
    assert line.seconds.tolist() == [0.5, 0.5, 1.0, 1.5]
    assert line.trials.tolist() == [1, 2, 3, 4]
    assert np.isnan(curve(history([None, 0.5])).best[0])
    assert len(curve(history([])).steps) == 0


def test_a_continued_training_is_one_trial() -> None:
    made = lt.History(SPACE, {"loss": "min"})
    for number, parent in enumerate([None, 0, 1]):
        made.add(lt.Job(number, {"x": 0.0, "y": 0.0}, 5, parent))
        made.add(lt.Result(number, "ok", {"loss": 1.0 - number / 10}, 5))
    assert curve(made).trials.tolist() == [1, 1, 1]
    assert curve(made).steps.tolist() == [5, 10, 15]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_table_on_known_values(mode: str) -> None:
    sign = -1.0 if mode == "max" else 1.0
    rows = {"good": ([3.0, 1.0, 2.0], [2.0, 2.0, 1.0]), "bad": ([4.0, 3.0, 2.0], [4.0, 4.0, None])}
    runs = [
        run(label, seed, [None if value is None else sign * value for value in values], mode)
        for label, both in rows.items()
        for seed, values in enumerate(both)
    ]
    assert common_level(runs) == sign * 3.0, "the worse method's median best: of 2 and 4"
    good, bad = standings(runs)
    assert (good.label, good.rank, bad.label, bad.rank) == ("good", 1.0, "bad", 2.0)
    assert good.valid.tolist() == [sign * 1.0, sign * 1.0] and bad.valid.tolist() == [sign * 2.0, sign * 4.0]
    assert good.steps_to_level.tolist() == [10.0, 10.0] and bad.steps_to_level.tolist() == [20.0, np.inf]
    assert good.trials_to_level.tolist() == [1.0, 1.0] and bad.seconds_to_level.tolist() == [1.0, np.inf]
    assert good.steps == 30.0 and bad.steps == 25.0 and good.tuned == ("x",)
    assert standings(runs, level=sign * 1.0)[0].steps_to_level.tolist() == [20.0, 30.0]


def test_ranks_share_ties_and_leave_out_seeds_that_not_all_have() -> None:
    runs = [run("a", 0, [1.0]), run("b", 0, [1.0]), run("c", 0, [None]), run("a", 1, [5.0])]
    assert mean_ranks(runs) == {"a": 1.5, "b": 1.5, "c": 3.0}


def test_a_band_is_the_seeds_mean_lowest_and_highest() -> None:
    found = bands([run("a", 0, [1.0, 0.5]), run("a", 1, [3.0, 2.0]), run("b", 0, [])], points=2)
    assert list(found) == ["a"] and found["a"].steps.tolist() == [10.0, 20.0]
    assert [part.tolist() for part in found["a"][1:]] == [[2.0, 1.25], [1.0, 0.5], [3.0, 2.0]]
    (best,) = bands([run("a", 0, [0.5, 0.75], "max")], points=2).values()
    assert best.mean.tolist() == [0.5, 0.75]


def test_a_spread() -> None:
    assert spread(np.array([1.0, 3.0, np.nan])) == "2 ± 1.4"
    assert spread(np.array([2.0])) == "2" and spread(np.array([np.nan])) == "·"


def test_what_a_method_moves_counts_as_tuned() -> None:
    made = history([1.0, 0.5])
    assert tuned(made) == ("x",)
    made.add(lt.Job(2, {"x": 0.0, "y": 0.5}))
    made.add(lt.Result(2, "ok", {"score": 0.1}, final={"y": 0.6}))
    assert tuned(made) == ("x", "y")


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"methods": ["random"]}, MethodError, "two or more"),
        ({"methods": "random"}, MethodError, "two or more"),
        ({"methods": ["random", "random"]}, MethodError, "comes twice"),
        ({"methods": {"a/b": "random", "c": "random"}}, MethodError, "slash"),
        ({"methods": ["random", "rnadom"]}, MethodError, "Did you mean 'random'"),
        ({"seeds": 0}, StudyError, "seeds=0"),
        ({"seeds": [1, 1]}, StudyError, "[1, 1]"),
        ({"seeds": 1.5}, StudyError, "1.5"),
        ({"metric": ["loss", "size"], "mode": "min"}, StudyError, "one objective"),
        ({"trials": 0}, StudyError, "trials must be an integer ≥ 1 or None, got 0"),
    ],
)
def test_what_cannot_be_compared_is_named(given: dict, error: type[LuthierError], says: str) -> None:
    given = {"methods": ["random", "genetic"], "space": SPACE, "trials": 3, "progress": False, **given}
    with pytest.raises(error) as caught:
        lt.compare(bowl, given.pop("methods"), **given)
    assert says in str(caught.value)


def test_all_methods_are_looked_at_before_the_first_is_run(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="continues trainings"):
        lt.compare(bowl, ["random", "pbt"], space=SPACE, trials=3, store=tmp_path / "s.db", progress=False)
    assert not list(tmp_path.iterdir())


def test_epochs_of_different_lengths_need_steps() -> None:
    space = lt.Space(lr=lt.Float(1e-3, 0.3, log=True), batch_size=lt.Choice([16, 64]), dropout=lt.Float(0.0, 0.6))
    with pytest.raises(MethodError, match="Give steps="):
        lt.compare(digits_task(space=space), ["random", "genetic"], trials=2, epochs=1, progress=False)
