"""Hyperband on scikit-learn's digits: 49 configurations, of which only a few are trained for the whole 27 epochs.

    python examples/hyperband.py
    luthier tune examples/digits.py --method hyperband --trials 49 --epochs 27 --set inner=gp --store digits.db

The second line lets a Gaussian process choose the configurations.
"""

from collections import Counter
from pathlib import Path

import luthier as lt


def main() -> None:
    digits = Path(__file__).resolve().parent / "digits.py"
    study = lt.tune(digits, method="hyperband", trials=49, epochs=27, seed=0, progress=False)
    best = study.best
    assert best is not None
    epoch = max(trial.steps for trial in study.trials) // 27
    lengths = Counter(round(trial.steps / epoch) for trial in study.trials)
    for epochs, count in sorted(lengths.items()):
        print(f"{count} configurations were trained for {epochs} epochs")
    spent = sum(job.steps for job in study.history.jobs) / epoch
    print(f"{spent:.0f} epochs in all, where {49 * 27} would have trained every one to the end")
    values = ", ".join(f"{name} {value:.3g}" for name, value in best.config.items())
    print(f"best: {values}; validation accuracy {best.metrics['accuracy']:.3f}")


if __name__ == "__main__":
    main()
