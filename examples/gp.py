"""Bayesian optimisation of a small network on scikit-learn's digits, beside random search with as many trials.

python examples/gp.py
luthier tune examples/digits.py --method gp --trials 30 --epochs 5 --store digits.db
"""

from pathlib import Path

import luthier as lt


def main() -> None:
    digits = Path(__file__).resolve().parent / "digits.py"
    for method in ("random", "gp"):
        losses = []
        for seed in range(3):
            study = lt.tune(digits, method, trials=30, epochs=5, seed=seed, progress=False)
            assert study.best is not None
            losses.append(study.best.metrics["loss"])
        print(f"{method:7} best validation loss, one a seed: " + ", ".join(f"{loss:.4f}" for loss in losses))


if __name__ == "__main__":
    main()
