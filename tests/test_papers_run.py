"""The command of every paper, at its larger size cut down: it runs, goes on, draws, and leaves the committed alone."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAPERS = ROOT / "papers"

# What each paper's larger size is cut down to, and the figures that its command draws.
SMALL: dict[str, tuple[dict[str, Any], set[str]]] = {
    "autotune": (
        {"seeds": 1, "epochs": 1, "trials": 0.1, "networks": ("2-3-1",), "datasets": (2,)},
        {"random", "grid", "bayesian_tpe", "bayesian_gp", "hypergradient", "pbt", "pbt_schedules"},
    ),
    "genetic": (
        {"train": 128, "valid": 100, "epochs": 1, "channels": (2, 2), "hidden": 4, "seeds": 1}
        | {"example": (2, 2), "pixels": 14, "elsewhere": 1},
        {"figure1", "compared"},
    ),
    "gflownet": (
        {"rows": 1_000, "rates": 4, "epochs": 10, "draws": 4, "scored": 10, "seeds": 1},
        {"violin", "loss", "map"},
    ),
    "hypernets": (
        {"seeds": 1, "asked": 5, "part": 0.01},
        {"figure2", "figure3", "figure4", "few"},
    ),
    "joint_enas": (
        {"train": (256,) * 3, "valid": (100,) * 3, "epochs": (1,) * 3, "trainings": (10,) * 3, "seeds": (1,) * 3}
        | {"draws": (2,) * 3, "draw_steps": (2,) * 3, "scale": (2,) * 3, "batch": (32,) * 3, "child": (2,) * 3},
        {f"{curve}_{stage}" for curve in ("entropy", "shared_accuracy") for stage in ("large", "long", "short")},
    ),
}


@pytest.fixture
def papers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """papers.command; the folder is no package that is installed."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("papers.command")


def cut_down(name: str) -> Any:
    paper = importlib.import_module(f"papers.{name}.run").PAPER
    return replace(paper, full=replace(paper.full, **SMALL[name][0]))


def test_every_paper_has_the_command() -> None:
    assert set(SMALL) == {file.parent.name for file in PAPERS.glob("*/run.py")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The optimal value found")  # scikit-learn, of networks that have hardly trained
@pytest.mark.parametrize("name", SMALL)
def test_the_full_size_runs_and_goes_on(name: str, papers: Any, tmp_path: Path) -> None:
    paper = cut_down(name)
    home = tmp_path / name
    home.mkdir()
    (home / "README.md").write_text("kept")
    run = papers.main(paper, ["--full", "--device", "cpu"], tmp_path)

    kept = json.loads((home / "full.json").read_text())
    assert kept["runs"] == json.loads(json.dumps(run.rows)) and kept["runs"]
    assert kept["command"] == f"python -m papers.{name}.run --full" and kept["device"] == "cpu"
    assert kept["size"]["seeds"] in (1, [1, 1, 1]) and set(kept["tables"]) == set(paper.tables())
    assert {file.stem for file in (home / "full").glob("*.png")} == SMALL[name][1]
    assert (home / "README.md").read_text() == "kept" and not (home / "results.json").exists()

    kept["runs"][0]["mark"] = True  # a run that is there is not run again
    whole = name != "autotune"  # whose runs are read from the studies in its store
    (home / "full.json").write_text(papers.text({**kept, "runs": kept["runs"][: -1 if whole else None]}))
    again = papers.main(paper, ["--full"], tmp_path)
    assert len(again.rows) == len(kept["runs"])
    assert ("mark" in again.rows[0]) == whole


def test_the_device_must_be_there(papers: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in SMALL:
        with pytest.raises(SystemExit, match="2"):
            papers.main(cut_down(name), ["--full", "--device", "cuda:99"], tmp_path)
        told = capsys.readouterr().err
        assert "device='cuda:99' cannot be used" in told and "Name a device that this machine has" in told
    assert not list(tmp_path.iterdir())


def test_the_device_reaches_the_tasks(papers: Any) -> None:
    """A name that torch knows and that nothing can be trained on, so that no other device can be meant."""
    network, data = (
        importlib.import_module("papers.autotune.problems"),
        importlib.import_module("luthier").data.digits(),
    )
    assert network.task("2-3-1", data, device="meta").device == "meta"
    genetic = importlib.import_module("papers.genetic.run")
    assert genetic.task_of(genetic.ARMS["log random"], genetic.REDUCED, "meta").device == "meta"
    assert importlib.import_module("papers.gflownet.sweep").task(100, "meta").device == "meta"
    joint = importlib.import_module("papers.joint_enas.run")
    assert joint.task_of(joint.JOINT, joint.REDUCED.stage("short"), "meta").device == "meta"


def test_results_of_another_size_are_not_gone_on_with(
    papers: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = replace(
        cut_down("genetic"), work=lambda run: run.keep([{"method": "random", "seed": 0}]), draw=lambda run: None
    )
    papers.main(paper, ["--full"], tmp_path)
    other = replace(paper, full=replace(paper.full, epochs=2))
    with pytest.raises(SystemExit, match="2"):
        papers.main(other, ["--full"], tmp_path)
    assert "--anew" in capsys.readouterr().err
    assert len(papers.main(paper, ["--full"], tmp_path).rows) == 2  # this one goes on
    run = papers.main(other, ["--full", "--anew"], tmp_path)
    assert len(run.rows) == 1 and run.results["size"]["epochs"] == 2


def test_anew_drops_what_a_size_keeps(papers: Any, tmp_path: Path) -> None:
    paper = replace(cut_down("gflownet"), work=lambda run: None, draw=lambda run: None)
    for folder in (tmp_path / "gflownet", tmp_path / "gflownet" / "full"):
        folder.mkdir()
        (folder / "sweep.json").write_text("{}")
    papers.main(paper, ["--full"], tmp_path)
    assert (tmp_path / "gflownet" / "full" / "sweep.json").exists()
    papers.main(paper, ["--full", "--anew"], tmp_path)
    assert not (tmp_path / "gflownet" / "full" / "sweep.json").exists()
    assert (tmp_path / "gflownet" / "sweep.json").exists()


def test_parts_are_dropped_alone(papers: Any, tmp_path: Path) -> None:
    def work(run: Any) -> None:
        run.keep([{"part": part, "method": "a", "seed": 0} for part in run.parts if not run.made(part=part)])

    paper = replace(cut_down("hypernets"), work=work, draw=lambda run: None)
    every = len(papers.main(paper, ["--full"], tmp_path).rows)
    rows = papers.main(paper, ["few", "--full", "--anew"], tmp_path).rows
    assert every == len(rows) == len(paper.parts) and rows[-1]["part"] == "few"


def test_nothing_can_be_drawn_of_nothing(papers: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        papers.main(cut_down("genetic"), ["--figures"], tmp_path)
    assert "leave --figures out" in capsys.readouterr().err


def test_results_are_one_run_a_line(papers: Any) -> None:
    results = {"size": {"seeds": 1}, "runs": [{"a": 1.5, "b": [1, 2]}, {"a": float("nan")}], "tables": {}}
    text = papers.text(results)
    assert text.count("\n") == 8 and repr(json.loads(text)) == repr(results)
    assert papers.text({"runs": []}) and json.loads(papers.text({"runs": []})) == {"runs": []}


@pytest.mark.slow
def test_why_the_joint_controller_learns_little_is_measured_as_it_says(papers: Any, monkeypatch: Any) -> None:
    why = importlib.import_module("papers.joint_enas.why")
    stage = replace(why.STAGE, train=256, valid=100, trainings=4, draws=4, draw_steps=3)
    monkeypatch.setattr(why, "STAGE", stage)
    task = importlib.import_module("papers.joint_enas.stages").task_of(why.JOINT, stage, "cpu")
    whole = stage.epochs * stage.train // stage.batch
    row = why.longer("unrolled", 3, task, 0)
    searched = 3 * 2 * whole - 4 * 3  # half of the four trainings, three times, less the draws
    assert row["search_steps"][-1] == searched and row["steps"] == 8 * whole and row["updates"] == searched // 12
    assert len(row["curves"]["lr"]) == len(row["search_steps"])
    assert row["curves"]["lr"][-1] == pytest.approx(row["lr"], 1e-3)
    assert why.longer("random", 3, task, 0)["steps"] == 8 * whole

    monkeypatch.setattr(why, "DRAWN", 12)
    monkeypatch.setattr(why, "WHOLE", whole)
    monkeypatch.setattr(why, "EDGES", (3e-4, 1e-1))
    for weights in ("fresh", "safe"):
        row = why.drawn(weights, whole, task, 0)
        assert 0 < row["drawn"] < 12 and 0 < row["loss from 0.0003"] and 5 < row["accuracy from 0.0003"] < 100
