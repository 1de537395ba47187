"""Stochastic hyperparameter optimization with hypernets: the poster's figures 2 to 4, and 10 and 7,850 hyperparameters.

    python -m papers.hypernets.run                 everything that results.json does not have yet
    python -m papers.hypernets.run cosine curve    some parts: local, cosine, curve, predict, cost, ten, many, …
    python -m papers.hypernets.run --full          searches of 1,000 seconds, as the paper's; a day of one core
    python -m papers.hypernets.run --figures       only draw and write the tables again

``--device`` and ``--anew`` are those of every paper (papers/command.py). Every run is kept as it ends, so the same
command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from papers.command import Paper, Run, main
from papers.hypernets.pictures import draw
from papers.hypernets.responses import LONGER, TOLD, cosine, curve, local, predict
from papers.hypernets.searches import BRIEF, EQUAL, arms, compared, cost, equal


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    seeds: int
    ten_rows: int | None  # training images with 10 penalties
    many_rows: int | None  # and with 7,850
    ten: float  # seconds of each search with 10 penalties
    many: float  # and with 7,850
    asked: int = 200  # configurations whose loss is predicted
    part: float = 1.0  # of the steps of everything else

    def steps(self, whole: int) -> int:
        """So many steps, or a part of them."""
        return max(1, round(self.part * whole))


REDUCED = Size(seeds=3, ten_rows=2_000, many_rows=None, ten=6.0, many=12.0)
FULL = Size(seeds=5, ten_rows=None, many_rows=None, ten=1_000.0, many=1_000.0)

PARTS: dict[str, tuple[tuple[str, ...], bool, Callable[[Run, str, int], Any]]] = {  # methods, and whether seeds differ
    "local": (("hypernet",), False, local),
    "cosine": (("linear", "gated"), True, cosine),
    "curve": (("hypernet",), True, curve),
    "predict": (("sampled",), True, predict),  # and with it the others
    "cost": (("plain",), False, cost),
    "ten": (tuple(arms("ten")), True, partial(compared, "ten")),
    "many": (tuple(name for name in arms("many") if name not in BRIEF), True, partial(compared, "many")),
    "equal_ten": (EQUAL["ten"][1], True, partial(equal, "ten")),
    "equal_many": (EQUAL["many"][1], True, partial(equal, "many")),
}
TITLES = {
    "linear": "hypernet, local, `linear`",
    "linear slow": "hypernet, local, `linear`, learning rate 1e-4",
    "gated": "hypernet, local, `gated`",
    "low_rank": "hypernet, local, rank 10",
    "low_rank held": "hypernet, local, rank 10, penalties held",
    "low_rank slow": "hypernet, local, rank 10, learning rate 1e-4",
    "diagonal": "hypernet, local, `diagonal`",
    "diagonal slow": "hypernet, local, `diagonal`, learning rate 1e-4",
    "implicit": "`Bilevel`, implicit",
    "implicit slow": "`Bilevel`, implicit, learning rate 1e-4",
    "unrolled": "`Bilevel`, unrolled",
    "random": "random search",
    "gp": "`gp`",
    "plain": "no tuning, penalties of 1e-4",
    "plain slow": "no tuning, learning rate 1e-4",
}
PREDICTIONS = {
    "gp": f"Gaussian process, {TOLD} trainings",
    "fixed": f"hypernet, the same {TOLD} hyperparameters",
    "sampled": "hypernet, drawn at every step",
    "sampled longer": f"hypernet, drawn, {LONGER} times the steps",
}


def work(run: Run) -> None:
    """Run what has not been run."""
    for part in run.parts:
        methods, varied, function = PARTS[part]
        for seed in range(run.size.seeds if varied else 1):
            for method in methods:
                if not run.made(part=part, method=method, seed=seed):
                    clock = run.clock()
                    found = function(run, method, seed)
                    rows = [
                        {"part": part, "method": method, "seed": seed, **one}
                        for one in (found if isinstance(found, list) else [found])
                    ]
                    rows[-1]["cpu_seconds"] = round(run.clock() - clock, 1)
                    run.keep(rows)


def tables_of() -> dict[str, Any]:
    """What the README shows."""

    def rows(part: str, methods: Sequence[str]) -> list[dict[str, Any]]:
        return [{"title": TITLES.get(name, name), "where": {"part": part, "method": name}} for name in methods]

    searched = [
        {"key": "lowest", "title": "lowest validation loss on the way", "digits": 5},
        {"key": "valid_loss", "title": "validation loss at the end", "digits": 5},
        {"key": "test_loss", "title": "test loss", "digits": 5},
        {"key": "test_accuracy", "title": "test accuracy, %", "digits": 2},
        {"key": "seconds", "title": "CPU seconds", "digits": 1},
        {"key": "count", "title": "epochs or trainings", "digits": 0},
    ]
    return {
        "cosine": {
            "by": "structure",
            "columns": [
                {"key": "cosine", "title": "cosine with the exact hypergradient", "digits": 4},
                {"key": "ratio", "title": "its norm over the exact one's", "digits": 3},
                {"key": "cosine", "title": "runs", "show": "count"},
            ],
            "rows": rows("cosine", ("linear", "gated")),
        },
        "curve": {
            "by": "training",
            "columns": [
                {"key": "largest", "title": "largest difference, %", "digits": 2},
                {"key": "mean", "title": "mean difference, %", "digits": 2},
                {"key": "largest", "title": "runs", "show": "count"},
            ],
            "rows": [{"title": "global hypernet", "where": {"part": "curve"}}],
        },
        "predict": {
            "by": "prediction of the validation loss",
            "columns": [
                {"key": "error", "title": "mean difference, %", "digits": 2},
                {"key": "bias", "title": "mean signed difference, %", "digits": 2},
                {"key": "rank", "title": "rank correlation", "digits": 3},
            ],
            "rows": [{"title": t, "where": {"part": "predict", "method": name}} for name, t in PREDICTIONS.items()],
        },
        "cost": {
            "by": "step",
            "columns": [
                {"key": "ms", "title": "CPU ms a training step", "digits": 3},
                {"key": "ratio", "title": "times a plain step", "digits": 2},
            ],
            "rows": [
                {"title": title, "where": {"part": "cost", "method": name}}
                for name, title in (("plain", "plain"), *((k, TITLES[k]) for k in ("low_rank", "diagonal")))
            ],
        },
        **{
            part: {"by": title, "columns": [one for one in searched if one["key"] in ("valid_loss", "test_loss")]}
            | {"rows": rows(part, PARTS[part][0])}
            for part, title in (
                ("equal_ten", f"10 penalties, {EQUAL['ten'][0]} epochs"),
                ("equal_many", f"7,850 penalties, {EQUAL['many'][0]} epochs"),
            )
        },
        **{part: {"by": "method", "columns": searched, "rows": rows(part, PARTS[part][0])} for part in ("ten", "many")},
    }


PAPER = Paper(
    *("hypernets", __doc__, REDUCED, FULL, work, tables_of, partial(draw, titles=TITLES, predictions=PREDICTIONS)),
    parts=tuple(PARTS),
)

if __name__ == "__main__":
    main(PAPER)
