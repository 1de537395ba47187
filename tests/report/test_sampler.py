"""The section of a generative sampler: its numbers are the study's, and it is there for the method that has one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import luthier as lt
from luthier.propose.flow import Settings
from luthier.propose.gaussian_process.design import sobol
from luthier.report import Samples, StudyInfo, render
from luthier.report.facts import facts
from luthier.report.figures import Figure, Html, Section
from luthier.report.sampling import sampler_section
from luthier.seeds import Seeds
from luthier.study.sampling import samples
from luthier.study.settings import describe

MIXED = lt.Space(
    lr=lt.Float(1e-3, 10.0, log=True),
    kind=lt.Choice(["sgd", "adam", "<lion>"]),
    momentum=lt.Float(0.0, 0.99, when={"kind": "sgd"}),
    layers=lt.Int(1, 4),
)
ONE = lt.Space(x=lt.Float(-1.0, 1.0))


def value(config: dict[str, Any]) -> float:
    return abs(math.log10(config["lr"]) + 1) + (0.5 if config["kind"] == "adam" else 0.0) + 0.1 * config["layers"]


def study_of(
    space: lt.Space = MIXED, method: Any = "gflownet", trials: int = 24, metric: Callable[[dict], float] = value
) -> lt.Study:
    study = lt.Study("sampled", space, method=method, trials=trials, seed=3)
    while jobs := study.ask(5):
        for job in jobs:
            study.tell(job, metric(job.config))
    return study


def found_of(study: lt.Study) -> Samples:
    found = samples(study.history, study.settings)
    assert found is not None
    return found


def section_of(study: lt.Study, found: Samples | None) -> Section:
    section = sampler_section(facts(study.history), found, study.history.space.names)
    assert section is not None
    return section


def figures(section: Section) -> list[Figure]:
    blocks = [block if isinstance(block, list) else [block] for block in section.blocks]
    return [figure for block in blocks for figure in block if isinstance(figure, Figure)]


def words(section: Section) -> str:
    return " ".join(str(getattr(block, "text", block)) for block in section.blocks if isinstance(block, str | Html))


@pytest.fixture(scope="module")
def mixed() -> tuple[lt.Study, Samples]:
    study = study_of()
    return study, found_of(study)


def test_measured_values_are_those_of_the_study(mixed: tuple[lt.Study, Samples]) -> None:
    study, found = mixed
    violins = figures(section_of(study, found))[0].spec
    titles = violins["layout"]["yaxis"]["ticktext"]
    assert titles[:2] == ["drawn in the study<br>measured, 14", "at the beginning<br>measured, 10"]
    assert [title.rpartition("<br>")[2] for title in titles[2:]] == ["predicted, 1,000"] * 3
    measured = [job_value(study, n) for n in range(24)]
    np.testing.assert_allclose(np.sort(violins["data"][0]["x"]), np.sort(measured[10:]))
    np.testing.assert_allclose(np.sort(violins["data"][1]["x"]), np.sort(measured[:10]))


def job_value(study: lt.Study, number: int) -> float:
    result = study.history.results[number]
    assert result is not None
    return result.metrics["loss"]


def test_the_jobs_at_the_beginning_are_those_of_the_even_sequence(mixed: tuple[lt.Study, Samples]) -> None:
    """The method itself is asked where each job came from: a job without a sampler is a point of its Sobol sequence."""
    for study in (mixed[0], study_of(method=lt.propose.GFlowNet(batch=4, initial=6), trials=22)):
        found = samples(study.history, study.settings)
        assert found is not None
        space, seeds = study.history.space, Seeds(3)
        even = [n for n, job in enumerate(study.history.jobs) if same(space, sobol(4, n, seeds), job.config)]
        assert list(found.initial) == even
        assert sorted([*found.initial, *found.drawn]) == list(range(len(study.history)))


def same(space: lt.Space, code: np.ndarray, config: dict[str, Any]) -> bool:
    return space.decode(code[None])[0] == config


def test_predicted_values_are_those_of_a_sampler_that_is_fitted_by_hand(mixed: tuple[lt.Study, Samples]) -> None:
    study, found = mixed
    by_hand = lt.propose.GFlowNet().fit(study, seed=3)
    assert by_hand.sample(1_000, seed=3) == found.configs
    np.testing.assert_array_equal(by_hand.predict(found.configs)[0], found.predicted)
    assert found.beta == by_hand.beta and found.rmse == by_hand.surrogate.rmse
    violins = figures(section_of(study, found))[0].spec["data"]
    np.testing.assert_allclose(np.sort(violins[2]["x"]), np.sort(found.predicted))
    assert np.mean(found.predicted) < np.mean(found.untrained) - 0.5, "fitted samples are expected to be better"
    assert abs(np.mean(found.random) - np.mean(found.untrained)) < 0.5
    assert "sampler is exact" in words(section_of(study, found))
    assert f"β = {found.beta:.3g}" in words(section_of(study, found))


def test_the_map_shows_each_two_columns_and_the_places_of_all(mixed: tuple[lt.Study, Samples]) -> None:
    study, found = mixed
    panels = figures(section_of(study, found))[1:]
    assert len(panels) == 6  # of four columns
    by_title = {
        (panel.spec["layout"]["xaxis"]["title"]["text"], panel.spec["layout"]["yaxis"]["title"]["text"]): panel
        for panel in panels
    }
    cloud, tried, best = by_title["lr", "layers"].spec["data"]
    assert len(cloud["x"]) == 600 and len(tried["x"]) == 24
    shown = sorted(zip(tried["x"], tried["y"], strict=True))
    assert shown == sorted((job.config["lr"], job.config["layers"]) for job in study.history.jobs)
    assert best["x"] == [study.best.config["lr"]]
    active = [job for job in study.history.jobs if "momentum" in job.config]
    conditional = by_title["lr", "momentum"].spec["data"][1]
    assert len(conditional["x"]) == len(active) < 24
    darkest = int(np.argmax(tried["marker"]["color"]))
    assert tried["customdata"][darkest][0] == study.best.number


def test_a_learnt_sampler_shows_its_loss() -> None:
    study = study_of(method=lt.propose.GFlowNet(sampler="learnt", training=Settings(evaluations=300, batch=100)))
    found = found_of(study)
    assert found.losses is not None and len(found.losses) == 30
    curve = next(f for f in figures(section_of(study, found)) if f.alt.startswith("Training loss")).spec["data"][0]
    np.testing.assert_allclose(curve["y"], found.losses)
    assert curve["x"][0] == 1 and curve["x"][-1] == 30
    assert "exact" not in words(section_of(study, found))
    assert np.mean(found.predicted) < np.mean(found.untrained)


def test_other_methods_have_no_such_section(tmp_path: Path) -> None:
    study = study_of(method="random", trials=6)
    assert samples(study.history, study.settings) is None
    assert 'id="sampler"' not in Path(study.write_report(tmp_path / "a.html")).read_text()
    text = Path(study_of(trials=6).write_report(tmp_path / "b.html")).read_text()
    assert 'id="sampler"' in text
    assert render(study_of(trials=6).history, StudyInfo("no samples")).count('id="sampler"') == 0


def test_a_stored_study_gives_the_same_page(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    method = lt.propose.GFlowNet(batch=4, initial=4, beta=3.0, surrogate=lt.propose.Surrogate(width=8, steps=20))
    study = lt.Study("sampled", ONE, method=method, trials=12, store=store)
    while jobs := study.ask():
        study.tell(jobs[0], jobs[0].config["x"] ** 2)
    mine, theirs = found_of(study), found_of(lt.Study.load("sampled", store))
    assert mine.beta == 3.0 and mine.configs == theirs.configs
    np.testing.assert_array_equal(mine.predicted, theirs.predicted)
    by_hand = method.fit(study)
    np.testing.assert_array_equal(by_hand.predict(mine.configs)[0], mine.predicted)


def test_one_column_is_drawn_against_the_objective() -> None:
    study = study_of(ONE, trials=14, metric=lambda config: config["x"] ** 2)
    found = found_of(study)
    panel = figures(section_of(study, found))[1].spec
    assert panel["layout"]["yaxis"]["title"]["text"] == "loss"
    cloud, tried, _ = panel["data"]
    np.testing.assert_array_equal(cloud["y"], found.predicted[:600])
    np.testing.assert_allclose(np.square(tried["x"]), tried["y"])


@pytest.mark.parametrize("trials", [1, 2, 4])
def test_few_results_have_a_sentence_in_place_of_a_sampler(trials: int) -> None:
    study = study_of(trials=trials)
    found = found_of(study)
    section = section_of(study, found)
    assert f"{trials} finished with a finite value" in words(section)
    assert [len(violin["x"]) for violin in figures(section)[0].spec["data"]] == [trials]


def test_nothing_proposed_and_nothing_finished() -> None:
    empty = lt.Study("empty", MIXED, method="gflownet", trials=5)
    assert sampler_section(facts(empty.history), samples(empty.history, empty.settings), MIXED.names) is None
    for job in empty.ask(5):
        empty.tell(job, status="failed", error="no memory")
    section = section_of(empty, found_of(empty))
    assert figures(section) == [] and "0 finished with a finite value" in words(section)


def test_failed_diverged_and_wild_trials() -> None:
    def metric(config: dict[str, Any]) -> float:
        return 1e30 if config["lr"] > 5 else math.nan if config["layers"] == 4 else value(config)

    study = lt.Study("wild", MIXED, method="gflownet", trials=30)
    while jobs := study.ask(5):
        for job in jobs:
            if job.number % 7 == 1:
                study.tell(job, status="failed", error="no memory")
            else:
                study.tell(job, metric(job.config))
    found = found_of(study)
    section = section_of(study, found)
    drawn = figures(section)
    for violin in drawn[0].spec["data"]:
        assert np.isfinite(violin["x"]).all()
    low, high = drawn[0].spec["layout"]["xaxis"]["range"]
    assert all(low <= x <= high for violin in drawn[0].spec["data"] for x in violin["x"])
    finished = int(np.isfinite(study.history.values[study.history.status == 0, 0]).sum())
    assert len(found.initial) + len(found.drawn) == 30 > finished
    numbers = [row[0] for row in drawn[-1].spec["data"][1]["customdata"]]
    assert set(numbers) <= set(facts(study.history).finished.tolist())


def test_a_reward_that_cannot_be_is_a_sentence() -> None:
    method = lt.propose.GFlowNet(reward="metric")
    study = study_of(method=method, trials=14)
    section = section_of(study, found_of(study))
    assert "a metric that is minimised is no reward" in words(section)
    assert len(figures(section)) == 1


@pytest.mark.parametrize(
    "space",
    [
        lt.Space(kind=lt.Choice(["a", "b"])),
        lt.Space(n=lt.Int(1, 3), kind=lt.Choice(["a", "b"], ordered=True)),
        lt.Space(vector=lt.Float(0.0, 1.0, shape=(6,)), lr=lt.Float(0.1, 1.0)),
    ],
    ids=["two leaves", "six leaves", "a vector"],
)
def test_every_space_is_drawn(space: lt.Space, tmp_path: Path) -> None:
    study = study_of(space, trials=12, metric=lambda config: float(len(str(config))))
    text = Path(study.write_report(tmp_path / "page.html")).read_text()
    assert 'id="sampler"' in text and text == Path(study.write_report(tmp_path / "again.html")).read_text()


def test_settings_are_read_from_the_store_as_they_were_given() -> None:
    method = lt.propose.GFlowNet(beta=2.5, batch=3, surrogate=lt.propose.Surrogate(members=2, steps=10))
    study = study_of(ONE, method, 9, lambda config: config["x"])
    assert describe(method) == study.settings["method"]["proposer"]
    assert found_of(study).beta == 2.5
