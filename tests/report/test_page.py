"""The page as a whole: which sections there are, that the figures are valid, and that nothing breaks out or loads."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report import studies

from luthier.errors import StudyError
from luthier.jobs import History
from luthier.report import StudyInfo, render, write
from luthier.report.page import sections
from luthier.space import Float, Space

ALWAYS = {"best", "progress", "slices", "parallel", "table"}


class Page(HTMLParser):
    """What a browser would see: elements, their attributes, text by element, and the scripts."""

    def __init__(self, text: str) -> None:
        HTMLParser.__init__(self)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.sections: list[str] = []
        self.words: list[str] = []
        self._raw = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else ""
        if tag == "section":
            self.sections.append(dict(attrs)["id"] or "")

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if self._raw == "script":
            self.scripts.append(data)
        elif not self._raw and data.strip():
            self.words.append(data)

    @property
    def figures(self) -> list[dict[str, Any]]:
        return json.loads(next(script for script in self.scripts if script.startswith("[")))

    def rows(self) -> list[str]:
        """Status of each row of the table of trials."""
        return [attrs["data-status"] or "" for tag, attrs in self.tags if tag == "tr" and "data-status" in attrs]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (studies.random_search, ALWAYS | {"curves", "importance", "failures"}),
        (studies.population, ALWAYS | {"curves", "importance", "lineage", "schedules"}),
        (studies.moving, ALWAYS | {"curves", "schedules"}),
        (studies.two_objectives, ALWAYS | {"pareto", "importance"}),
        (lambda: studies.random_search(1), {"best", "curves", "table"}),
        (studies.all_failed, {"failures", "table"}),
        (lambda: History(Space(x=Float(0, 1))), set()),
    ],
    ids=["random", "population", "moving", "two objectives", "one trial", "all failed", "empty"],
)
def test_a_section_is_there_exactly_when_it_has_something_to_show(
    make: Callable[[], History], expected: set[str]
) -> None:
    page = Page(render(make(), StudyInfo("study")))
    assert set(page.sections) == expected
    assert len(page.sections) == len(expected)


def test_an_empty_study_says_so() -> None:
    text = render(History(Space(x=Float(0, 1))), StudyInfo("new"))
    assert "no trials yet" in text
    assert len(text) < 50_000  # no figures, so no Plotly either


@pytest.mark.parametrize("status", ["ok", "failed", "diverged", "pruned"])
def test_a_single_trial_of_any_status_renders(status: Any) -> None:
    from luthier.jobs import Job, Result

    history = History(Space(x=Float(0, 1)), {"loss": "min"})
    history.add(Job(0, {"x": 0.5}))
    history.add(Result(0, status, {"loss": 1.0} if status in ("ok", "pruned") else {"loss": float("nan")}))
    assert ("best" in Page(render(history, StudyInfo("one"))).sections) == (status == "ok")


@pytest.mark.parametrize(
    "make",
    [
        studies.random_search,
        studies.population,
        lambda: studies.population(slots=False),
        studies.moving,
        lambda: studies.moving(3),
        studies.two_objectives,
        studies.hostile,
        studies.sampled,
    ],
    ids="random,population,population without slots,moving,short vector,two objectives,hostile,sampled".split(","),
)
def test_every_figure_is_valid_plotly_with_axis_titles(make: Callable[[], Any]) -> None:
    """Plotly checks every key and value; colours are names for the page's script, so a real one stands in."""
    import plotly.graph_objects as go

    def coloured(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: coloured(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [coloured(item, key) for item in value]
        if isinstance(value, str) and value.startswith("@") and key.endswith(("color", "colorscale")):
            assert f"--{value[1:]}:" in css or value in ("@scale", "@heat"), (
                f"{value} is not a colour of the style sheet"
            )
            return "Blues" if key == "colorscale" else "red"
        return value

    text = studies.page_of(make())
    css = text[text.index("<style>") : text.index("</style>")]
    drawn = [figure for figure in Page(text).figures if figure["kind"] == "plotly"]
    assert drawn
    for figure in drawn:
        made = go.Figure(coloured(figure["spec"]))
        assert made.layout.xaxis.title.text
        assert made.layout.yaxis.title.text or made.data[0].type in ("bar", "violin")
        assert any(trace.x is not None or trace.z is not None for trace in made.data)


def test_nothing_is_loaded_from_anywhere() -> None:
    page = Page(render(studies.random_search(), StudyInfo("study", {"method": "random"})))
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "form", "video", "audio"), tag
        for name in ("src", "srcset", "data", "action", "background"):
            assert name not in attrs, f"{tag} {name}"
        assert (attrs.get("href") or "#").startswith("#")
        assert "url(" not in (attrs.get("style") or "")
    policy = next(
        a["content"] or "" for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy and "*" not in policy
    own = [script for script in page.scripts if "Copyright 2012" not in script[:500]]
    assert len(own) == len(page.scripts) - 1
    for script in own:  # the one address is the name of the SVG language, which is never fetched
        assert set(re.findall(r"https?://[\w./]*", script)) <= {"http://www.w3.org/2000/svg"}


def test_hostile_names_values_and_messages_stay_text() -> None:
    info = StudyInfo(
        studies.HOSTILE, {"method": studies.HOSTILE, "<b>": {"</style>": studies.HOSTILE}}, export=studies.HOSTILE
    )
    text = render(studies.hostile(), info)
    page = Page(text)
    plain = Page(render(studies.random_search(), StudyInfo("plain")))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags} | {"pre", "details", "summary"}
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert len(page.scripts) == len(plain.scripts)
    assert not [script for script in page.scripts if script.startswith("alert")]
    assert any(studies.HOSTILE in word for word in page.words)  # it is shown, whole, as text
    for figure in page.figures:  # Plotly reads tags and templates in these, so no raw ones may be left
        if figure["kind"] == "plotly":
            shown = [trace.get("hovertemplate", "") for trace in figure["spec"]["data"]]
            shown += [figure["spec"]["layout"][name]["title"]["text"] for name in ("xaxis", "yaxis")]
            shown += figure["spec"]["layout"]["xaxis"].get("ticktext", [])
            for item in shown:
                assert not re.findall(r"<(?!br>|extra>|/extra>)", item), item
                assert not re.findall(r"%\{x\}(?!<)", item.replace("step %{x", "")), item


def test_what_utf8_cannot_hold_is_an_escape(tmp_path: Path) -> None:
    path = write(studies.all_failed(), StudyInfo("lone \ud800 surrogate", {"note": "\udfff"}), tmp_path / "page.html")
    assert "lone \\ud800 surrogate" in path.read_text(encoding="utf-8")


def test_the_same_history_gives_the_same_page() -> None:
    history = studies.random_search()
    assert render(history, StudyInfo("study")) == render(history, StudyInfo("study"))


def test_ten_thousand_trials_render_quickly_into_a_small_page() -> None:
    from plotly.offline import get_plotlyjs

    history = studies.large()
    assert len(history) == 10_000
    sections(studies.random_search(), StudyInfo("warm"))  # so that no import is timed
    began = time.process_time()  # of this process, whatever else the machine does
    text = render(history, StudyInfo("large", export="luthier export large --format csv"))
    seconds = time.process_time() - began
    page = Page(text)
    assert seconds < 10, f"{seconds:.1f} s"
    assert len(text) - len(get_plotlyjs()) < 2_000_000
    assert 500 <= len(page.rows()) <= 700
    assert page.rows().count("failed") >= 50
    for figure in page.figures:
        if figure["kind"] == "plotly":
            assert sum(len(trace["x"]) for trace in figure["spec"]["data"]) <= 15_000
        else:
            assert len(figure["spec"]["lines"]) <= 500
    words = " ".join(page.words)
    assert "of 10,000 trials are listed" in words
    assert "luthier export large --format csv" in words
    assert re.search(r"\d+ of 9,411 curves are drawn", words)


def test_write_makes_the_folder_and_leaves_no_part_behind(tmp_path: Path) -> None:
    path = write(studies.all_failed(), StudyInfo("study"), tmp_path / "new" / "page.html")
    assert path == tmp_path / "new" / "page.html"
    assert [item.name for item in path.parent.iterdir()] == ["page.html"]
    assert path.read_text(encoding="utf-8") == render(studies.all_failed(), StudyInfo("study"))


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StudyError, match=r"folder: the report cannot be written .* Give the path of a file"):
        write(studies.all_failed(), StudyInfo("study"), tmp_path / "folder")
    assert [item.name for item in tmp_path.iterdir()] == ["folder"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be written"):
        write(studies.all_failed(), StudyInfo("study"), tmp_path / "file" / "page.html")


def test_importing_the_report_loads_neither_plotly_nor_scikit_learn() -> None:
    import subprocess
    import sys

    code = (
        "import sys, luthier.report; print([n for n in ('plotly', 'sklearn', 'pandas', 'torch') if n in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert "plotly" not in done.stdout
    assert "sklearn" not in done.stdout
