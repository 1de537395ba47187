"""The progress of three studies as a terminal shows it, and the time left that it says beside the time that was left.

    python benchmarks/progress.py            # prints the table; a minute and a half on a quiet machine
    python benchmarks/progress.py --write    # puts the screens and the table into docs/progress.md too

Each study runs in a pseudo-terminal of 100 columns. What it writes there is replayed to the screen that a person saw.
Of everything it says after the first tenth, nine tenths have to be right within a factor of two, or within two seconds.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

COLUMNS, LINES = 100, 24
DOCS = Path(__file__).resolve().parents[1] / "docs" / "progress.md"
PARTS = (0.1, 0.25, 0.5, 0.75, 0.9)  # of the study's time, at which the table has a row
LEFT = re.compile(r"(?:(\d+) h )?(?:(\d+) min )?(?:(\d+) s )?left")
ORDERS = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")

TASK = """
import sys, time
import luthier as lt
from torch import nn

scale = float(sys.argv[1])
task = lt.TorchTask(
    space=lt.Space(lr=lt.Float(1e-3, 1.0, log=True), momentum=lt.Float(0.0, 0.9)),
    model=lambda config: nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)),
    data=lt.data.digits(), loss=lt.losses.cross_entropy, optimizer=lt.optim.sgd, batch_size=32,
    metrics={"accuracy": lt.metrics.accuracy},
)
kept = {"metric": "accuracy", "mode": "max"}
"""
STUDIES = {
    "a stack of networks": TASK + 'lt.tune(task, "random", trials=24, epochs=max(2, round(320 * scale)), **kept)',
    "functions with two workers": """
import sys, time
import luthier as lt

scale = float(sys.argv[1])

def train(config, trial):
    for epoch in range(20):
        time.sleep(0.12 * scale)
        trial.report(epoch, loss=config["lr"] / (epoch + 1))
    return {"loss": config["lr"] / 20}

if __name__ == "__main__":
    lt.tune(train, "random", space=lt.Space(lr=lt.Float(1e-3, 1.0, log=True)), trials=16, steps=20, workers=2)
""",
    "population based training": TASK + 'lt.tune(task, "pbt", trials=16, epochs=max(10, round(400 * scale)), **kept)',
}


def record(program: str, scale: float) -> list[tuple[float, str]]:
    """What a program writes to a terminal, and when."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(scale)]
    running = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment)
    os.close(its)
    found: list[tuple[float, str]] = []
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        found.append((time.monotonic(), data.decode(errors="replace")))
    os.close(ours)
    if running.wait():
        sys.exit("".join(text for _, text in found))
    return found


class Screen:
    """The lines of a terminal, as far as a program's orders to it are those of Rich."""

    def __init__(self) -> None:
        self.lines, self.row, self.column = [""], 0, 0

    def write(self, text: str) -> None:
        """Take in text with orders."""
        for count, order, move, plain in ORDERS.findall(text):
            if plain:
                self._put(plain)
            elif move == "\r":
                self.column = 0
            elif move == "\n":
                self.row, self.column = self.row + 1, 0
                self.lines += [""] * (self.row + 1 - len(self.lines))
            elif order == "A":
                self.row = max(0, self.row - int(count or 1))
            elif order == "K":
                self.lines[self.row] = "" if count == "2" else self.lines[self.row][: self.column]

    def _put(self, plain: str) -> None:
        for sign in plain:
            if self.column == COLUMNS:
                self.write("\n")
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + sign + line[self.column + 1 :]
            self.column += 1

    def text(self) -> str:
        """What it shows."""
        return "\n".join(line.rstrip() for line in self.lines).strip()


def replayed(events: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """The screen after each write from the first progress on, and when."""
    screen, found = Screen(), []
    for at, text in events:
        screen.write(text)
        if " done" in screen.text():
            found.append((at, screen.text()))
    return found


def said(screen: str) -> float | None:
    """Seconds that a screen says are left."""
    found = LEFT.search(screen.replace("\n", " "))
    if not found:
        return None
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds


def judged(screens: list[tuple[float, str]]) -> tuple[list[tuple[float, float, float]], float]:
    """(part of the time, seconds left by the screen, by the clock) of what was said, and the share that is right."""
    begin, end = screens[0][0], screens[-1][0]
    rows = [
        ((at - begin) / (end - begin), left, end - at)
        for at, screen in screens
        if (left := said(screen)) is not None and (at - begin) / (end - begin) >= PARTS[0]
    ]
    right = [abs(left - truth) <= 2 or 0.5 <= left / truth <= 2 for _, left, truth in rows]
    return rows, sum(right) / len(right) if right else 0.0


def main() -> None:
    """Run the studies, print how right they were, and write the screens where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is about 25 seconds a study")
    parser.add_argument("--write", action="store_true", help="put the screens into docs/progress.md")
    arguments = parser.parse_args()
    screens, table = [], ["| study | takes | " + " | ".join(f"at {part:.0%}" for part in PARTS) + " | right |"]
    table.append("|---" * (len(PARTS) + 3) + "|")
    worst = 1.0
    for name, program in STUDIES.items():
        seen = replayed(record(program, arguments.scale))
        rows, right = judged(seen)
        begin, end = seen[0][0], seen[-1][0]
        cells = [min(rows, key=lambda row: abs(row[0] - part)) for part in PARTS] if rows else []
        shown = " | ".join(f"{left:.0f} s, was {truth:.0f}" for _, left, truth in cells)
        table.append(f"| {name} | {end - begin:.0f} s | {shown} | {right:.0%} |")
        print(table[-1], flush=True)
        half = next(screen for at, screen in seen if at - begin >= 0.5 * (end - begin))
        screens.append(
            f"{name.capitalize()}, half way and at the end:\n\n```text\n{half}\n```\n\n```text\n{seen[-1][1]}\n```\n"
        )
        worst = min(worst, right)
    if arguments.write:
        text = DOCS.read_text()
        head, _, rest = text.partition("<!-- recorded -->\n")
        _, _, tail = rest.partition("<!-- end -->\n")
        made = "\n".join([*screens, *table, ""])
        DOCS.write_text(f"{head}<!-- recorded -->\n\n{made}\n<!-- end -->\n{tail}")
    sys.exit(worst < 0.9)


if __name__ == "__main__":
    main()
