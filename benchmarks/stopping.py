"""The stopping form of asha and hyperband on real learning curves: its decisions, and its regret beside the other form.

    LUTHIER_BENCH=... python benchmarks/stopping.py        # writes benchmarks/results/stopping.json, prints the tables

On each task of ``benchmarks/curves.py``, with the seeds for reporting, 60 trials are tuned twice: a function by the
method's name, a Trainable by ``.stopping()`` (of a pool both by ``OfPool``), and both have to be asked for the same
configurations and stopped at the same steps. Then each form spends 20 whole trainings, and the regrets of both are
compared: mean over tasks and seeds, standard deviation over the seeds of the mean over tasks. The curves are described
in ``curves.py``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from curves import FOLDER, PARTS, SPLIT, OfPool, Task, load, ours, summary

import luthier as lt

OUT = Path(__file__).resolve().parent / "results" / "stopping.json"
FORMS = {"asha": lt.propose.ASHA, "hyperband": lt.propose.Hyperband}
TRIALS = 60


def decisions(task: Task, name: str, seed: int) -> list[list[tuple[str, int, dict[str, Any]]]]:
    """How each trial ended, at which step, and its configuration: of a function, and of a Trainable."""

    def function(config: dict[str, Any], trial: lt.Trial) -> float:
        curve = task.curve(config).tolist()
        for done, value in enumerate(curve, 1):
            trial.report(done, loss=value)
        return curve[-1]

    class Training:
        report_every = 1

        def init(self, config: dict[str, Any], key: int) -> Any:
            return 0, task.curve(config).tolist()

        def advance(self, state: Any, config: dict[str, Any], steps: int) -> Any:
            done, curve = state[0] + steps, state[1]
            return (done, curve), {"loss": curve[done - 1]}

        def evaluate(self, state: Any) -> dict[str, float]:
            return {"loss": state[1][state[0] - 1]}

    def method(whole: Any) -> Any:
        return whole if task.pool is None else OfPool(FORMS[name]().stopping(), task.pool)

    given: dict[str, Any] = {
        "space": task.space,
        "trials": TRIALS,
        "steps": task.steps,
        "seed": seed,
        "progress": False,
    }
    pairs = ((function, method(name)), (Training(), method(FORMS[name]().stopping())))
    studies = [lt.tune(one, chosen, **given) for one, chosen in pairs]
    return [[(trial.status, trial.steps, trial.config) for trial in study.trials] for study in studies]


def compared(rows: list[dict[str, Any]]) -> list[str]:
    """A table of both forms of each method."""
    lines = ["| tasks | | " + " | ".join(f"after {part} %" for part in PARTS) + " | started |"]
    lines.append("|---" * (len(PARTS) + 3) + "|")
    for line in summary(rows):
        cells = [f"{line[f'{part}']:.3f} ± {line[f'{part} sd']:.3f}" for part in PARTS]
        lines.append(f"| {line['kind']} | {line['method']} | {' | '.join(cells)} | {line['started']:.0f} |")
    return lines


def main() -> None:
    """Run both comparisons; end with 1 where a decision differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=len(SPLIT["reporting"]["seeds"]), help="so many of the part's")
    parser.add_argument("--tasks", nargs="+", default=SPLIT["reporting"]["tasks"])
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    if not (FOLDER / "mf.py").exists():
        sys.exit(f"there are no learning curves; set LUTHIER_BENCH to the folder that holds mf.py ({FOLDER})")
    sys.path.insert(0, str(FOLDER))
    agreed, rows = [], []
    for name in given.tasks:
        task = load(name)
        for seed in SPLIT["reporting"]["seeds"][: given.seeds]:
            for form in FORMS:
                function, trainable = decisions(task, form, seed)
                stopped = sum(status == "pruned" for status, *_ in function)
                same = function == trainable
                agreed.append({"task": name, "method": form, "seed": seed, "stopped": stopped, "same": same})
                rows += [ours(task, kind, seed) for kind in (form, f"{form}, stopping")]
        print(f"{name}: done", file=sys.stderr, flush=True)
    same = {
        "studies": len(agreed),
        "trials": TRIALS * len(agreed),
        "with the same decisions": sum(one["same"] for one in agreed),
        "stopped": round(statistics.fmean(one["stopped"] for one in agreed), 1),
    }
    found = {
        "machine": lt.environment("numpy"),
        "decisions": same,
        "summary": summary(rows),
        "studies": agreed,
        "runs": rows,
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(same, *compared(rows), sep="\n")
    sys.exit(same["with the same decisions"] < len(agreed))


if __name__ == "__main__":
    main()
