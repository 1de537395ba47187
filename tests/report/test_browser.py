"""The page in a real browser: it draws every figure without an error, and the table sorts and filters."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report import studies

from luthier.report import StudyInfo, render

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(BROWSERS)} is installed")

QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
QUIET += " --disable-component-update --disable-sync --virtual-time-budget=8000 --window-size=1300,3000"


def dom_after(text: str, folder: Path, script: str = "") -> str:
    """The page's document as the browser has it after all scripts, without the scripts themselves."""
    path = folder / "page.html"
    path.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    command = [str(BROWSER), *QUIET.split(), f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr[-2000:]
    return re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)


def check_drawn(dom: str, text: str) -> None:
    root = re.search(r"<html[^>]*>", dom)
    assert root
    assert "data-error" not in root[0] and "data-blocked" not in root[0], root[0]
    boxes = len(re.findall(r'class="plot[ "]', text))
    assert f'data-drawn="{boxes}"' in root[0]
    plotly = re.findall(r'<div class="[^"]*svg-container[^"]*"[^>]*><svg class="main-svg"', dom)
    assert len(plotly) + dom.count('<svg width="') == boxes


def test_every_figure_is_drawn_and_the_table_sorts_and_filters(tmp_path: Path) -> None:
    history = studies.random_search()
    text = render(history, StudyInfo("study"))
    script = """
      const head = [...document.querySelectorAll("#trials th")].find((th) => th.textContent === "accuracy");
      head.firstElementChild.click(); head.firstElementChild.click();
      document.querySelector('.chip[data-status="pruned"]').click();
    """
    dom = dom_after(text, tmp_path, script)
    check_drawn(dom, text)
    rows = re.findall(r'<tr data-status="(\w+)"([^>]*)><td[^>]*data-v="(\d+)"', dom)
    assert len(rows) == len(history)
    measured = {n: r.metrics["accuracy"] for n, r in enumerate(history.results) if r and r.status in ("ok", "pruned")}
    order = [int(n) for _, _, n in rows]
    assert [measured[n] for n in order[: len(measured)]] == sorted(measured.values(), reverse=True)
    assert set(order[len(measured) :]) == {3, 5, len(history) - 1}  # failed, diverged, running: last either way
    assert [("hidden" in more) for status, more, _ in rows] == [status == "pruned" for status, _, _ in rows]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(studies.hostile, marks=pytest.mark.slow),
        pytest.param(studies.population, marks=pytest.mark.slow),
        pytest.param(studies.moving, marks=pytest.mark.slow),
        pytest.param(studies.two_objectives, marks=pytest.mark.slow),
        pytest.param(studies.sampled, marks=pytest.mark.slow),
        pytest.param(studies.large, marks=pytest.mark.slow),
    ],
    ids=["hostile", "population", "moving", "two objectives", "sampled", "large"],
)
def test_every_kind_of_study_is_drawn(make: Callable[[], Any], tmp_path: Path) -> None:
    text = studies.page_of(make())
    check_drawn(dom_after(text, tmp_path), text)
