"""Population based training on scikit-learn's digits: 16 networks train side by side for 20 epochs, in ten rounds.

    python examples/pbt.py
    luthier tune examples/digits.py --method pbt --trials 16 --epochs 20 --store digits.db

What comes out is a schedule: the hyperparameters in force along the way of the best network.
"""

from pathlib import Path

import luthier as lt


def main() -> None:
    digits = Path(__file__).resolve().parent / "digits.py"
    study = lt.tune(digits, method="pbt", trials=16, epochs=20, seed=0, progress=False)
    best = study.best
    assert best is not None
    print(f"validation accuracy {best.metrics['accuracy']:.3f}, test accuracy {best.test['accuracy']:.3f}")
    for step, values in best.schedule:
        print(f"from step {step}: " + ", ".join(f"{name} {value:.3g}" for name, value in values.items()))
    copies = sum(trial.parent is not None for trial in study.trials)
    print(f"{copies} times a network was replaced by a copy of a better one")


if __name__ == "__main__":
    main()
