"""The numbers in the page are the history's, in the user's own direction."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from report import studies

from luthier.jobs import OK, History, Job, Report, Result
from luthier.report import StudyInfo, render
from luthier.report.axes import axes
from luthier.report.curves import collect
from luthier.report.facts import facts, progress
from luthier.report.figures import log_axis, thin, thin_ranked, value_axis
from luthier.report.formatting import describe, label, number, script_json
from luthier.report.influence import parallel
from luthier.report.lineage import lanes
from luthier.report.moving import moving
from luthier.space import Choice, Float, Int, Space
from luthier.trials import front


def figures_of(history: History, section: str) -> list[dict]:
    from luthier.report.figures import Figure
    from luthier.report.page import sections

    found = next(one for one in sections(history, StudyInfo("study")) if one.anchor == section)
    flat = [item for block in found.blocks for item in (block if isinstance(block, list) else [block])]
    return [json.loads(script_json(item.spec)) for item in flat if isinstance(item, Figure)]


def test_bars_of_a_lineage_end_at_their_ages_and_leave_a_narrow_gap() -> None:
    history = studies.population()
    (figure,) = figures_of(history, "lineage")
    bars = [trace for trace in figure["data"] if trace.get("line", {}).get("width") == 9]
    drawn = sorted(pair for trace in bars for pair in zip(trace["x"][::3], trace["x"][1::3], strict=True))
    end = float(history.age.max())
    starts = [float(history.age[n] - history.steps[n]) for n in range(len(history))]
    expected = sorted((start + 0.006 * end, float(age)) for start, age in zip(starts, history.age, strict=True))
    assert np.allclose(drawn, expected)


@pytest.mark.parametrize("objective", ["accuracy", "loss"])
def test_best_so_far_is_monotone_and_ends_at_the_best(objective: str) -> None:
    history = studies.random_search(objective=objective)
    known = facts(history)
    series = progress(known)
    better = np.diff(series.best) * (1 if objective == "accuracy" else -1)
    assert (better >= 0).all() and (better > 0).any()
    assert history.best is not None
    result = history.results[history.best]
    assert result is not None
    assert series.best[-1] == result.metrics[objective] == known.values[history.best]
    assert series.results[-1] <= len(history.arrival)
    assert (np.diff(series.steps) > 0).all()
    spent = sum(found.steps for found in history.results[: int(series.number[-1]) + 1] if found is not None)
    assert series.steps[-1] == spent  # steps of pruned and diverged trials are in it
    drawn = figures_of(history, "progress")
    assert len(drawn) == 2
    for figure in drawn:
        line = next(trace for trace in figure["data"] if trace["name"] == "best so far")
        assert line["y"][-1] == pytest.approx(result.metrics[objective], rel=1e-5)


def test_best_so_far_follows_the_order_of_arrival() -> None:
    history = History(Space(x=Float(0, 1)), {"loss": "min"})
    for n in range(3):
        history.add(Job(n, {"x": 0.1 * n}, steps=10))
    for n, loss in ((2, 3.0), (0, 5.0), (1, 1.0)):
        history.add(Result(n, "ok", {"loss": loss}, steps=10))
    series = progress(facts(history))
    assert series.number.tolist() == [2, 0, 1]
    assert series.best.tolist() == [3.0, 3.0, 1.0]
    assert series.steps.tolist() == [10, 20, 30]


def test_header_and_best_configuration_show_the_historys_numbers() -> None:
    history = studies.random_search()
    assert history.best is not None
    result = history.results[history.best]
    assert result is not None
    info = StudyInfo(
        "study",
        {"method": {"name": "random"}, "seed": 7, "budget": {"trials": 12}},
        created=0.0,
        wall_seconds=75,
        test_metrics={"accuracy": 0.12345},
    )
    text = render(history, info)

    def tile(name: str) -> str:
        found = re.search(r'<div class="value">([^<]*)</div><div class="name">' + name + "<", text)
        assert found, name
        return found[1]

    assert tile("best accuracy") == number(result.metrics["accuracy"], 5)
    assert int(tile("trials finished")) == int((history.status == OK).sum())
    assert (tile("failed"), tile("diverged"), tile("pruned"), tile("running")) == ("1", "1", "1", "1")
    assert int(tile("training steps").replace(",", "")) == sum(r.steps for r in history.results if r is not None)
    assert tile("wall time") == "1 min 15 s"
    assert "0.12345" in text and "Test split" in text
    assert "higher is better" in text and "lower is better" not in text
    assert "1970-01-01 00:00 UTC" in text
    for value in history.jobs[history.best].config.values():
        assert repr(value).replace("'", "&#x27;") in text  # in full, in the tooltip
    assert "Test split" not in render(history, StudyInfo("study"))


def test_a_maximised_objective_is_never_shown_negated() -> None:
    history = studies.two_objectives()
    figure = figures_of(history, "pareto")[0]
    for trace in figure["data"]:
        assert all(0 <= x <= 1 for x in trace["x"])
        for x, y, n in zip(trace["x"], trace["y"], trace["customdata"], strict=True):
            result = history.results[n]
            assert result is not None
            assert (x, y) == pytest.approx((result.metrics["accuracy"], result.metrics["weights"]), rel=1e-5)
    for trace in figures_of(history, "progress")[0]["data"]:
        assert min(trace["y"]) > 0


def test_the_pareto_set_is_drawn_listed_and_marked() -> None:
    history = studies.two_objectives()
    assert len(front(history)) > 1
    drawn = figures_of(history, "pareto")[0]["data"][1]
    assert sorted(drawn["customdata"]) == sorted(front(history)) and drawn["mode"] == "lines+markers"
    text = render(history, StudyInfo("two"))
    assert len(re.findall(r'<tr data-status="\w+" class="best">', text)) == len(front(history))
    listed = text[text.index('class="trials front"') :]
    listed = listed[: listed.index("</table>")]
    numbers = [int(row) for row in re.findall(r'<tr><td class="n" data-v="[^"]*">(\d+)</td>', listed)]
    assert numbers == front(history)
    best = [history.results[n].metrics["accuracy"] for n in numbers]  # type: ignore[union-attr]
    assert best == sorted(best, reverse=True)


def test_each_two_of_three_objectives_are_drawn() -> None:
    two = studies.two_objectives()
    history = History(two.space, {"accuracy": "max", "weights": "min", "loss": "min"})
    for event in two.events:
        history.add(event)
    figures = figures_of(history, "pareto")
    assert len(figures) == 3
    for figure in figures:
        assert sorted(figure["data"][1]["customdata"]) == sorted(front(history))
        assert figure["data"][1]["mode"] == "markers"


def test_learning_curves_are_the_reports() -> None:
    history = studies.random_search()
    curves = {end: (steps, values) for end, steps, values in collect(facts(history), "accuracy")}
    assert 3 not in curves  # it failed before its first report
    assert 5 not in curves  # its only report was not finite
    for n, (steps, values) in curves.items():
        assert steps.tolist() == [report.step for report in history.reports[n]]
        assert values.tolist() == [report.metrics["accuracy"] for report in history.reports[n]]


def test_a_continued_curve_goes_back_to_its_first_ancestor() -> None:
    history = studies.population()
    curves = collect(facts(history), "loss")
    assert {end for end, _, _ in curves} >= set(range(8, 12))  # the jobs of the last round
    for end, steps, _ in curves:
        assert steps.tolist() == list(range(10, int(history.age[end]) + 1, 10))


def test_a_result_without_reports_is_a_point_of_the_curve() -> None:
    history = History(Space(x=Float(0, 1)), {"loss": "min"})
    for n, loss in enumerate((3.0, 2.0)):
        history.add(Job(n, {"x": 0.5}, 10, None if n == 0 else 0))
        history.add(Result(n, "ok", {"loss": loss}, 10))
    ((end, steps, values),) = collect(facts(history), "loss")
    assert (end, steps.tolist(), values.tolist()) == (1, [10, 20], [3.0, 2.0])


def test_table_has_every_trial_with_its_status_and_message() -> None:
    history = studies.random_search()
    text = render(history, StudyInfo("study"))
    rows = re.findall(r'<tr data-status="(\w+)"', text)
    names = {"ok": "finished", "failed": "failed", "diverged": "diverged", "pruned": "pruned"}
    assert rows == [names[r.status] if r else "running" for r in history.results]
    assert len(re.findall(r'<tr data-status="\w+" class="best"', text)) == 1
    assert "MemoryError: &lt;/script&gt;" in text
    for result in history.results:
        if result is not None and result.status == "ok":
            assert f'data-v="{result.metrics["accuracy"]:.9g}"' in text


def test_nan_and_infinity_reach_the_page_as_words_and_gaps() -> None:
    history = studies.random_search()
    text = render(history, StudyInfo("study"))
    assert ">NaN</td>" in text and ">∞</td>" in text
    assert json.loads(script_json([math.nan, -math.inf, 1.5])) == [None, None, 1.5]


def test_axes_put_values_where_they_are() -> None:
    space = Space(
        lr=Float(1e-4, 1.0, log=True),
        n=Int(0, 10),
        kind=Choice(["a", None, True]),
        only=Float(0, 1, when={"kind": ["a"]}),
        vector=Float(-1, 1, shape=(3,)),
        long=Float(0, 2, shape=(5,)),
    )
    configs = [
        {"lr": 1e-2, "n": 5, "kind": "a", "only": 0.25, "vector": [-1.0, 0.0, 1.0], "long": [0.0, 0.0, 0.0, 0.0, 1.0]},
        {"lr": 1.0, "n": 0, "kind": True, "vector": [0.0, 0.0, 0.0], "long": [1.0] * 5},
    ]
    found = {one.title: one for one in axes(space, configs)}
    assert list(found) == ["lr", "n", "kind", "only", "vector[0]", "vector[1]", "vector[2]", "long (mean of 5)"]
    assert found["lr"].positions().tolist() == pytest.approx([0.5, 1.0])
    assert found["n"].positions().tolist() == [0.5, 0.0]
    assert found["kind"].positions().tolist() == pytest.approx([1 / 6, 5 / 6])
    assert [text for _, text in found["kind"].ticks()] == ["a", "None", "True"]
    assert found["only"].positions()[0] == 0.25 and math.isnan(found["only"].positions()[1])
    assert [one.positions()[0] for one in (found["vector[0]"], found["vector[2]"])] == [0.0, 1.0]
    assert found["long (mean of 5)"].values.tolist() == pytest.approx([0.2, 1.0])
    for one in found.values():
        ticks = one.ticks()
        assert 2 <= len(ticks) <= 12
        assert all(-1e-6 <= place <= 1 + 1e-6 for place, _ in ticks)
        assert [place for place, _ in ticks] == sorted(place for place, _ in ticks)


def test_parallel_coordinates_colour_the_best_as_best() -> None:
    for objective in ("accuracy", "loss"):
        history = studies.random_search(20, objective)
        section = parallel(facts(history), history.space.names)
        assert section is not None
        spec = section.blocks[0].spec  # pyright: ignore[reportAttributeAccessIssue]
        assert spec["numbers"][spec["best"]] == history.best
        assert spec["quality"][spec["best"]] == max(spec["quality"]) == 1.0
        inactive = [np.isnan(line[2]) for line in spec["lines"]]  # decay, where it is not regularised
        assert inactive == ["decay" not in history.jobs[n].config for n in spec["numbers"]]
        assert spec["axes"][2]["inactive"] and not spec["axes"][0]["inactive"]


@pytest.mark.parametrize("slots", [True, False])
def test_lanes_hold_one_job_at_a_time(slots: bool) -> None:
    history = studies.population(size=5, rounds=4, slots=slots)
    rows = lanes(facts(history))
    assert len(set(rows.tolist())) == 5
    for row in set(rows.tolist()):
        assert np.diff(history.age[rows == row]).tolist() == [20, 20, 20]
    moved = [n for n in range(5, 20) if rows[n] != rows[history.parent[n]]]
    assert len(moved) == 3  # each round the worst copied the best


def test_hyperparameters_that_move_are_found_and_drawn_with_their_values() -> None:
    assert moving(facts(studies.random_search())) == []
    assert moving(facts(studies.population())) == ["lr", "decay"]
    history = studies.moving()
    assert moving(facts(history)) == ["lr", "decay"]
    lr, quantiles, heat, image = figures_of(history, "schedules")
    best = next(trace for trace in lr["data"] if trace["name"] == "best")
    assert history.best is not None
    assert best["y"][0] == pytest.approx(history.jobs[history.best].config["lr"], rel=1e-5)
    assert best["y"][-1] == pytest.approx(history.final(history.best)["lr"], rel=1e-5)
    median = next(trace for trace in quantiles["data"] if trace.get("name") == "median")
    assert median["y"][-1] == pytest.approx(float(np.median(history.final(history.best)["decay"])), rel=1e-5)
    counts = np.array(heat["data"][0]["customdata"])  # (bins, steps)
    assert counts.sum(axis=0).tolist() == [64] * len(heat["data"][0]["x"])
    assert np.array(image["data"][0]["z"]).ravel() == pytest.approx(history.final(history.best)["decay"], rel=1e-5)


def test_only_a_square_vector_is_an_image() -> None:
    assert len(figures_of(studies.moving(60), "schedules")) == 3
    image = figures_of(studies.moving(784), "schedules")[-1]["data"][0]["z"]
    assert (len(image), len(image[0])) == (28, 28)


def test_a_report_may_carry_hyperparameters_that_the_space_does_not_have() -> None:
    history = History(Space(x=Float(0, 1)), {"loss": "min"})
    history.add(Job(0, {"x": 0.5}, 20))
    history.add(Report(0, 10, {"loss": 2.0}, {"temperature": 1.0, "rule": "a"}))
    history.add(Report(0, 20, {"loss": 1.0}, {"temperature": 100.0, "rule": "b"}))
    history.add(Result(0, "ok", {"loss": 1.0}, 20))
    (figure,) = figures_of(history, "schedules")  # a rule that is no number and no Choice has no axis
    assert figure["data"][0]["y"][:2] == [1.0, 100.0]
    assert figure["layout"]["yaxis"]["type"] == "log"


def test_value_axis_keeps_the_best_and_leaves_out_the_wild() -> None:
    _, beyond = value_axis("loss", np.array([1.0, 1.1, 1.2, 1.3, 1.4, 1.5]), "min")
    assert beyond == 0
    spec, beyond = value_axis("loss", np.append(np.linspace(1, 2, 50), [30.0, np.nan]), "min")
    assert beyond == 1 and spec["range"][0] < 1 and 2 < spec["range"][1] < 10
    spec, beyond = value_axis("accuracy", np.append(np.linspace(0.8, 0.9, 50), 0.01), "max")
    assert beyond == 1 and 0.3 < spec["range"][0] < 0.8 and spec["range"][1] > 0.9
    spec, _ = value_axis("loss", np.logspace(-6, 3, 50), "min")
    assert spec["type"] == "log"


@pytest.mark.parametrize(
    "values", [[0.0, 0.0], [1e308, -1e308], [1.0, 1e308], [5e-324, 1.0], [1e-90, 1e90], [7.0, 7.0]]
)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_extreme_values_overflow_nowhere(values: list[float], mode: str) -> None:
    spec, _ = value_axis("loss", np.array(values), mode)
    assert np.isfinite(spec.get("range", [0.0])).all()
    history = History(Space(x=Float(0, 1)), {"loss": mode})
    for n, loss in enumerate(values * 6):
        history.add(Job(n, {"x": n / 12}))
        history.add(Result(n, "ok", {"loss": loss}))
    assert 'id="progress"' in render(history, StudyInfo("extreme"))


def test_thinning_keeps_ends_and_the_best() -> None:
    assert thin(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert thin(1000, 10).tolist()[::9] == [0, 999] and len(thin(1000, 10)) == 10
    ranked = np.arange(1000)[::-1]
    assert thin_ranked(ranked, 100)[:50].tolist() == ranked[:50].tolist()
    assert thin_ranked(ranked, 100)[-1] == 0 and len(thin_ranked(ranked, 100)) == 100


def test_a_narrow_logarithmic_axis_has_labels() -> None:
    assert len(log_axis("decay", 0.0012, 0.00127)["ticktext"]) >= 3
    assert "ticktext" not in log_axis("lr", 1e-6, 1.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.97234567, "0.9723"),
        (1234567, "1,234,567"),
        (1.5e-9, "1.5e-9"),
        (-2.5e8, "-2.5e8"),
        (0.0, "0"),
        (math.nan, "NaN"),
    ],
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert number(value) == text


def test_settings_and_labels_for_people() -> None:
    assert describe({"name": "pbt", "size": 8, "factors": [0.8, 1.2], "none": None}) == "pbt (size=8, factors=0.8, 1.2)"
    assert describe("random") == "random"
    assert label("<b>%{x}$a$</b>") == "&lt;b&gt;&#37;{x}&#36;a&#36;&lt;/b&gt;"
    assert len(label("x" * 100, 20)) == 20


def test_a_job_that_measured_another_metric_has_finished_and_not_failed() -> None:
    history = History(Space(x=Float(0, 1)), {"loss": "min"})
    for job, metrics in enumerate([{"shared_loss": 3.0}, {"loss": 2.0}, {"loss": 1.0}]):
        history.add(Job(job, {"x": job / 4}, 2))
        for step in (1, 2):
            history.add(Report(job, step, {name: value + 1 / step for name, value in metrics.items()}))
        history.add(Result(job, "ok", metrics, 2))
    text = render(history, StudyInfo("phases"))
    assert "3 of 3 trials finished" in text and '"name":"diverged or failed"' not in text
