"""How soon the live page of a study of 1,000 trials is there, and what an update costs its server.

    python benchmarks/page.py [--trials 1000] [--repeats 5] [--pictures FOLDER] [--output FILE]

``luthier serve`` runs in a process of its own on an SQLite file; a headless Chromium opens the study's page, each time
a new one with an empty cache. Clocks of the browser itself, from the moment at which the address is opened: when the
head of the page, its table and the first figure are painted (*first paint*: what fills a window of 1300 x 1000), and
when all that lies below has come too. The first of the repeats is also the server's first look at the study.

Then a writer brings one result a time; given is the processor time that the server takes until it has sent the changed
parts. It asserts TARGETS. --pictures writes screenshots: light and dark, wide and 500 pixels. About a minute.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import luthier as lt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the tests' browser
from tests.browser import BROWSER, Browser

NAME, STEPS = "digits", 10
SPACE = lt.Space(
    lr=lt.Float(1e-4, 1.0, log=True),
    weight_decay=lt.Float(1e-6, 1e-1, log=True),
    dropout=lt.Float(0.0, 0.5),
    layers=lt.Int(1, 8),
    width=lt.Int(16, 512, log=True),
    act=lt.Choice(["relu", "tanh", "gelu"]),
)
TARGETS = {"first paint, s": 2.0, "an update, ms of the server's processor": 200.0}
# the first animation frames at which parts of the page are there, by the browser's clock since the navigation
WATCH = """
(() => {
  const marks = document.documentElement.dataset;
  const look = () => {
    if (document.querySelector("#header .tile") && document.querySelector("#trials tbody tr")) {
      marks.head ??= performance.now();
    }
    if (marks.head && document.querySelector("main .plot svg")) marks.first ??= performance.now();
    if (marks.first && !luthier.waiting()) marks.all = performance.now();
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})()
"""


def tell(study: lt.Study, jobs: list[lt.Job]) -> None:
    """Train jobs virtually: a few fail, some are stopped early."""
    for job in jobs:
        chance = random.Random(job.number)
        floor = 0.1 + abs(job.config["dropout"] - 0.2) + 0.05 * abs(job.config["layers"] - 4) + 0.1 * chance.random()
        for step in range(1, STEPS + 1):
            study.report(job, step, loss=floor + 2.0 / (step + 1), accuracy=1 - floor / 2 - 0.3 / step)
        if chance.random() < 0.03:
            study.tell(job, status="failed", error=f"RuntimeError: layer {chance.randint(1, 4)} does not fit")
        else:
            study.tell(job, {"loss": floor + 2.0 / (STEPS + 1), "accuracy": 1 - floor / 2 - 0.3 / STEPS})


def fill(store: Path, trials: int) -> None:
    """A study with so many trials that have ended."""
    with lt.Study(NAME, SPACE, metric="loss", store=store, seed=0, trials=trials, steps=STEPS) as study:
        while jobs := study.ask(50):
            tell(study, jobs)


@contextmanager
def served(store: Path) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: its address and its process."""
    command = [sys.executable, "-m", "luthier", "serve", str(store), "--port", "0", "--every", "0.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.terminate()


def processor(pid: int) -> float:
    """Processor seconds that a process has taken, all its threads together."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def opened(url: str, folder: Path) -> dict[str, float]:
    """Seconds until the page is there, and then all of it."""
    with Browser(folder) as page:
        page.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        page.open(url)
        page.wait("document.documentElement.dataset.all")
        marks = json.loads(page.run("JSON.stringify(document.documentElement.dataset)"))
    names = {"head": "head and table, s", "first": "first paint, s", "all": "all figures, s"}
    return {names[name]: float(marks[name]) / 1e3 for name in names}


def updates(url: str, pid: int, store: Path, trials: int, count: int = 10) -> list[float]:
    """Milliseconds of the server's processor for each of some updates, while one browser looks."""
    stream = urllib.request.urlopen(f"{url}/events", timeout=60)

    def told() -> None:
        while not stream.readline().startswith(b"data: {"):
            pass

    told()
    told()  # the importance of hyperparameters, which comes later than the rest
    taken = []
    with lt.Study(NAME, SPACE, metric="loss", store=store, seed=0, trials=trials + count, steps=STEPS) as study:
        for _ in range(count):
            jobs = study.ask(1)
            begun = processor(pid)
            tell(study, jobs)
            told()
            time.sleep(1.5)  # longer than the server waits after an update
            taken.append(1e3 * (processor(pid) - begun))
    stream.close()
    return taken


def pictures(url: str, folder: Path, to: Path) -> None:
    """Screenshots of the page, light and dark, wide and narrow."""
    to.mkdir(parents=True, exist_ok=True)
    for size in ((1300, 1000), (500, 900)):
        with Browser(folder / str(size[0]), size) as page:
            page.open(url)
            page.wait("document.documentElement.dataset.drawn > 3")
            for theme in ("light", "dark"):
                if theme == "dark":
                    page.dark()
                time.sleep(1.0)
                page.picture(to / f"{size[0]}-{theme}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/page.json"))
    arguments = parser.parse_args()
    if BROWSER is None:
        raise SystemExit("no Chromium is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder, store = Path(place), Path(place, "study.db")
        fill(store, arguments.trials)
        with served(store) as (root, pid):
            url = f"{root}study/{NAME}"
            runs = [opened(url, folder / str(n)) for n in range(arguments.repeats)]
            taken = updates(url, pid, store, arguments.trials)
            if arguments.pictures:
                pictures(url, folder, arguments.pictures)
    results: dict[str, Any] = {
        name: {"median": round(statistics.median(run[name] for run in runs), 3), "first": round(runs[0][name], 3)}
        for name in runs[0]
    }
    results["an update, ms of the server's processor"] = {
        "median": round(statistics.median(taken), 1),
        "highest": round(max(taken), 1),
    }
    print(json.dumps(results, indent=2))
    machine = {**lt.environment("plotly"), "trials": arguments.trials, "repeats": arguments.repeats}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")
    missed = {name: results[name]["median"] for name, most in TARGETS.items() if results[name]["median"] > most}
    raise SystemExit(f"above target: {missed}" if missed else 0)


if __name__ == "__main__":
    main()
