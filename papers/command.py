"""The one command line of papers/*/run.py: run what is missing, write the tables, draw the figures.

A paper is run at two sizes. The reduced one is committed: results.json, the figures and the tables of the README lie in
the paper's folder. The larger one (``--full``), the paper's own as far as it gives one, writes full.json, and its
figures under full/, and leaves the reduced results alone. Both are kept after every step, so the same command goes on
where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import luthier as lt
from papers import tables

ROOT = Path(__file__).resolve().parent


@dataclass
class Run:
    """One size of a paper while it is run.

    Args:
        size: How large everything is: the paper's own dataclass of numbers.
        device: Where networks are trained: ``"cpu"``, ``"cuda:1"``.
        file: Where the results are kept.
        folder: Where figures, and what else is kept, go.
        parts: Which parts to run; all of them if empty.
        results: What ``file`` holds.
    """

    size: Any
    device: str
    file: Path
    folder: Path
    parts: Sequence[str]
    results: dict[str, Any]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The runs there are."""
        return self.results["runs"]

    def made(self, **place: Any) -> bool:
        """Whether there is a run of this method, seed, …"""
        return any(place.items() <= row.items() for row in self.rows)

    def keep(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add runs, write the file, and say so."""
        self.rows.extend(rows)
        self.write()
        for row in rows:
            shown = {name: value for name, value in row.items() if not isinstance(value, list | dict)}
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in shown.items()}, flush=True)

    def write(self) -> None:
        """Write the file."""
        self.file.write_text(text(self.results))

    def clock(self) -> float:
        """Seconds that count: of the processor, or of the wall where an accelerator does the work."""
        return time.process_time() if torch.device(self.device).type == "cpu" else time.perf_counter()


@dataclass(frozen=True)
class Paper:
    """What a paper adds to the command line.

    Args:
        name: Its folder under papers/.
        about: Said by ``--help``.
        reduced: The committed size, a dataclass.
        full: The larger size, of the same class.
        work: Runs what has not been run.
        tables: The tables of its README.
        draw: Writes its figures into the run's folder.
        also: Other files and folders that a size keeps in its folder; dropped by ``--anew``.
        parts: What can be run alone; a run is then of one ``"part"``.
    """

    name: str
    about: str | None
    reduced: Any
    full: Any
    work: Callable[[Run], None]
    tables: Callable[[], dict[str, Any]]
    draw: Callable[[Run], None]
    also: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


def tuned(*arguments: Any, **settings: Any) -> lt.Study:
    """``lt.tune``; a study in which every training diverged is a result too."""
    try:
        return lt.tune(*arguments, **settings)
    except lt.errors.StudyError as error:
        if error.study is None:
            raise
        return error.study


def main(paper: Paper, given: Sequence[str] | None = None, root: Path = ROOT) -> Run:
    """Do what the command line says.

    Args:
        paper: Which.
        given: The command line; that of the process by default.
        root: The folder in which the paper's folder lies.

    Raises:
        SystemExit: With status 2, for what cannot be done: a device that is not there, results of another size.
    """
    parser = _parser(paper)
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    try:  # now, and not after hours in the first training
        lt.Split(torch.zeros(1), torch.zeros(1)).to(options.device)
    except lt.LuthierError as error:
        parser.error(f"--{error}")
    home = root / paper.name
    run = Run(
        size=paper.full if options.full else paper.reduced,
        device=options.device,
        file=home / ("full.json" if options.full else "results.json"),
        folder=home / "full" if options.full else home,
        parts=getattr(options, "parts", ()) or paper.parts,
        results={"runs": []},
    )
    run.folder.mkdir(parents=True, exist_ok=True)
    if run.file.exists():
        run.results = json.loads(run.file.read_text())
    if options.anew:
        _drop(run, paper)
    problem = _nothing(run) if options.figures else _begin(run, paper, options.full)
    if problem:
        parser.error(problem)
    if not options.figures:
        paper.work(run)
    run.results["tables"] = paper.tables()
    run.write()
    paper.draw(run)
    readme = home / "README.md"
    if not options.full and readme.exists():
        readme.write_text(tables.filled(readme.read_text(), run.results))
    for name in run.results["tables"]:
        print(tables.render(run.results, name), end="\n\n")
    return run


def text(results: Mapping[str, Any]) -> str:
    """Results as JSON, one run a line."""
    lines = []
    for name, value in results.items():
        rows = ",\n".join(map(json.dumps, value)) if name == "runs" else None
        lines.append(f"{json.dumps(name)}: " + (json.dumps(value) if rows is None else f"[\n{rows}\n]"))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _parser(paper: Paper) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m papers.{paper.name}.run",
        description=paper.about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--full", action="store_true", help="a larger size: full.json, and figures under full/")
    parser.add_argument("--device", default="cpu", help="where networks are trained, such as cuda; by default the CPU")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--figures", action="store_true", help="run nothing: only draw and write the tables again")
    what.add_argument("--anew", action="store_true", help="drop earlier results of this size and run everything")
    if paper.parts:
        parser.add_argument("parts", nargs="*", choices=[*paper.parts, []], help="run these alone")
    return parser


def _drop(run: Run, paper: Paper) -> None:
    """Forget what was run before: all of it, or the parts that are asked for."""
    run.results = {"runs": [row for row in run.rows if paper.parts and row["part"] not in run.parts]}
    run.write()
    for name in paper.also:
        place = run.folder / name
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def _nothing(run: Run) -> str | None:
    """Why nothing can be drawn, if so."""
    return None if run.rows else f"there is nothing to draw in {run.file}: leave --figures out to run the experiment"


def _begin(run: Run, paper: Paper, full: bool) -> str | None:
    """Write down how it is run, or say why it cannot be."""
    told: dict[str, Any] = {"size": json.loads(json.dumps(asdict(run.size))), "device": run.device}
    for name, value in told.items():
        if run.results.setdefault(name, value) != value:
            return (
                f"{run.file} was run with {name} {run.results[name]}, which is not {value}: add --anew to drop what is "
                "there and run everything again"
            )
    run.results["command"] = f"python -m papers.{paper.name}.run{' --full' if full else ''}"
    run.results["machine"] = {**_machine(run.device), "threads": 1}
    return None


def _machine(device: str) -> dict[str, str | int]:
    told = lt.environment()
    if torch.device(device).type == "cuda":
        told["accelerator"] = torch.cuda.get_device_name(device)
    return told
