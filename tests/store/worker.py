"""One driver process of a shared study: claims, appends, "trains", records, and writes down what was accepted.

    python worker.py URL LOG TOTAL LEASE SECONDS HOLD MACHINE

It waits for the file "go" beside its log, logs "held NUMBER" before it starts a job and "done NUMBER" after the store
has accepted the result. With HOLD=hold it stops after it has taken jobs late enough, and waits to be killed. With
MACHINE it believes to run on a machine of that name, where the processes of others cannot be looked up.
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

from luthier.jobs import History, Job, Report, Result
from luthier.space import Float, Space
from luthier.store import open_store

BATCH = 4


def main(url: str, log: str, total: int, lease: float, seconds: float, hold: bool) -> None:
    history = History(Space(x=Float(0, 1)), {"loss": "min"})
    folder = Path(log).parent
    with open_store(url, lease=lease, checkpoints=folder / "checkpoints") as store, Path(log).open("a") as out:

        def note(line: str) -> None:
            out.write(line + "\n")
            out.flush()

        study = store.attach("shared", Path(log).stem)
        note("ready")
        while not (folder / "go").exists():
            time.sleep(0.002)
        while True:
            study.sync(history)
            if len(history.arrival) >= total:
                return
            jobs = study.claim(BATCH)
            first = len(history)
            if not jobs and first < total:
                jobs = [Job(n, {"x": n / total}, tag={"by": first}) for n in range(first, min(total, first + BATCH))]
                if not study.append(jobs, history):
                    note(f"late {first}")
                    continue
            if not jobs:
                time.sleep(0.02)
                continue
            for job in jobs:
                note(f"held {job.number}")
            if hold and first >= total // 4:
                note("holding")
                time.sleep(600)
            for job in jobs:
                time.sleep(seconds)
                result = Result(job.number, "ok", {"loss": job.config["x"]}, 1)
                for number in study.record([result], [Report(job.number, k, {"loss": 1.0 / k}) for k in range(1, 4)]):
                    note(f"done {number}")


if __name__ == "__main__":
    url, log, total, lease, seconds, hold, machine = sys.argv[1:]
    if machine:
        socket.gethostname = lambda: machine
    main(url, log, int(total), float(lease), float(seconds), hold == "hold")
