"""Text of users is shown as it is: never markup, never obeyed by a terminal or a spreadsheet, always writable."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from postgres import postgres_url
from typer.testing import CliRunner

import luthier as lt
from luthier.cli import app
from luthier.errors import MethodError, StoreError, StudyError
from luthier.files import write_whole
from luthier.store import open_store
from luthier.study.progress import LiveLine, PlainLines, Tick
from luthier.text import plain, public_url, without_secrets

__all__ = ["postgres_url"]  # a fixture

NAME = "[/b] :smile: study"
METRIC = "[red]gain[/red]:boom:"
ANSI = "\x1b]0;owned\x07\x1b[2J\x9b2J"
WIDE = "\N{FULLWIDTH EQUALS SIGN}"
FILE = os.fsdecode(b"scan-\xff.png")
KEPT = ["<img src=x onerror=luthier()>", f"&lt;script&gt;{ANSI}", FILE, "a b'\"c.txt"]
HOSTILE = f"cannot open [/data/train] {FILE} \0 :warning: {ANSI} [link=http://x]y[/link]"
OPTIONS = [
    "=cmd|' /C calc'!A0",
    "@SUM(1)",
    "+1+1",
    "-2+3",
    "\t=1",
    "\r=1",
    " =1",
    f"{WIDE}1",
    "[/z]",
    "-1.5",
    "<script>luthier",
]


def objective(config: dict[str, Any], trial: Any) -> dict[str, float]:
    if trial.number % 3 == 1:
        raise type("=HYPERLINK[/q]", (Exception,), {})(HOSTILE)
    trial.report(1, **{METRIC: 1.0})
    trial.note(**{"<script>luthier": ["<script>luthier", ANSI]})
    for name in KEPT:
        (trial.folder / name).write_text("curve")
    return {METRIC: float(trial.number), "=1+1": -1.5, "loss [/l]": float("-inf")}


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    space = lt.Space(x=lt.Float(-1.0, 1.0), act=lt.Choice(OPTIONS))
    url = str(tmp_path / "a.db")
    lt.tune(objective, "grid", space=space, metric=METRIC, mode="max", store=url, name=NAME, progress=False, trials=33)
    return url


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_no_text_is_markup_emoji_or_an_order_to_the_terminal(store: str) -> None:
    for text in (run("show", NAME, "--store", store, "--last", "40"), run("studies", "--store", store)):
        assert NAME.split()[0] in text and METRIC in text and ":smile:" in text
        assert "\x1b" not in text and "\x07" not in text and "\x9b" not in text
    flat = "".join(run("show", NAME, "--store", store, "--last", "40").split())
    for whole in ("cannotopen[/data/train]", "[/z]", "\\udcff", "\\x1b[2J", "\\x00", ":warning:"):
        assert whole in flat
    wrong = CliRunner().invoke(app, ["show", f"[/nobody] {ANSI}", "--store", store])
    assert wrong.exit_code == 1 and "[/nobody]" in wrong.output and "\x1b" not in wrong.output
    wrong = CliRunner().invoke(app, ["show", "a", "[/b] :smile:"])
    assert wrong.exit_code == 2 and "[/b] :smile:" in wrong.output


def test_progress_shows_text_as_it_is() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    tick = Tick(1, 0, 2, 1, 0.5, METRIC)
    for kind, stream in ((PlainLines, io.StringIO()), (LiveLine, Terminal())):
        shower = kind(NAME, stream)
        shower.show(tick)
        shower.say(HOSTILE)
        shower.close(tick)
        text = stream.getvalue()
        assert METRIC in text and "[/data/train]" in text and ":warning:" in text and "\\x1b[2J" in text
        assert "\x1b]0;" not in text and "\udcff" not in text


def test_an_export_is_neither_run_by_a_spreadsheet_nor_refused_by_an_encoding(store: str, tmp_path: Path) -> None:
    run("export", NAME, "--store", store, "-o", str(tmp_path / "rows.csv"))
    rows = list(csv.reader((tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()))
    cells = [cell for row in rows for cell in row]
    for cell in cells:
        if cell.strip()[:1] in tuple(f"=+-@{WIDE}\t\r") and cell:
            float(cell)  # a number, and nothing else
    assert "-1.5" in cells and "'=cmd|' /C calc'!A0" in cells and f"'{WIDE}1" in cells and "-inf" in cells
    assert any("scan-\\udcff.png \\x00" in cell for cell in cells)
    loaded = json.loads(run("export", NAME, "--store", store, "--format", "json"))
    assert {row["config.act"] for row in loaded} == set(OPTIONS)  # JSON is data: it has what was there
    assert any("scan-\\udcff.png \0" in row["error"] for row in loaded)
    json.dumps(loaded, ensure_ascii=False).encode("utf-8")  # whoever reads it can write it
    lt.Study.load(NAME, store).to_pandas().to_csv(tmp_path / "frame.csv")
    assert "scan-\\udcff.png" in (tmp_path / "frame.csv").read_text(encoding="utf-8")


def test_an_output_that_is_not_utf_8_gets_escapes(store: str) -> None:
    command = [sys.executable, "-m", "luthier", "show", NAME, "--last", "40", "--store", store]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and b"\\uff1d1" in done.stdout


def test_the_report_page_runs_no_text(store: str, tmp_path: Path) -> None:
    page = Path(run("report", NAME, "--store", store, "-o", str(tmp_path / "p.html")).strip()).read_text()
    body = page[: page.index('<script type="application/json"')].partition("</head>")[2]
    for name in ("&lt;img src=x onerror=luthier()&gt;", "&amp;lt;script&amp;gt;\\x1b]0;owned\\x07", "scan-\\udcff.png"):
        assert f"{name} <span class=muted>5 bytes" in body or name in body
    assert "<img src=x" not in body and body.count("5 bytes") == 4 * 22, "of each trial that did not fail"
    assert "<script>luthier" not in page and "&lt;script&gt;luthier" in body and METRIC in body and "\x1b" not in body


@pytest.mark.server
def test_postgresql_keeps_such_text_too(postgres_url: str, tmp_path: Path) -> None:
    space = lt.Space(x=lt.Choice(["[/a]", "\0", os.fsdecode(b"\xff")]))
    with open_store(postgres_url, checkpoints=tmp_path) as store:
        study = lt.tune(
            objective, "grid", space=space, metric=METRIC, mode="max", store=store, name=NAME, progress=False
        )
        assert [trial.config["x"] for trial in study.trials] == [
            trial.config["x"] for trial in lt.Study.load(NAME, store).trials
        ]
        assert HOSTILE in lt.Study.load(NAME, store).trials[1].error
    with pytest.raises(StoreError, match="cannot name a study"):
        open_store(postgres_url, checkpoints=tmp_path).create("a\0", {})


def test_plain_leaves_what_people_write() -> None:
    for text in ("naïve 学習率 · 0.5\n\tnext", "👩‍🔬", "α → β", ""):
        assert plain(text) == text
    assert plain("a\u202eb\x85\ud800") == "a\\u202eb\\x85\\ud800"


# -- files ---------------------------------------------------------------------------------------------------------


def test_a_file_is_written_whole_by_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, target = tmp_path / "victim", tmp_path / "out.txt"
    victim.write_text("precious")
    target.symlink_to(victim)
    write_whole(target, "new")  # the link is replaced, what it points to is left alone
    assert victim.read_text() == "precious" and target.read_text() == "new" and not target.is_symlink()

    target.chmod(0o640)
    write_whole(target, b"newer")
    assert target.read_bytes() == b"newer" and target.stat().st_mode & 0o777 == 0o640
    previous = os.umask(0o027)
    try:
        assert write_whole(tmp_path / "fresh", "x").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(previous)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "fsync", full)
        write_whole(target, "lost")
    assert target.read_bytes() == b"newer" and sorted(path.name for path in tmp_path.iterdir()) == [
        "fresh",
        "out.txt",
        "victim",
    ]
    with pytest.raises(OSError):
        write_whole(tmp_path, "a folder")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", "through")
    assert os.read(reader, 99) == b"through"
    os.close(reader)


def test_an_export_to_the_standard_output_by_its_name(store: str, tmp_path: Path) -> None:
    with (tmp_path / "rows.csv").open("wb") as out:
        command = [sys.executable, "-m", "luthier", "export", NAME, "--store", store, "-o", "/dev/stdout"]
        subprocess.run(command, stdout=out, check=True)
    assert (tmp_path / "rows.csv").read_text().startswith("number,") and Path("/dev/stdout").is_symlink()


# -- passwords -----------------------------------------------------------------------------------------------------

SECRET = "s3cr3t"
URLS = [
    f"postgresql://me:{SECRET}@127.0.0.1:1/db",
    f"postgres://me@127.0.0.1:1/db?password={SECRET}",
    f"postgresql+psycopg://127.0.0.1:1/db?user=me&password={SECRET}&sslpassword={SECRET}",
    f"postgresql://me@127.0.0.1:1/db?pass%77ord={SECRET}",
    f"postgresql://me@127.0.0.1:1/db?PASSWORD={SECRET}",
    f"postgresql://me@127.0.0.1:1/db?passfile=/home/{SECRET}",
    f"postgresql://me:{SECRET}/x@127.0.0.1:1/db",
    f"postgresql://me:a/{SECRET}@127.0.0.1:1/db",
    f"postgresql://me:a@{SECRET}@127.0.0.1:1/db",
    f"postgresql://me:a?{SECRET}@127.0.0.1:1/db",
    f"postgresql://me:{SECRET}@127.0.0.1:1,other:2/db",
    f"postgresql://me:{SECRET}@[::1/db",
    f"postgresql://me:{SECRET}@127.0.0.1:port/db",
    f"postgresql://me:{SECRET}@127.0.0.1:1/db?no_such_option={SECRET}&password={SECRET}",
    f"postgresql://me:{SECRET}@127.0.0.1:1/db?timeout=soon",
    f"postgresql:///db?service={'none'}&password={SECRET}",
    f"mysql://me@127.0.0.1/db?password={SECRET}",
    f"mysql://me:{SECRET}@127.0.0.1/db",
    f"postgresq://me:{SECRET}@127.0.0.1/db",
    f"postgres:/me:{SECRET}@127.0.0.1/db",
    f"postgresql//me:{SECRET}@127.0.0.1/db",
    f"postgresql:me:{SECRET}@127.0.0.1/db",
    f"host=127.0.0.1 user=me password={SECRET} dbname=db",
    f"sqlite://me:{SECRET}@host/a.db",
]


@pytest.mark.parametrize("url", URLS)
def test_no_password_is_told(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError) as caught:
        open_store(url)
    error: BaseException | None = caught.value
    while error is not None:  # whatever a traceback would print
        assert SECRET not in str(error) and SECRET not in repr(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for command in (["studies"], ["show", "x"], ["tune", "none.py"], ["export", "x"]):
        result = CliRunner().invoke(app, [*command, "--store", url])
        assert result.exit_code and SECRET not in result.output
    assert not list(tmp_path.iterdir())  # no file of that name was made


def test_wrong_use_of_a_command_shows_no_password() -> None:
    url = f"postgresql://me:{SECRET}@h/db"
    for wrong in (["studies", url], [url], ["show", "s", "--last", url], ["show", "s", f"--{url}"], [f"--{url}"]):
        result = CliRunner().invoke(app, wrong)
        assert result.exit_code == 2 and SECRET not in result.output and "Usage" in result.output


def test_what_is_shown_of_a_url_has_no_password() -> None:
    assert public_url("postgresql://me:a%40b@h:5/db") == "postgresql://me@h:5/db"
    assert (
        public_url("postgresql://h/db?user=me&pass%77ord=x&sslmode=require")
        == "postgresql://h/db?user=me&sslmode=require"
    )
    assert public_url("postgresql://me:a?b@h/db") == "postgresql://me@h/db"
    assert public_url("sqlite:////tmp/a@b.db") == "sqlite:////tmp/a@b.db" and public_url("a@b.db") == "a@b.db"
    assert without_secrets("options lr=0.5, tokens=3, name='x'") == "options lr=0.5, tokens=3, name='x'"
    error = StudyError(
        "no answer from postgresql://me:hidden@h/db", where="password='hid den'", remedy="PGPASSWORD=hidden"
    )
    assert "hid" not in str(error) and "no answer from postgresql://me:***@h/db" in str(error)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://host/a.db", r"a host stands where a path begins.*sqlite:///a\.db"),
        ("sqlite://a.db", "a host stands where"),
        ("postgres:/host/db", "'postgres…' is no store that luthier knows"),
        ("postgresq://host/db", "'postgresq://host/db' is no store"),
        ("sqlite:/a.db", "is no store"),
        ("sqlite//a.db", "is no store"),
        ("file:a.db?mode=ro", "is no store"),
        (Path("postgresql://host/db"), "is no store"),
        ("dbname=x", "is no store"),
    ],
)
def test_a_misspelt_address_makes_no_file(
    url: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=message):
        open_store(url)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_says_so_and_leaves_what_was_there(store: str, tmp_path: Path) -> None:
    study = lt.Study.load(NAME, store)
    schedule = study.front[0].schedule
    with pytest.raises(MethodError, match="cannot be written"):
        schedule.save(tmp_path / "no" / "s.json")
    result = CliRunner().invoke(app, ["export", NAME, "--store", store, "-o", str(tmp_path / "no" / "s.csv")])
    assert result.exit_code == 2 and "cannot be written" in result.output
