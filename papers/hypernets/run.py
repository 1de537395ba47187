"""Stochastic hyperparameter optimization with hypernets: the poster's figures 2 to 4, and 10 and 7,850 hyperparameters.

    python -m papers.hypernets.run                 everything that results.json does not have yet
    python -m papers.hypernets.run cosine curve    some parts: local, cosine, curve, predict, few
    python -m papers.hypernets.run --full          ten seeds and 1,000 predictions
    python -m papers.hypernets.run --figures       only draw and write the tables again

``--device`` and ``--anew`` are those of every paper (papers/command.py). Every run is kept as it ends, so the same
command goes on where it was stopped. ``curve`` and ``few`` are of MNIST, from the folder that LUTHIER_DATA names, whose
``mnist_t10k`` has the official test set; without it they are of scikit-learn's digits, which their rows say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from papers.command import Paper, Run, main
from papers.hypernets.pictures import draw
from papers.hypernets.responses import LONGER, TOLD, cosine, curve, local, predict
from papers.hypernets.searches import IMAGES, STARTS, arms, few


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    seeds: int
    asked: int = 200  # configurations whose loss is predicted
    part: float = 1.0  # of the steps of everything

    def steps(self, whole: int) -> int:
        """So many steps, or a part of them."""
        return max(1, round(self.part * whole))


REDUCED = Size(seeds=3)
FULL = Size(seeds=10, asked=1_000)

PARTS: dict[str, tuple[tuple[str, ...], bool, Callable[[Run, str, int], Any]]] = {  # methods, and whether seeds differ
    "local": (("hypernet",), False, local),
    "cosine": (("linear", "gated"), True, cosine),
    "curve": (("hypernet",), True, curve),
    "predict": (("sampled",), True, predict),  # and with it the others
    "few": (tuple(arms()), True, few),
}
TITLES = {
    "linear": "hypernet, local, `linear`",
    "gated": "hypernet, local, `gated`",
    "plain": "no tuning",
    "hypernet": "hypernet, 10 penalties",
    "published": "the same as published: one pair of draws, Adam, no gate",
    "implicit": "`Bilevel`, implicit, 10 penalties",
    "random": "random search, best of four, one penalty",
    "gp": "`gp`, best of four, one penalty",
    "low_rank": "hypernet, rank 10, 7,850 penalties",
    "implicit many": "`Bilevel`, implicit, 7,850 penalties",
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
            "rows": [{"title": "global hypernet", "where": {"part": "curve", "data": "MNIST"}}],
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
        "few": {
            "by": "test loss, of images and from a start",
            "columns": [
                {"key": key, "title": key, "digits": 4}
                for images in IMAGES
                for key in (*(f"{images} from {start:g}" for start in STARTS), f"{images}")
            ],
            "rows": [{**row, "where": {**row["where"], "data": "MNIST"}} for row in rows("few", PARTS["few"][0])],
        },
    }


PAPER = Paper(
    *("hypernets", __doc__, REDUCED, FULL, work, tables_of, partial(draw, titles=TITLES, predictions=PREDICTIONS)),
    parts=tuple(PARTS),
)

if __name__ == "__main__":
    main(PAPER)
