"""Genetic search on scikit-learn's digits: five generations of ten, each bred from the better half of the one before.

    python examples/genetic.py
    luthier tune examples/digits.py --method genetic --trials 50 --epochs 5 --set inherit=best

The second line inherits weights too: each generation then trains on from the best of the one before.
"""

from pathlib import Path

import luthier as lt


def main() -> None:
    digits = Path(__file__).resolve().parent / "digits.py"
    study = lt.tune(digits, method="genetic", trials=50, epochs=5, seed=0, progress=False)
    losses = [trial.metrics.get("loss", float("nan")) for trial in study.trials]
    for generation in range(5):
        of_it = sorted(losses[10 * generation : 10 * generation + 10])
        print(f"generation {generation}: validation loss {of_it[0]:.3f} at best, {of_it[5]:.3f} in the middle")
    assert study.best is not None
    values = ", ".join(f"{name} {value:.3g}" for name, value in study.best.config.items())
    print(f"best: {values}; validation accuracy {study.best.metrics['accuracy']:.3f}")


if __name__ == "__main__":
    main()
