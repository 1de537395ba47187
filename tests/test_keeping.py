"""Studies copied, backed up, renamed, deleted, and their weights taken out, by the commands."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from postgres import postgres_url
from torch import nn
from typer.testing import CliRunner

import luthier as lt
from luthier.cli import app
from luthier.store import copying, open_store

__all__ = ["postgres_url"]  # a fixture

DRAWN = torch.Generator().manual_seed(0)


def part(rows: int) -> lt.Split:
    return lt.Split(torch.randn(rows, 4, generator=DRAWN), torch.randint(0, 2, (rows,), generator=DRAWN))


TASK = lt.TorchTask(
    space=lt.Space(lr=lt.Float(1e-3, 1.0, log=True)),
    model=lambda config: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)),
    data=lt.Splits(part(40), part(20), part(20)),
    loss=lt.losses.cross_entropy,
    optimizer=lt.optim.SGD(),
    batch_size=10,
)


def pbt(store: Any, trials: int = 3) -> lt.Study:
    return lt.tune(TASK, lt.propose.PBT(rounds=3), trials=trials, steps=9, store=store, name="one", progress=False)


def run(*arguments: str, code: int = 0, answer: str = "") -> str:
    result = CliRunner().invoke(app, list(arguments), input=answer)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def content(store: Any, name: str = "one") -> Any:
    """All that a study says, with the states that its checkpoints hold in the place of their names."""
    with open_store(store, read_only=True) as opened:
        study = lt.Study.load(name, opened)
        history, checkpoints = study.history, study._ledger.checkpoints
        states = {}
        for result in history.results:
            if result is not None and result.checkpoint and result.checkpoint[0] in checkpoints.files():
                state = checkpoints.load(result.checkpoint[0])[0]
                states[result.number] = {
                    name: tensor[result.checkpoint[1]].tolist() for name, tensor in state["params"].items()
                }
        events = [
            (event, None)
            if not isinstance(event, lt.Result)
            else (event.number, event.status, event.metrics, event.steps)
            for event in history.log
        ]
        rows = [
            (one.jobs, one.done, one.best, one.best_value, one.created) for one in opened.studies() if one.name == name
        ]
        return events, history.times, states, rows, study.settings


def check_copies(first: str, second: str, third: str) -> None:
    """There and back again, and each of them goes on by itself."""
    run("copy", "one", "--store", first, "--to", second)
    run("copy", "one", "--store", second, "--to", third)
    assert content(first) == content(second) == content(third)
    assert content(first)[2]  # states that were kept
    assert "already" in run("copy", "one", "--store", first, "--to", second, code=1)
    run("copy", "one", "--store", first, "--to", first, "--as", "two")
    assert content(first, "two")[:3] == content(first)[:3]
    run("delete", "one", "--store", first, "--yes")
    assert content(first, "two")[2] and "there is no study named 'one'" in run("show", "one", "--store", first, code=1)
    before = content(second)
    study = lt.Study.load("one", third)
    best = study.best
    assert best is not None
    again = lt.tune(TASK, lt.propose.PBT(rounds=3), trials=3, steps=9, store=third, name="one", progress=False)
    assert again.best is not None and again.best.number == best.number and len(again.history) == len(study.history)
    torch.testing.assert_close(
        again.model().state_dict(),
        lt.tune(TASK, lt.propose.PBT(rounds=3), trials=3, steps=9, store=second, name="one", progress=False)
        .model()
        .state_dict(),
        rtol=0,
        atol=0,
    )
    assert content(second)[2] == before[2]


def test_a_study_is_copied_with_its_states(tmp_path: Path) -> None:
    first, second, third = (str(tmp_path / name) for name in ("a.db", "b.db", "c.db"))
    pbt(first)
    check_copies(first, second, third)
    with open_store(second) as store, open_store(third) as other:
        ids = {store._uid, other._uid} | {one._find("one").uid for one in (store, other)}
        assert len(ids) == 4


@pytest.mark.server
def test_a_study_goes_to_postgresql_and_back(postgres_url: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("LUTHIER_CHECKPOINTS", str(tmp_path / "shared"))
    pbt(str(tmp_path / "a.db"))
    check_copies(str(tmp_path / "a.db"), postgres_url, str(tmp_path / "c.db"))


def test_what_is_waiting_and_unended_is_copied_and_run_there(tmp_path: Path) -> None:
    space = lt.Space(x=lt.Float(0, 1))
    with lt.Study("one", space, store=tmp_path / "a.db", trials=5) as study:
        jobs = study.ask(3)
        study.tell(jobs[0], 0.5)
        study.report(jobs[1], 1, loss=0.25)
        run("copy", "one", "--store", str(tmp_path / "a.db"), "--to", str(tmp_path / "b.db"))
    with lt.Study("one", space, store=tmp_path / "b.db", trials=5) as other:
        assert [job.number for job in other.ask(3)][:2] == [1, 2]
        assert [job.config for job in other.history.jobs[:3]] == [job.config for job in jobs]


def test_a_copy_of_a_study_that_goes_on_can_go_on_too(tmp_path: Path, monkeypatch: Any) -> None:
    store, taken = str(tmp_path / "a.db"), []
    half = {"trials": 3, "steps": 9, "store": store, "name": "one", "progress": False}
    lt.tune(TASK, lt.propose.PBT(rounds=3), stop=lambda study: len(study.trials) >= 4, **half)

    def snapshot(source: Any, name: str) -> Any:
        taken.append(real(source, name))
        if len(taken) == 1:
            pbt(store)  # ends, and removes the states that the snapshot names
        return taken[-1]

    real = copying._snapshot
    monkeypatch.setattr(copying, "_snapshot", snapshot)
    run("copy", "one", "--store", store, "--to", str(tmp_path / "b.db"))
    assert len(list(tmp_path.glob("b.db.checkpoints/*/luthier.json"))) == 1
    assert pbt(str(tmp_path / "b.db")).best.metrics == pbt(store).best.metrics


def test_a_backup_is_whole_while_a_study_goes_on(tmp_path: Path) -> None:
    store, kept = str(tmp_path / "a.db"), str(tmp_path / "kept.db")
    pbt(store)
    with lt.Study("busy", lt.Space(x=lt.Float(0, 1)), store=store, trials=5) as study:
        study.tell(study.ask(1)[0], 0.5)
        run("backup", "--store", store, "--output", kept)
        study.tell(study.ask(1)[0], 0.25)
    assert content(kept) == content(store) and content(kept)[2]
    assert len(lt.Study.load("busy", kept).trials) == 1
    with sqlite3.connect(kept) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    base.close()
    assert "there is something already" in run("backup", "--store", store, "--output", kept, code=1)
    assert "this is a URL" in run("backup", "--store", store, "--output", "postgresql://host/kept", code=1)
    assert pbt(kept).best is not None


def test_a_backup_fetches_checkpoints_from_a_url(tmp_path: Path) -> None:
    store, kept = str(tmp_path / "a.db"), str(tmp_path / "kept.db")
    with open_store(store, checkpoints=f"memory://{tmp_path.name}/runs") as opened:
        pbt(opened)
    run("backup", "--store", store, "--output", kept)
    assert content(kept) == content(store) and content(kept)[2]
    assert Path(f"{kept}.checkpoints").is_dir()


def test_a_backup_that_fails_leaves_nothing_in_the_way_of_the_next(tmp_path: Path, monkeypatch: Any) -> None:
    store, kept = str(tmp_path / "a.db"), tmp_path / "b" / "kept.db"
    pbt(store)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_disk)
        assert "No space left" in run("backup", "--store", store, "--output", str(kept), code=1)
    assert list(kept.parent.iterdir()) == []
    run("backup", "--store", store, "--output", str(kept))
    assert content(str(kept)) == content(store)


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("folder", ["..", ".", "", "../../mine", "/", "x\\y"])
def test_a_row_that_leads_out_of_the_folder_removes_nothing(folder: str, tmp_path: Path) -> None:
    store, mine = str(tmp_path / "a.db"), tmp_path / "mine" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    pbt(store)
    before = sorted(tmp_path.rglob("*.ckpt"))
    with sqlite3.connect(store) as base:
        base.execute("UPDATE luthier_studies SET folder = ?", (folder,))
    base.close()
    assert "not the name of a folder" in run("show", "one", "--store", store, code=1)
    assert "nothing was read or removed" in run("delete", "one", "--store", store, "--yes", code=1)
    assert mine.read_text() == "mine" and sorted(tmp_path.rglob("*.ckpt")) == before != []
    with open_store(store, read_only=True) as opened:
        assert opened.studies() == [], "its rows are gone"


def test_the_folder_of_another_study_is_not_removed(tmp_path: Path) -> None:
    store = str(tmp_path / "a.db")
    pbt(store)
    run("copy", "one", "--store", store, "--to", store, "--as", "other")
    with sqlite3.connect(store) as base:
        base.execute("UPDATE luthier_studies SET folder = (SELECT folder FROM luthier_studies WHERE name = 'other')")
    base.close()
    before = sorted(tmp_path.rglob("*.ckpt"))
    assert "belongs to another study" in run("delete", "one", "--store", store, "--yes", code=1)
    assert sorted(tmp_path.rglob("*.ckpt")) == before


def test_names_change_and_studies_go(tmp_path: Path) -> None:
    store = str(tmp_path / "a.db")
    pbt(store)
    before = content(store)
    run("rename", "one", "[/b] new", "--store", store)
    assert content(store, "[/b] new")[:3] == before[:3]
    assert "no study named 'one'" in run("rename", "one", "x", "--store", store, code=1)
    run("copy", "[/b] new", "--store", store, "--to", store, "--as", "other")
    assert "already" in run("rename", "other", "[/b] new", "--store", store, code=1)
    assert "Remove other" in run("delete", "other", "--store", store, code=1, answer="n\n")
    run("delete", "other", "--store", store, answer="y\n")
    with open_store(store, read_only=True) as opened:
        assert [one.name for one in opened.studies()] == ["[/b] new"]
    assert "no such file" in run("delete", "x", "--store", str(tmp_path / "no.db"), "--yes", code=1)
    assert "no such file" in run("rename", "x", "y", "--store", str(tmp_path / "no.db"), code=1)
    assert not (tmp_path / "no.db").exists()


def test_weights_are_a_state_dict(tmp_path: Path) -> None:
    store, path = str(tmp_path / "a.db"), tmp_path / "best.pt"
    study = pbt(store)
    run("weights", "one", "--store", store, "--output", str(path))
    loaded = torch.load(path, weights_only=True)
    network = TASK.model({"lr": 0.1})
    network.load_state_dict(loaded)  # strict: all names, no other
    torch.testing.assert_close(network.state_dict(), study.model().state_dict(), rtol=0, atol=0)
    assert "no such job" in run("weights", "one", "--store", store, "-o", str(path), "--job", "999", code=1)
    lt.tune(
        lambda config: config["x"], space=lt.Space(x=lt.Float(0, 1)), trials=2, store=store, name="f", progress=False
    )
    assert "no checkpoint was kept" in run("weights", "f", "--store", store, "-o", str(path), code=1)
