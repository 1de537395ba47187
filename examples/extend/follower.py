"""Log each new best result as a row of a Markdown table."""

import tempfile
from pathlib import Path

import luthier as lt


class Log(lt.follow.Follower):
    """Write a table of the best so far; after a resume it is the table of the whole study."""

    def __init__(self, path):
        self.path, self.best = Path(path), float("inf")

    def started(self, study):
        self.best = float("inf")
        self.path.write_text("| trial | value | configuration |\n|---|---|---|\n")

    def events(self, history, new):
        name = next(iter(history.objectives))
        with self.path.open("a") as file:
            for event in new:
                if not isinstance(event, lt.Result) or not history.good[event.number]:
                    continue
                value = history.values[event.number, 0]  # minimised, whatever the study's direction
                if value < self.best:
                    self.best = value
                    config = ", ".join(f"{key} = {item:.4g}" for key, item in history.jobs[event.number].config.items())
                    file.write(f"| {event.number} | {event.metrics[name]:.4g} | {config} |\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        space, path, again = lt.Space(x=lt.Float(-1, 1)), Path(folder, "best.md"), Path(folder, "again.md")
        settings = {"space": space, "trials": 30, "mode": "max", "store": f"{folder}/study.db", "name": "log"}
        study = lt.tune(lambda c: 1 - c["x"] ** 2, callbacks=Log(path), progress=False, **settings)
        lt.follow.replay(lt.Study.load("log", settings["store"]), Log(again))
        rows = path.read_text().splitlines()[2:]
        print(f"{len(rows)} rows, the last the best:", f"{study.best.value:.4g}" in rows[-1], end=", ")
        print("replayed alike:", again.read_text() == path.read_text())
