"""The live page: over HTTP, and in a real browser while a study runs in another process."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from browser import BROWSER, Browser

import luthier as lt
from luthier.errors import StoreError, StudyError
from luthier.serve.live import Live, message

NAME = 'a/b <img src=x onerror=alert(1)> "'
PLACE = f"/study/{quote(NAME, safe='')}"
OPTION = "<script>alert(2)</script>"
SPACE = lt.Space(lr=lt.Float(1e-3, 1.0, log=True), act=lt.Choice(["relu", OPTION]))
SCRIPT = f"""
import sys, time
import luthier as lt

def train(config, trial):
    for epoch in range(1, 6):
        trial.report(epoch, loss=config["lr"] / epoch)
        (trial.folder / "<img src=x>.png").write_bytes(b"curve")
        trial.note(**{{"<b>": trial.number}})
        time.sleep(float(sys.argv[3]))
    if trial.number == 3:
        raise ValueError("<script>alert(3)</script> [/data] went wrong")
    return {{"loss": config["lr"]}}

space = lt.Space(lr=lt.Float(1e-3, 1.0, log=True), act=lt.Choice(["relu", {OPTION!r}]))
lt.tune(train, space=space, trials=int(sys.argv[2]), store=sys.argv[1], name={NAME!r}, progress=False)
"""


def tune(store: Path, trials: int, pause: float = 0.0) -> subprocess.Popen[bytes]:
    script = store.parent / "script.py"
    script.write_text(SCRIPT)
    return subprocess.Popen([sys.executable, str(script), str(store), str(trials), str(pause)])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    assert tune(tmp_path / "a.db", 6).wait() == 0
    return tmp_path / "a.db"


def ask(server: Any, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read()
    connection.close()
    return found


def events(server: Any, path: str) -> Iterator[tuple[str, Any]]:
    """What a browser is told, as (kind, data)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 200 and answer.headers["Content-Type"] == "text/event-stream"
    kind = ""
    try:
        while line := answer.readline().decode():
            if line.startswith("event: "):
                kind = line[7:].strip()
            if line.startswith("data: "):
                yield kind, json.loads(line[6:])
    finally:
        connection.close()


def test_pages_and_their_parts(store: Path) -> None:
    with lt.serve.Server(store, port=0, every=0.1) as server:
        for path in ("/", PLACE, f"{PLACE}/trial/3"):
            status, headers, body = ask(server, path)
            assert status == 200 and headers["Cache-Control"] == "no-store"
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "script-src 'self';" in policy
            assert b"<script>" not in body and b"<img src=x" not in body
            for address in body.decode().split('src="')[1:]:
                status, headers, asset = ask(server, address.partition('"')[0])
                assert status == 200 and "immutable" in headers["Cache-Control"] and len(asset) > 100
        kind, listed = next(events(server, "/events"))
        assert (
            kind == "message" and PLACE in listed["parts"][1]["html"] and "<img src=x" not in listed["parts"][1]["html"]
        )
        _, told = next(events(server, f"{PLACE}/events"))
        assert [one for one, _ in told["order"]][:3] == ["header", "best", "progress"]
        assert {"table", "failures"} <= {part["id"] for part in told["parts"]}
        _, told = next(events(server, f"{PLACE}/trial/3/events"))
        parts = {part["id"]: part["html"] for part in told["parts"]}
        assert "&lt;script&gt;alert(3)&lt;/script&gt; [/data] went wrong" in parts["error"]
        assert "&lt;img src=x&gt;.png <span class=muted>5 bytes" in parts["kept"] and "&lt;b&gt;: 3" in parts["kept"]
        assert (
            "/trials/3</code>" in parts["kept"]
            and "in train: raise ValueError" in parts["error"]
            and "the best" in parts["configuration"]
        )
        for path in ("/study/none", f"{PLACE}/trial/99", f"{PLACE}/trial/x", "/assets/0/../server.py", "/nothing"):
            status, _, body = ask(server, path)
            assert status == 404 and b"Traceback" not in body
        assert ask(server, "/", "POST")[0] == 501


def test_only_what_changed_is_drawn_and_told_again(store: Path) -> None:
    with lt.open_store(store, read_only=True) as opened:
        live = Live(opened, NAME)
        first = live.parts()
        seen = {part.id: part.mark for part in first}
        assert message(first, seen) is None
        live._next.clear()
        assert live.parts() is first  # while the first browser draws, nothing is computed
        live._judged = (0, time.monotonic() - 10, live._judged[2])
        second = live.parts()  # the importance of hyperparameters
        assert [part.id for part in second if part.id not in seen] == ["importance"]
        live._next.clear()
        assert live.parts() is second
        tune(store, 7).wait()
        live._next.clear()
        told = json.loads(message(live.parts(), {part.id: part.mark for part in second}) or "null")
        changed = {part["id"] for part in told["parts"]}
        assert {"header", "progress", "table"} <= changed and not {"failures", "best"} & changed
        assert len(told["order"]) >= len(second)


def test_other_hosts_need_the_token_and_other_names_are_not_answered(store: Path) -> None:
    with lt.serve.Server(store, port=0) as server:
        assert ask(server, "/", Host="localhost:1")[0] == 200 and server.token is None
        assert ask(server, "/", Host="attacker.example")[0] == 403
    with lt.serve.Server(store, host="0.0.0.0", port=0) as server:
        token = server.url.partition("?token=")[2]
        assert len(token) > 20
        for path in ("/", PLACE, "/events", f"{PLACE}/events", f"/?token={token[:-1]}"):
            assert ask(server, path)[0] == 401
        status, headers, _ = ask(server, f"{PLACE}?token={token}")
        assert status == 303 and headers["Location"] == PLACE
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert ask(server, PLACE, Cookie=cookie.partition(";")[0])[0] == 200
        assert ask(server, PLACE, Authorization=f"Bearer {token}")[0] == 200
        with pytest.raises(StudyError, match="cannot be listened at"):
            lt.serve.Server(store, port=server.port, host="0.0.0.0")
    with pytest.raises(StoreError, match="there is no such file"):
        lt.serve.Server(store.parent / "none.db", port=0)


def test_a_study_that_goes_away_and_comes_back_is_told(store: Path) -> None:
    with lt.serve.Server(store, port=0, every=0.1) as server:
        stream = events(server, f"{PLACE}/events")
        assert next(stream)[0] == "message"
        with lt.open_store(store) as opened:
            opened.delete(NAME)
        while (told := next(stream))[0] != "trouble":
            pass
        assert "deleted" in told[1] or "no study" in told[1]
        assert tune(store, 3).wait() == 0
        for kind, told in stream:
            if kind == "message" and any("3 of 3 trials finished" in part["html"] for part in told["parts"]):
                break


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_sees_a_study_go_on_and_runs_no_text_of_users(tmp_path: Path) -> None:
    store = tmp_path / "a.db"
    assert tune(store, 5).wait() == 0
    with lt.serve.Server(store, port=0, every=0.2) as server, Browser(tmp_path, (500, 900)) as page:
        page.open(server.url)
        page.wait("document.querySelector('.studies a')")
        page.run("document.querySelector('.studies a').click()")
        page.wait("document.documentElement.dataset.drawn > 3")
        before = int(page.run("document.documentElement.dataset.updates"))
        page.run("document.querySelector('#table').dataset.here = 1; window.here = 1")
        running = tune(store, 12, 0.3)
        page.wait("document.querySelector('#running svg.spark polyline')")
        page.wait("document.querySelectorAll('#trials tbody tr').length == 12", 120)
        assert running.wait() == 0
        assert int(page.run("document.documentElement.dataset.updates")) > before
        assert page.run("window.here") == 1  # without a reload
        page.wait("document.querySelector('#state').className == 'live'")
        assert page.run("document.documentElement.scrollWidth") <= 500

        page.run(
            "const words = document.getElementById('filter'); words.value = 'failed';"
            "words.dispatchEvent(new Event('input'))"
        )
        assert page.run("[...document.querySelectorAll('#trials tbody tr')].filter((row) => !row.hidden).length") == 1
        page.run("document.querySelector('#trials tbody tr:not([hidden]) a').click()")
        page.wait("document.querySelector('#error')")
        assert "<script>alert(3)</script> [/data] went wrong" in page.run("document.querySelector('#error').innerText")
        assert page.run("document.querySelector('h1').innerText") == "Trial 3"
        light = page.run("getComputedStyle(document.body).backgroundColor")
        page.dark()
        assert page.run("getComputedStyle(document.body).backgroundColor") != light
        assert (
            page.run("document.documentElement.dataset.error || document.documentElement.dataset.blocked || ''") == ""
        )
        assert not page.said, page.said


FIRST = """
(() => {
  const look = () => {
    const drawn = document.querySelectorAll(".plot svg.main-svg:first-child").length;
    if (drawn) window.atFirst = drawn;
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})()
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_the_page_is_there_before_its_figures(store: Path, tmp_path: Path) -> None:
    with lt.serve.Server(store, port=0, every=0.2) as server, Browser(tmp_path) as page:
        page.call("Page.addScriptToEvaluateOnNewDocument", source=FIRST)
        page.open(server.url + PLACE[1:])
        page.wait("window.atFirst && luthier.waiting() == 0")
        assert page.run("window.atFirst") < page.run(
            "document.querySelectorAll('.plot svg.main-svg:first-child').length"
        )
        # what draws the figures never comes, and nothing else misses it
        page.call("Network.enable")
        page.call("Network.setCacheDisabled", cacheDisabled=True)
        page.call("Network.setBlockedURLs", urls=["*plotly.js"])
        page.open(server.url + PLACE[1:])
        page.wait("!window.Plotly && document.querySelectorAll('#trials tbody tr a').length == 6")
        assert page.run("document.documentElement.dataset.error || ''") == ""
        assert page.run("luthier.waiting()") > 2 and page.run("document.querySelector('#state').className") == "live"


def test_a_thousand_trials(tmp_path: Path) -> None:
    store = lt.open_store()
    lt.tune(lambda config: config["lr"], space=SPACE, trials=1000, store=store, name="big", progress=False)
    live = Live(store, "big")
    begun = time.thread_time()
    parts = live.parts()
    assert time.thread_time() - begun < 2.0 and {part.id for part in parts} >= {"header", "table"}
    live._judged = (1000, time.monotonic(), 1.0)
    with lt.Study("big", SPACE, store=store, trials=1010) as study:
        for job in study.ask(3):
            study.tell(job, 0.5)
    live._next.clear()
    begun = time.thread_time()
    again = live.parts()
    took = time.thread_time() - begun
    assert again is not parts and took < 1.0  # 0.1 s on a machine that does nothing else
    assert threading.active_count() < 50
